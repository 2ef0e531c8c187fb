"""A host's folder of archives: only what has the right digest is taken in, and what a generation names is kept."""

# SPDX-License-Identifier: GPL-3.0-or-later

import hashlib
import os

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.contents import receive
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import FRESH_SECONDS, StoreError

NOTHING = {"changed": False, "taken": [], "removed": []}


def arrive(tmp_path, data, name=None):
    """Return the digest, and the folder that the archive is in."""
    digest = name or hashlib.sha256(data).hexdigest()
    folder = tmp_path / "arrived"
    folder.mkdir(exist_ok=True)
    (folder / f"{digest}.tar").write_bytes(data)
    return digest, str(folder)


def call(tmp_path, wanted, arrived="", check=False):
    return receive(str(tmp_path / "store"), wanted, arrived, check, str(tmp_path / "generations/*"))


def age(tmp_path, name):
    path = tmp_path / "store" / name
    os.utime(path, (path.stat().st_mtime - FRESH_SECONDS - 1,) * 2)


def test_what_is_missing_is_taken_in_once(tmp_path):
    digest, folder = arrive(tmp_path, b"archive")
    assert call(tmp_path, [digest, digest]) == {**NOTHING, "missing": [digest]}
    assert call(tmp_path, [digest], folder, check=True) == {**NOTHING, "missing": [digest]}
    assert not (tmp_path / "store").exists()
    assert call(tmp_path, [digest], folder) == {"changed": True, "missing": [], "taken": [digest], "removed": []}
    assert (tmp_path / f"store/{digest}.tar").read_bytes() == b"archive"
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert call(tmp_path, [digest]) == {**NOTHING, "missing": []}


def test_other_bytes_are_refused_and_leave_nothing(tmp_path):
    digest, folder = arrive(tmp_path, b"other", "ab" * 32)
    with pytest.raises(StoreError, match="the received file has the sha256"):
        call(tmp_path, [digest], folder)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    digest, folder = arrive(tmp_path, b"secret")
    (tmp_path / f"arrived/{digest}.tar").unlink()
    (tmp_path / f"arrived/{digest}.tar").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="link"):
        call(tmp_path, [digest], folder)
    assert not (tmp_path / f"store/{digest}.tar").exists()


def test_what_did_not_arrive_is_named(tmp_path):
    _digest, folder = arrive(tmp_path, b"x")
    with pytest.raises(StoreError, match="cdcdcdcdcdcd has not arrived: run again"):
        call(tmp_path, ["cd" * 32], folder)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_what_is_no_digest(tmp_path, digest):
    with pytest.raises(StoreError, match="is not 64 hexadecimal digits"):
        call(tmp_path, [digest])


def test_archives_of_no_generation_are_removed_after_an_hour(tmp_path):
    kept, folder = arrive(tmp_path, b"kept")
    old, _folder = arrive(tmp_path, b"old")
    call(tmp_path, [kept, old], folder)
    (tmp_path / "generations").mkdir()
    (tmp_path / "generations/000001.json").write_text(f'{{"source": "/var/lib/unikernels/content/{kept}.tar"}}')
    (tmp_path / "store/.incoming-x").write_text("cut off")
    new, folder = arrive(tmp_path, b"new")
    assert call(tmp_path, [new], folder)["removed"] == []
    for name in (f"{kept}.tar", f"{old}.tar", f"{new}.tar", ".incoming-x"):
        age(tmp_path, name)
    newest, folder = arrive(tmp_path, b"newest")
    removed = call(tmp_path, [newest, new], folder)["removed"]
    assert removed == [str(tmp_path / "store/.incoming-x"), str(tmp_path / f"store/{old}.tar")]
    assert (tmp_path / f"store/{kept}.tar").exists() and (tmp_path / f"store/{new}.tar").exists()
