"""Images from a mirror that is never trusted."""

import functools
import http.server
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import arrival
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    StoreError,
    describe,
)

from .stores import ALL, DIGEST, IMAGE, call, files


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    asked = []

    class Files(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path.strip("/"))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_authorities_that_are_not_there_are_named(tmp_path):
    for check in (True, False):
        with pytest.raises(StoreError, match=f"^unikernel_images_ca_file: {tmp_path}/nosuch: is not a file on this host$"):
            call(tmp_path / "host", check, mirrors=["https://127.0.0.1:9"], ca_file=str(tmp_path / "nosuch"))


def fill(folder, controller):
    for file in ALL:
        (folder / file).write_bytes((controller.store / file).read_bytes())


def test_a_mirror_gives_all_files_and_none_is_believed(tmp_path, controller, mirror):
    folder, url, asked = mirror
    fill(folder, controller)
    shipping = {"files": controller.files(), "final": False}
    host = tmp_path / "host"
    done = call(host, mirrors=[url + "/"], shipping=shipping)
    assert (done["taken"], done["missing"], done["notes"], files(host)) == ([DIGEST], [], [], ALL)
    assert sorted(asked) == ALL and call(host, mirrors=[url], shipping=shipping)["changed"] is False and len(asked) == 4


@pytest.mark.parametrize("body", [b"[]", b"1", b"[" * 100000, b'{"name": "\\u001b[31m"}', b'{"size": "x"}'], ids=range(5))
def test_a_description_is_checked_before_it_is_believed(tmp_path, controller, mirror, body):
    folder, url, _asked = mirror
    fill(folder, controller)
    (folder / ALL[0]).write_bytes(body)
    done = call(tmp_path / "host", mirrors=[url], shipping={"files": controller.files(), "final": False})
    assert done["missing"] == [] and len(done["notes"]) == 1 and files(tmp_path / "host") == ALL
    assert describe(str(tmp_path / "host"), DIGEST)["name"] == "hello"
    # A file without a known digest is not even requested.
    done = call(tmp_path / "other", mirrors=[url])
    assert done["missing"] == [] and describe(str(tmp_path / "other"), DIGEST)["name"] == "hello"


def test_several_mirrors_are_asked_in_order(tmp_path, controller, mirror):
    folder, url, _asked = mirror
    fill(folder, controller)
    nobody = "http://127.0.0.1:9"
    done = call(tmp_path / "host", mirrors=[nobody, url + "/nosuch", url], shipping={"files": controller.files(), "final": False})
    assert done["taken"] == [DIGEST] and done["missing"] == []
    assert all("\n" not in note for note in done["notes"]) and any(
        note.startswith(f"mirror {nobody}: url ") for note in done["notes"]
    )
    with pytest.raises(StoreError, match=f"^mirror {url}/a: has no image {DIGEST}; mirror {url}/b: has no image {DIGEST}$"):
        call(tmp_path / "empty", mirrors=[url + "/a", url + "/b"])
    assert files(tmp_path / "empty") == []


def test_a_mirror_that_alters_an_image_leaves_nothing(tmp_path, controller, mirror):
    folder, url, _asked = mirror
    (folder / f"{DIGEST}.xen").write_bytes(IMAGE[:-1] + b"x")
    with pytest.raises(StoreError, match=r"the server's file has the sha256 .* it was removed: run again"):
        call(tmp_path / "host", mirrors=[url])
    assert files(tmp_path / "host") == []


def test_all_transfers_together_have_one_deadline(tmp_path, controller, mirror, monkeypatch):
    seconds = []

    def late(_url, _path, _size, _sha256, left, *_more):
        seconds.append(left)
        raise StoreError("late")

    monkeypatch.setattr(arrival, "download", late)
    with pytest.raises(StoreError, match=r"^mirror m: late; "):
        call(tmp_path / "host", mirrors=["m"], mirror_timeout=700)
    assert seconds == sorted(seconds, reverse=True) and 600 < seconds[0] <= 700
