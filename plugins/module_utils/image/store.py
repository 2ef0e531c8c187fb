# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The folder of images: ``<sha256>.xen`` and, beside it, ``<sha256>.json`` with what it is.

Also beside it, where it is known: ``<sha256>.provenance.json``, where it came from, and ``.provenance.json.sig``, who
says so. ``names/NAME.json`` says which image a name means and has meant, for a way back.

The name is the digest, so a file that is there is the right one and is never written again.
Both files appear whole or not at all: written beside their place, synced, renamed. The image
comes last, so an image without its description is never seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from typing import Any

from .elf import ImageError, inspect, inspect_file

SUFFIX = ".xen"
KINDS = ("xen", "json", "provenance.json", "provenance.json.sig")
DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
NAMES = "names"
INCOMING = ".incoming-"
MOST_HISTORY = 100
# A domain is made within minutes after its image arrived.
FRESH_SECONDS = 3600


class StoreError(Exception):
    """One line: what could not be stored, where and why."""


class DamagedArrival(StoreError):
    """What arrived of an image is a part of it, or another."""


def write_whole(path: str, data: bytes, mode: int) -> None:
    """Write ``path`` atomically: the old file or the new one, never a part, also after a power cut."""
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=INCOMING, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def image_path(store: str, digest: str) -> str:
    return os.path.join(store, digest + SUFFIX)


def listing(store: str) -> list[dict[str, Any]]:
    """What every stored image says of itself, without reading the images. [] when there is no store."""
    if not os.path.isdir(store):
        return []
    found = []
    for name in sorted(os.listdir(store)):
        digest, suffix = os.path.splitext(name)
        if suffix == SUFFIX and DIGEST.fullmatch(digest):
            found.append(describe(store, digest))
    return found


def describe(store: str, digest: str) -> dict[str, Any]:
    """The manifest of one stored image with its path; sizes in bytes."""
    manifest: dict[str, Any] = {}
    try:
        with open(os.path.join(store, digest + ".json"), encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError):
        pass  # the image is what counts; its description is made anew when it is put again
    return {**manifest, "sha256": digest, "path": image_path(store, digest)}


def read_image(path: str, expected: str | None) -> tuple[bytes, str, dict[str, Any]]:
    """The bytes, the digest and the manifest of an image file that Xen can boot; else StoreError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise StoreError(f"image {path}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if expected and digest != expected.lower():
        raise StoreError(f"image {path}: its sha256 is {digest}, declared is {expected.lower()}; nothing was stored")
    try:
        image = inspect(data)
    except ImageError as error:
        raise StoreError(f"image {path}: {error}") from error
    manifest = {
        "sha256": digest,
        "size": image.size,
        "memory_size": image.memory_size,
        "target": image.target,
        "standin": image.target == "standin",
        "description": image.description,
        "devices": [{"name": device.name, "type": device.type} for device in image.devices],
        "debug_info": image.debug_info,
    }
    return data, digest, manifest


def put(store: str, path: str, expected: str | None, extra: dict[str, Any], check: bool) -> tuple[bool, dict[str, Any]]:
    """Store the image file at ``path``. Return (changed, manifest with path)."""
    if expected and DIGEST.fullmatch(expected) and os.path.exists(image_path(store, expected)):
        return False, describe(store, expected)
    data, digest, manifest = read_image(path, expected)
    target = image_path(store, digest)
    result = {**extra, **manifest, "path": target}
    if os.path.exists(target):
        return False, {**result, **describe(store, digest)}
    if not check:
        try:
            os.makedirs(store, mode=0o755, exist_ok=True)
            text = json.dumps({**extra, **manifest}, indent=1, sort_keys=True) + "\n"
            write_whole(os.path.join(store, digest + ".json"), text.encode(), 0o644)
            write_whole(target, data, 0o644)
        except OSError as error:
            raise StoreError(f"image store {store}: {error.strerror}") from error
    return True, result


# -- names: which image a name means, and meant before ----------------------------------------------


def _name_path(store: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise StoreError(f"image name {name!r}: letters, digits and . _ + - only, at most 64, beginning with a letter or digit")
    return os.path.join(store, NAMES, name + ".json")


def history(store: str, name: str) -> list[str]:
    """The digests that ``name`` has meant, the present one first; [] for an unknown name."""
    try:
        with open(_name_path(store, name), encoding="utf-8") as file:
            found = json.load(file)["history"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"image store {store}: the history of {name} cannot be read: {error}") from error
    return [str(digest) for digest in found]


def names(store: str) -> dict[str, list[str]]:
    """Every name with its history."""
    try:
        found = sorted(os.listdir(os.path.join(store, NAMES)))
    except FileNotFoundError:
        return {}
    return {name: history(store, name) for name in (os.path.splitext(file)[0] for file in found) if NAME.fullmatch(name)}


def point(store: str, name: str, digest: str, check: bool) -> bool:
    """Let ``name`` mean the image ``digest`` from now on; whether that is a change. Atomic; the history is kept."""
    path, before = _name_path(store, name), history(store, name)
    if before[:1] == [digest]:
        return False
    if not check:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        text = json.dumps({"name": name, "history": [digest, *before][:MOST_HISTORY]}, indent=1) + "\n"
        write_whole(path, text.encode(), 0o644)
    return True


# -- looking after the folder -------------------------------------------------------------------------


def digest_of(path: str) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fsck(store: str) -> list[str]:
    """One line for everything in the store that is not as it should be; reads every image."""
    lines = []
    there = {image["sha256"] for image in listing(store)}
    for digest in sorted(there):
        found = digest_of(image_path(store, digest))
        if found != digest:
            lines.append(f"{image_path(store, digest)}: its content has the sha256 {found}: remove it and ship it again")
        if not os.path.exists(os.path.join(store, digest + ".json")):
            lines.append(f"{image_path(store, digest)}: has no description beside it: put it again")
    for file in _files(store):
        digest, _dot, kind = file.partition(".")
        if DIGEST.fullmatch(digest) and digest not in there:
            lines.append(f"{os.path.join(store, file)}: there is no image of that digest")
        elif file.startswith(INCOMING):
            lines.append(f"{os.path.join(store, file)}: left by a run that died; the next prune removes it")
        elif kind not in ("", *KINDS) and DIGEST.fullmatch(digest):
            lines.append(f"{os.path.join(store, file)}: not a file of the store")
    for name, digests in names(store).items():
        if digests and digests[0] not in there:
            lines.append(f"image name {name}: means {digests[0]}, which is not in the store")
    return lines


def unused(store: str, used: set[str], depth: int, now: float) -> list[str]:
    """The files that a prune removes, as paths.

    An image stays while a domain uses it (``used``, digests) or one of the last 1 + ``depth`` meanings of a name
    does; what just arrives or has arrived within the last hour stays as well, for its domain may be on the way.
    """
    kept = set(used)
    for digests in names(store).values():
        kept.update(digests[: depth + 1])
    ages: dict[str, float] = {}
    for file in _files(store):
        image = file if file.startswith(INCOMING) else file.partition(".")[0]
        if file.startswith(INCOMING) or (DIGEST.fullmatch(image) and image not in kept):
            # An image goes as a whole, when the youngest of its files is old enough.
            ages[image] = min(ages.get(image, now), now - os.stat(os.path.join(store, file)).st_mtime)
    old = {image for image, age in ages.items() if age > FRESH_SECONDS}
    return [os.path.join(store, file) for file in _files(store) if file in old or file.partition(".")[0] in old]


def _files(store: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(store) if entry.is_file()) if os.path.isdir(store) else []


def remove(paths: list[str]) -> None:
    """The images first: what is left of a cut removal is a description without an image, and is removed next time."""
    for path in sorted(paths, key=lambda path: not path.endswith(SUFFIX)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def take(store: str, digest: str, kinds: list[str], check: bool) -> tuple[list[str], list[str]]:
    """Rename what arrived of an image (``.incoming-<digest>.<kind>``) into its place, the image last and verified.

    Returns (kinds that were taken, kinds that are absent). An image that is not what its name says has not arrived
    whole: it is removed, and DamagedArrival says so.
    """
    taken, absent = [], []
    for kind in sorted(kinds, key=lambda kind: kind == "xen"):
        path = os.path.join(store, f"{INCOMING}{digest}.{kind}")
        if not os.path.exists(path):
            absent.append(kind)
            continue
        if kind == "xen":
            found = digest_of(path)
            if found != digest:
                if not check:
                    os.unlink(path)
                raise DamagedArrival(f"image {digest}: what arrived has the sha256 {found}; it was removed: run again")
            try:
                inspect_file(path)
            except ImageError as error:
                raise StoreError(f"image {digest}: {error}") from error
        taken.append(kind)
        if not check:
            with open(path, "rb+") as file:
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.rename(path, os.path.join(store, f"{digest}.{kind}"))
    if taken and not check:
        sync_folder(store)
    return taken, absent
