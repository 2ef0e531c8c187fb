"""Sources as one file for a builder elsewhere: they arrive unchanged, and hostile archives can't escape."""

import io
import os
import tarfile

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.archive import name_of, pack, unpacked
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import digest_of_sources
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "hello"
    (folder / "mirage").mkdir(parents=True)
    (folder / "htdocs").mkdir()
    (folder / "config.ml").write_text("config")
    (folder / "mirage/hello-xen.opam.locked").write_text("lock")
    (folder / "htdocs/old.html").write_text("old")
    (folder / "tool").write_text("#!/bin/sh\n")
    (folder / "tool").chmod(0o755)
    (folder / "link").symlink_to("tool")
    os.link(folder / "tool", folder / "twin")
    (folder / "_build").mkdir()
    (folder / "_build/left").write_text("by a build")
    return folder


def test_sources_arrive_as_they_were(source, tmp_path):
    changed, path = pack(str(source), (), "hello", str(tmp_path / "out"), False)
    assert changed and name_of(path) == "hello"
    with unpacked(path, str(tmp_path / "work")) as folder:
        assert digest_of_sources(folder) == digest_of_sources(str(source))
        assert not os.path.exists(f"{folder}/_build")
    assert os.listdir(tmp_path / "work") == []


def test_what_lies_over_a_folder_replaces_it(source, tmp_path):
    laid = tmp_path / "www"
    laid.mkdir()
    (laid / "new.html").write_text("new")
    _, path = pack(str(source), (("./htdocs/", str(laid)),), "hello", str(tmp_path / "out"), False)
    with unpacked(path, str(tmp_path / "work")) as folder:
        assert os.listdir(f"{folder}/htdocs") == ["new.html"]


def test_the_same_sources_are_the_same_file(source, tmp_path):
    first = pack(str(source), (), "hello", str(tmp_path / "out"), False)
    os.utime(source / "config.ml", (1, 1))
    assert pack(str(source), (), "hello", str(tmp_path / "out"), False) == (False, first[1])
    (source / "config.ml").write_text("other")
    changed, path = pack(str(source), (), "hello", str(tmp_path / "out"), True)
    assert changed and path != first[1] and not os.path.exists(path)
    assert os.listdir(tmp_path / "out") == [os.path.basename(first[1])]


def member(name, **named):
    found = tarfile.TarInfo(name)
    for key, value in named.items():
        setattr(found, key, value)
    return found


@pytest.mark.parametrize(
    "members",
    [
        lambda outside: [member("../../outside/x")],
        lambda outside: [member(f"{outside}/x")],
        lambda outside: [member("inside", type=tarfile.SYMTYPE, linkname=str(outside)), member("inside/x")],
        lambda outside: [member("pipe", type=tarfile.FIFOTYPE)],
        lambda outside: [member("inside", type=tarfile.SYMTYPE, linkname=str(outside / "x")), member("inside")],
    ],
    ids=["up", "absolute", "through-a-link", "pipe", "over-a-link"],
)
def test_no_archive_leads_out_of_its_folder(members, tmp_path):
    path, outside = tmp_path / f"hello-{'0' * 64}.tar", tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(path, "w") as archive:
        for one in members(outside):
            archive.addfile(one, io.BytesIO())
    with pytest.raises(BuildError, match="cannot be unpacked"), unpacked(str(path), str(tmp_path / "work")):
        raise AssertionError("it was unpacked")
    assert os.listdir(outside) == os.listdir(tmp_path / "work") == []
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "outside", "work"])


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_small_archive_is_no_large_folder(tmp_path, version):
    """A sparse file in PAX's formats: 10 KB of archive, 3 GiB of holes on the disk."""
    holes = {"GNU.sparse.size": str(3 << 30), "GNU.sparse.realsize": str(3 << 30), "GNU.sparse.name": "config.ml"}
    holes.update({"GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{3 << 30},0"})
    if version == "1.0":
        holes.update({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    data = f"1\n{3 << 30}\n0\n".encode().ljust(512, b"\0")
    path = tmp_path / f"hello-{'0' * 64}.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member("config.ml", size=len(data), pax_headers=holes), io.BytesIO(data))
    assert path.stat().st_size <= 10240
    with pytest.raises(BuildError, match="larger than the archive"), unpacked(str(path), str(tmp_path / "work")):
        raise AssertionError("it was unpacked")


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / f"hello-{'0' * 64}.tar"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BuildError, match="cannot be unpacked"), unpacked(str(path), str(tmp_path / "work")):
        raise AssertionError("it was unpacked")
    assert name_of(str(tmp_path / "hello.tar")) is None
    assert name_of(str(tmp_path)) is None
