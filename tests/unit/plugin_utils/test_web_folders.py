"""What a folder of a web server holds: one line, with the variable, for what could not become part of an image."""

import os

import pytest
from ansible_collections.unikernels.xen.plugins.plugin_utils.web_folders import content_of

INTERFACES = [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]


def sparse(path, mib):
    with open(path, "wb") as file:
        file.truncate(mib << 20)


def prepare(folder, what):
    """A folder with a page and one thing that is wrong."""
    folder.mkdir()
    (folder / "index.html").write_text("hello")
    what(folder)
    return folder


def problems(folder, **values):
    return content_of({"web_interfaces": INTERFACES, "web_content": str(folder), **values}, {})[0]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda here: (here / "x").symlink_to("/etc/passwd"), "x: is a link to /etc/passwd, which leads out of the folder"),
        (lambda here: (here / "x").symlink_to("../../etc"), "x: is a link to ../../etc, which leads out of the folder"),
        (lambda here: (here / "x").symlink_to("x"), "x: is a link that leads to itself"),
        (lambda here: (here / "x").symlink_to("y"), "x: is a link to nothing; remove it"),
        (lambda here: ((here / "y").mkdir(), (here / "x").symlink_to("y")), "x: is a link to a folder, and only files"),
        (lambda here: os.mkfifo(here / "x"), "x: is neither a file nor a link to one: remove it"),
        (lambda here: sparse(here / "x.iso", 4096), "has 4097 MiB, which become part of the image"),
        (lambda here: sparse(here / "x.iso", 57), "has 58 MiB, which become part of the image"),
        (lambda here: (here / "index.html").unlink(), "has no index.html, and the health check asks for /"),
        (lambda here: ((here / "index.html").unlink(), (here / "index.html").mkdir()), "has no index.html"),
    ],
)  # fmt: skip
def test_what_can_not_be_served_is_one_line(tmp_path, what, words):
    folder = prepare(tmp_path / "www", what)
    (line,) = problems(folder)
    assert line.startswith(f"web_content: {folder}") and words in line and "\n" not in line, line
    item = {"name": "b", "interfaces": INTERFACES, "content": str(folder)}
    (line,) = content_of({"web_sites": [item]}, {})[0]
    assert line.startswith(f"web_sites[0].content: {folder}")


def test_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    assert problems(tmp_path / "file") == [f"web_content: {tmp_path}/file is not a folder; give a folder on the controller"]
    assert problems(tmp_path / "none") == [f"web_content: {tmp_path}/none is not there; give a folder on the controller"]
    (line,) = problems("a\0b")
    assert line.startswith("web_content: ") and line.endswith("is not there; give a folder on the controller")


def test_what_is_right(tmp_path):
    folder = prepare(tmp_path / "www", lambda here: sparse(here / "x.iso", 55))
    (folder / "y").symlink_to("x.iso")
    assert problems(folder, web_memory=160) == []
    (folder / "index.html").unlink()
    assert problems(folder, web_memory=160, web_health={"http": "http://10.0.0.10/up"}) == []
    # An image of another kind has no content of ours.
    assert problems(tmp_path / "none", web_image={"file": "/x.xen"}) == []


def test_a_folder_of_many_hosts_is_looked_at_once(tmp_path):
    looked = {}
    values = {"web_interfaces": INTERFACES, "web_content": str(tmp_path / "none")}
    first = content_of(values, looked)
    (tmp_path / "none").mkdir()
    assert content_of(values, looked) == first != content_of(values, {})


def test_content_for_a_disk_is_read_and_may_be_larger_than_memory(tmp_path):
    folder = prepare(tmp_path / "www", lambda here: sparse(here / "x.iso", 9))
    values = {"web_interfaces": INTERFACES, "web_content": str(folder), "web_content_disk": True, "web_memory": 16}
    lines, digests = content_of(values, {})
    assert lines == [] and list(digests) == [str(folder)] and len(digests[str(folder)]) == 64
    (line,) = content_of({**values, "images": "standin"}, {})[0]
    assert line.endswith(
        "has 10 MiB, which a stand-in unpacks into memory; web_memory is 16 MiB: raise it, or serve large files elsewhere"
    )
    assert content_of({**values, "images": "standin", "web_memory": 160}, {})[0] == []
    assert content_of({**values, "web_image": {"file": "/x.xen"}}, {}) == ([], {})


def test_content_for_a_disk_has_a_limit(tmp_path):
    folder = prepare(tmp_path / "www", lambda here: sparse(here / "x.iso", 4096))
    lines, digests = content_of({"web_interfaces": INTERFACES, "web_content": str(folder), "web_content_disk": True}, {})
    assert lines == [f"web_content: {folder} has 4097 MiB, a disk may have 4096 MiB at most: serve large files elsewhere"]
    assert digests == {}


def test_content_of_two_servers_is_read_for_the_one_with_a_disk(tmp_path):
    folder = prepare(tmp_path / "www", lambda here: None)
    item = {"name": "b", "interfaces": INTERFACES, "content_disk": True}
    values = {"web_interfaces": INTERFACES, "web_content": str(folder), "web_sites": [item]}
    assert list(content_of(values, {})[1]) == [str(folder)]


def test_a_name_has_a_folder_with_a_page(tmp_path):
    folder = prepare(tmp_path / "www", lambda here: (here / "blog").mkdir())
    assert problems(folder, web_hosts={"blog.example.org": "blog"}) == [
        f"web_hosts: blog.example.org: {folder} has no blog/index.html; add one, or give another folder of web_content"
    ]
    (folder / "blog/index.html").write_text("hello")
    assert problems(folder, web_hosts={"blog.example.org": "blog"}) == []
