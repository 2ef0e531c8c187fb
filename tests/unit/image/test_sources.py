"""What a folder of a unikernel's sources, or of a web server's content, may contain."""

import os
import socket
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import sources, standin
from ansible_collections.unikernels.xen.plugins.module_utils.image.archive import pack
from ansible_collections.unikernels.xen.plugins.module_utils.image.sources import digest_of_sources, source_files
from ansible_collections.unikernels.xen.plugins.module_utils.image.steps import BuildError


@pytest.fixture
def content(tmp_path):
    """A folder, with files beside it that must not be published."""
    (tmp_path / "secret").write_text("SECRET")
    folder = tmp_path / "htdocs"
    (folder / "img").mkdir(parents=True)
    (folder / "index.html").write_text("hello")
    return folder


def link(target, name="notes.txt"):
    return lambda folder: (folder / name).symlink_to(target)


def chain(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("img/c")
    (folder / "img/c").symlink_to("../../secret")


def through_a_folder(folder):
    (folder / "up").symlink_to("..")
    (folder / "notes.txt").symlink_to("up/secret")


def loop(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")


def unix_socket(folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))


def device(folder):
    try:
        os.mknod(folder / "device", 0o20600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


REFUSED = {
    "absolute": (link("/etc/shadow"), "notes.txt: is a link to /etc/shadow, which leads out of the folder"),
    "absolute and inside": (lambda folder: link(str(folder / "index.html"))(folder), "which leads out of the folder"),
    "relative": (link("../secret"), "notes.txt: is a link to ../secret, which leads out"),
    "from below": (link("../../secret", "img/x"), "img/x: is a link to ../../secret, which leads out"),
    "out and in again": (link("../htdocs/index.html"), "which leads out"),
    "a chain": (chain, "which leads out"),
    "through a folder": (through_a_folder, "which leads out"),
    "a folder": (link("/etc", "etc"), "which leads out"),
    "a loop": (loop, "is a link that leads to itself"),
    "a pipe": (lambda folder: os.mkfifo(folder / "pipe"), "pipe: is neither a file nor a link to one"),
    "a socket": (unix_socket, "socket: is neither a file nor a link to one"),
    "a device": (device, "device: is neither a file nor a link to one"),
    "a process": (link("/proc/self/environ"), "which leads out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_leads_out_is_refused(content, tmp_path, name):
    make, words = REFUSED[name]
    make(content)
    (content / "config.ml").write_text("")
    for use in (
        lambda: source_files(str(content)),
        lambda: digest_of_sources(str(content)),
        lambda: standin.content_files(str(content)),
        lambda: pack(str(tmp_path / "none"), ((".", str(content)),), "web", str(tmp_path / "out"), False),
    ):
        (tmp_path / "none").mkdir(exist_ok=True)
        with pytest.raises(BuildError) as failure:
            use()
        assert words in str(failure.value) and "\n" not in str(failure.value) and "SECRET" not in str(failure.value)


def test_links_that_stay_inside_are_content(content):
    (content / "img/logo.txt").write_text("logo")
    (content / "a").symlink_to("img/b")
    (content / "img/b").symlink_to("../img/./logo.txt")
    assert dict(standin.content_files(str(content)))["a"] == b"logo"
    assert source_files(str(content)) == ["a", "img/b", "img/logo.txt", "index.html"]


def test_what_takes_a_files_place_is_not_followed(content, tmp_path):
    sources.check(str(content), "index.html")
    (content / "index.html").unlink()
    (content / "index.html").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        sources.read(str(content), "index.html")


def test_a_link_to_a_folder_of_the_content_is_refused_rather_than_left_out(content):
    (content / "pictures").symlink_to("img")
    with pytest.raises(BuildError, match="pictures: is a link to a folder"):
        standin.content_files(str(content))
    (content / "pictures").unlink()
    (content / "pictures").symlink_to("nowhere")
    with pytest.raises(BuildError, match="pictures: is a link to nothing"):
        standin.content_files(str(content))


@pytest.mark.parametrize(
    "patterns",
    [
        "*.log\n!keep.log\n",
        "/a\n",
        "a/\n",
        "a/b\n",
        "**/c\n",
        "a/**\n",
        "# c\n\\#x\n",
        "[ab].txt\n",
        "a?c\n",
        "doc/*.txt \n",
        "c/\n!c/\n",
    ],
)
def test_gitignore_is_read_as_git_reads_it(tmp_path, patterns):
    for path in (
        "a/b/c",
        "a/keep.log",
        "x.log",
        "a.txt",
        "c.txt",
        "doc/a.txt",
        "doc/x/a.txt",
        "abc",
        "b/a/c",
        "c/d",
        "#x",
        "keep.log",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / ".gitignore").write_text(patterns)
    (tmp_path / "b/.gitignore").write_text("a\n")
    git = ["git", "-C", str(tmp_path), "-c", "core.excludesFile=/dev/null"]
    subprocess.run([*git, "init", "-q"], check=True)
    done = subprocess.run([*git, "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, text=True, check=True)
    assert source_files(str(tmp_path)) == sorted(path for path in done.stdout.split("\0") if path)


def test_what_a_build_leaves_is_no_source(tmp_path):
    for path in (
        "config.ml",
        "mirage/x-xen.opam.locked",
        "mirage/main.ml",
        "dist/x.xen",
        "_build/log",
        "duniverse/a/b.ml",
        "dune",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    assert source_files(str(tmp_path)) == ["config.ml", "mirage/x-xen.opam.locked"]


@pytest.mark.parametrize("target", ["/etc/shadow", "../out", "/a\nb\x1b[2J", "nosuch\nb", "."])
def test_a_name_of_two_lines_is_shown_in_one(tmp_path, target):
    (tmp_path / "a\n\x1b[2Jb").symlink_to(target)
    with pytest.raises(BuildError, match="is a link to") as failure:
        standin.content_files(str(tmp_path))
    assert not set("\n\x1b") & set(str(failure.value))
    os.mkfifo(tmp_path / "\x1bpipe\n")
    (tmp_path / "a\n\x1b[2Jb").unlink()
    with pytest.raises(BuildError, match="is neither a file nor a link to one") as failure:
        source_files(str(tmp_path))
    assert not set("\n\x1b") & set(str(failure.value))


def test_a_file_of_terabytes_that_are_nowhere_is_not_read(tmp_path):
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(1 << 42)
    for read in (sources.source_files, sources.digest_of_sources, standin.content_files):
        with pytest.raises(BuildError, match="holes: has 4398046511104 bytes, more than") as failure:
            read(str(tmp_path))
        assert "\n" not in str(failure.value)


def test_folders_in_folders_without_end_are_one_line(tmp_path):
    here = os.open(tmp_path, os.O_DIRECTORY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_DIRECTORY, dir_fd=here), here
        os.close(above)
    os.close(here)
    try:
        for read in (sources.source_files, sources.digest_of_sources, standin.content_files):
            with pytest.raises(BuildError, match="has folders in more than 100 others") as failure:
                read(str(tmp_path))
            assert "\n" not in str(failure.value) and len(str(failure.value)) < 400
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
