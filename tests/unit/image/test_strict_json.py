"""What is signed, or decides what boots, can be read in one way only: another text is none, whoever wrote it."""

import json

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import provenance, strict_json, versions
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import Policy, PolicyError, as_text, parse
from ansible_collections.unikernels.xen.plugins.module_utils.image.provenance import ProvenanceError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import StoreError, history, read_manifest
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "ab" * 32
STATEMENT = provenance.statement("web", DIGEST, built=True, parameters={}, materials=[], builder={}, key="k")
POLICY = as_text(Policy("required", ("a@x ssh-ed25519 AAAA",), (), ())).encode()
VERSIONS = json.dumps({"web": {"version": 20261127193045, "sha256": DIGEST}}).encode()

HOSTILE = {
    "a key twice": lambda text: text[:1] + b'"x": 1, "x": 2,' + text[1:],
    "the same key in two spellings": lambda text: text[:1] + b'"x": 1, "\\u0078": 2,' + text[1:],
    "a key twice, deep inside": lambda text: text[:1] + b'"x": [{"y": {"z": 1, "z": 1}}],' + text[1:],
    "no number": lambda text: text[:1] + b'"x": NaN,' + text[1:],
    "no end": lambda text: text[:1] + b'"x": -Infinity,' + text[1:],
    "too large for any": lambda text: text[:1] + b'"x": 1e999,' + text[1:],
    "a number of a thousand digits": lambda text: text[:1] + b'"x": ' + b"9" * 1000 + b"," + text[1:],
    "half a character": lambda text: text[:1] + b'"x": "\\ud800",' + text[1:],
    "half a character in a key": lambda text: text[:1] + b'"\\udfff": 1,' + text[1:],
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.decode().encode("utf-16-le"),
    "UTF-32": lambda text: text.decode().encode("utf-32"),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "Latin-1": lambda text: text[:1] + b'"x": "\xe4",' + text[1:],
    "nested": lambda text: text[:1] + b'"x": ' + b"[" * 100000 + b"]" * 100000 + b"," + text[1:],
    "two texts": lambda text: text + text,
    "cut": lambda text: text.rstrip()[:-1],
    "empty": lambda text: b"",
    "zeros": lambda text: bytes(len(text)),
    "a comment": lambda text: b"// x\n" + text,
    "a comma too many": lambda text: text.rstrip()[:-1] + b",}",
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_what_could_be_read_in_two_ways_is_not_read(tmp_path, change):
    with pytest.raises(ValueError):
        strict_json.loads(change(STATEMENT))
    with pytest.raises(ProvenanceError, match=r"^it is not an in-toto statement$"):
        provenance.read(change(STATEMENT), DIGEST)
    with pytest.raises(PolicyError, match=r"^is not a policy of images; unikernel_images_policy_reset: true writes it again$"):
        parse(change(POLICY))
    with pytest.raises(PolicyError, match=r"^is not a list of versions; unikernel_images_policy_reset: true writes it again$"):
        versions.parse(change(VERSIONS))
    assert read_manifest(change(b'{"name": "web"}')) == ({}, "is not JSON")
    (tmp_path / "names").mkdir()
    (tmp_path / "names/web.json").write_bytes(change(json.dumps({"history": [DIGEST]}).encode()))
    with pytest.raises(StoreError, match=r"it is not a history; remove it, and run again$"):
        history(str(tmp_path), "web")


def test_what_is_sound_is_read():
    assert provenance.read(STATEMENT, DIGEST)["subject"] and parse(POLICY).required and versions.parse(VERSIONS)["web"].version


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_was_written_is_read_again(content):
    try:
        data = json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert strict_json.loads(data) == content


@pytest.mark.parametrize(
    "text",
    [b'{"version": true}', b'{"version": 1.0}', b'{"version": "1"}', b'{"version": 1, "Signature": "optional"}',
     b'{"version": 1, "signature": "optional", "expires": 1}', b'{"version": 1, "signature": []}',
     b'{"version": 1, "signature": "Optional"}', b'{"version": 1, "allowed_signers": {}}', b'{"version": 1, "kernels": [null]}'],
)  # fmt: skip
def test_a_policy_of_another_form_opens_nothing(text):
    with pytest.raises(PolicyError, match=r"is not a policy of images"):
        parse(text)


def test_a_statement_has_each_name_once():
    """Or one reader takes the first version of a name, and another one the last."""
    content = json.loads(STATEMENT)
    content["subject"] = [{**content["subject"][0], "annotations": {"version": number}} for number in (5, 9)]
    with pytest.raises(ProvenanceError, match=r"^it has a name twice$"):
        provenance.read(json.dumps(content).encode(), DIGEST)
    content["subject"][1]["name"] = "WEB"
    assert sorted(provenance.claims_of(provenance.read(json.dumps(content).encode(), DIGEST))) == ["WEB", "web"]


@pytest.mark.parametrize(
    ("note", "line"),
    [
        (
            {"expires": "2027-02-30T00:00:00Z"},
            "it expires '2027-02-30T00:00:00Z', which is not a time, as in 2027-01-31T00:00:00Z",
        ),
        ({"expires": "9999-99-99T99:99:99Z"}, "it expires '9999-99-99T99:99:99Z', which is not a time, as in"),
        ({"expires": "2027-01-31T00:00:00+02:00"}, "which is not a time, as in"),
        ({"expires": "2027-01-31T00:00:00Z\n"}, "which is not a time, as in"),
        ({"expires": "\u0662027-01-31T00:00:00Z"}, "which is not a time, as in"),
        ({"expires": 1}, "it expires '1', which is not a time, as in"),
        ({"version": "20261127193045"}, "its version '20261127193045' is not a time of signing, as in 20261127193045"),
        ({"version": True}, "its version True is not a time of signing"),
        ({"version": 10**14}, "its version 100000000000000 is not a time of signing"),
    ],
)
def test_a_claim_is_a_number_and_a_time(note, line):
    content = json.loads(STATEMENT)
    content["subject"][0]["annotations"] = note
    with pytest.raises(ProvenanceError) as refusal:
        provenance.read(json.dumps(content).encode(), DIGEST)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
