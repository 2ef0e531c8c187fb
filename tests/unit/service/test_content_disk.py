"""The archive that a web server's disk is made from: any tar reads it, and the same files give the same bytes."""

# SPDX-License-Identifier: GPL-3.0-or-later

import hashlib
import io
import os
import subprocess
import tarfile

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import ROLE_KEYS, declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import CONTENT_PATH
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError
from ansible_collections.unikernels.xen.plugins.module_utils.service import content_disk, web
from ansible_collections.unikernels.xen.plugins.module_utils.xen.disks import source_format
from ansible_collections.unikernels.xen.plugins.plugin_utils.content_archive import digest_of, pack
from hypothesis import given
from hypothesis import strategies as st

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]
DIGEST = "ab" * 32

SEGMENT = st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"/", b"-").replace(b"\0", b"-"))


@given(st.lists(SEGMENT, min_size=1, max_size=6).map(b"/".join), st.integers(0, 8 << 30).map(lambda size: max(0, size - 1)))
def test_python_reads_each_header(path, size):
    try:
        head = content_disk.header(path, size, DIGEST)
    except ValueError as error:
        assert len(path) > 100 and str(error).startswith(f"its path has {len(path)} bytes")
        return
    member = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    assert (len(head), os.fsencode(member.name), member.size, member.isfile()) == (512, path, size, True)
    assert (member.uid, member.mtime, member.mode, member.uname) == (0, 0, 0o644, DIGEST[:24])


@pytest.mark.parametrize("path", [b"n" * 100, b"d/" + b"n" * 100, b"d" * 155 + b"/" + b"n" * 100])
def test_the_longest_paths(path):
    assert os.fsencode(tarfile.TarInfo.frombuf(content_disk.header(path, 0, DIGEST), "utf-8", "surrogateescape").name) == path


def folder_of(top, files):
    for path, text in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(text)
    return str(top)


FILES = {"index.html": b"<p>hello", "docs/a.css": b"x" * 700, "docs/empty": b"", "d" * 90 + "/" + "n" * 90: b"long"}


def packed(folder):
    target = io.BytesIO()
    pack(folder, target)
    return target.getvalue()


def test_every_tar_reads_the_archive(tmp_path):
    archive = packed(folder_of(tmp_path / "www", FILES))
    with tarfile.open(fileobj=io.BytesIO(archive)) as read:
        assert {one.name: read.extractfile(one).read() for one in read if one.isfile()} == FILES
    # As on a disk, with zeros behind it.
    for index, program in enumerate((["tar"], ["busybox", "tar"])):
        (tmp_path / str(index)).mkdir()
        subprocess.run([*program, "-x", "-o", "-C", tmp_path / str(index)], input=archive + bytes(4096), check=True)
        there = {
            str(path.relative_to(tmp_path / str(index))): path.read_bytes()
            for path in tmp_path.glob(f"{index}/**/*")
            if path.is_file()
        }
        assert there == FILES, program


def test_the_same_files_are_the_same_bytes(tmp_path):
    first, second = folder_of(tmp_path / "a", FILES), folder_of(tmp_path / "b", dict(reversed(FILES.items())))
    os.utime(f"{second}/index.html", (1, 1))
    os.chmod(f"{second}/index.html", 0o700)
    os.mkdir(f"{second}/empty")
    assert packed(first) == packed(second)
    assert digest_of(first) == hashlib.sha256(packed(first)).hexdigest()
    (tmp_path / "b/index.html").write_text("other")
    assert digest_of(first) != digest_of(second)


def test_a_name_does_not_make_it_another_kind_of_disk(tmp_path):
    for name in ("conectix", "# Disk DescriptorFile", "KDMV", "x" * 64 + "\x7f\x10\u06be"):
        archive = tmp_path / "disk"
        (tmp_path / "www").mkdir(exist_ok=True)
        (tmp_path / "www" / name).write_text("x")
        archive.write_bytes(packed(str(tmp_path / "www")))
        assert source_format(str(archive)) == "raw"
        (tmp_path / "www" / name).unlink()


def test_links_are_the_files_that_they_lead_to_and_none_leads_out(tmp_path):
    folder = folder_of(tmp_path / "www", {"a/page": b"text"})
    (tmp_path / "www/link").symlink_to("a/page")
    with tarfile.open(fileobj=io.BytesIO(packed(folder))) as read:
        assert read.extractfile("link").read() == b"text"
    (tmp_path / "www/out").symlink_to("/etc/passwd")
    with pytest.raises(BuildError, match="out: is a link to /etc/passwd, which leads out"):
        packed(folder)


def test_a_long_path_is_named(tmp_path):
    folder = folder_of(tmp_path / "www", {"a/" + "n" * 101: b""})
    with pytest.raises(BuildError, match=r"nnn: its path has 103 bytes; 100 are possible"):
        packed(folder)


def test_a_file_that_changes_meanwhile_is_named(tmp_path):
    folder = folder_of(tmp_path / "www", {"log": b"1"})

    class Target(io.BytesIO):
        def write(self, data):
            with open(f"{folder}/log", "a", encoding="utf-8") as log:
                log.write("2")
            return super().write(data)

    with pytest.raises(BuildError, match="log: changed while it was read"):
        pack(folder, Target())


def declared(**values):
    return web.declare({"web_interfaces": INTERFACES, "web_content": "/srv/www", **values}, "/src", {"/srv/www": DIGEST})


def test_content_on_a_disk_leaves_one_image_for_all():
    service = declared(web_content_disk=True)
    (disk,) = service.unikernel["disks"]
    assert disk == {
        "path": f"/var/lib/unikernels/disks/www-xvdb-{DIGEST[:16]}.img",
        "source": f"/var/lib/unikernels/content/{DIGEST}.tar",
        "vdev": "xvdb",
        "access": "r",
        "format": "raw",
    }
    options = {key: value for key, value in service.unikernel.items() if key not in ROLE_KEYS}
    (origin,) = declaration_of(options, "xen1", kernel="/image").origins
    assert (origin.path, origin.source, origin.content) == (disk["path"], disk["source"], None)
    # The engine removes such a disk with its domain, and reports "content" where it differs.
    assert CONTENT_PATH.fullmatch(disk["path"])[1] == "www"
    assert service.unikernel["arguments"]["content-disk"] == "true"
    assert service.images == {"www": {"source": "/src"}}
    assert declared(web_content_disk=True, web_images="standin").images == {"www": {"standin": "web"}}


def test_without_it_nothing_changes():
    for values in ({}, {"web_content_disk": False}, {"web_content_disk": "no"}):
        service = declared(**values)
        assert "disks" not in service.unikernel and "content-disk" not in service.unikernel["arguments"]
        assert service.images == {"www": {"source": "/src", "overlay": {"htdocs": "/srv/www"}}}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"web_content_disk": "perhaps"}, "web_content_disk: is 'perhaps', must be true or false"),
        ({"web_content_disk": []}, "web_content_disk: is [], must be true or false"),
        (
            {"web_content_disk": True, "web_image": {"file": "/x.xen"}},
            "web_content_disk: is only for our unikernel and its stand-in: an image of your own (web_image) brings its content",
        ),
    ],
)
def test_bad_values_are_one_line(values, line):
    assert declared(**values).problems == (line,)
