"""What an image states about itself, and that no bytes break the reader."""

import struct

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import Device, ImageError, inspect, inspect_file, printable
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import guest, note


def test_a_solo5_image_for_xen():
    image = inspect(guest())
    assert (image.target, image.abi_version, image.entry, image.memory_size) == ("xen", 2, 0x100000, 4096)
    assert image.devices == ()
    assert inspect(guest(blocks=(b"storage",))).devices == (Device("storage", "block"),)


def test_another_pvh_kernel():
    assert inspect(guest(target=None)).target == "pvh"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (guest()[:40], "truncated"),
        (guest()[:4097], "truncated"),
        (guest(target=1), "built for Solo5 target 'hvt'; Xen boots only target 'xen'"),
        (guest(target=2), "'spt'"),
        (guest(target=99), "unknown Solo5 target 99"),
        (guest(pvh=False), "no PVH entry"),
        (b"\x7fELF\x01" + guest()[5:], "not a 64-bit"),
    ],
)
def test_what_xen_cannot_boot_is_refused_by_name(data, words):
    with pytest.raises(ImageError, match=words.replace("(", "\\(")):
        inspect(data)


# Where the header has sizes and counts: e_phoff to e_shstrndx, then the first program header.
FIELDS = [("<Q", 32), ("<Q", 40), *(("<H", at) for at in range(52, 64, 2)), ("<I", 64), *(("<Q", at) for at in range(72, 120, 8))]
EXTREMES = [0, 1, 4, 7, 56, 64, 4096, 18725, 0xFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1]


@given(st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(EXTREMES)), min_size=1, max_size=8), st.booleans())
def test_bombs_do_not_go_off(fields, ones):
    """Return a file as large as its header claims."""
    data = bytearray(guest() + (b"\xff" if ones else b"\0") * (5 << 20))
    for (form, at), value in fields:
        struct.pack_into(form, data, at, value % (1 << 8 * struct.calcsize(form)))
    try:
        inspect(bytes(data))
    except ImageError as refusal:
        assert "\n" not in str(refusal)


@pytest.mark.parametrize(("at", "words"), [(56, "it has 65535 program headers"), (60, "it has 65535 section headers")])
def test_tables_without_end_are_refused(at, words):
    data = bytearray(guest() + bytes(5 << 20))
    struct.pack_into("<H", data, at, 0xFFFF)
    with pytest.raises(ImageError, match=words):
        inspect(bytes(data))


@given(st.integers(0, 8191), st.binary(min_size=1, max_size=16))
def test_damaged_images_are_read_or_refused(at, damage):
    data = bytearray(guest())
    data[at : at + len(damage)] = damage
    try:
        inspect(bytes(data))
    except ImageError as refusal:
        assert "\n" not in str(refusal)


@given(st.binary(max_size=400))
def test_no_bytes_make_it_stumble(data):
    for blob in (data, b"\x7fELF\x02\x01" + data):
        with pytest.raises(ImageError):
            inspect(blob)


def test_a_file_is_read_in_place(tmp_path):
    path = tmp_path / "a.xen"
    path.write_bytes(guest())
    assert inspect_file(str(path)) == inspect(guest())
    with pytest.raises(ImageError, match="not a file"):
        inspect_file(str(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        inspect_file(str(path))


# -- what only some images have -----------------------------------------------------------------------


def with_sections(*sections, tail=b"", size=64):
    """A guest with a section table: (type, offset, size, alignment) each, and ``tail`` after the image."""
    image = bytearray(guest(target=None) + tail)
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, at, length, 0, 0, align, 0) for kind, at, length, align in sections
    )
    struct.pack_into("<Q", image, 40, len(image))
    struct.pack_into("<HH", image, 58, size, len(sections))
    return bytes(image) + table


def test_notes_of_sections_and_a_symbol_table():
    standin = note(b"unikernels.xen", 1, b"stand-in for dns\x1b[31m\0")
    at = len(guest(target=None))
    image = inspect(with_sections((7, at, len(standin), 4), (2, 0, 0, 8), tail=standin))
    assert (image.target, image.description, image.debug_info) == ("standin", "stand-in for dns?[31m", True)
    assert image.size == len(with_sections((7, at, len(standin), 4), (2, 0, 0, 8), tail=standin))
    # Of another type, or in a table with other entries, they are not notes.
    other = inspect(with_sections((1, at, len(standin), 4), tail=standin))
    assert (other.target, other.debug_info) == ("pvh", False)
    assert inspect(with_sections((7, at, len(standin), 4), (2, 0, 0, 8), tail=standin, size=40)).target == "pvh"
    with pytest.raises(ImageError, match=r"truncated: a note section ends at byte \d+, the file has \d+ bytes"):
        inspect(with_sections((7, at, 1 << 20, 4)))


def test_notes_with_another_alignment():
    """Aligned to 8 bytes: name and data are padded."""
    pad = lambda blob, to: blob + b"\0" * (-len(blob) % to)  # noqa: E731
    rows = b""
    for owner, kind, data in ((b"GNU\0", 5, b"12345"), (b"unikernels.xen\0", 1, b"eight")):
        start = struct.pack("<III", len(owner), len(data), kind) + owner
        rows += pad(pad(start, 8) + data, 8)
    at = len(guest(target=None))
    assert inspect(with_sections((7, at, len(rows), 8), tail=rows)).description == "eight"
    assert inspect(with_sections((7, at, len(rows), 4), tail=rows)).description != "eight"
    # Aligned to 4 bytes, with data that needs padding.
    rows = note(b"GNU", 5, b"12345") + note(b"unikernels.xen", 1, b"four")
    assert inspect(with_sections((7, at, len(rows), 4), tail=rows)).description == "four"


def test_a_notes_end_may_be_the_sections_end():
    whole = note(b"unikernels.xen", 1, b"whole")[:-3]  # not padded
    at = len(guest(target=None))
    assert inspect(with_sections((7, at, len(whole), 4), tail=whole)).description == "whole"
    assert inspect(with_sections((7, at, len(whole) - 1, 4), tail=whole)).description == ""
    empty = note(b"unikernels.xen", 1, b"first") + note(b"unikernels.xen", 1, b"")
    assert inspect(with_sections((7, at, len(empty), 4), tail=empty)).description == ""


def test_no_more_than_256_notes_are_read():
    at = len(guest(target=None))
    for count, words in ((254, "last"), (255, ""), (256, "")):
        rows = note(b"GNU", 1, b"") * count + note(b"unikernels.xen", 1, b"last")
        # The image itself has one.
        first = inspect(with_sections((7, at, 16 * count, 4), (7, at + 16 * count, len(rows) - 16 * count, 4), tail=rows))
        assert first.description == words, count
    rows = note(b"GNU", 1, b"") * 255 + note(b"unikernels.xen", 1, b"last") + note(b"unikernels.xen", 1, b"too late")
    assert inspect(with_sections((7, at, len(rows), 4), tail=rows)).description == "last"


def test_kinds_of_devices():
    image = bytearray(guest(blocks=(b"a", b"b", b"c\x1b")))
    kinds = [at for at in range(len(image) - 4) if image[at - 68 : at - 66] in (b"b\0", b"c\x1b")]
    struct.pack_into("<I", image, kinds[0], 2)
    struct.pack_into("<I", image, kinds[1], 9)
    assert inspect(bytes(image)).devices == (Device("a", "block"), Device("b", "net"), Device("c?", "9"))
    many = inspect(guest(blocks=(b"x",) * 30)).devices
    assert len(many) == 30


def test_only_so_many_devices():
    entries = b"".join(b"d".ljust(68, b"\0") + struct.pack("<I", 1) + b"\0" * 32 for _ in range(70))
    manifest = note(b"Solo5", 0x3154464D, b"\0" * 4 + struct.pack("<II", 1, 70) + entries)
    at = len(guest(target=None))
    assert len(inspect(with_sections((7, at, len(manifest), 4), tail=manifest)).devices) == 64
    # What doesn't fit into the note is ignored.
    for size, devices in ((12 + 2 * 104, 2), (12 + 2 * 104 - 1, 1), (12, 0), (11, 0)):
        data = (b"\0" * 4 + struct.pack("<II", 1, 70) + entries)[:size]
        short = note(b"Solo5", 0x3154464D, data)
        assert len(inspect(with_sections((7, at, len(short), 4), tail=short)).devices) == devices


def test_the_entry_and_the_abi():
    at = len(guest(target=None))
    for data, entry in ((struct.pack("<Q", 0x200000), 0x200000), (b"\0" * 5, 0x100000)):
        rows = note(b"Xen", 18, data)
        assert inspect(with_sections((7, at, len(rows), 4), tail=rows)).entry == entry
    rows = note(b"Xen", 18, struct.pack("<I", 0))
    assert inspect(with_sections((7, at, len(rows), 4), tail=rows)).entry == 0
    rows = note(b"Solo5", 0x31494241, struct.pack("<I", 6))
    assert inspect(with_sections((7, at, len(rows), 4), tail=rows)).target == "pvh", "too short to be one"


def test_other_notes_say_nothing():
    rows = (
        note(b"GNU", 1, b"not a stand-in") + note(b"unikernels.xen", 2, b"nor this") + note(b"Solo5", 9, struct.pack("<II", 6, 2))
    )
    image = inspect(with_sections((7, len(guest(target=None)), len(rows), 4), tail=rows))
    assert (image.target, image.description, image.entry, image.devices) == ("pvh", "", 0x100000, ())


def test_memory_is_from_the_lowest_to_the_highest_address():
    image = bytearray(guest())
    image[64 + 112 + 200 : 4096] = image[64 + 112 : 4096 - 200]  # room for two more headers
    notes = image[64 + 56 : 64 + 112]
    load = lambda at, size: struct.pack("<IIQQQQQQ", 1, 5, 4096, at, at, 4, size, 4096)  # noqa: E731
    struct.pack_into("<Q", notes, 8, 64 + 112 + 200)
    table = load(0x200000, 0x1000) + load(0x100000, 0x2000) + load(0x180000, 0x1000) + bytes(notes)
    image[64 : 64 + len(table)] = table
    struct.pack_into("<H", image, 56, 4)
    assert inspect(bytes(image)).memory_size == 0x101000


def test_text_for_people():
    assert printable("a" * 501) == "a" * 500 and printable("é\n\x9b\u202e\ud800") == "é????"
