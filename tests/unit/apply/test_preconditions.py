"""What is refused before anything changes, because Xen would find it only half-way through."""

import hashlib
import json
import pathlib
import re
import struct

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.apply import preconditions
from ansible_collections.unikernels.xen.plugins.module_utils.domain import compare, observed, spec
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Origin
from ansible_collections.unikernels.xen.plugins.module_utils.xen import disks
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError

from tests.unit.image.test_elf import guest


@pytest.mark.parametrize(("memory", "refused"), [(4, True), (5, False)])
def test_an_image_larger_than_the_domains_memory(xen, converge, tmp_path, memory, refused):
    image = tmp_path / "large.xen"
    image.write_bytes(guest(memory_size=9 << 19))
    if refused:
        with pytest.raises(converge.Refused, match="domain a: memory: is 4 MiB, the image alone takes 5 MiB"):
            converge({"name": "a", "kernel": str(image), "memory": memory})
    else:
        assert converge({"name": "a", "kernel": str(image), "memory": memory})["failed"] is False


@pytest.mark.parametrize("kind", ["folder", "text"])
def test_what_is_no_kernel(xen, converge, tmp_path, kind):
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text("#!/bin/sh\n")
    with pytest.raises(converge.Refused, match=f"domain a: kernel: {path}: "):
        converge({"name": "a", "kernel": str(path)})


def test_a_disk_that_is_neither_file_nor_device(xen, converge):
    with pytest.raises(converge.Refused, match="is neither a file nor a block device"):
        converge({"name": "a", "disks": [{"path": str(xen.folder)}]})


def test_qcow2_needs_qemu(xen, converge):
    path = xen.folder / "d.qcow2"
    path.write_bytes(qcow2())
    with pytest.raises(converge.Refused, match="set xen_host_qemu: true"):
        converge({"name": "a", "disks": [{"path": str(path), "format": "qcow2", "access": "w"}]})


@pytest.fixture
def content_disks(xen, monkeypatch):
    """Disks made from content are in the double's folder too."""
    folder = f"{xen.folder}/disks"
    shape = re.compile(re.escape(folder) + r"/(.+)-(?:xvd|hd|sd)[a-z0-9]+-[0-9a-f]{16}\.img")
    monkeypatch.setattr(spec, "DISKS", folder)
    for module in (spec, observed, compare, preconditions):
        monkeypatch.setattr(module, "CONTENT_PATH", shape)


def test_a_changed_zone_that_secondaries_would_not_follow_is_warned_of(xen, converge, content_disks):
    def disk(serial, address):
        soa = f"x.example. 60 IN SOA ns.other. h.x.example. {serial} 2 3 4 5\n"
        text = f"; secondary 192.0.2.54\n$ORIGIN x.example.\n{soa}www.x.example. 60 IN A {address}\n"
        return {"name": "dns", "disks": [{"content": text}]}

    assert converge(disk(7, "10.0.0.1"))["changed"] and converge.warnings == []
    for check in (True, False):
        assert converge(disk(7, "10.0.0.2"), check=check)["changed"]
        assert converge.warnings == [
            "domain dns: zone x.example changes and its serial does not rise: it is 7, 7 is served. Secondaries keep what they"
            " have until it is newer: write 8 into its SOA"
        ]
    assert not converge(disk(7, "10.0.0.2"))["changed"] and converge.warnings == []
    assert converge(disk(8, "10.0.0.3"))["changed"] and converge.warnings == []
    assert converge({**disk(8, "10.0.0.3"), "state": "stopped"})["changed"]
    assert converge(disk(6, "10.0.0.3"), check=True)["changed"]
    assert "it is 6, 8 is served" in converge.warnings[0]


def test_a_zone_with_other_keys_than_the_served_ones_is_refused(xen, converge, content_disks):
    def disk(*keys, serial=7):
        soa = f"x.example. 60 IN SOA ns.other. h.x.example. {serial} 2 3 4 5\n"
        lines = "".join(f"x.example. 3600 IN TYPE48 \\# 4 0101030{key}\n" for key in keys)
        return {"name": "dns", "disks": [{"content": f"$ORIGIN x.example.\n{soa}{lines}sub.x.example. 60 IN TYPE48 \\# 1 00\n"}]}

    assert converge(disk())["changed"] and converge.warnings == []
    assert converge(disk("a"))["changed"] and converge.warnings == [], "the first signature"
    for check in (True, False):
        with pytest.raises(
            converge.Refused, match=r"domain dns: zone x\.example is served with other keys than the declared ones"
        ):
            converge(disk("b", serial=8), check=check)
    for keys in (("a", "b"), ("b",)):
        assert converge(disk(*keys))["changed"] and converge.warnings == [], "one key after the other"
    assert converge(disk(serial=8))["changed"]
    assert converge.warnings == [
        "domain dns: zone x.example is no longer signed: while the parent has a DS for it, resolvers that validate answer"
        " SERVFAIL"
    ]
    assert converge(disk("c", serial=9))["changed"], "after a time without signatures"


# -- sources that name other files -------------------------------------------------------------------


def qcow2(version=3, backing=0, features=0):
    return struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 9, 16, 1 << 20, 0, 1, 0, 0, 1, 0, 0)[:72] + struct.pack(
        ">QQQII", features, 0, 0, 4, 104
    ) + b"\0" * 512  # fmt: skip


def vmdk(capacity=2048, text=b'CID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\nRW 2048 SPARSE "x.vmdk"\n', offset=1):
    head = struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, capacity, 128, offset, 1, 512, 0, 0)
    return head.ljust(512, b"\0") + text.ljust(512, b"\0")


def vhd(kind):
    return b"conectix".ljust(60, b"\0") + struct.pack(">I", kind) + b"\0" * 448


def vdi(kind):
    return b"<<< image >>>".ljust(64, b"\0") + b"\x7f\x10\xda\xbe" + b"\0" * 8 + struct.pack("<I", kind) + b"\0" * 512


HOSTILE = {
    "a backing file": (qcow2(backing=512), "it has a backing file"),
    "a backing file, version 2": (qcow2(version=2, backing=512), "it has a backing file"),
    "an external data file": (qcow2(features=4), "it has an external data file"),
    "qcow2 of tomorrow": (qcow2(features=64), "it has features that are not known"),
    "qcow1": (qcow2(version=1, backing=512), "it is qcow2 of version 1"),
    "qcow2 cut off": (qcow2()[:40], "it is cut off"),
    "a descriptor": (b'# Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0\n', "it is a descriptor of other files"),
    "a sparse head that is a descriptor": (vmdk(capacity=0), "it is a descriptor of other files"),
    "a parent": (vmdk(text=b'parentCID=1234\nparentFileNameHint="/etc/shadow"\n'), "it has a parent"),
    "a parent, spaced": (vmdk(text=b"parentCID = 1234\n"), "it has a parent"),
    "several extents": (vmdk(text=b'createType="twoGbMaxExtentFlat"\n'), "it consists of several files"),
    "flat": (vmdk(text=b'createType = "monolithicFlat"\n'), "it consists of several files"),
    "a parent where QEMU looks for it": (vmdk(offset=0, text=b'parentFileNameHint="/etc/shadow"\n'), "it has a parent"),
    "a descriptor far away": (vmdk(offset=1 << 20), "its descriptor is out of reach"),
    "vmdk cut off": (vmdk()[:20], "it is a descriptor of other files"),
    "a differencing VHD": (vhd(4), "it has a parent"),
    "a VHD of no type": (vhd(9), "it is of type 9"),
    "a differencing VDI": (vdi(4), "it has a parent"),
    "an undo VDI": (vdi(3), "it has a parent"),
    "a descriptor behind a comment": (b'# mine\n\nversion=1\nRW 1 FLAT "/etc/shadow" 0\n', "it is a descriptor of other files"),
    "QED": (b"QED\0".ljust(4096, b"\0"), "it is an image of the format QED, which is not converted"),
    "VHDX": (b"vhdxfile".ljust(4096, b"\0"), "it is an image of the format VHDX"),
    "a sparse VMDK of ESX": (b"COWD".ljust(4096, b"\0"), "it is an image of the format VMDK of ESX"),
    "Parallels": (b"WithouFreSpacExt".ljust(4096, b"\0"), "it is an image of the format Parallels"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_source_that_names_another_file_is_refused(xen, converge, name):
    data, words = HOSTILE[name]
    source = xen.folder / "source"
    source.write_bytes(data)
    with pytest.raises(converge.Refused) as refused:
        converge({"name": "a", "disks": [{"path": str(xen.folder / "d"), "source": str(source)}]})
    assert words in str(refused.value)
    # It changes after the check.
    with pytest.raises(ToolstackError) as failed:
        disks.make(Origin(str(xen.folder / "d"), "raw", 0, str(source)))
    assert words in str(failed.value)
    assert not (xen.folder / "d").exists()


@pytest.mark.parametrize("data", [qcow2(), qcow2(version=2), qcow2(features=1), vmdk(), vhd(3), vdi(1), vdi(2), b"raw" * 999])
def test_a_source_that_stands_alone_is_taken(tmp_path, data):
    source = tmp_path / "source"
    source.write_bytes(data)
    assert disks.source_problem(str(source)) is None


# -- what may boot -----------------------------------------------------------------------------------


def test_an_image_of_the_store_that_was_altered_is_refused(xen, converge, kernel, tmp_path):
    """What was verified is what boots: the digest is computed from the file now."""
    data = open(kernel, "rb").read()
    image = tmp_path / (hashlib.sha256(data).hexdigest() + ".xen")
    image.write_bytes(data)
    assert converge({"name": "www", "kernel": str(image)})["failed"] is False
    with image.open("ab") as file:
        file.write(b"more")
    calls = len(xen.calls)
    for check in (True, False):
        with pytest.raises(converge.Refused, match=f"domain www: kernel {image}: was altered"):
            converge({"name": "www", "kernel": str(image), "memory": 20}, check=check)
    assert not [call for call in xen.calls[calls:] if call.startswith("xl create")]


def test_a_host_that_requires_signatures_runs_no_kernel_from_elsewhere(xen, converge, kernel):
    policy = xen.folder / "unikernels" / "policy"
    policy.write_text('{"version": 1, "signature": "required", "allowed_signers": ["a@b ssh-ed25519 AAAA"]}')
    with pytest.raises(converge.Refused, match="is not in the image store, and this host requires signatures"):
        converge({"name": "www"})
    policy.write_text("[]")
    with pytest.raises(converge.Refused, match="is not a policy of images"):
        converge({"name": "www"})


def test_a_host_that_requires_signatures_runs_no_ramdisk_from_elsewhere(xen, converge, kernel):
    policy, ramdisk = xen.folder / "unikernels" / "policy", xen.folder / "initrd"
    ramdisk.write_bytes(b"anything")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (pathlib.Path(kernel), ramdisk)]
    policy.write_text(json.dumps({"version": 1, "signature": "required", "kernels": digests[:1]}))
    with pytest.raises(converge.Refused, match=f"domain www: ramdisk {ramdisk}: this host requires .*{digests[1]}"):
        converge({"name": "www", "ramdisk": str(ramdisk)})
    policy.write_text(json.dumps({"version": 1, "signature": "required", "kernels": digests}))
    assert converge({"name": "www", "ramdisk": str(ramdisk)}, check=True)["failed"] is False


def test_what_a_host_keeps_of_a_services_content_makes_its_disk_again(xen, converge, content_disks):
    """A rollback, and a disk that somebody removed: the archive is there, so nothing is lost."""

    def www(letter):
        digest = letter * 64
        archive = xen.folder / f"{digest}.tar"
        archive.write_bytes(letter.encode() * 512)
        path = f"{xen.folder}/disks/www-xvdb-{digest[:16]}.img"
        return {"name": "www", "disks": [{"path": path, "source": str(archive), "vdev": "xvdb", "access": "r", "format": "raw"}]}

    first, second = www("a"), www("b")
    converge(first)
    changed = converge(second)
    assert changed["changed"] and "disks[0].content" in changed["differs"]
    assert [path.name for path in (xen.folder / "disks").iterdir()] == [f"www-xvdb-{'b' * 16}.img"]
    assert converge(first, returns=True, check=True)["changed"]
    assert converge(first, returns=True)["changed"]
    (disk,) = (xen.folder / "disks").iterdir()
    assert disk.read_bytes() == b"a" * 512 + bytes(4096 - 512)
    disk.unlink()
    assert not converge({**first, "state": "stopped"})["failed"] and not converge(first)["failed"]
    assert disk.exists()
    converge({"name": "www", "state": "absent"})
    assert not disk.exists()
