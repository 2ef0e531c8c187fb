# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What the folders of a host's web servers hold: what could not be served is found before anything is built.

Names and sizes are looked at. Files are read only where they are for a disk, which is named after its content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import holds_unresolved, number
from ansible_collections.unikernels.xen.plugins.module_utils.image.checkout import local_folder
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import check
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.service import web
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import servers
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import USUAL_MEMORY, Variables, asks_one
from ansible_collections.unikernels.xen.plugins.module_utils.service.web_answers import hosts_of
from ansible_collections.unikernels.xen.plugins.plugin_utils.content_archive import digest_of

INDEX = "index.html"
_MIB = 1 << 20
# An image has at most 1 GiB (image/building.py); without content ours has 8 MiB.
_MAX_CONTENT = 1000 * _MIB
_IMAGE = 8 * _MIB
# A changed disk is copied to its host, where two are in use while the domain is replaced.
_MAX_DISK = 4096 * _MIB


@dataclass(frozen=True)
class Found:
    """``problem``: why the folder can't be served at all, "" where it can."""

    problem: str = ""
    size: int = 0
    index: bool = False
    digest: str = ""  # of its archive, where one was asked for


def look(path: str, for_disk: bool = False) -> Found:
    try:
        folder = local_folder(path)
        if not os.path.isdir(folder):
            return Found(
                f"{folder} is {'not a folder' if os.path.lexists(folder) else 'not there'}; give a folder on the controller"
            )
        size = _size(folder)
        digest = digest_of(folder) if for_disk and size <= _MAX_DISK else ""
        return Found(size=size, index=os.path.isfile(os.path.join(folder, INDEX)), digest=digest)
    except BuildError as error:
        return Found(str(error))
    except (OSError, ValueError) as error:
        return Found(f"{path!r} can't be read: {getattr(error, 'strerror', None) or error}{_where(error)}")


def _where(error: Exception) -> str:
    name = getattr(error, "filename", None)
    return f" ({os.fsdecode(name)})" if name else ""


def _size(folder: str) -> int:
    """In bytes. BuildError or OSError for what can't be served."""

    def refuse(error: OSError) -> None:
        raise error

    size = 0
    for root, folders, names in os.walk(folder, onerror=refuse):
        for name in [*names, *(one for one in folders if os.path.islink(os.path.join(root, one)))]:
            full = os.path.join(root, name)
            inside = os.path.relpath(full, folder)
            check(folder, inside)
            if not os.path.exists(full):
                raise BuildError(f"{folder}: {inside}: is a link to nothing; remove it")
            if os.path.isdir(full):
                raise BuildError(f"{folder}: {inside}: is a link to a folder, and only files are served; put a folder there")
            if not os.access(full, os.R_OK):
                raise BuildError(f"{folder}: {inside}: can't be read by who runs this")
            size += os.stat(full).st_size
    return size


def content_of(values: Mapping[str, Any], looked: dict[str, Found]) -> tuple[list[str], dict[str, str]]:
    """Return a line for each folder of a host's that can't be served, and the digests of those that are for a disk.

    ``looked``: what was found for other hosts already.
    """
    mine = {key: value for key, value in values.items() if key.startswith("web_")}
    if any(map(holds_unresolved, mine.values())):
        return [], {}
    lines, digests = [], {}
    # What is wrong in the declaration itself is reported where it is compiled.
    for server in servers(web.NAME, web.OPTIONS, mine, lambda _line: None):
        path = server.values.get("web_content")
        if not isinstance(path, str) or not path or _is_own(server.values.get("web_image")):
            continue
        on_disk = web.content_on_disk(server.values)
        found = looked.get(path)
        if found is None or (on_disk and not found.digest and not found.problem):
            found = looked[path] = look(path, on_disk)
        is_standin = _is_standin(server.values.get("web_image"), server.values.get("web_images") or values.get("images"))
        wrong = _refusals(path, found, server.values, on_disk and not is_standin) or _without_page(path, server.values)
        lines += [server.in_users_words(line, web.OPTIONS) for line in wrong]
        if on_disk and not wrong:
            digests[path] = found.digest
    return list(dict.fromkeys(lines)), digests


def _without_page(path: str, values: Mapping[str, Any]) -> list[str]:
    """Names whose folder is not there, or has no page."""
    folders = hosts_of(Variables(web.NAME, values)).items()
    return [
        f"web_hosts: {name}: {path} has no {folder}/{INDEX}; add one, or give another folder of web_content"
        for name, folder in folders
        if not os.path.isfile(os.path.join(local_folder(path), folder, INDEX))
    ]


def _is_own(image: Any) -> bool:
    """Whether it is an image that has its content."""
    return bool(image) and not _is_standin(image, "")


def _is_standin(image: Any, images: Any) -> bool:
    return bool(isinstance(image, dict) and image.get("standin")) if image else bool(images == "standin")


def _refusals(path: str, found: Found, values: Mapping[str, Any], on_disk: bool) -> list[str]:
    if found.problem:
        return [f"web_content: {found.problem}"]
    too_large = _larger_than_a_disk(found) if on_disk else _larger_than_memory(found, values)
    if too_large:
        return [f"web_content: {path} has {-(-found.size // _MIB)} MiB, {too_large}"]
    if not found.index and not asks_one(values.get("web_health")):
        return [
            f"web_content: {path} has no {INDEX}, and the health check asks for /; add one, or give web_health a check of its own"
        ]
    return []


def _larger_than_a_disk(found: Found) -> str:
    return f"a disk may have {_MAX_DISK // _MIB} MiB at most: serve large files elsewhere" if found.size > _MAX_DISK else ""


def _larger_than_memory(found: Found, values: Mapping[str, Any]) -> str:
    memory = number(values.get("web_memory")) or USUAL_MEMORY
    room = min(memory * _MIB - _IMAGE, _MAX_CONTENT)
    if found.size <= room:
        return ""
    if web.content_on_disk(values):
        return f"which a stand-in unpacks into memory; web_memory is {memory} MiB: raise it, or serve large files elsewhere"
    mend = f"web_memory is {memory} MiB: raise it," if room < _MAX_CONTENT else f"that is {_MAX_CONTENT // _MIB} MiB at most:"
    return (
        f"which become part of the image and are loaded into memory; {mend} set web_content_disk: true, or serve large files"
        " elsewhere"
    )
