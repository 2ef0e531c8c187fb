"""What an image says of itself; and that no bytes make the reader stumble."""

import struct

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import Device, ImageError, inspect, inspect_file
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import guest


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


# Where the header says what is how large and how many: e_phoff to e_shstrndx, then the first program header.
FIELDS = [("<Q", 32), ("<Q", 40), *(("<H", at) for at in range(52, 64, 2)), ("<I", 64), *(("<Q", at) for at in range(72, 120, 8))]
EXTREMES = [0, 1, 4, 7, 56, 64, 4096, 18725, 0xFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1]


@given(st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(EXTREMES)), min_size=1, max_size=8), st.booleans())
def test_bombs_do_not_go_off(fields, ones):
    """A file that is large enough for what its header claims."""
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
