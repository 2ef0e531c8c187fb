"""Which disks several hosts can open, and who has one open."""

import fcntl
import io
import pathlib
import subprocess

from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Disk
from ansible_collections.unikernels.xen.plugins.module_utils.xen import mounts, shared_storage

MOUNTS = {"/": "ext4", "/srv/disks": "nfs4", "/srv/disks/local": "xfs"}


def test_a_file_on_nfs_is_shared_unless_it_is_said_otherwise(monkeypatch):
    monkeypatch.setattr(shared_storage, "mounted", lambda: MOUNTS)
    paths = ["/srv/disks/a/b.img", "/srv/disks/local/c.img", "/var/d.img", "/srv/disksaside/e.img"]
    options = {"disks": [*({"path": path} for path in paths), {"path": paths[0], "shared": False}, {"content": "x"}]}
    shared = [disk.get("shared") for disk in shared_storage.with_shared(options)["disks"]]
    assert shared == [True, None, None, None, False, None]
    for strange in (None, [], {"disks": "x"}, {"disks": [None, {"path": 1}]}):
        assert shared_storage.with_shared(strange) == strange


def test_a_file_system_that_is_mounted_at_its_first_use(monkeypatch):
    """Before the first use the kernel reports only autofs; without a lock, two hosts could write one disk."""
    used = []
    monkeypatch.setattr(shared_storage.os.path, "exists", lambda path: used.append(path) or False)
    monkeypatch.setattr(
        shared_storage, "mounted", lambda: {"/": "ext4", "/srv/auto": "nfs4" if "/srv/auto/d.img" in used else "autofs"}
    )
    assert shared_storage.with_shared({"disks": [{"path": "/srv/auto/d.img"}]})["disks"][0]["shared"] is True
    assert shared_storage.with_shared({"disks": [{"path": "/srv/\0"}, {"path": "/srv/\ud800"}, {"path": 1}, None]})
    assert used == ["/srv/auto/d.img"]


def test_the_machine_s_own_mounts_are_read():
    """As in findmnt, which reads them through a library; a mount that another one covers is hidden."""
    listed = subprocess.run(["findmnt", "-rnuo", "TARGET,FSTYPE"], capture_output=True, text=True, check=True).stdout
    expected = dict(line.split(" ") for line in listed.splitlines())
    assert "/proc" in expected, listed
    assert {path: kind for path, kind in mounts.mounted().items() if path in expected} == expected


def test_who_has_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_storage.platform, "node", lambda: "here")
    disk = Disk(str(tmp_path / "d.img"), "xvda", access="w", shared=True)
    assert shared_storage.holder(disk, "db") == ""
    lock = tmp_path / "d.img.lock"
    lock.write_text("domain db on host elsewhere\n")
    assert shared_storage.holder(disk, "db") == "", "a file that was left over locks nothing"
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert shared_storage.holder(disk, "db") == "domain db on host elsewhere"
        lock.write_text("domain db on host here\nanother boot\n")
        assert shared_storage.holder(disk, "db") == "domain db on host here", "two hosts may have one name"
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
        lock.write_text(f"domain db on host here\n{boot}")
        assert shared_storage.holder(disk, "db") == ""
        assert shared_storage.holder(disk, "other") == "domain db on host here"


def test_mount_points_of_every_spelling(monkeypatch):
    """The kernel writes four bytes as octal numbers; all other bytes, valid text or not, stay as they are."""
    lines = b"36 35 0:30 / /srv/f\xc3\xbcr\\040alle rw shared:1 - nfs4 a:/x rw\n37 35 0:31 / /srv/\xff\\134 rw - nfs a:/y rw\n"
    monkeypatch.setattr("builtins.open", lambda *_path, **how: io.TextIOWrapper(io.BytesIO(lines), **how))
    found = mounts.mounted()
    assert found == {"/srv/für alle": "nfs4", "/srv/\udcff\\": "nfs"}
    shared = shared_storage.with_shared({"disks": [{"path": "/srv/für alle/d.img"}, {"path": "/srv/\ud800"}]})
    assert shared["disks"] == [{"path": "/srv/für alle/d.img", "shared": True}, {"path": "/srv/\ud800"}]
