"""Which packages of an image are known to be vulnerable, and what a store's overview reports."""

import hashlib
import itertools
import json
import pathlib

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import advisories, provenance
from ansible_collections.unikernels.xen.plugins.module_utils.image.advisories import AdvisoriesError, compare, read, vulnerable
from ansible_collections.unikernels.xen.plugins.module_utils.image.lock_file import materials
from ansible_collections.unikernels.xen.plugins.module_utils.image.lock_file import read as read_lock
from ansible_collections.unikernels.xen.plugins.module_utils.image.overview import overview
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import point, put

from tests.guests import guest

# Each is older than the next, by opam's manual and `dpkg --compare-versions`.
ORDER = [
    "0~~a",
    "0~a",
    "0",
    "0.1",
    "0.9",
    "0.10",
    "1~beta",
    "1",
    "1a",
    "1+b",
    "1-1",
    "1.0.1",
    "1.2~rc1",
    "1.2",
    "2",
    "10",
    "v1",
    "v2",
]


@pytest.mark.parametrize(("left", "right"), itertools.combinations(ORDER, 2))
def test_the_order_of_versions(left, right):
    assert (compare(left, right), compare(right, left), compare(left, left)) == (-1, 1, 0)


def test_versions_that_are_equal():
    assert compare("1.0", "1.00") == compare("", "") == compare("1.", "1.0") == 0


def entry(**affected):
    return {"id": "OSEC-1", "affected": [{"package": {"ecosystem": "opam", "name": "tls"}, **affected}]}


def span(*events):
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@pytest.mark.parametrize(
    ("affected", "bad", "good"),
    [
        (span({"introduced": "0"}, {"fixed": "1.2"}), ["0", "1.1", "1.2~rc"], ["1.2", "1.3"]),
        (span({"introduced": "1.0"}, {"fixed": "1.2"}), ["1.0", "1.1"], ["0.9", "1.2"]),
        (span({"introduced": "1.0"}, {"last_affected": "1.2"}), ["1.0", "1.2"], ["0.9", "1.2.1"]),
        (span({"introduced": "1"}), ["1", "99"], ["0.9"]),
        (span({"introduced": "1"}, {"fixed": "2"}, {"introduced": "3"}, {"fixed": "4"}), ["1", "3.5"], ["0", "2", "4"]),
        (span({"fixed": "2"}), [], ["1"]),
        ({"versions": ["1.0"]}, ["1.0"], ["1.1"]),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, [], ["1"]),
        ({}, [], ["1"]),
    ],
)
def test_what_an_advisory_is_about(affected, bad, good):
    known = read(json.dumps(entry(**affected)))
    for version in bad + good:
        hits = vulnerable([{"name": "tls", "version": version}, {"name": "other", "version": version}], known)
        assert hits == ([{"name": "tls", "version": version, "advisory": "OSEC-1"}] if version in bad else [])


def test_files_of_advisories():
    one = entry(versions=["1"])
    other = {"id": "X", "affected": [{"package": {"ecosystem": "PyPI", "name": "tls"}, "versions": ["1"]}]}
    gone = {**one, "withdrawn": "2026-01-01T00:00:00Z"}
    assert len(read(json.dumps([one, other, gone, {"id": "Y"}]))) == 1
    assert read("\ufeff" + json.dumps(one)) == read(json.dumps(one))
    assert read(json.dumps(one) + "\n\n" + json.dumps(other)) == read(json.dumps(one).encode()) == read(json.dumps([one]))
    for text in ("", " \n", "1", "x", "[1]", '{"affected": [1]}', '{"affected": [{}]}', "[" * 100000, b"\xff"):
        with pytest.raises(AdvisoriesError, match=r"^not a list of advisories in OSV's form"):
            read(text)


def test_an_overview_of_a_store(tmp_path):
    store = tmp_path / "store"
    (tmp_path / "a.xen").write_bytes(guest())
    digest = hashlib.sha256(guest()).hexdigest()
    put(str(store), str(tmp_path / "a.xen"), None, {"name": "a"}, False)
    point(str(store), "a", digest, False)
    plain = overview(str(store), [digest, "0" * 64], False, False, None)
    assert (plain["missing"], plain["names"], plain["problems"]) == (["0" * 64], {"a": [digest]}, [])
    assert "packages" not in plain["images"][0] and "vulnerable" not in plain
    assert overview(str(store), [], False, True, None)["images"][0]["packages"] == [], "without a statement"
    lock = 'depends: [\n "tls" {= "1.0" & ?vendor}\n]\n'
    text = provenance.statement("a", digest, built=True, parameters={}, materials=materials(read_lock(lock)), builder={}, key="")
    (store / f"{digest}.provenance.json").write_bytes(text)
    known = json.dumps(entry(versions=["1.0"]))
    (image,) = overview(str(store), [], False, False, known)["images"]
    assert image["packages"] == [{"name": "tls", "version": "1.0"}]
    assert image["vulnerable"] == [{"name": "tls", "version": "1.0", "advisory": "OSEC-1"}]
    # As text, for the domains that use it.
    (tmp_path / "etc").mkdir()
    assert overview(str(store), [], False, False, known, str(tmp_path / "etc"))["vulnerable"] == []
    for name in ("www", "dns"):
        (tmp_path / f"etc/{name}.cfg").write_text(f'kernel = "{store}/{digest}.xen"')
    assert overview(str(store), [], False, False, known, str(tmp_path / "etc"))["vulnerable"] == [
        f"dns, www: image a ({digest[:12]}) has tls 1.0: OSEC-1"
    ]
    # Nothing in a store can make its overview fail.
    (store / f"{digest}.provenance.json").write_bytes(b"[]")
    (store / f"{digest}.json").write_bytes(b"[]")
    (store / "names/b.json").write_bytes(b"[]")
    broken = overview(str(store), [], False, True, None)
    assert [image["sha256"] for image in broken["images"]] == [digest] and len(broken["problems"]) == 3
    assert len(overview(str(store), [], True, True, None)["problems"]) == 2
    assert overview("/nosuch", [], False, True, None)["images"] == []


def test_a_real_lock_file():
    root = pathlib.Path(__file__).resolve().parents[3]
    for path in root.glob("unikernels/*/mirage/*.opam.locked"):
        names = [material["name"] for material in materials(read_lock(path.read_text()))]
        assert len(names) > 60 and "mirage-runtime" in names and advisories.read("[]") == []
