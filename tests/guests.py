"""Tiny PVH guests of our own, a few hundred bytes each, made here from nothing.

They carry the notes that Solo5 gives its images, so they pass through everything that a
unikernel passes through; what they do is written in their few bytes of code.
"""

import struct

from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import (
    SOLO5_NOTE_ABI,
    SOLO5_NOTE_MANIFEST,
    XEN_ELFNOTE_PHYS32_ENTRY,
)

LOAD = 0x100000
IDLE = b"\xfb\xf4\xeb\xfc"  # sti; hlt; jmp back: runs for ever and costs nothing
ENDS = b"\xfa\xf4\xeb\xfd"  # cli; hlt: Xen sees the last vCPU go down and powers the domain off
SPINS = b"\xeb\xfe"


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    name = owner + b"\0"
    pad = lambda blob: blob + b"\0" * (-len(blob) % 4)  # noqa: E731
    return struct.pack("<III", len(name), len(data), kind) + pad(name) + pad(data)


def guest(
    code: bytes = IDLE, target: int | None = 6, pvh: bool = True, memory_size: int = 4096, blocks: tuple[bytes, ...] = ()
) -> bytes:
    """An ELF image; ``target`` is Solo5's number (6 is xen), None leaves its notes out; ``blocks`` names devices."""
    notes = b""
    if pvh:
        notes += note(b"Xen", XEN_ELFNOTE_PHYS32_ENTRY, struct.pack("<I", LOAD))
    if target is not None:
        notes += note(b"Solo5", SOLO5_NOTE_ABI, struct.pack("<II", target, 2))
        entries = [(b"", 1 << 30), *((name, 1) for name in blocks)]
        manifest = b"".join(name.ljust(68, b"\0") + struct.pack("<I", kind) + b"\0" * 32 for name, kind in entries)
        notes += note(b"Solo5", SOLO5_NOTE_MANIFEST, b"\0" * 4 + struct.pack("<II", 1, len(entries)) + manifest)
    notes_at = 64 + 2 * 56
    code_at = 4096
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, LOAD, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    table = struct.pack("<IIQQQQQQ", 1, 5, code_at, LOAD, LOAD, len(code), max(memory_size, len(code)), 4096)
    table += struct.pack("<IIQQQQQQ", 4, 4, notes_at, 0, 0, len(notes), len(notes), 4)
    return (header + table + notes).ljust(code_at, b"\0") + code
