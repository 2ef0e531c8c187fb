"""A kernel, an initramfs and a prefix become one image that states what it is."""

import pathlib
import shutil
import struct
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.elf import inspect
from ansible_collections.unikernels.xen.plugins.module_utils.image.pvh_wrap import (
    _CMDLINE_ROOM,
    _entry_code,
    cpio,
    payload_of,
    wrap,
)

from tests.guests import guest


def test_the_joined_image_is_a_standin_and_holds_everything():
    initramfs = b"INITRAMFS" * 1000
    kernel = guest(target=None)
    image = wrap(kernel, initramfs, "console=hvc0 -- ", "stand-in for web")
    read = inspect(image)
    assert (read.target, read.description) == ("standin", "stand-in for web")
    assert read.entry > 0x100000
    assert initramfs in image
    assert b"console=hvc0 -- " in image


def test_the_entry_code_points_at_initramfs_and_kernel():
    initramfs = b"x" * 5000
    image = wrap(guest(target=None), initramfs, "p ", "d")
    entry = inspect(image).entry
    # The last segment is the code: mov dword [ebx+16], address of the module list.
    code = image[image.rindex(b"\xfc\xc7\x43\x0c") :]
    modlist = struct.unpack_from("<I", code, 1 + 7 + 3)[0]
    start, size = struct.unpack_from("<QQ", code, modlist - entry)
    assert size == len(initramfs)
    assert start % (2 << 20) == 0
    assert struct.pack("<BI", 0xB8, 0x100000) + b"\xff\xe0" in code  # mov eax, kernel's entry; jmp eax


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("objcopy")), reason="needs binutils")
def test_the_entry_code_is_what_an_assembler_makes_of_its_source(tmp_path):
    base, linux, prefix = 0x1234000, 0x1000370, b"console=hvc0 -- "
    code = _entry_code(base, linux, 0x800000, 5000, prefix)
    behind = {
        "MODLIST": base + 128,
        "PREFIX": base + 160,
        "LINE": base + 160 + len(prefix),
        "ROOM": _CMDLINE_ROOM,
        "LINUX": linux,
    }
    symbols = [word for name, value in behind.items() for word in ("--defsym", f"{name}={value}")]
    source, binary = pathlib.Path(__file__).with_name("entry.S"), tmp_path / "entry"
    subprocess.run(["as", "--32", *symbols, "-o", str(tmp_path / "o"), str(source)], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(tmp_path / "o"), str(binary)], check=True)
    assembled = binary.read_bytes()
    assert code[: len(assembled)] == assembled
    assert set(code[len(assembled) : 128]) == {0xF4}, "hlt, up to the module list"


def test_cpio_is_read_by_cpio():
    archive = cpio([("dir", 0o040755, b""), ("dir/file", 0o100644, b"hello"), ("link", 0o120777, b"dir/file")])
    if shutil.which("cpio"):
        listed = subprocess.run(["cpio", "-t"], input=archive, capture_output=True, check=False)
        assert listed.stdout.split() == [b"dir", b"dir/file", b"link"]
    assert archive.count(b"070701") == 4
    assert cpio([("b", 0o100644, b""), ("a", 0o100644, b"")]) == cpio([("a", 0o100644, b""), ("b", 0o100644, b"")])


def test_what_is_no_bzimage_is_refused():
    with pytest.raises(ValueError, match="not a bzImage"):
        payload_of(b"\0" * 4096)
