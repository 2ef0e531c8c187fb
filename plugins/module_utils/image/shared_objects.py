# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which shared libraries a program needs, read from its bytes: nothing of it is run. Pure.

Source of the numbers: the ELF-64 object file format, "Dynamic Section".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5
_MAX_ENTRIES = 1024
_MAX_NAME = 255
# A Debian program has some dozens.
_MAX_LIBRARIES = 512


class ObjectError(ValueError):
    """The bytes are no program or library for x86-64 Linux; the text says why."""


def needed(data: bytes) -> list[str]:
    """Return the names of the libraries that an ELF file needs, in its order. Raise ObjectError."""
    try:
        return _needed(data)
    except struct.error as error:
        raise ObjectError("the file is truncated") from error


def _needed(data: bytes) -> list[str]:
    ident, _type, machine, _version, _entry, table, _sections, _flags, _size, entry_size, count, *_rest = _HEADER.unpack_from(
        data
    )
    if ident[:6] != b"\x7fELF\x02\x01" or machine != 62 or entry_size != _PROGRAM_HEADER.size:
        raise ObjectError("not an ELF file for x86-64")
    headers = [_PROGRAM_HEADER.unpack_from(data, table + at * entry_size) for at in range(min(count, _MAX_ENTRIES))]
    loaded = [(header[3], header[2], header[5]) for header in headers if header[0] == _PT_LOAD]
    dynamic = next((header for header in headers if header[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        return []
    names, strings = [], None
    for at in range(dynamic[2], dynamic[2] + min(dynamic[5], _MAX_ENTRIES * _DYNAMIC.size), _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(data, at)
        if tag == 0:
            break
        if tag == _DT_NEEDED:
            names.append(value)
        elif tag == _DT_STRTAB:
            strings = next((offset + value - address for address, offset, size in loaded if 0 <= value - address < size), None)
    if names and strings is None:
        raise ObjectError("its table of names is not in the file")
    return [_name(data, (strings or 0) + name) for name in names]


def _name(data: bytes, at: int) -> str:
    found = data[at : at + _MAX_NAME + 1].partition(b"\0")
    name = found[0].decode("ascii", "replace")
    if not found[1] or not name.isprintable() or not name or "/" in name or name in (".", "..") or "\ufffd" in name:
        raise ObjectError("the name of a library is not one")
    return name


def libraries(program: bytes, find: Callable[[str], str | None], read: Callable[[str], bytes]) -> dict[str, str]:
    """Return name -> path of every library, the linker included, in the order in which Linux's linker loads them.

    ``find``: the path of a library. Raise ObjectError for a missing one.
    """
    found: dict[str, str] = {}
    waiting = needed(program)
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        path = find(name)
        if path is None:
            raise ObjectError(f"needs {name}, which is not in Debian's packages")
        if len(found) >= _MAX_LIBRARIES:
            raise ObjectError(f"needs more than {_MAX_LIBRARIES} libraries")
        found[name] = path
        try:
            waiting += needed(read(path))
        except ObjectError as error:
            raise ObjectError(f"{os.path.basename(path)}: {error}") from error
    return found
