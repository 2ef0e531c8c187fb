"""Disks that must not be made, and disks that would let a guest read other files: refused before anything begins."""

import os
import pathlib
import pwd
import struct
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Origin
from ansible_collections.unikernels.xen.plugins.module_utils.xen import disks, mounts
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError

from .conftest import module

MIB = 1 << 20


def qcow2(version=3, backing=0, features=0, size=MIB):
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 9, 16, size, 0, 1, 0, 0, 1, 0, 0)[:72]
    return head + struct.pack(">QQQII", features, 0, 0, 4, 104) + b"\0" * 512


@pytest.fixture
def with_qemu(monkeypatch):
    monkeypatch.setattr(module("apply.preconditions"), "QEMU", "/bin/true")


# -- disks of QEMU ---------------------------------------------------------------------------------

NAMING = {
    "it has a backing file": qcow2(backing=512),
    "it has an external data file": qcow2(features=4),
    "it has features that are not known": qcow2(features=64),
    "it is qcow2 of version 1": qcow2(version=1, backing=512),
}


@pytest.mark.parametrize("words", NAMING)
@pytest.mark.parametrize("options", [{}, {"size": 1}, {"size": 2}])
@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_qcow2_disk_that_names_another_file_is_refused(xen, converge, with_qemu, words, options, state):
    """QEMU, as root, would follow the name, and the guest could read any file of Dom0."""
    path = xen.folder / "d.qcow2"
    path.write_bytes(NAMING[words])
    disk = {"path": str(path), "format": "qcow2", "access": "w", **options}
    for check in (True, False):
        with pytest.raises(converge.Refused, match=f"domain a: disks: {path}: {words}"):
            converge({"name": "a", "state": state, "disks": [disk]}, check=check)
    assert not [call for call in xen.calls if call.startswith(("xl create", "qemu-img"))]


def test_a_qcow2_disk_that_names_another_file_is_neither_grown_nor_attached(xen, converge, with_qemu):
    path = xen.folder / "d.qcow2"
    path.write_bytes(qcow2(backing=512))
    disk = {"path": str(path), "format": "qcow2", "access": "w"}
    with pytest.raises(converge.Refused, match="it has a backing file"):
        converge({"name": "a", "state": "stopped", "disks": [{**disk, "size": 2}]})
    with pytest.raises(ToolstackError, match=f"disk {path}: it has a backing file"):
        disks.grow(Origin(str(path), "qcow2", 2 * MIB))
    converge({"name": "a", "live": True})
    with pytest.raises(converge.Refused, match="it has a backing file"):
        converge({"name": "a", "live": True, "disks": [disk]})
    assert not [call for call in xen.calls if call.startswith(("xl block-attach", "qemu-img"))]


def test_a_qcow2_disk_of_its_own_and_a_raw_one_with_any_head_are_taken(xen, converge, with_qemu):
    own, raw = xen.folder / "own.qcow2", xen.folder / "raw.img"
    own.write_bytes(qcow2())
    # A guest's own writes: only ever read as blocks.
    raw.write_bytes(qcow2(backing=512).ljust(4096, b"\0"))
    done = converge(
        {"name": "a", "disks": [{"path": str(own), "format": "qcow2", "access": "w"}, {"path": str(raw), "access": "w"}]}
    )
    assert done["failed"] is False


# -- removal ---------------------------------------------------------------------------------------


def test_only_a_file_is_removed_and_what_is_none_is_refused_before_its_domain_ends(xen, converge, tmp_path):
    device, link, data = tmp_path / "device", tmp_path / "link", tmp_path / "data.img"
    data.write_bytes(b"\0" * MIB)
    link.symlink_to(data)
    os.mkfifo(device)
    for path, words in (
        (link, f"is a link, and without it {data} would remain"),
        (device, "is not a file; only files are removed"),
    ):
        assert words in disks.removal_problem(str(path))
        with pytest.raises(ToolstackError, match=r"is (a link|not a file)"):
            disks.remove(str(path))
        assert os.path.lexists(path)
    disk = {"path": str(link), "size": 1}
    converge({"name": "a", "disks": [disk]})
    calls = len(xen.calls)
    for check in (True, False):
        with pytest.raises(converge.Refused, match=r"domain a: disks: .*link is a link, .* \(disks_on_absent: keep leaves it\)"):
            converge({"name": "a", "state": "absent", "disks": [disk], "disks_on_absent": "remove"}, check=check)
    assert not [call for call in xen.calls[calls:] if call.startswith("xl destroy")]
    assert converge({"name": "a", "state": "absent", "disks": [disk]})["changed"] and data.exists()


def test_a_link_to_a_device_is_not_removed(xen, converge, tmp_path):
    link = tmp_path / "volume"
    link.symlink_to("/dev/null")
    with pytest.raises(ToolstackError, match="is below /dev, where nothing is created or removed"):
        disks.remove(str(link))
    assert link.is_symlink()


# -- conversion ------------------------------------------------------------------------------------


@pytest.fixture
def qemu_img(monkeypatch):
    """A double of qemu-img. ``results``: what it makes of its target; the rest is what it saw."""
    seen = {"results": lambda target: target.write_bytes(b"x" * 5000), "owners": []}

    def run(command, _seconds, cwd):
        seen.update(command=command, files=os.listdir(cwd), mode=os.stat(cwd).st_mode & 0o777)
        seen["results"](pathlib.Path(cwd) / "target")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(disks, "run", run)
    monkeypatch.setattr(disks.os, "chown", lambda path, uid, _gid: seen["owners"].append((os.path.basename(path), uid)))
    monkeypatch.setattr(disks.os, "fchown", lambda _handle, uid, _gid: seen["owners"].append(("target", uid)))
    return seen


def test_a_source_is_converted_by_a_user_that_can_read_nothing_else(tmp_path, qemu_img):
    source, disk = tmp_path / "source.qcow2", tmp_path / "disks" / "d.img"
    source.write_bytes(qcow2())
    disks.make(Origin(str(disk), "raw", 0, str(source)))
    nobody = pwd.getpwnam("nobody")
    assert qemu_img["command"] == [
        *("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all", "--bounding-set=-all"),
        *("qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", "source", "target"),
    ]
    assert (qemu_img["files"], qemu_img["mode"]) == (["source"], 0o700)
    folder = qemu_img["owners"][1][0]
    assert qemu_img["owners"] == [("source", nobody.pw_uid), (folder, nobody.pw_uid), (folder, 0), ("target", 0)]
    assert disk.stat().st_size == 8192 and disk.stat().st_mode & 0o777 == 0o600
    assert os.listdir(disk.parent) == ["d.img"]


@pytest.mark.parametrize("results", [os.mkfifo, lambda target: target.symlink_to("/etc/hostname"), lambda target: target.mkdir()])
def test_what_a_conversion_leaves_that_is_no_file_is_no_disk(tmp_path, qemu_img, results):
    source, disk = tmp_path / "source.qcow2", tmp_path / "disks" / "d.img"
    source.write_bytes(qcow2())
    qemu_img["results"] = results
    with pytest.raises(ToolstackError, match=r"^disk /.*: (what was converted is no file|Too many levels of symbolic links)$"):
        disks.make(Origin(str(disk), "raw", 0, str(source)))
    assert os.listdir(disk.parent) == []


# -- places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/proc/x.img", "/sys/x.img", "/dev/../sys/kernel/x"])
def test_no_disk_is_made_among_the_kernels_files(xen, converge, path):
    for check in (True, False):
        with pytest.raises(converge.Refused, match=r"is below /(proc|sys), which holds the kernel's own files and no disks"):
            converge({"name": "a", "disks": [{"path": path, "size": 1}]}, check=check)


@pytest.mark.parametrize("path", ["/proc/self/status", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_a_file_of_the_kernels_is_no_disk(xen, converge, path):
    """/proc/kcore is Dom0's memory, though it looks like a regular file."""
    link = xen.folder / "link"
    link.symlink_to(path)
    for name in (path, str(link)):
        with pytest.raises(converge.Refused, match=r"is below /(proc|sys), which holds the kernel's own files and no disks"):
            converge({"name": "a", "disks": [{"path": name}]})


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Entries of fstab, systemd and the kernel for mounts, set by a test."""
    units = tmp_path / "units"
    units.mkdir()
    monkeypatch.setattr(mounts, "FSTAB", str(tmp_path / "fstab"))
    monkeypatch.setattr(mounts, "UNITS", str(units / "*.mount"))
    monkeypatch.setattr(mounts, "MOUNTED", str(tmp_path / "mountinfo"))

    def write(fstab="", unit="", mounted=()):
        (tmp_path / "fstab").write_text(fstab)
        (units / "x.mount").write_text(unit)
        rows = [f"36 35 0:30 / {point} rw - {kind} x rw\n" for point, kind in (("/", "ext4"), *mounted)]
        (tmp_path / "mountinfo").write_text("".join(rows))

    write()
    return write


@pytest.mark.parametrize("how", ["UUID=1 {} ext4 noauto 0 0", "  nas:/x\t{}/\tnfs4", "unit"])
def test_a_disk_is_not_made_where_a_file_system_is_missing(xen, converge, table, how):
    """It would be on the root file system, unlocked, and hidden once the other one is mounted."""
    point = xen.folder / "srv with space"
    point.mkdir()
    octal = str(point).replace(" ", "\\040")
    unit = f"[Mount]\nWhat=nas:/x\nWhere={point}\n" if how == "unit" else ""
    fstab = "" if unit else f"# {how.format('/')}\n{how.format(octal)}\nUUID=2 none swap sw\n"
    declared = {"name": "a", "disks": [{"path": f"{point}/db/d.img", "size": 1, "access": "w"}]}
    table(fstab, unit)
    for check in (True, False):
        with pytest.raises(converge.Refused, match=f"d.img: nothing is mounted at {point}, which this host's fstab"):
            converge(declared, check=check)
    assert not (point / "db").exists()
    table(fstab, unit, [(octal, "ext4")])
    assert converge(declared)["failed"] is False


def test_a_file_system_that_is_missing_elsewhere_is_none_of_a_disks_business(xen, table):
    """A missing mount beside the disk, or above an existing mount, doesn't matter."""
    root = os.path.realpath(xen.folder)
    table(f"a {root}/srv-2 ext4\nb {root}/srv ext4\nc {root}/srv/data/deep ext4\n", "", [(f"{root}/srv/data", "xfs")])
    there = mounts.mounted()
    assert mounts.missing_mount(f"{root}/srv/data/d.img", there) == ""
    assert mounts.missing_mount(f"{root}/srv/x/d.img", there) == f"{root}/srv"
    assert mounts.missing_mount(f"{root}/srv/data/deep/d.img", there) == f"{root}/srv/data/deep"
    assert mounts.missing_mount(f"{root}/srv-3/d.img", there) == ""
    assert mounts.file_system(f"{root}/srv/data/x/y", there) == "xfs"


def test_a_host_without_fstab_is_missing_nothing(table, tmp_path):
    table()
    (tmp_path / "fstab").unlink()
    assert mounts.missing_mount("/srv/d.img", mounts.mounted()) == ""


@pytest.mark.parametrize(
    "kind, words",
    [
        ("devtmpfs", "is below /dev, where nothing is created or removed: is its volume group active?"),
        ("proc", "is below /proc, which holds the kernel's own files and no disks"),
        ("sysfs", "is below /sys, which holds the kernel's own files and no disks"),
    ],
)
def test_a_folder_of_devices_that_is_mounted_elsewhere_too_is_no_place_for_a_disk(xen, converge, table, kind, words):
    """As in a chroot of Dom0: an inactive volume would be made there, as a file in memory."""
    jail = xen.folder / "jail"
    jail.mkdir()
    table(mounted=[(str(jail), kind)])
    for check in (True, False):
        with pytest.raises(converge.Refused) as refused:
            converge({"name": "a", "disks": [{"path": str(jail / "vg0" / "www"), "size": 1}]}, check=check)
        assert words in str(refused.value)
    with pytest.raises(ToolstackError, match=r"is below /"):
        disks.make(Origin(str(jail / "vg0" / "www"), "raw", MIB))
    assert list(jail.iterdir()) == []


def test_a_disk_in_memory_is_made_and_warned_of(xen, converge, table):
    table("", "", [(str(xen.folder).replace(" ", "\\040"), "tmpfs")])
    path = f"{xen.folder}/d.img"
    converge({"name": "a", "disks": [{"path": path, "size": 1, "access": "w"}]})
    assert converge.warnings == [
        f"domain a: disks: {path}: is created on tmpfs, in Dom0's memory, so it is lost when the host reboots"
    ]


# -- disks that have vanished ----------------------------------------------------------------------


def test_a_vanished_disk_is_not_made_again_under_another_spelling(xen, converge):
    disk = xen.folder / "d.img"
    converge({"name": "db", "disks": [{"path": str(disk), "size": 1, "access": "w"}]})
    converge({"name": "db", "state": "stopped", "disks": [{"path": str(disk), "size": 1, "access": "w"}]})
    disk.unlink()
    for path in (f"{xen.folder}//d.img", f"{xen.folder}/x/../d.img"):
        with pytest.raises(converge.Refused, match="was a disk of this domain and is gone"):
            converge({"name": "db", "disks": [{"path": path, "size": 1, "access": "w"}]})
    assert not disk.exists()


def test_a_vanished_disk_that_only_a_begun_change_knows_is_not_made_again(xen, converge):
    disk = xen.folder / "d.img"
    declared = {"name": "db", "disks": [{"path": str(disk), "size": 1, "access": "w"}]}
    xen.hooks["xl unpause db"] = lambda: (1, "libxl: error: no")
    assert converge(declared)["failed"]
    xen.domains.clear()
    disk.unlink()
    with pytest.raises(converge.Refused, match="was a disk of this domain and is gone"):
        converge(declared)


@pytest.mark.parametrize("how", [{"size": 1}, {"source": "image"}])
def test_what_is_brought_back_gets_no_empty_disk(xen, converge, how):
    """Domain and definition are gone; only a stored generation shows that there was data."""
    disk = xen.folder / "d.img"
    (xen.folder / "image").write_bytes(b"x" * 4096)
    how = {key: str(xen.folder / value) if key == "source" else value for key, value in how.items()}
    declared = {"name": "db", "disks": [{"path": str(disk), "access": "w", **how}]}
    for check in (True, False):
        with pytest.raises(converge.Refused, match=f"domain db: disks: {disk}: was a disk of this domain and is gone"):
            converge(declared, check=check, returns=True)
    assert not disk.exists()
    content = converge({"name": "db", "disks": [{"content": "port=80"}]}, check=True, returns=True)
    assert content["failed"] is False, "what is made from content is in the generation itself"
    assert converge(declared)["failed"] is False, "a first deployment makes it"
    assert converge(declared, returns=True)["failed"] is False


# -- what Xen would find out half-way --------------------------------------------------------------


def test_a_disk_that_is_not_there_is_missing(xen, converge):
    """A warning in check mode: an earlier task of a real run may create it."""
    path = xen.folder / "d.img"
    declared = {"name": "a", "disks": [{"path": str(path)}], "ramdisk": str(xen.folder / "initrd")}
    lines = [f"domain a: ramdisk: {xen.folder}/initrd is not a file on this host",
             f"domain a: disks: {path} does not exist on this host"]  # fmt: skip
    with pytest.raises(converge.Refused) as refused:
        converge(declared)
    assert str(refused.value) == "; and ".join(lines)
    assert converge(declared, check=True)["failed"] is False
    assert converge.warnings == [f"{line} (in a real run an earlier task may create it)" for line in lines]


def test_a_source_that_is_not_there_and_a_tool_that_is_not_installed(xen, converge, monkeypatch):
    monkeypatch.setattr(module("apply.preconditions").shutil, "which", lambda _name: None)
    monkeypatch.setattr(module("apply.preconditions"), "QEMU", "/bin/true")
    path, source = xen.folder / "d.img", xen.folder / "source"
    with pytest.raises(converge.Refused, match=f"{path}: its source {source} is not a file on this host"):
        converge({"name": "a", "disks": [{"path": str(path), "source": str(source)}]})
    with pytest.raises(converge.Refused, match=r"d\.img: needs qemu-img on this host: apt-get install qemu-utils"):
        converge({"name": "a", "disks": [{"path": str(path), "size": 1, "format": "qcow2", "access": "w"}]})
    source.write_bytes(qcow2())
    with pytest.raises(converge.Refused, match="needs qemu-img"):
        converge({"name": "a", "disks": [{"path": str(path), "source": str(source)}]})
    source.write_bytes(b"x" * 5000)
    assert converge({"name": "a", "disks": [{"path": str(path), "source": str(source)}]})["failed"] is False
    assert path.stat().st_size == 8192, "whole blocks"


def test_a_disk_is_not_made_smaller(xen, converge):
    path = xen.folder / "d.img"
    path.write_bytes(b"x" * 2 * MIB)
    with pytest.raises(converge.Refused, match=f"{path}: has 2097152 bytes, declared are 1048576; shrinking would lose data"):
        converge({"name": "a", "disks": [{"path": str(path), "size": 1, "access": "w"}]})


def test_a_device_is_not_grown(xen, converge, monkeypatch):
    """A device has its own size. The declaration refuses size for a device below /dev; here a link leads to one."""
    path = xen.folder / "volume"
    path.write_bytes(b"x" * 4096)
    monkeypatch.setattr(module("apply.preconditions").os.path, "isfile", lambda name: name != str(path))
    with pytest.raises(converge.Refused, match=f"{path}: is a device of 4096 bytes and can't be grown to 1048576"):
        converge({"name": "a", "disks": [{"path": str(path), "size": 1, "access": "w"}]})


def test_the_tail_of_a_disk_that_a_unikernel_does_not_see_is_warned_of(xen, converge):
    path = xen.folder / "d.img"
    path.write_bytes(b"x" * 5000)
    converge({"name": "a", "disks": [{"path": str(path)}]})
    assert converge.warnings == [
        f"domain a: disks: {path} has 5000 bytes, which is not a multiple of 4096: a MirageOS unikernel sees only the first 4096"
        f" (truncate -s %4096 {path})"
    ]


def test_a_disk_that_another_host_has_open_is_refused(xen, converge, monkeypatch):
    monkeypatch.setattr(module("apply.preconditions"), "holder", lambda _disk, _name: "domain db on host elsewhere")
    path = xen.folder / "d.img"
    path.write_bytes(b"x" * 4096)
    with pytest.raises(converge.Refused, match=f"{path} is in use, by domain db on host elsewhere; only one domain may open"):
        converge({"name": "a", "disks": [{"path": str(path), "access": "w", "shared": True}]})


# -- what a prediction shows -----------------------------------------------------------------------


def test_a_prediction_has_the_primitives_where_that_is_asked_for(xen, converge):
    assert "primitives" not in converge({"name": "a"}, check=True)
    shown = converge({"name": "a", "disks": [{"path": f"{xen.folder}/d.img", "size": 1}]}, check=True, verbose=True)
    assert shown["primitives"] == [
        f"make disk {xen.folder}/d.img", "write intent a", "build a", "unpause a", "await healthy a", "define a", "autostart a"
    ]  # fmt: skip
