"""What Xen boots and what it doesn't, with files made here: 32-bit PVH, bzImage, compressed, truncated, hostile."""

import bz2
import gzip
import lzma
import struct

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import ImageError
from ansible_collections.unikernels.xen.plugins.module_utils.image.kernels import bootable, pvh_memory_size
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import guest, note

MIB = 1 << 20


def elf_32(notes=None, memory_size=MIB, in_section=False, machine=3):
    """Like Debian's grub-i386-xen_pvh.bin: two loaded segments and a note."""
    notes = note(b"Xen", 18, struct.pack("<I", MIB)) if notes is None else notes
    programs = [(1, 0, 0, MIB, 16, 16, 7, 4096), (1, 16, 0, MIB + 16, 16, memory_size - 16, 7, 4)]
    sections = [(0, 7, 0, 0, 512, len(notes), 0, 0, 4, 0)] if in_section else []
    if not in_section:
        programs.append((4, 512, 0, 0, len(notes), 0, 4, 4))
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, machine, 1, MIB, 52, 256, 0, 52, 32, len(programs), 40, len(sections), 0
    )
    table = b"".join(struct.pack("<8I", *row) for row in programs)
    section_table = b"".join(struct.pack("<10I", *row) for row in sections)
    return ((header + table).ljust(256, b"\0") + section_table).ljust(512, b"\0") + notes


def bzimage(payload, version=0x020F):
    """Linux's boot protocol: one more sector of setup after the first, and the payload 16 bytes into the rest."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + b"\0" * 16 + payload + b"\0" * 8


PACKED = [gzip.compress, bz2.compress, lzma.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)]


@pytest.mark.parametrize("data", [guest(memory_size=MIB), elf_32(), elf_32(in_section=True)], ids=["64", "32", "32-section"])
def test_what_xen_boots(data):
    assert pvh_memory_size(data) == MIB
    assert pvh_memory_size(gzip.compress(data)) == MIB
    for pack in PACKED:
        assert pvh_memory_size(bzimage(pack(data))) == MIB
    assert pvh_memory_size(gzip.compress(bzimage(lzma.compress(data)))) == MIB


@pytest.mark.parametrize("magic", [b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"\x89LZO"], ids=["lz4", "zstd", "lzo"])
def test_what_only_xen_can_unpack_is_left_to_it(magic):
    assert pvh_memory_size(bzimage(magic + b"anything")) == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"#!/bin/sh\n", "not an ELF file"),
        (guest(pvh=False, target=None), "no PVH entry"),
        (guest(target=1), "built for Solo5 target 'hvt'"),
        (elf_32(notes=b""), "no PVH entry"),
        (elf_32(notes=note(b"Xen", 17, b"1234")), "no PVH entry"),
        (elf_32(notes=note(b"Xenon", 18, b"1234")), "no PVH entry"),
        (elf_32(machine=40), "not an x86 ELF file"),
        (elf_32()[:40], "the file is truncated"),
        (elf_32()[:520], "the file is truncated"),
        (bzimage(gzip.compress(elf_32()))[:1100], "the file is truncated"),
        (bzimage(gzip.compress(elf_32(notes=b""))), "no PVH entry"),
        (bzimage(gzip.compress(b"x" * 100)), "whose compressed part is not an ELF file"),
        (bzimage(b"what"), "is compressed in a way that Xen does not know (it starts with 77 68 61 74)"),
        (bzimage(b"\x1f\x8bnothing"), "the kernel in it can't be decompressed"),
        (bzimage(b"", version=0x0207), "boot protocol 2.07, which Xen does not boot: too old"),
        (b"\x1f\x8b", "the file can't be decompressed"),
    ],
)
def test_what_xen_does_not_boot_is_one_line(data, words):
    with pytest.raises(ImageError) as refusal:
        pvh_memory_size(data)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(st.sampled_from([elf_32(), bzimage(gzip.compress(elf_32())), gzip.compress(elf_32())]), st.data())
def test_no_bytes_give_a_traceback(data, draw):
    changed = bytearray(data)
    for _count in range(4):
        changed[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        pvh_memory_size(bytes(changed[: draw.draw(st.integers(0, len(data)))]))
    except ImageError as refusal:
        assert "\n" not in str(refusal)


def test_a_bomb_is_no_kernel():
    packed = gzip.compress(b"\0" * (257 * MIB), 1)
    with pytest.raises(ImageError, match="more than 256 MiB"):
        pvh_memory_size(packed)


def test_a_file_that_is_there_or_not(tmp_path):
    assert bootable(str(tmp_path), "pvh") == (False, 0, "not a file")
    assert bootable(str(tmp_path / "none"), "pv") == (False, 0, "not a file")
    path = tmp_path / "kernel"
    path.write_bytes(b"")
    assert bootable(str(path), "pvh").problem == "not an ELF file (it is empty)"
    path.write_bytes(elf_32())
    assert bootable(str(path), "pvh") == (True, MIB, "")
    path.write_bytes(b"anything, for Xen's loaders of PV kernels are many")
    assert bootable(str(path), "pv") == (True, 0, "")
    assert not bootable(str(path), "pvh").ok
