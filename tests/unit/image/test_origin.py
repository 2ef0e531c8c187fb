"""What is signed says that the image is from its declared source; nothing else is signed."""

import json
import os

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.checkout import address_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.origin import from_origins, naming, origin_of, sources_of
from ansible_collections.unikernels.xen.plugins.module_utils.image.provenance import ProvenanceError
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError, attach
from hypothesis import given
from hypothesis import strategies as st

DIGEST, ONE, TWO = "ab" * 32, "1" * 40, "2" * 40
URL = "https://git.example.net/unipi.git"
GIT = {"source": URL, "version": ONE}
FOLDER = {"source": "/srv/unikernels/hello/"}
FILE = {"file": "/srv/images/hello.xen"}


def source(uri=URL, commit=ONE, content="c1" * 32):
    return {"uri": uri, "digest": {"sha256": content, **({"gitCommit": commit} if commit else {})}}


def folder(name="hello", content="c1" * 32):
    return source(f"file:{name}", "", content)


def statement(*materials, **parameters):
    packages = [{"name": "lock file", "digest": {"sha256": "f" * 64}}, {"name": "arp", "uri": "pkg:opam/arp@4.0.0"}]
    return provenance.statement(
        "web", DIGEST, built=True, parameters=parameters, materials=[*materials, *packages], builder={}, key="k"
    )


def named(text):
    return [material["uri"] for material in sources_of(provenance.read(text, DIGEST))]


ACCEPTED = [
    (GIT, source(), None),
    (GIT, source(), source()),
    ({**GIT, "version": "v1.0"}, source(), None),
    ({**GIT, "version": "v1.0"}, source(), source()),
    ({**GIT, "source": "https://ghp_0123456789@git.example.net/unipi.git"}, source(), source()),
    ({"source": "git@git.example.net:unipi.git", "version": ONE}, source("git@git.example.net:unipi.git"), None),
    ({**GIT, "subfolder": "mirage-server/"}, {**source(), "name": "mirage-server"}, None),
    ({**GIT, "subfolder": "."}, source(), source()),
    (FOLDER, folder(), None),
    (FOLDER, folder("web"), None),  # packed for another machine
    (FOLDER, folder("moved"), folder()),
    (FILE, source("file:hello.xen", "", DIGEST), None),
    (FILE, source("file:renamed.xen", "", DIGEST), source("file:hello.xen", "", DIGEST)),
    (
        {"url": "https://me:word@images.example.net/hello.xen?token=x"},
        source("https://images.example.net/hello.xen", "", DIGEST),
        None,
    ),
]


@pytest.mark.parametrize(("declared", "stated", "reported"), ACCEPTED)
def test_what_is_declared_is_signed_as_it_is(declared, stated, reported):
    text = statement(stated)
    assert from_origins(text, DIGEST, (origin_of("web", declared, reported),), trusted=False) is text
    assert from_origins(text, DIGEST, (), trusted=False) is text


REFUSED = [
    (
        {**GIT, "subfolder": "server"},
        {**source(), "name": "client"},
        None,
        f"{ONE[:12]}, folder client, declared for web is {URL} at",
    ),
    ({**GIT, "subfolder": "server"}, source(), None, f"declared for web is {URL} at {ONE[:12]}, folder server"),
    (GIT, {**source(), "name": ["client"]}, None, f"declared for web is {URL} at {ONE[:12]}"),
    (
        GIT,
        source(commit=TWO),
        None,
        f"it says that the image is from {URL} at {TWO[:12]}, declared for web is {URL} at {ONE[:12]}",
    ),
    (GIT, source(commit=""), None, f"it says that the image is from {URL}, declared for web is {URL} at {ONE[:12]}"),
    (GIT, source("https://evil.example.net/x.git"), None, "it says that the image is from https://evil.example.net/x.git at"),
    (GIT, source(URL.upper()), None, f"declared for web is {URL}"),
    (GIT, source(URL + "/"), None, f"declared for web is {URL}"),
    (GIT, folder("unipi.git"), None, "it says that the image is from file:unipi.git"),
    (GIT, source("\x1b[2J\u202e"), None, "it says that the image is from ?[2J? at"),
    (GIT, source(), source(commit=TWO), f"the image of web was made from {URL} at {TWO[:12]}, declared is {URL} at {ONE[:12]}"),
    ({**GIT, "version": "main"}, source(), source(commit=TWO), f"it says that the image is from {URL} at {ONE[:12]}"),
    (GIT, source(), {"uri": 1}, "the image of web was made from nothing that can be named"),
    (GIT, source(), {"uri": "pkg:opam/arp@1"}, "the image of web was made from nothing that can be named"),
    (GIT, {"uri": URL, "digest": {"gitCommit": 1}}, None, f"declared for web is {URL} at {ONE[:12]}"),
    (GIT, {"uri": URL, "digest": [ONE]}, None, f"declared for web is {URL} at {ONE[:12]}"),
    (FOLDER, folder("other"), None, "it says that the image is from file:other, declared for web is file:hello"),
    (FOLDER, folder("other"), folder(content="c2" * 32), "it says that the image is from file:other"),
    (
        FILE,
        source("file:other.xen", "", "c1" * 32),
        source("file:hello.xen", "", DIGEST),
        "it says that the image is from file:other.xen",
    ),
    ({"standin": "web"}, folder(), None, "it says that the image is from file:hello, declared for web is standin:web"),
    (GIT, {"name": "no source"}, None, f"it does not say that the image is from {URL} at {ONE[:12]}, which is declared for web"),
]


@pytest.mark.parametrize(("declared", "stated", "reported", "words"), REFUSED)
def test_what_says_something_else_is_not_signed(declared, stated, reported, words):
    with pytest.raises(ProvenanceError) as failure:
        from_origins(statement(stated), DIGEST, (origin_of("web", declared, reported),), trusted=False)
    assert words in str(failure.value) and "\n" not in str(failure.value) and "\x1b" not in str(failure.value)


@pytest.mark.parametrize("materials", [1, "x", {}, None])
def test_damaged_materials_are_no_statement(materials):
    content = json.loads(statement())
    content["predicate"]["buildDefinition"]["resolvedDependencies"] = materials
    with pytest.raises(ProvenanceError, match="it is not an in-toto statement"):
        from_origins(json.dumps(content).encode(), DIGEST, (origin_of("web", GIT),), trusted=False)


def test_the_same_bytes_from_another_commit():
    """A commit that changes a README: what was signed stays, and the new source is added; unsigned words are not."""
    signed, new = statement(source()), origin_of("web", {**GIT, "version": TWO}, source(commit=TWO))
    text = from_origins(signed, DIGEST, (new,), trusted=True)
    assert sources_of(provenance.read(text, DIGEST)) == [source(), source(commit=TWO)]
    assert from_origins(text, DIGEST, (new,), trusted=True) is text
    back = origin_of("web", GIT, source())
    assert from_origins(text, DIGEST, (back,), trusted=True) is text
    planted = statement(source("https://evil.example.net/"), source())
    assert named(from_origins(planted, DIGEST, (back,), trusted=False)) == [URL]
    assert [row["name"] for row in provenance.packages(provenance.read(text, DIGEST))] == ["arp"]


def test_names_of_one_image_from_two_sources_have_both():
    origins = (origin_of("web", FILE, source("file:hello.xen", "", DIGEST)), origin_of("ns", GIT, source()))
    text = from_origins(statement(source("file:hello.xen", "", DIGEST)), DIGEST, origins, trusted=False)
    assert named(text) == ["file:hello.xen", URL] and from_origins(text, DIGEST, origins, trusted=False) is text


def test_a_finished_image_is_known_by_its_bytes_wherever_it_is_from():
    url = "https://images.example.net/hello.xen"
    by_url, by_file = source(url, "", DIGEST), source("file:hello.xen", "", DIGEST)
    text = provenance.statement("web", DIGEST, built=False, parameters={"origin": url}, materials=[by_url], builder={}, key="")
    again = from_origins(text, DIGEST, (origin_of("web", FILE, by_file),), trusted=False)
    assert named(again) == ["file:hello.xen"] and url.encode() not in again
    for declared, reported in ((FILE, None), (FOLDER, folder()), (GIT, source())):
        with pytest.raises(ProvenanceError, match=f"it says that the image is from {url}, declared for web is"):
            from_origins(text, DIGEST, (origin_of("web", declared, reported),), trusted=False)


def test_stand_ins_are_known_by_their_service():
    origin = origin_of("web", {"standin": "web"}, {"uri": "standin:web"})
    text = statement(service="web")
    assert from_origins(text, DIGEST, (origin,), trusted=False) is text
    with pytest.raises(ProvenanceError, match="it says that the image is from standin:dns, declared for web is standin:web"):
        from_origins(statement(service="dns"), DIGEST, (origin,), trusted=False)
    given_as_file = statement(source("file:web.xen", "", DIGEST))
    assert named(from_origins(given_as_file, DIGEST, (origin,), trusted=True)) == ["file:web.xen", "standin:web"]


@given(st.lists(st.sampled_from([source(), source(commit=TWO), folder(), source("https://evil/")]), max_size=4), st.booleans())
def test_what_is_signed_has_the_declared_source_and_once_is_enough(materials, trusted):
    origins = (origin_of("web", GIT, source()),)
    try:
        text = from_origins(statement(*materials), DIGEST, origins, trusted)
    except ProvenanceError:
        assert materials and (trusted or source() not in materials)
        return
    assert source() in sources_of(provenance.read(text, DIGEST))
    assert trusted or all(found == source() for found in sources_of(provenance.read(text, DIGEST)))
    assert from_origins(text, DIGEST, origins, trusted) == text


def test_the_signature_is_over_what_is_declared(tmp_path, keys):
    store, key, path = str(tmp_path), str(keys / "alice"), f"{tmp_path}/{DIGEST}.provenance.json"
    with pytest.raises(
        SignatureError, match=f"^image {DIGEST}: its statement of provenance: it says that .*; remove {path}, and run"
    ):
        attach(
            store, DIGEST, statement(source(commit=TWO)), key, False, ("web",), stated=naming(DIGEST, (origin_of("web", GIT),))
        )
    assert os.listdir(store) == ["keys"] and address_of(URL).url == URL
    origins = (origin_of("web", GIT, source()),)
    assert attach(store, DIGEST, statement(source()), key, False, ("web",), stated=naming(DIGEST, origins))
    assert not attach(store, DIGEST, b"", key, False, ("web",), stated=naming(DIGEST, origins))
    later = (origin_of("web", {**GIT, "version": TWO}, source(commit=TWO)),)
    assert attach(store, DIGEST, b"", key, True, ("web",), stated=naming(DIGEST, later)), "check mode says so"
    assert attach(store, DIGEST, b"", key, False, ("web",), stated=naming(DIGEST, later))
    assert not attach(store, DIGEST, b"", key, False, ("web",), stated=naming(DIGEST, origins)), "the way back is no change"
    assert named(open(path, "rb").read()) == [URL, URL]
    assert signature.verify(store, DIGEST, str(keys / "allowed"), "", "web") == "alice@x"
