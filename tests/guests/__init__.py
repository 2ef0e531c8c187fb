"""Our own tiny PVH guests, from a few hundred bytes to a few KB, assembled here.

They carry the notes that Solo5 gives its images, so they take every path that a unikernel takes; their few bytes of code say what
they do.
"""

import pathlib
import struct
import subprocess
import tempfile

from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import (
    SOLO5_NOTE_ABI,
    SOLO5_NOTE_MANIFEST,
    XEN_ELFNOTE_PHYS32_ENTRY,
)

LOAD = 0x100000
IDLE = b"\xfb\xf4\xeb\xfc"  # sti; hlt; jmp back: runs forever at no cost
ENDS = b"\xfa\xf4\xeb\xfd"  # cli; hlt: Xen sees the last vCPU go down and powers the domain off
# mov ecx, 0x2000000; dec ecx; jnz back; ud2: works for a moment, then a triple fault, which Xen treats as a reboot
LOOPS = b"\xb9\x00\x00\x00\x02\x49\x75\xfd\x0f\x0b"


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    name = owner + b"\0"
    pad = lambda blob: blob + b"\0" * (-len(blob) % 4)  # noqa: E731
    return struct.pack("<III", len(name), len(data), kind) + pad(name) + pad(data)


def guest(
    code: bytes = IDLE, target: int | None = 6, pvh: bool = True, memory_size: int = 4096, blocks: tuple[bytes, ...] = ()
) -> bytes:
    """Return an ELF image. ``target``: Solo5's number (6 is xen), None for no notes; ``blocks``: names of its devices."""
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


HERE = pathlib.Path(__file__).parent
CFLAGS = ["-m32", "-march=i686", "-mgeneral-regs-only", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-Os", "-Werror"]
CFLAGS += ["-fno-asynchronous-unwind-tables", "-fno-strict-aliasing", "-fcf-protection=none", "-Wall", "-Wextra"]


def service(greeting: str = "A guest of our own", **named) -> bytes:
    """Return an image that answers HTTP, DNS and ping, or exits as its boot arguments say: service.c, by Debian's compiler."""
    with tempfile.TemporaryDirectory() as folder:
        flat, whole = f"{folder}/flat", f"{folder}/whole"
        text = greeting.replace("\\", "\\\\").replace('"', '\\"')
        commands = [
            ["gcc", *CFLAGS, f'-DGREETING="{text}"', "-c", str(HERE / "service.c"), "-o", f"{folder}/service.o"],
            [
                "ld",
                "-m",
                "elf_i386",
                "-T",
                str(HERE / "service.ld"),
                "--no-warn-rwx-segments",
                "-o",
                whole,
                f"{folder}/service.o",
            ],
            ["objcopy", "-O", "binary", whole, flat],
        ]
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True)
        symbols = subprocess.run(["nm", whole], check=True, capture_output=True, text=True).stdout.splitlines()
        end = next(int(line.split()[0], 16) for line in symbols if line.endswith(" end_of_all"))
        return guest(pathlib.Path(flat).read_bytes(), memory_size=end - LOAD, **named)
