"""Descriptions of images, whoever wrote them."""

import json

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    describe,
    fsck,
    listing,
    put,
    read_manifest,
)
from ansible_collections.unikernels.xen.plugins.module_utils.xen.domain_facts import image_of
from hypothesis import given
from hypothesis import strategies as st

from .stores import DIGEST

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
