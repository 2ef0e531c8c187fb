# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an image states about itself, read from its bytes. No process, no file access, no host.

Sources of the numbers: the ELF-64 object file format; Xen's public header ``xen/include/public/elfnote.h``
(XEN_ELFNOTE_PHYS32_ENTRY) for the PVH entry; Solo5's public headers ``elf_abi.h`` and ``mft_abi.h`` for its two notes.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from dataclasses import dataclass, field, replace

XEN_ELFNOTE_PHYS32_ENTRY = 18
SOLO5_NOTE_ABI = 0x31494241
SOLO5_NOTE_MANIFEST = 0x3154464D
SOLO5_TARGETS = {1: "hvt", 2: "spt", 3: "virtio", 4: "muen", 5: "genode", 6: "xen"}
SOLO5_DEVICE_TYPES = {1: "block", 2: "net"}
SOLO5_RESERVED_FIRST = 1 << 30

# Our own note: "this is a stand-in, not a unikernel".
STANDIN_NOTE_OWNER = b"unikernels.xen"
STANDIN_NOTE_TYPE = 1

_PT_LOAD, _PT_NOTE = 1, 4
_SHT_SYMTAB, _SHT_NOTE = 2, 7
_EM_386, _EM_X86_64 = 3, 62
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
# Four bytes of padding, the version, the number of entries; then for each entry name[68], type and 32 bytes.
_MANIFEST_ENTRIES_AT = 12
_MANIFEST_ENTRY_SIZE = 104
# A hostile file may claim any number of anything; real images have a few.
_MAX_NOTES = 256
_MAX_DEVICES = 64
_MAX_HEADERS = 1024  # per table; a kernel has about a dozen
_MAX_BYTES = 1 << 20  # of one table or note section


# What a terminal or a log would interpret: C0 and C1 controls, direction marks, surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_TEXT = 500


def printable(text: str) -> str:
    """Return foreign text as it may be shown: one line of bounded length without control characters."""
    return _CONTROLS.sub("?", text[:_MAX_TEXT])


class ImageError(ValueError):
    """Xen can't boot the bytes as a PVH guest; the text says why."""


@dataclass(frozen=True)
class Device:
    name: str
    type: str


@dataclass(frozen=True)
class Image:
    """What an image states. Addresses and sizes in bytes."""

    target: str  # "xen" (Solo5), "standin", or "pvh" (any other PVH kernel)
    entry: int
    size: int
    memory_size: int  # from the lowest to the highest loaded address
    abi_version: int | None = None
    devices: tuple[Device, ...] = field(default=())
    description: str = ""  # of a stand-in: what it replaces
    debug_info: bool = False  # has a symbol table, which Xen doesn't load


@dataclass(frozen=True)
class _Note:
    owner: bytes
    type: int
    data: bytes


def _notes(blob: bytes, align: int) -> list[_Note]:
    notes: list[_Note] = []
    at = 0
    step = 8 if align == 8 else 4
    while at + 12 <= len(blob) and len(notes) < _MAX_NOTES:
        name_size, data_size, kind = struct.unpack_from("<III", blob, at)
        name_at = at + 12
        data_at = (name_at + name_size + step - 1) // step * step
        end = data_at + data_size
        if end > len(blob):
            break
        notes.append(_Note(blob[name_at : name_at + name_size].rstrip(b"\0"), kind, blob[data_at:end]))
        at = (end + step - 1) // step * step
    return notes


def _within(data: bytes | mmap.mmap, offset: int, size: int, what: str) -> None:
    if offset + size > len(data):
        raise ImageError(f"the file is truncated: {what} ends at byte {offset + size}, the file has {len(data)} bytes")


def _slice(data: bytes | mmap.mmap, offset: int, size: int, what: str) -> bytes:
    _within(data, offset, size, what)
    return data[offset : offset + min(size, _MAX_BYTES)]


def _manifest(data: bytes) -> tuple[Device, ...]:
    if len(data) < 12:
        return ()
    count = struct.unpack_from("<I", data, 8)[0]
    devices = []
    for index in range(min(count, _MAX_DEVICES)):
        at = _MANIFEST_ENTRIES_AT + index * _MANIFEST_ENTRY_SIZE
        if at + _MANIFEST_ENTRY_SIZE > len(data):
            break
        kind = struct.unpack_from("<I", data, at + 68)[0]
        if kind == SOLO5_RESERVED_FIRST:
            continue
        name = data[at : at + 68].split(b"\0", 1)[0].decode("ascii", "replace")
        devices.append(Device(printable(name), SOLO5_DEVICE_TYPES.get(kind, str(kind))))
    return tuple(devices)


def inspect_file(path: str) -> Image:
    """`inspect` a file, reading only its headers and notes."""
    if not os.path.isfile(path):
        raise ImageError("not a file")
    if not os.path.getsize(path):
        raise ImageError("not an ELF file (it is empty)")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return inspect(data)


def inspect(data: bytes | mmap.mmap) -> Image:
    """Read the image in ``data``. Raise `ImageError` if Xen could not boot it as PVH."""
    header = _header(data)
    notes, memory_size = _segments(data, header)
    section_notes, debug_info = _sections(data, header, len(notes))
    image = _from_notes(notes + section_notes)
    if image.target not in ("xen", "pvh", "standin"):
        raise ImageError(f"built for Solo5 target '{image.target}'; Xen boots only target 'xen': mirage configure -t xen")
    if image.entry < 0:
        raise ImageError("no PVH entry (ELF note Xen 18, PHYS32_ENTRY): not a kernel that Xen can start as PVH")
    return replace(image, size=len(data), memory_size=memory_size, debug_info=debug_info)


@dataclass(frozen=True)
class _Header:
    program_at: int
    program_count: int
    section_at: int
    section_size: int
    section_count: int


def _header(data: bytes | mmap.mmap) -> _Header:
    if data[:4] != b"\x7fELF":
        kind = "it is empty" if not data else f"it starts with {data[:4].hex(' ')}"
        raise ImageError(f"not an ELF file ({kind}); an image is the file that 'make build' left in dist/")
    if len(data) < _HEADER.size:
        raise ImageError(f"the file is truncated: it has only {len(data)} bytes, less than an ELF header")
    fields = _HEADER.unpack_from(data)
    ident, machine = fields[0], fields[2]
    if ident[4] != 2 or ident[5] != 1 or machine != _EM_X86_64:
        raise ImageError("not a 64-bit x86 ELF file")
    program_size = fields[9]
    header = _Header(fields[5], fields[10], fields[6], fields[11], fields[12])
    if program_size != _PROGRAM_HEADER.size or not header.program_count:
        raise ImageError("it has no program headers: an object file, not a kernel")
    for count, what in ((header.program_count, "program"), (header.section_count, "section")):
        if count > _MAX_HEADERS:
            raise ImageError(f"it has {count} {what} headers, a kernel has a dozen")
    return header


def _segments(data: bytes | mmap.mmap, header: _Header) -> tuple[list[_Note], int]:
    """Return the notes in the note segments, and the memory from the lowest to the highest loaded address."""
    notes: list[_Note] = []
    lowest, highest = None, 0
    table = _slice(data, header.program_at, _PROGRAM_HEADER.size * header.program_count, "the program header table")
    for kind, _flags, offset, _vaddr, paddr, file_size, memory_size, align in _PROGRAM_HEADER.iter_unpack(table):
        if kind == _PT_LOAD:
            _within(data, offset, file_size, "a loaded segment")
            lowest = paddr if lowest is None else min(lowest, paddr)
            highest = max(highest, paddr + memory_size)
        elif kind == _PT_NOTE and len(notes) < _MAX_NOTES:
            notes += _notes(_slice(data, offset, file_size, "a note segment"), align)
    if lowest is None:
        raise ImageError("no segment is loaded: nothing to boot")
    return notes, highest - lowest


def _sections(data: bytes | mmap.mmap, header: _Header, known: int) -> tuple[list[_Note], bool]:
    """Return the notes in the note sections (the segments had ``known``), and whether there is a symbol table."""
    notes: list[_Note] = []
    debug_info = False
    if not header.section_count or header.section_size != _SECTION_HEADER.size:
        return notes, debug_info
    table = _slice(data, header.section_at, header.section_size * header.section_count, "the section header table")
    for section in _SECTION_HEADER.iter_unpack(table):
        debug_info = debug_info or section[1] == _SHT_SYMTAB
        if section[1] == _SHT_NOTE and known + len(notes) < _MAX_NOTES:
            notes += _notes(_slice(data, section[4], section[5], "a note section"), section[8])
    return notes, debug_info


def _from_notes(notes: list[_Note]) -> Image:
    """Return what the notes say. The entry is -1 if no note has one."""
    target, description, abi_version, entry = "pvh", "", None, -1
    devices: tuple[Device, ...] = ()
    for note in notes:
        if note.owner == b"Xen" and note.type == XEN_ELFNOTE_PHYS32_ENTRY and len(note.data) in (4, 8):
            entry = int.from_bytes(note.data, "little")
        elif note.owner == b"Solo5" and note.type == SOLO5_NOTE_ABI and len(note.data) >= 8:
            number, abi_version = struct.unpack_from("<II", note.data)
            target = SOLO5_TARGETS.get(number, f"unknown Solo5 target {number}")
        elif note.owner == b"Solo5" and note.type == SOLO5_NOTE_MANIFEST:
            devices = _manifest(note.data)
        elif note.owner == STANDIN_NOTE_OWNER and note.type == STANDIN_NOTE_TYPE:
            target, description = "standin", printable(note.data.rstrip(b"\0").decode("utf-8", "replace"))
    return Image(target, entry, 0, 0, abi_version, devices, description)
