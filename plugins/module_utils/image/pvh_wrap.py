# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Join a Linux vmlinux, an initramfs and the start of its command line into one PVH image. Pure.

A unikernel is one file, so its stand-in is one file too: store, digest and `kernel=` line work alike. The kernel's own segments
are kept; after them come the initramfs and a few bytes of 32-bit code, which become the PVH entry. The code tells Linux where its
initramfs is, puts our words before the boot arguments, and jumps to Linux's own entry.

Source of the offsets: ``struct hvm_start_info`` and ``hvm_modlist_entry`` in Xen's public header
``xen/include/public/arch-x86/hvm/start_info.h``; the state at entry (paging off, EBX = start info) is in Xen's
``docs/misc/pvh.pandoc``.
"""

from __future__ import annotations

import struct

from .elf import _HEADER, _PROGRAM_HEADER, STANDIN_NOTE_OWNER, STANDIN_NOTE_TYPE, XEN_ELFNOTE_PHYS32_ENTRY, inspect

PAGE = 4096
# struct hvm_start_info
_NR_MODULES, _MODLIST, _CMDLINE = 12, 16, 24
# The longest line that the toolstack can pass (Solo5's buffer is 8192; Linux keeps 2048).
_CMDLINE_ROOM = 16384


# First bytes of the payload -> the program that unpacks it from standard input.
_UNPACKERS = {b"\xfd7zXZ\0": ["xz", "-dc"], b"\x02\x21\x4c\x18": ["lz4", "-dc"], b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"]}


def payload_of(bzimage: bytes) -> tuple[list[str], bytes]:
    """Return the command that unpacks the kernel in a bzImage, and the compressed kernel. Raise ValueError if there is none.

    Source: Linux's ``Documentation/x86/boot.rst``: "HdrS" at 0x202, setup_sects at 0x1f1, payload_offset at 0x248, payload_length
    at 0x24c. The last four bytes are the unpacked size.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise ValueError("not a bzImage")
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = ((bzimage[0x1F1] or 4) + 1) * 512 + offset
    payload = bzimage[start : start + length - 4]
    for magic, command in _UNPACKERS.items():
        if payload.startswith(magic):
            return command, payload
    raise ValueError(f"the kernel inside is compressed in an unknown way (it starts with {payload[:4].hex(' ')})")


def _up(value: int, to: int) -> int:
    return (value + to - 1) // to * to


def _note(owner: bytes, kind: int, data: bytes) -> bytes:
    name = owner + b"\0"
    return (
        struct.pack("<III", len(name), len(data), kind)
        + name.ljust(_up(len(name), 4), b"\0")
        + data.ljust(_up(len(data), 4), b"\0")
    )


def _entry_code(base: int, linux_entry: int, initramfs_at: int, initramfs_size: int, prefix: bytes) -> bytes:
    """Return the bytes at ``base``: code, a module list entry, then ``prefix``; room for the line follows.

    The assembler source of the code is tests/unit/image/entry.S, with which unit tests compare it. Building a stand-in needs no
    assembler.
    """
    code_size = 128
    modlist = base + code_size
    prefix_at = modlist + 32
    line = prefix_at + len(prefix)
    code = b"".join(
        [
            b"\xfc",  # cld
            b"\xc7\x43" + bytes([_NR_MODULES]) + struct.pack("<I", 1),  # mov dword [ebx+nr_modules], 1
            b"\xc7\x43" + bytes([_MODLIST]) + struct.pack("<I", modlist),  # mov dword [ebx+modlist], modlist
            b"\xc7\x43" + bytes([_MODLIST + 4]) + struct.pack("<I", 0),
            b"\xbf" + struct.pack("<I", line),  # mov edi, line
            b"\x8b\x73" + bytes([_CMDLINE]),  # mov esi, [ebx+cmdline]
            b"\x85\xf6",  # test esi, esi: no arguments at all
            b"\x74\x0c",  # jz done (12 bytes on)
            b"\xb9" + struct.pack("<I", _CMDLINE_ROOM - 1),  # mov ecx, room
            b"\xac",  # copy: lodsb
            b"\xaa",  # stosb
            b"\x84\xc0",  # test al, al
            b"\xe0\xfa",  # loopnz copy
            b"\x90",  # nop
            b"\xc7\x43" + bytes([_CMDLINE]) + struct.pack("<I", prefix_at),  # done: mov dword [ebx+cmdline], prefix
            b"\xc7\x43" + bytes([_CMDLINE + 4]) + struct.pack("<I", 0),
            b"\xb8" + struct.pack("<I", linux_entry),  # mov eax, linux_entry
            b"\xff\xe0",  # jmp eax
        ]
    )
    module = struct.pack("<QQQQ", initramfs_at, initramfs_size, 0, 0)
    return code.ljust(code_size, b"\xf4") + module + prefix


def wrap(vmlinux: bytes, initramfs: bytes, prefix: str, description: str) -> bytes:
    """Return one ELF image. ``prefix`` is put before the domain's own boot arguments, unchanged."""
    linux = inspect(vmlinux)
    header = _HEADER.unpack_from(vmlinux)
    program_at, count = header[5], header[10]
    loads = [_PROGRAM_HEADER.unpack_from(vmlinux, program_at + index * _PROGRAM_HEADER.size) for index in range(count)]
    loads = [segment for segment in loads if segment[0] == 1]
    initramfs_at = _up(max(segment[4] + segment[6] for segment in loads), 2 << 20)
    code_at = _up(initramfs_at + len(initramfs), PAGE)
    code = _entry_code(code_at, linux.entry, initramfs_at, len(initramfs), prefix.encode("ascii"))
    notes = _note(b"Xen", XEN_ELFNOTE_PHYS32_ENTRY, struct.pack("<I", code_at)) + _note(
        STANDIN_NOTE_OWNER, STANDIN_NOTE_TYPE, description.encode("utf-8")
    )

    segments: list[tuple[int, int, int, bytes, int]] = []  # flags, vaddr, paddr, bytes, size in memory
    for _kind, flags, offset, vaddr, paddr, file_size, memory_size, _align in loads:
        segments.append((flags, vaddr, paddr, vmlinux[offset : offset + file_size], memory_size))
    segments.append((6, initramfs_at, initramfs_at, initramfs, len(initramfs)))
    segments.append((7, code_at, code_at, code, len(code) + _CMDLINE_ROOM))

    table_size = _PROGRAM_HEADER.size * (len(segments) + 1)
    at = _HEADER.size + table_size
    table = [_PROGRAM_HEADER.pack(4, 4, at, 0, 0, len(notes), len(notes), 4)]
    body = [notes]
    at += len(notes)
    for flags, vaddr, paddr, content, memory_size in segments:
        padding = _up(at, PAGE) + paddr % PAGE - at
        body += [b"\0" * padding, content]
        at += padding
        table.append(_PROGRAM_HEADER.pack(1, flags, at, vaddr, paddr, len(content), memory_size, PAGE))
        at += len(content)
    ident = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    new_header = _HEADER.pack(
        ident, 2, 62, 1, code_at, _HEADER.size, 0, 0, _HEADER.size, _PROGRAM_HEADER.size, len(segments) + 1, 0, 0, 0
    )
    return b"".join([new_header, *table, *body])


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """Return a newc archive of (path, mode with file type, content or link target); device nodes have b"MAJOR,MINOR".

    Source of the format: Linux's ``Documentation/driver-api/early-userspace/buffer-format.rst``. Every time is 0 and every owner
    root, so the same input gives the same bytes.
    """
    out = []

    def add(number: int, path: str, mode: int, content: bytes, rdev: tuple[int, int]) -> None:
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, rdev[0], rdev[1], len(name), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
        out.append(head.ljust(_up(len(head), 4), b"\0"))
        out.append(content.ljust(_up(len(content), 4), b"\0"))

    for number, (path, mode, content) in enumerate(sorted(entries), 1):
        if mode & 0o170000 == 0o020000:
            major, minor = content.split(b",")
            add(number, path, mode, b"", (int(major), int(minor)))
        else:
            add(number, path, mode, content, (0, 0))
    add(0, "TRAILER!!!", 0, b"", (0, 0))
    return b"".join(out)
