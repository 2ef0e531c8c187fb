"""A host's images, taken into a store in a folder: from the controller, from mirrors, with their signatures and names."""

import functools
import hashlib
import http.server
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import arrival, provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.arrival import receive, used_by_domains
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import PolicyError
from ansible_collections.unikernels.xen.plugins.module_utils.image.shipping import request_of, unsigned_problem, wanted_images
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    StoreError,
    describe,
    fsck,
    history,
    known_names,
    listing,
    locked,
    names,
    names_and_problems,
    point,
    put,
    read_manifest,
    take,
    unused,
)
from ansible_collections.unikernels.xen.plugins.module_utils.xen.domain_facts import image_of
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import guest

from .test_signature import all_keys, keys  # noqa: F401

IMAGE = guest()
DIGEST = hashlib.sha256(IMAGE).hexdigest()
DEFAULTS = {
    "arrived": None, "mirrors": [], "mirror_timeout": 20, "ca_file": None, "signature": "optional", "allowed_signers": None,
    "revoked_keys": None, "kernels": None, "policy_reset": False, "trust": "", "keep": None, "definitions": "/nosuch",
    "names": None, "judge": False,
}  # fmt: skip


def call(store, check=False, **options):
    params = {**DEFAULTS, "store": str(store), "wanted": {"hello": DIGEST}, **options}
    return receive(request_of(params, check))


class Controller:
    """A store as a controller has it, with a signed image."""

    def __init__(self, folder, keys):  # noqa: F811
        self.store, self.keys = folder / "controller", keys
        (folder / "hello.xen").write_bytes(IMAGE)
        put(str(self.store), str(folder / "hello.xen"), None, {"name": "hello"}, False)
        text = provenance.statement("hello", DIGEST, built=False, parameters={}, materials=[], builder={}, key="")
        signature.attach(str(self.store), DIGEST, text, str(keys / "alice"), False, ("hello",))
        self.allowed = (keys / "allowed").read_text()

    def files(self):
        return {
            path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
            for path in self.store.glob(DIGEST + ".*")
        }

    def texts(self):
        return {path.name: path.read_text() for path in self.store.glob(DIGEST + ".*") if path.suffix != ".xen"}


@pytest.fixture
def controller(tmp_path, keys):  # noqa: F811
    return Controller(tmp_path, keys)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.exists() else []


ALL = [f"{DIGEST}.{kind}" for kind in ("json", "provenance.json", "provenance.json.sig", "xen")]


# -- from the controller ------------------------------------------------------------------------------


def test_a_look_then_what_is_lacking(tmp_path, controller):
    host, shipping = tmp_path / "host", {"files": controller.files(), "final": False}
    for check in (True, False):
        looked = call(host, check, shipping=shipping)
        assert (looked["missing"], looked["changed"], files(host)) == (ALL, False, [])
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    (arrived / f"{DIGEST}.xen").write_bytes(IMAGE)
    shipping = {"files": controller.files(), "texts": controller.texts(), "arrived": str(arrived), "final": True}
    done = call(host, shipping=shipping)
    assert (done["changed"], done["missing"], done["taken"], files(host)) == (True, [], [DIGEST], ALL)
    assert list(arrived.iterdir()) == [] and history(str(host), "hello") == [DIGEST]
    assert all((host / file).read_bytes() == (controller.store / file).read_bytes() for file in ALL)
    assert {oct((host / file).stat().st_mode)[-3:] for file in ALL} == {"644"}
    again = call(host, shipping=shipping)
    assert (again["changed"], again["taken"]) == (False, [])


def whole(host, controller, **options):
    """A call with everything that the controller has."""
    arrived = host.parent / "arrived"
    arrived.mkdir(exist_ok=True)
    (arrived / f"{DIGEST}.xen").write_bytes(options.pop("image", IMAGE))
    texts = options.pop("texts", controller.texts())
    shipping = {"files": controller.files(), "texts": texts, "arrived": str(arrived), "final": True}
    return call(host, shipping=shipping, **options)


def test_a_statement_that_was_signed_again_goes_alone(tmp_path, controller):
    host = tmp_path / "host"
    whole(host, controller)
    signature.attach(str(controller.store), DIGEST, b"", str(controller.keys / "bob"), False, ("hello",))
    looked = call(host, shipping={"files": controller.files(), "final": False})
    assert looked["missing"] == [f"{DIGEST}.provenance.json.sig"]
    assert whole(host, controller)["taken"] == []
    assert (host / ALL[2]).read_bytes() == (controller.store / ALL[2]).read_bytes()
    # A description is each store's own: another one is none that is missing.
    (controller.store / ALL[0]).write_text("{}")
    assert call(host, shipping={"files": controller.files(), "final": False})["missing"] == []


def test_a_controllers_damaged_description_is_not_passed_on(tmp_path, controller):
    host = tmp_path / "host"
    (controller.store / ALL[0]).write_text("[]")
    assert whole(host, controller)["changed"] and describe(str(host), DIGEST)["name"] == "hello"
    assert "problem" not in describe(str(host), DIGEST) and not whole(host, controller)["changed"]


def test_an_altered_image_is_shipped_again(tmp_path, controller):
    host = tmp_path / "host"
    whole(host, controller)
    (host / f"{DIGEST}.xen").write_bytes(IMAGE + b"x")
    looked = call(host, shipping={"files": controller.files(), "final": False})
    assert looked["missing"] == [f"{DIGEST}.xen"]
    assert whole(host, controller)["taken"] == [DIGEST] and (host / f"{DIGEST}.xen").read_bytes() == IMAGE


def test_damaged_arrivals_leave_nothing(tmp_path, controller):
    host = tmp_path / "host"
    for image in (IMAGE[:-1], IMAGE + b"x", b""):
        with pytest.raises(StoreError, match=rf"^{DIGEST}.xen: what arrived has the sha256 .*; it was removed: run again$"):
            whole(host, controller, image=image, texts={})
        assert files(host) == files(tmp_path / "arrived") == []
    other = hashlib.sha256(b"no image").hexdigest()
    (tmp_path / "arrived" / f"{other}.xen").write_bytes(b"no image")
    with pytest.raises(StoreError, match=f"^{other}.xen: not an ELF file"):
        call(host, wanted={"hello": other}, arrived=str(tmp_path / "arrived"))
    assert files(host) == []


def test_what_was_brought_by_other_means(tmp_path, controller):
    host, arrived = tmp_path / "host", tmp_path / "arrived"
    looked = call(host)
    assert looked["missing"] == ALL
    arrived.mkdir()
    with pytest.raises(StoreError, match=f"^image {DIGEST}: has not arrived in {host}: run again$"):
        call(host, arrived=str(arrived))
    for file in ALL[1:]:
        (arrived / file).write_bytes((controller.store / file).read_bytes())
    assert call(host, arrived=str(arrived))["changed"] and files(host) == ALL
    assert describe(str(host), DIGEST)["name"] == "hello", "described from the image itself"
    assert call(host)["missing"] == []


# -- signatures and the host's policy -----------------------------------------------------------------


def signed(host, controller, **options):
    trust = str(host.parent / "etc")
    given_options = {"signature": "required", "allowed_signers": controller.allowed, "trust": trust, **options}
    return whole(host, controller, **given_options)


def test_a_host_takes_what_is_signed_as_what_it_is_called(tmp_path, controller):
    host = tmp_path / "host"
    assert signed(host, controller)["signers"] == {"hello": "alice@x"}
    with pytest.raises(SignatureError, match=rf"^image web \({DIGEST[:12]}\): is signed as hello, not as web$"):
        signed(host, controller, wanted={"web": DIGEST})
    assert known_names(str(host)) == ["hello"]


def test_a_later_controller_without_the_variables_opens_nothing(tmp_path, controller):
    host, nothing = tmp_path / "host", {"signature": None, "allowed_signers": None, "revoked_keys": None}
    signed(host, controller)
    assert signed(host, controller, **nothing)["signers"] == {"hello": "alice@x"}
    alice = (controller.keys / "alice.pub").read_text()
    with pytest.raises(SignatureError, match="its signature by alice@x is not good: the key is revoked"):
        signed(host, controller, revoked_keys=alice)
    for options in (nothing, {"revoked_keys": ""}, {"signature": "optional"}, {"revoked_keys": "# none\n"}):
        with pytest.raises(SignatureError, match="the key is revoked"):
            signed(host, controller, **options)
    reset = signed(host, controller, policy_reset=True)
    assert (reset["signers"], reset["policy"]["revoked_keys"]) == ({"hello": "alice@x"}, [])


def test_optional_after_required_stays_required(tmp_path, controller):
    host = tmp_path / "host"
    signed(host, controller)
    (host / f"{DIGEST}.provenance.json.sig").unlink()
    (controller.store / f"{DIGEST}.provenance.json.sig").unlink()
    with pytest.raises(SignatureError, match="is not signed"):
        signed(host, controller, signature="optional")
    opened = signed(host, controller, signature="optional", policy_reset=True)
    assert (opened["signers"], opened["policy"]["signature"]) == ({}, "optional")


def test_what_a_policy_does_not_grant_is_noted(tmp_path, controller):
    host = tmp_path / "host"
    signed(host, controller)
    mallory = f"mallory@x {(controller.keys / 'mallory.pub').read_text()}"
    notes = signed(host, controller, allowed_signers=controller.allowed + mallory)["notes"]
    assert len(notes) == 1 and "mallory@x" in notes[0] and "is not added to the host's policy" in notes[0]


def test_check_mode_judges_and_writes_nothing(tmp_path, controller):
    host = tmp_path / "host"
    done = call(host, True, signature="required", allowed_signers=controller.allowed, trust=str(tmp_path / "etc"))
    assert done["changed"] and done["policy"]["signature"] == "required" and not (tmp_path / "etc").exists()
    signed(host, controller)
    with pytest.raises(SignatureError, match="not as web"):
        call(host, True, wanted={"web": DIGEST}, trust=str(tmp_path / "etc"), signature=None)


def test_a_call_that_says_nothing_makes_no_policy(tmp_path, controller):
    host = tmp_path / "host"
    with pytest.raises(SignatureError, match=r"the host's policy has no allowed signers \(unikernel_images_allowed_signers\)"):
        signed(host, controller, signature=None, allowed_signers=None)
    assert not (tmp_path / "etc").exists()


def test_a_signer_who_logs_in_to_the_host_is_refused(tmp_path, controller, monkeypatch):
    (tmp_path / "root/.ssh").mkdir(parents=True)
    (tmp_path / "root/.ssh/authorized_keys").write_text((controller.keys / "alice.pub").read_text())
    monkeypatch.setattr(arrival, "homes", lambda: [str(tmp_path / "root")])
    with pytest.raises(PolicyError, match=r"^unikernel_images_allowed_signers: the key of alice@x also logs in to this host"):
        signed(tmp_path / "host", controller)
    assert not (tmp_path / "etc").exists()


def test_a_damaged_policy_refuses_until_it_is_reset(tmp_path, controller):
    host = tmp_path / "host"
    signed(host, controller)
    (tmp_path / "etc/policy").write_text("[]")
    with pytest.raises(PolicyError, match="is not a policy of images"):
        signed(host, controller)
    assert signed(host, controller, policy_reset=True)["signers"] == {"hello": "alice@x"}


def test_what_would_stop_is_shown(tmp_path, controller):
    host = tmp_path / "host"
    signed(host, controller)
    etc = tmp_path / "etc"
    (etc / "www.cfg").write_text(f'kernel = "{host}/{DIGEST}.xen"\n')
    (etc / "out.cfg").write_text(f'kernel = "{tmp_path}/hello.xen" # by hand\n')
    judge = {"wanted": {}, "trust": str(etc), "definitions": str(etc), "judge": True, "signature": None}
    (line,) = call(host, True, **judge)["stops"]
    assert line.startswith("domain out: kernel ") and "is not in the image store" in line
    revoked = call(host, True, revoked_keys=(controller.keys / "alice.pub").read_text(), **judge)["stops"]
    assert [line.split(":")[0] for line in revoked] == ["domain out", "domain www"] and "is revoked" in revoked[1]
    assert call(host, True, policy_reset=True, **{**judge, "signature": "optional"})["stops"] == []


# -- mirrors ------------------------------------------------------------------------------------------


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
    # Where nobody knows what it must be, it is not even asked for.
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
        call(tmp_path / "host", mirrors=["m"], mirror_timeout=7)
    assert seconds == sorted(seconds, reverse=True) and 6 < seconds[0] <= 7


# -- the options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wanted": {"a": "x"}}, r"wanted: a: 'x' is not 64 hexadecimal digits"),
        ({"wanted": {"a": 1}}, r"wanted: a: 1 is not 64"),
        ({"wanted": {"a": [DIGEST]}}, r"wanted: a: \["),
        ({"wanted": {"../a": DIGEST}}, r"wanted: '../a' is not a name of an image"),
        ({"wanted": {None: DIGEST}}, r"wanted: None is not a name of an image"),
        ({"keep": -1}, r"keep: must be 0 or more"),
        ({"mirror_timeout": 0}, r"mirror_timeout: must be 1 or more"),
        ({"kernels": ["x"]}, r"unikernel_images_kernels: 'x' is not 64"),
        ({"shipping": {"texts": {f"{'0' * 64}.json": "x"}}}, r"'0+.json' is not a file of an image of wanted"),
        ({"shipping": {"files": {"../../etc/passwd": {"sha256": "x", "size": 1}}}}, r"is not a file of an image of wanted"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, words):
    with pytest.raises(StoreError, match=words):
        call(tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_wanted_images_are_digests_or_results():
    wanted = {"a": DIGEST, "b": {"sha256": DIGEST}, "c": {"sha256": None}, "d": {}}
    assert wanted_images(wanted, None) == {"a": DIGEST, "b": DIGEST, "c": "", "d": ""}
    assert wanted_images(wanted, ["b", "nosuch"]) == {"b": DIGEST}


def test_what_has_yet_to_be_built_is_refused_as_the_run_would():
    from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import Policy

    required, signers = Policy("required", ("alice",)), Policy("required", ())
    assert unsigned_problem(required, ["a"], "key") == "" == unsigned_problem(required, [], "")
    assert unsigned_problem(Policy("optional"), ["a"], "") == ""
    assert unsigned_problem(signers, ["a"], "key").startswith("unikernel_images_allowed_signers: is required to check signatures")
    assert unsigned_problem(required, ["b", "a"], "") == (
        "unikernel_images_signing_key: is required: image a, b has yet to be built or stored, and unikernel_images_signature is"
        " required"
    )


# -- descriptions of any kind -------------------------------------------------------------------------

HOSTILE = [
    b"", b"[]", b"1", b"null", b'"x"', b"[" * 200000, b'{"a":' * 100000, b"\xff\xfe", b'{"name": 1}', b'{"size": "1"}',
    b'{"size": true}', b'{"size": 1e999}', b'{"size": NaN}', b'{"standin": 1}', b'{"devices": 1}', b'{"devices": [1]}',
    b'{"devices": [{"name": 1, "type": "x"}]}', b'{"devices": [{"name": "x"}]}', b'{"x": [1]}', b'{"x": {"y": 1}}',
    b'{"name": "a\\u001b[2Jb"}', b'{"name": "\\ud800"}', b'{"description": "\\u202e"}', b'{"\\u001b": "x"}',
    b'{"size": ' + b"9" * 40 + b"}", b'{"name": null}', b"x" * (5 << 20), b'{"name": "' + b"n" * 1000 + b'"}',
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_no_description_breaks_a_listing(tmp_path, controller, body):
    store = str(controller.store)
    with open(f"{store}/{DIGEST}.json", "wb") as file:
        file.write(body)
    image = describe(store, DIGEST)
    assert image["sha256"] == DIGEST and image["path"] == f"{store}/{DIGEST}.xen"
    assert image["problem"].startswith(f"description {store}/{DIGEST}.json: ")
    assert json.dumps(image, ensure_ascii=False).encode().isascii(), "nothing that a terminal obeys"
    assert "\x1b" not in str(image) and listing(store) == [image]
    assert fsck(store) == [image["problem"] + ": put it again"]
    assert image_of(image["path"])["sha256"] == DIGEST
    changed, again = put(store, str(tmp_path / "hello.xen"), DIGEST, {"name": "hello"}, False)
    assert changed and fsck(store) == [] and again["name"] == "hello"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda more: (
        st.lists(more, max_size=3) | st.dictionaries(st.sampled_from(["name", "size", "devices", "x"]), more, max_size=3)
    ),
    max_leaves=6,
)


@given(JSON)
def test_any_json_is_read(content):
    manifest, problem = read_manifest(json.dumps(content).encode())
    json.dumps(manifest, ensure_ascii=False).encode()
    assert all(type(value) in (str, int, bool, list) for value in manifest.values()) and "\n" not in problem
    assert read_manifest(json.dumps(manifest).encode()) == (manifest, "")


def test_a_description_that_cannot_be_read_is_said(controller):
    path = controller.store / f"{DIGEST}.json"
    path.unlink()
    assert "problem" not in describe(str(controller.store), DIGEST)
    assert fsck(str(controller.store)) == [f"{controller.store}/{DIGEST}.xen: has no description beside it: put it again"]
    path.mkdir()
    assert describe(str(controller.store), DIGEST)["problem"] == f"description {path}: Is a directory"


# -- putting, names, looking after --------------------------------------------------------------------


def test_an_image_is_put_once_and_put_right(tmp_path):
    image, store = tmp_path / "hello.xen", str(tmp_path / "store")
    image.write_bytes(guest(blocks=(b"data",)))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    predicted = put(store, str(image), digest.upper(), {"name": "n", "size": 0}, True)
    assert not os.path.exists(store)
    changed, manifest = put(store, str(image), digest.upper(), {"name": "n", "size": 0}, False)
    assert changed and predicted == (True, manifest)
    assert manifest == {
        "sha256": digest, "size": len(image.read_bytes()), "memory_size": 4096, "target": "xen", "standin": False,
        "description": "", "devices": [{"name": "data", "type": "block"}], "debug_info": False, "name": "n",
        "path": f"{store}/{digest}.xen",
    }  # fmt: skip
    assert put(store, str(image), None, {"name": "other"}, False) == (False, manifest) and describe(store, digest) == manifest
    with open(manifest["path"], "ab") as file:
        file.write(b"x")
    assert fsck(store)[0].endswith(": the next run ships it again")
    assert put(store, str(image), digest, {}, True)[0] and put(store, str(image), digest, {}, False)[0] and fsck(store) == []
    with pytest.raises(StoreError, match=f"its sha256 is {digest}, declared is {'0' * 64}; nothing was stored"):
        put(store, str(image), "0" * 64, {}, False)
    with pytest.raises(StoreError, match=r"^image /nosuch: No such file or directory$"):
        put(store, "/nosuch", None, {}, False)
    image.write_bytes(b"#!/bin/sh")
    with pytest.raises(StoreError, match=r"^image .*/hello.xen: not an ELF file"):
        put(store, str(image), None, {}, False)


def test_a_name_and_its_history(tmp_path):
    store = str(tmp_path)
    digests = [f"{number:064x}" for number in range(120)]
    assert history(store, "a") == [] and names(store) == {} and point(store, "a", digests[0], True) and known_names(store) == []
    for digest in digests:
        assert point(store, "a", digest, False)
    assert not point(store, "a", digests[-1], False) and history(store, "a") == digests[:19:-1]
    assert names(store) == {"a": digests[:19:-1]}
    for name in ("", "a/b", "-a", "a" * 65, "a\n"):
        with pytest.raises(StoreError, match="letters, digits and"):
            point(store, name, digests[0], False)
    (tmp_path / "names/README").write_text("x")
    (tmp_path / "names/-.json").write_text("x")
    assert known_names(store) == ["a"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b"{}", b'{"history": 1}', b'{"history": ["x"]}', b'{"history": [1]}', b"[" * 200000, b"\xff"]
)
def test_a_damaged_history_is_said_and_stops_no_listing(tmp_path, body):
    store = str(tmp_path)
    point(store, "a", DIGEST, False)
    (tmp_path / "names/b.json").write_bytes(body)
    line = f"image store {store}: {store}/names/b.json cannot be read: it is not a history; remove it, and run again"
    assert names_and_problems(store) == ({"a": [DIGEST]}, [line])
    assert line in fsck(store)
    for use in (
        lambda: history(store, "b"),
        lambda: point(store, "b", DIGEST, False),
        lambda: unused(store, set(), 0, time.time()),
    ):
        with pytest.raises(StoreError) as failure:
            use()
        assert str(failure.value) == line


def _points(store, name, digests):
    for digest in digests:
        point(store, name, digest, False)


def test_two_runs_at_once_lose_no_entry(tmp_path):
    store, each = str(tmp_path), 25
    digests = [[f"{run}{number:063x}" for number in range(each)] for run in (1, 2)]
    runs = [multiprocessing.Process(target=_points, args=(store, "a", one)) for one in digests]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert sorted(history(store, "a")) == sorted(digests[0] + digests[1])


def test_the_lock_is_waited_for_with_a_bound(tmp_path):
    late = pytest.raises(StoreError, match=r"another run has been working on it for 0.2 s")
    with locked(str(tmp_path)), late, locked(str(tmp_path), 0.2):
        pass
    with locked(str(tmp_path)):
        pass


def old(path, data=b"x", hours=2.0):
    path.write_bytes(data)
    os.utime(path, (time.time() - 3600 * hours,) * 2)


def test_a_prune_takes_what_nothing_uses_and_nothing_else(tmp_path):
    store, definitions = tmp_path / "images", tmp_path / "etc"
    store.mkdir()
    digests = {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("used", "now", "before", "long", "free", "fresh", "half")
    }
    for name, digest in digests.items():
        for kind in ("xen", "json"):
            old(store / f"{digest}.{kind}", hours=0.9 if name == "fresh" or (name, kind) == ("half", "json") else 2)
    old(store / ".incoming-dead")
    old(store / ".incoming-alive", hours=0.5)
    old(store / "README")
    for name in ("long", "before", "now"):
        point(str(store), "a", digests[name], False)
    options = {"wanted": {}, "keep": 1, "definitions": str(definitions)}
    assert call(store, **options)["removed"] == [], "where no definitions are to be seen, nobody knows what is in use"
    definitions.mkdir()
    (definitions / "www.cfg").write_text(f'kernel = "{store}/{digests["used"]}.xen"\n')
    gone = sorted(f"{store}/{digests[name]}.{kind}" for name in ("long", "free") for kind in ("xen", "json"))
    predicted = call(store, True, **options)
    assert sorted(predicted["removed"]) == sorted([f"{store}/.incoming-dead", *gone]) and predicted["changed"]
    assert len(files(store)) == 17
    assert call(store, **options) == predicted and not set(map(str, store.iterdir())) & set(predicted["removed"])
    assert not call(store, **options)["changed"]


def test_what_runs_or_can_be_gone_back_to_is_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(arrival, "LIBXL", str(tmp_path / "userdata-d.*"))
    monkeypatch.setattr(arrival, "GENERATIONS", str(tmp_path / "generations/*"))
    (tmp_path / "userdata-d.1.x").write_text(f'{{"kernel": "/x/{DIGEST}.xen"}}')
    assert used_by_domains("/nosuch") == {DIGEST}
    (tmp_path / "generations").mkdir()
    (tmp_path / "generations/000001.json").write_text(f'{{"domains": [{{"kernel": "/x/{"cd" * 32}.xen"}}]}}')
    assert used_by_domains("/nosuch") == {DIGEST, "cd" * 32}


def test_fsck_names_what_does_not_belong(tmp_path, controller):
    store = controller.store
    assert fsck("/nosuch") == [] and listing("/nosuch") == []
    for mode, lines in ((0o775, 1), (0o757, 1), (0o755, 0), (0o700, 0)):
        store.chmod(mode)
        assert fsck(str(store)) == [f"{store}: others than its owner may write there: chmod go-w {store}"] * lines
    assert fsck(str(store)) == []
    (store / f"{'0' * 64}.json").write_text("{}")
    (store / ".incoming-x").write_text("x")
    (store / f"{DIGEST}.\x1b").write_text("x")
    point(str(store), "gone", "1" * 64, False)
    assert fsck(str(store)) == [
        f"{store}/.incoming-x: left by a run that died; the next prune removes it",
        f"{store}/{'0' * 64}.json: there is no image of that digest",
        f"{store}/{DIGEST}.?: not a file of the store",
        f"image name gone: means {'1' * 64}, which is not in the store",
    ]


def test_taking_in_what_is_in_place_already(tmp_path):
    (tmp_path / f".incoming-{DIGEST}.xen").write_bytes(IMAGE)
    take(str(tmp_path), f"{DIGEST}.xen", f"{tmp_path}/.incoming-{DIGEST}.xen", DIGEST)
    assert files(tmp_path) == [f"{DIGEST}.xen"]


def test_a_folder_that_takes_nothing_is_said_in_a_line(tmp_path):
    image = tmp_path / "hello.xen"
    image.write_bytes(IMAGE)
    with pytest.raises(StoreError) as failure:
        put("/proc/images", str(image), None, {}, False)
    assert str(failure.value) == "image store /proc/images: No such file or directory"


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode != 0,
    reason="nothing may be mounted here",
)
def test_a_full_folder_is_left_as_it_was(tmp_path):
    image, store = tmp_path / "hello.xen", tmp_path / "store"
    image.write_bytes(IMAGE)
    store.mkdir()
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError, put\n"
        "try:\n    put(sys.argv[2], sys.argv[1], None, {}, False)\n"
        "except StoreError as error:\n    print(error)\n"
    )
    script = (
        f'mount -t tmpfs -o size=64k none "{store}" && {{ cat /dev/zero >"{store}/filler" 2>/dev/null; true; }}'
        f' && "$@" "{image}" "{store}" && ls -A "{store}"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"image store {store}: No space left on device", "filler"]
