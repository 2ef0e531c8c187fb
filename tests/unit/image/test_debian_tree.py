"""Debian packages become a folder of files without root: hostile packages, mirrors and links. Needs mmdebstrap for some."""

import hashlib
import os
import pathlib
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import debian_tree, sandbox
from ansible_collections.unikernels.xen.plugins.module_utils.image.debian_tree import (
    copied,
    libraries_of,
    local_paths,
    path_in,
    read_in,
)
from ansible_collections.unikernels.xen.plugins.module_utils.image.shared_objects import ObjectError, libraries, needed
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError
from hypothesis import given
from hypothesis import strategies as st

needs_debian = pytest.mark.skipif(
    not all(map(shutil.which, ("mmdebstrap", "dpkg-deb", "apt-get"))), reason="needs mmdebstrap and Debian's tools"
)


# -- what runs ----------------------------------------------------------------------------------------


def package(folder, name, files, links, scripts):
    """Make a Debian package."""
    tree = folder / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.net>\nDescription: a test\n"
    )
    for script, text in scripts.items():
        (tree / "DEBIAN" / script).write_text(f"#!/bin/sh\n{text}\n")
        (tree / "DEBIAN" / script).chmod(0o755)
    for path, mode in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(f"{name} {path}")
        (tree / path).chmod(mode)
    for path, target in links.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).symlink_to(target)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, folder / f"{name}.deb"], check=True, capture_output=True)
    shutil.rmtree(tree)


def repository(folder):
    """Make a repository without signatures of the packages in a folder. Return its line of a sources.list."""
    entries = []
    for deb in sorted(folder.glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True).stdout.strip()
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        entries.append(f"{control}\nFilename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("".join(f"{entry}\n" for entry in entries))
    return f"deb [trusted=yes] file:{folder} ./"


@pytest.fixture
def folder(tmp_path):
    """A folder that the user for builds can enter: pytest's own are for their owner only."""
    (tmp_path / "debs").mkdir()
    return tmp_path / "debs"


@pytest.fixture(params=["in a cell", "where no cell can be made"])
def machine(request, monkeypatch):
    if request.param != "in a cell":
        if os.geteuid() != 0:
            pytest.skip("only root can drop its rights")
        monkeypatch.setattr(sandbox, "refusal", lambda: "bubblewrap can't create a sandbox here")
    elif sandbox.refusal():
        pytest.skip(sandbox.refusal())
    return request.param


@needs_debian
def test_packages_are_fetched_and_unpacked_without_root_and_nothing_of_them_runs(folder, tmp_path, machine):
    if machine != "in a cell":
        tmp_path = pathlib.Path("/var/tmp")
        folder = shutil.copytree(folder, tmp_path / f"debs-{os.getpid()}")
    outside = tmp_path / f"outside-{os.getpid()}"
    outside.mkdir(mode=0o755)
    try:
        # The second package's file leads through the first one's link.
        package(
            folder, "a-link", {"usr/bin/tool": 0o4755}, {"way": outside}, {"preinst": f"touch {outside}/ran", "postinst": "false"}
        )
        package(folder, "b-through", {"way/planted": 0o644, "etc/b": 0o644}, {}, {})
        line = repository(folder)
        cache = outside.parent / f"cache-{os.getpid()}"
        if machine == "in a cell":  # where the link leads to nothing
            tree = pathlib.Path(debian_tree.tree_of(str(cache), "bookworm", ("a-link", "b-through"), [line]))
            assert (tree / "way/planted").is_file() and not (tree / "way").is_symlink()
            shutil.rmtree(tree)
        else:
            with pytest.raises(StoreError, match=r"unpacking packages failed .*way/planted.*: Permission denied"):
                debian_tree.tree_of(str(cache), "bookworm", ("a-link", "b-through"), [line])
        assert not list(outside.iterdir()), "nothing ran, and nothing was written through the link"
        assert not [path for path in cache.iterdir() if path.is_dir()], "nothing is left"
        tree = pathlib.Path(debian_tree.tree_of(str(cache), "bookworm", ("a-link",), [line]))
        assert (tree / "usr/bin/tool").read_text() == "a-link usr/bin/tool"
        status = (tree / "usr/bin/tool").stat()
        assert status.st_uid == os.geteuid() and not status.st_mode & 0o6000
        assert not list(outside.iterdir())
        (folder / "Packages").unlink()
        assert debian_tree.tree_of(str(cache), "bookworm", ("a-link",), [line]) == str(tree), "it is made once"
    finally:
        shutil.rmtree(outside.parent / f"cache-{os.getpid()}", ignore_errors=True)
        shutil.rmtree(outside)
        if machine != "in a cell":
            shutil.rmtree(folder)


@needs_debian
@pytest.mark.skipif(sandbox.refusal() is not None, reason="needs a sandbox")
def test_what_cannot_be_fetched_is_one_line_that_names_it(folder, tmp_path):
    package(folder, "hello", {"etc/hello": 0o644}, {}, {})
    line, cache = repository(folder), str(tmp_path / "cache")

    def failing(packages, line):
        with pytest.raises(StoreError) as failure:
            debian_tree.tree_of(cache, "bookworm", packages, [line])
        assert "\n" not in str(failure.value)
        return str(failure.value)

    assert "Unable to locate package nosuch" in failing(("nosuch",), line)
    assert "does not have a Release file" in failing(("hello",), line.replace("[trusted=yes] ", ""))
    (folder / "hello.deb").write_bytes(b"x" * (folder / "hello.deb").stat().st_size)
    assert "Hash Sum mismatch" in failing(("hello",), line)
    refused = failing(("hello",), "deb http://me:SECRET@127.0.0.1:9/debian bookworm main")
    assert "unikernel_images_sources" in refused and "SECRET" not in refused
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_no_address_is_in_a_list_of_processes(tmp_path, monkeypatch):
    seen = []

    def run(_steps, _cell, what, command):
        seen.append(command)
        raise debian_tree.BuildError(what)

    monkeypatch.setattr(sandbox, "refusal", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(debian_tree.Steps, "run", run)
    with pytest.raises(StoreError, match="fetching packages"):
        debian_tree.tree_of(str(tmp_path), "bookworm", ("a",), ["deb https://me:SECRET@example.net/debian bookworm main"])
    assert "SECRET" not in str(seen) and seen[0][0] == "mmdebstrap" and "--mode=chrootless" in seen[0]


@pytest.mark.parametrize("suite", ["../../etc", "-x", "", "Bookworm", "a b", "--include=x"])
def test_a_suite_is_a_name(tmp_path, suite):
    with pytest.raises(StoreError, match=r"suite: .* is not the name of a Debian release"):
        debian_tree.tree_of(str(tmp_path), suite, ("a",), [])


def test_a_user_for_whom_no_cell_can_be_made_gets_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "refusal", lambda: "there is no bwrap: apt-get install bubblewrap")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        StoreError, match="needs a sandbox, and there is no bwrap: apt-get install bubblewrap; or run the task as root"
    ):
        debian_tree.tree_of(str(tmp_path), "bookworm", ("a",), [])


# -- lines of a sources.list --------------------------------------------------------------------------


def test_the_files_that_lines_name_are_seen():
    lines = [
        "deb [signed-by=/srv/keys/a.gpg,/srv/keys/b.gpg arch=amd64] file:/srv/mirror bookworm main",
        "deb [Signed-By=/srv/c.asc] https://example.net/debian bookworm main",
        "deb copy:///srv/flat/../other ./",
        "deb file:/ ./",
    ]
    assert local_paths(lines) == {"/srv/keys/a.gpg", "/srv/keys/b.gpg", "/srv/mirror", "/srv/c.asc", "/srv/other"}
    assert copied(lines[0]).endswith(" copy:/srv/mirror bookworm main")
    assert copied(lines[1]) == lines[1]


# -- what is in a tree --------------------------------------------------------------------------------


def test_links_are_those_of_a_machine_whose_top_is_the_tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "lib/x86_64-linux-gnu").mkdir(parents=True)
    (tree / "lib64").mkdir()
    (tree / "lib/x86_64-linux-gnu/ld.so").write_text("the tree's")
    (tree / "lib64/ld.so").symlink_to("/lib/x86_64-linux-gnu/ld.so")
    (tree / "up").symlink_to("../../../../lib/x86_64-linux-gnu/ld.so")
    (tmp_path / "lib").mkdir()
    assert read_in(str(tree), "lib64/ld.so") == read_in(str(tree), "up") == b"the tree's"
    assert path_in(str(tree), "lib64/ld.so") == "lib/x86_64-linux-gnu/ld.so"
    (tree / "secret").symlink_to("/etc/shadow")
    (tree / "outside").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("SECRET")
    (tree / "loop").symlink_to("loop")
    os.mkfifo(tree / "pipe")
    for path in ("secret", "outside", "loop", "pipe", "lib", "nosuch"):
        with pytest.raises(StoreError) as failure:
            read_in(str(tree), path)
        assert "\n" not in str(failure.value) and path in str(failure.value)


# -- libraries ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/lib64/ld-linux-x86-64.so.2"), reason="needs an x86-64 Debian")
def test_the_libraries_are_those_that_the_linker_would_load(tmp_path):
    program = os.path.realpath(shutil.which("ls"))
    linker = os.path.realpath("/lib64/ld-linux-x86-64.so.2")
    listed = subprocess.run([linker, "--list", program], capture_output=True, text=True, check=True).stdout
    names = [line.split(" => ")[0].strip() for line in listed.splitlines() if " => " in line]
    # A tree of their copies: in this machine's own, files may have several names, which are refused.
    for folder in ("bin", "lib", "lib64"):
        if os.path.islink(f"/{folder}"):
            (tmp_path / folder).symlink_to(os.readlink(f"/{folder}"))
    libraries = [line.split(" => ")[1].split(" (")[0] for line in listed.splitlines() if " => " in line]
    for path in (program, "/lib64/ld-linux-x86-64.so.2", *libraries):
        place = tmp_path / os.path.realpath(os.path.dirname(path)).lstrip("/") / os.path.basename(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    found = libraries_of(str(tmp_path), program.lstrip("/"))
    linkers = os.path.basename(linker)
    assert [name for name in found if name != linkers] == [name for name in names if os.path.basename(name) != linkers]


ELF = pathlib.Path(os.path.realpath("/bin/sh")).read_bytes()


@given(st.integers(0, len(ELF) - 1), st.binary(max_size=64), st.integers(0, len(ELF)))
def test_a_hostile_program_gives_names_or_one_line(at, planted, length):
    try:
        names = needed((ELF[:at] + planted + ELF[at + len(planted) :])[:length])
    except ObjectError as error:
        assert "\n" not in str(error)
        return
    assert all("/" not in name and name not in ("", ".", "..") and name.isprintable() for name in names)


@given(st.binary(max_size=300))
def test_any_bytes_give_names_or_one_line(data):
    for bytes_ in (data, ELF[:64] + data, ELF[:600] + data):
        try:
            needed(bytes_)
        except ObjectError as error:
            assert "\n" not in str(error)


def test_a_missing_library_is_named(tmp_path):
    with pytest.raises(ObjectError, match=r"needs libc\.so\.6, which is not in Debian's packages"):
        libraries(ELF, lambda _name: None, lambda _path: b"")
