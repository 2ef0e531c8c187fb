# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The variable `unikernel_images`: where each image comes from. Pure."""

from __future__ import annotations

import re
from typing import Any

from ..image.checkout import address_of, is_revision, is_url
from ..image.request import configure_refusal
from ..image.steps import BuildError
from .plain import flag

SOURCES = ("source", "file", "url", "standin")
STANDINS = ("web", "dns", "vpn")
KEYS = (
    "source",
    "version",
    "subfolder",
    "configure",
    "overlay",
    "update_lock",
    "lock",
    "file",
    "url",
    "sha256",
    "standin",
    "content",
)
_TEXTS = ("source", "version", "subfolder", "lock", "file", "url", "sha256", "standin", "content")
# The options of each origin.
_FITTING = {
    "source": ("version", "subfolder", "configure", "overlay", "update_lock", "lock"),
    "file": ("sha256",),
    "url": ("sha256",),
    "standin": ("content",),
}
# The image store's rule for names (image/store.py, NAME): they become file names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")


def problems_of(name: str, image: Any) -> list[str]:
    """Return one line for each mistake in the image of that name."""
    where = f"image {name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return [f"unikernel_images: {name!r}: a name must be 1..64 letters, digits, '.', '_', '+', '-', first a letter or digit"]
    if not isinstance(image, dict):
        return [f"{where}: must be a mapping, as in {{file: /path/to/it.xen}}"]
    unknown = sorted(set(image) - set(KEYS), key=repr)
    if unknown:
        return [f"{where}: unknown key {', '.join(map(repr, unknown))[:200]}; known are {', '.join(KEYS)}"]
    origins = [origin for origin in SOURCES if image.get(origin)]
    if len(origins) != 1:
        return [f"{where}: must have exactly one of {', '.join(SOURCES)}"]
    digest = image.get("sha256")
    if origins == ["url"] and not digest:
        return [f"{where}: a url needs the sha256 of its file"]
    return _types(where, image) or _values(where, image, origins[0])


def _types(where: str, image: dict[str, Any]) -> list[str]:
    lines = [
        f"{where}: {key}: {_not_text(image[key])}" for key in _TEXTS if image.get(key) is not None and not _is_text(image[key])
    ]
    configure, overlay = image.get("configure"), image.get("overlay")
    if configure is not None and not (isinstance(configure, list) and all(map(_is_text, configure))):
        lines.append(f"{where}: configure: must be a list of words, as in [--no-dhcp]")
    if overlay is not None and not (isinstance(overlay, dict) and all(map(_is_text, [*overlay, *overlay.values()]))):
        lines.append(f"{where}: overlay: must be a mapping of a path in the sources to a folder")
    if image.get("update_lock") is not None and flag(image["update_lock"]) is None:
        lines.append(f"{where}: update_lock: is {image['update_lock']!r}, must be true or false")
    return lines


def _not_text(value: Any) -> str:
    # YAML reads 1.10 as 1.1, and an all-digit commit as a number without its leading 0.
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"is {value!r}, must be text" + (": put it in quotes, for YAML reads it as a number" if number else " of one line")


def _values(where: str, image: dict[str, Any], origin: str) -> list[str]:
    """Return what is wrong with values that have the right type."""
    lines = [
        f"{where}: {key}: is for {' or '.join(each for each in SOURCES if key in _FITTING[each])}, and this image has {origin}"
        for key in image
        if key not in (origin, *_FITTING[origin]) and image[key]
    ]
    if image.get("sha256") and not _DIGEST.fullmatch(image["sha256"]):
        lines.append(f"{where}: sha256: must be 64 hexadecimal digits")
    if image.get("standin") and image["standin"] not in STANDINS:
        lines.append(f"{where}: standin: is {image['standin']!r}, must be one of {', '.join(STANDINS)}")
    refusals = [configure_refusal(option) for option in image.get("configure") or ()]
    if origin == "source":
        refusals += _in_a_repository(image) if is_url(image["source"]) else _in_a_folder(image)
    elif origin == "url" and not re.match(r"https?://[^/?#\s]", image["url"]):
        refusals.append("url: must begin with https:// or http://")
    return lines + [f"{where}: {refusal}" for refusal in refusals if refusal]


def _in_a_repository(image: dict[str, Any]) -> list[str]:
    """Return what is wrong with a git repository as source; the address itself may have a token and is not shown."""
    lines = []
    try:
        address_of(image["source"])
    except BuildError as error:
        lines.append(str(error))
    version = image.get("version")
    if not version:
        lines.append("version: is missing; a git repository needs the revision to build, best a full commit")
    elif not is_revision(version):
        lines.append(f"version: {version!r} is not a revision of git")
    if flag(image.get("update_lock")) and not image.get("lock"):
        lines.append("update_lock: a git repository has no place for a lock file; give lock: the file that it is kept in")
    return lines


def _in_a_folder(image: dict[str, Any]) -> list[str]:
    return [f"{key}: is for a git repository, and source is a folder" for key in ("version", "subfolder") if image.get(key)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _CONTROL.search(value)
