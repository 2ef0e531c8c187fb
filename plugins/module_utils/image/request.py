# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The request for a build, its toolchain, and what is refused before anything is started. Pure."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field

# The name of the switch in the toolchain's opam root.
SWITCH = "mirage"
_RANGE = re.compile(r"\(\*\s*mirage\s+((?:(?:>=|<=|<|>|=)\s*[0-9][0-9.]*\s*&?\s*)+)\*\)")
_BOUND = re.compile(r"(>=|<=|<|>|=)\s*([0-9][0-9.]*)")
_COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt, "=": operator.eq}
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*(=.*)?")


@dataclass(frozen=True)
class Settings:
    """How a builder gets packages. ``mirrors``: opam's archive-mirrors; ``overlays``: repository name -> its address."""

    proxy: str = ""
    mirrors: tuple[str, ...] = ()
    overlays: dict[str, str] = field(default_factory=dict)
    archive: str = ""


@dataclass(frozen=True)
class Toolchain:
    """What the role mirage_builder installed in ``folder``. ``versions``: tool -> version."""

    folder: str
    versions: dict[str, str]
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Source:
    """``folder`` holds config.ml. ``uri``, ``revision`` and ``subfolder`` say where it came from, for the statement."""

    folder: str
    uri: str
    revision: str = ""
    subfolder: str = ""  # of a repository, "" for its top


@dataclass(frozen=True)
class Request:
    name: str
    source: Source
    configure: tuple[str, ...] = ()
    update_lock: bool = False
    timeout: int = 3600
    signing_key: str = ""
    verify_reproducible: bool = False
    overlay: tuple[tuple[str, str], ...] = ()  # (path in the source's folder, folder that replaces it)
    sandbox: bool = True
    lock: str = ""  # a lock file outside the source's folder


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def range_refusal(config: str, installed: str) -> str | None:
    """Return why the installed mirage may not read this config.ml, by the version range in its first comment; None if it may."""
    found = _RANGE.search(config)
    if not found:
        return None
    for sign, bound in _BOUND.findall(found.group(1)):
        if not _COMPARE[sign](_numbers(installed), _numbers(bound)):
            return f"config.ml is for mirage {found.group(1).strip()}, installed is {installed}"
    return None


def configure_refusal(option: str) -> str | None:
    """Return why a user may not pass this option to ``mirage configure``; None if it is allowed."""
    if not _OPTION.fullmatch(option) or "\n" in option:
        return f"configure: {option!r}: expected an option as in --name=value"
    if re.match(r"(-t|--target)(?![a-z-])", option):
        return f"configure: {option!r}: the target is always xen, because nothing else boots under Xen"
    if re.match(r"(-f|--file|-o|--output)(?![a-z-])", option):
        return f"configure: {option!r}: can't be set; name the image with 'name'"
    return None
