# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Xen can boot as a domain's kernel. An image that claims to be a unikernel is checked more strictly by `elf.inspect`.

For PVH: a 32-bit or 64-bit ELF file with the note PHYS32_ENTRY, or a Linux bzImage that contains one; either may also be
compressed with gzip as a whole (xen/tools/libs/guest: xg_dom_core.c xc_dom_kernel_file, xg_dom_elfloader.c,
xg_dom_bzimageloader.c; xen/common/libelf/libelf-dominfo.c). Numbers from the ELF-32 object file format, and from Linux's boot
protocol (Documentation/arch/x86/boot.rst).
"""

from __future__ import annotations

import bz2
import lzma
import mmap
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Union

from .elf import XEN_ELFNOTE_PHYS32_ENTRY, ImageError, inspect

Bytes = Union[bytes, mmap.mmap]

_HEADER_32 = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM_HEADER_32 = struct.Struct("<8I")
_SECTION_HEADER_32 = struct.Struct("<10I")
_EM_386 = 3
_PT_LOAD, _PT_NOTE, _SHT_NOTE = 1, 4, 7
_NOTE_SIZES = (1, 2, 4, 8)  # sizes of a number, libelf's elf_note_numeric
# A hostile file may claim any number of anything; real kernels have a few.
_MAX_HEADERS, _MAX_NOTES = 1024, 256
_MAX_UNPACKED = 256 << 20  # bytes; Debian's kernels have 60 MiB

_BOOT_MAGIC_AT, _BOOT_MAGIC = 0x202, b"HdrS"
_BOOT_VERSION = 0x0208  # the first version that says where the compressed kernel is


class Bootable(NamedTuple):
    """``memory_size``: bytes that the loaded kernel takes; 0 if unknown."""

    ok: bool
    memory_size: int
    problem: str


def bootable(path: str, kind: str) -> Bootable:
    """Check that Xen can start this file as a kernel of type ``kind`` (pvh, pv). The problem completes a sentence on the path."""
    try:
        if not os.path.isfile(path):
            return Bootable(False, 0, "not a file")
        if not os.path.getsize(path):
            return Bootable(False, 0, "not an ELF file (it is empty)")
        if kind == "pv":
            return Bootable(True, 0, "")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return Bootable(True, pvh_memory_size(data), "")
    except ImageError as error:
        return Bootable(False, 0, str(error))
    except OSError as error:
        return Bootable(False, 0, error.strerror or str(error))


def pvh_memory_size(data: Bytes) -> int:
    """Return the bytes that a PVH kernel takes in memory; 0 if unknown. Raise ImageError if Xen can't boot it."""
    if data[:2] == b"\x1f\x8b":
        data = _unpack(data, 0, len(data), "the file")
    if data[_BOOT_MAGIC_AT : _BOOT_MAGIC_AT + 4] == _BOOT_MAGIC:
        data = _payload(data)
        if not data:
            return 0
    if data[:5] == b"\x7fELF\x01":
        return _elf_32(data)
    return inspect(data).memory_size


def _payload(data: Bytes) -> bytes:
    """Return the ELF file in a bzImage; empty if Xen can unpack it but Python can't."""
    version = struct.unpack_from("<H", data, 0x206)[0] if len(data) >= 0x250 else 0
    if version < _BOOT_VERSION:
        raise ImageError(f"a Linux kernel of boot protocol {version >> 8}.{version & 255:02}, which Xen does not boot: too old")
    setup_sectors = data[0x1F1]
    offset, size = struct.unpack_from("<II", data, 0x248)
    at = (setup_sectors + 1) * 512 + offset
    if at + size > len(data):
        raise ImageError(f"the file is truncated: its kernel ends at byte {at + size}, the file has {len(data)} bytes")
    unpacked = _unpack(data, at, size, "the kernel in it")
    if unpacked and unpacked[:4] != b"\x7fELF":
        raise ImageError("a Linux kernel whose compressed part is not an ELF file")
    return unpacked


# The formats of xg_dom_bzimageloader.c. None: the standard library can't unpack it.
_PACKINGS: tuple[tuple[bytes, Callable[[], Any] | None], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    (b"\xfd7zXZ\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    (b"\x5d\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\x89LZO", None),
    (b"\x02\x21", None),  # LZ4, the old frame
    (b"\x28\xb5\x2f\xfd", None),  # Zstandard
)


def _unpack(data: Bytes, at: int, size: int, what: str) -> bytes:
    packings = [make for magic, make in _PACKINGS if data[at : at + len(magic)] == magic]
    if not packings:
        raise ImageError(f"{what} is compressed in a way that Xen does not know (it starts with {data[at : at + 4].hex(' ')})")
    packing = packings[0]
    if packing is None:
        return b""
    stream = packing()
    try:
        unpacked = stream.decompress(data[at : at + size], _MAX_UNPACKED)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ImageError(f"{what} can't be decompressed: {error}") from None
    if len(unpacked) >= _MAX_UNPACKED:
        raise ImageError(f"{what} has more than {_MAX_UNPACKED >> 20} MiB when it is decompressed")
    if not stream.eof:
        raise ImageError(f"{what} can't be decompressed: it is truncated")
    return bytes(unpacked)


def _elf_32(data: Bytes) -> int:
    """Return the bytes from the lowest to the highest loaded address of a 32-bit file with a PVH entry."""
    if len(data) < _HEADER_32.size:
        raise ImageError(f"the file is truncated: it has only {len(data)} bytes, less than an ELF header")
    header = _HEADER_32.unpack_from(data)
    if header[0][5] != 1 or header[2] != _EM_386:
        raise ImageError("not an x86 ELF file")
    (program_at, section_at), (program_size, programs, section_size, sections) = header[5:7], header[9:13]
    if program_size != _PROGRAM_HEADER_32.size or not programs:
        raise ImageError("it has no program headers: an object file, not a kernel")
    addresses: list[int] = []
    notes: list[tuple[int, int]] = []
    for kind, offset, _vaddr, paddr, file_size, memory_size, _flags, _align in _table(
        data, _PROGRAM_HEADER_32, program_at, programs, "program"
    ):
        if offset + file_size > len(data):
            raise ImageError(f"the file is truncated: a segment ends at byte {offset + file_size}, it has {len(data)} bytes")
        if kind == _PT_LOAD:
            addresses += [paddr, paddr + memory_size]
        elif kind == _PT_NOTE:
            notes.append((offset, file_size))
    if section_size == _SECTION_HEADER_32.size:
        rows = _table(data, _SECTION_HEADER_32, section_at, sections, "section")
        notes += [(row[4], row[5]) for row in rows if row[1] == _SHT_NOTE]
    if not addresses:
        raise ImageError("no segment is loaded: nothing to boot")
    if not any(_has_entry(data, offset, size) for offset, size in notes[:_MAX_NOTES]):
        raise ImageError("no PVH entry (ELF note Xen 18, PHYS32_ENTRY): not a kernel that Xen can start as PVH")
    return max(addresses) - min(addresses)


def _table(data: Bytes, row: struct.Struct, at: int, count: int, what: str) -> list[tuple[int, ...]]:
    if count > _MAX_HEADERS:
        raise ImageError(f"it has {count} {what} headers, a kernel has a dozen")
    if at + count * row.size > len(data):
        raise ImageError(f"the file is truncated: its {what} header table ends behind it")
    return [row.unpack_from(data, at + index * row.size) for index in range(count)]


def _has_entry(data: Bytes, at: int, size: int) -> bool:
    end = min(at + size, len(data))
    for _count in range(_MAX_NOTES):
        if at + 12 > end:
            break
        name_size, value_size, kind = struct.unpack_from("<III", data, at)
        value_at = at + 12 + (name_size + 3) // 4 * 4
        if value_at + value_size > end:
            break
        name = data[at + 12 : at + 12 + name_size].rstrip(b"\0")
        if (name, kind) == (b"Xen", XEN_ELFNOTE_PHYS32_ENTRY) and value_size in _NOTE_SIZES:
            return True
        at = value_at + (value_size + 3) // 4 * 4
    return False
