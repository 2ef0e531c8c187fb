"""Which of two images of a name is newer: what is signed, what a host records and refuses, and how to roll back."""

import hashlib
import json
import os
from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import provenance, signature, versions
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import PolicyError, check_bootable, held_by
from ansible_collections.unikernels.xen.plugins.module_utils.image.provenance import Claim, claim_for
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError, attach, verified
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import history, point, put
from ansible_collections.unikernels.xen.plugins.module_utils.image.versions import Arrived, Highest, after, is_older, refusal
from hypothesis import given
from hypothesis import strategies as st

from tests.guests import guest

from .stores import DIGEST, IMAGE, call

NEWER = guest(blocks=(b"newer",))
NEW = hashlib.sha256(NEWER).hexdigest()
NOW = datetime(2026, 11, 27, 19, 30, 45, tzinfo=timezone.utc)
VERSION = 20261127193045


def at(monkeypatch, moment):
    """Make and verify signatures at that time."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return moment

    monkeypatch.setattr(signature, "datetime", Clock)


def build(controller, image=NEWER, name="hello", check=False, **options):
    """Make the image the name's on the controller, and sign it."""
    path = controller.store.parent / "built.xen"
    path.write_bytes(image)
    _changed, manifest = put(str(controller.store), str(path), None, {"name": name}, False)
    point(str(controller.store), name, manifest["sha256"], False)
    there = (controller.store / f"{manifest['sha256']}.provenance.json").exists()
    text = provenance.statement(name, manifest["sha256"], built=False, parameters={}, materials=[], builder={}, key="")
    key = str(controller.keys / "alice")
    return attach(str(controller.store), manifest["sha256"], b"" if there else text, key, check, (name,), **options)


def version_of(controller, digest, name="hello"):
    return verified(str(controller.store), digest, str(controller.keys / "allowed"), "", name)[1]


def ship(host, controller, digest=DIGEST, check=False, **options):
    """Make one call on a host with all the image's files that it lacks."""
    arrived = host.parent / "arrived"
    arrived.mkdir(exist_ok=True)
    files, texts = {}, {}
    for path in controller.store.glob(digest + ".*"):
        files[path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        if path.suffix == ".xen":
            (arrived / path.name).write_bytes(path.read_bytes())
        else:
            texts[path.name] = path.read_text()
    shipping = {"files": files, "texts": texts, "arrived": str(arrived), "final": True}
    more = {"wanted": {"hello": digest}, "signature": "required", "allowed_signers": controller.allowed}
    return call(host, check, **{**more, "trust": str(host.parent / "etc"), "shipping": shipping, **options})


def kept(tmp_path):
    return json.loads((tmp_path / "etc/versions").read_text())


# -- what is signed -----------------------------------------------------------------------------------


def test_the_version_is_the_time_and_stays(controller, monkeypatch):
    at(monkeypatch, NOW)
    assert build(controller) and version_of(controller, NEW) > version_of(controller, DIGEST)
    at(monkeypatch, NOW + timedelta(days=9))
    assert not build(controller), "signed already, as the newest"


def test_a_name_that_comes_back_to_an_image_gets_a_new_version(controller, monkeypatch):
    """A change reverted in git is a declaration: it is the newest version."""
    first = version_of(controller, DIGEST)
    build(controller)
    newer = version_of(controller, NEW)
    assert build(controller, IMAGE, check=True) and version_of(controller, DIGEST) == first
    assert build(controller, IMAGE) and not build(controller, IMAGE)
    assert version_of(controller, DIGEST) > newer > first
    assert history(str(controller.store), "hello")[0] == DIGEST


def test_each_name_has_a_version_of_its_own(controller):
    before = version_of(controller, DIGEST)
    assert build(controller, IMAGE, "other")
    assert version_of(controller, DIGEST) == before and version_of(controller, DIGEST, "other") >= before


def test_signing_again_is_newer_than_all(controller):
    before = version_of(controller, DIGEST)
    assert attach(str(controller.store), DIGEST, b"", str(controller.keys / "alice"), False, ("hello",), again=True)
    assert version_of(controller, DIGEST) > before


def test_a_version_that_somebody_planted_is_not_counted(controller):
    build(controller)
    path = controller.store / f"{NEW}.provenance.json"
    for version, bound in ((99991231235959, False), (VERSION, True)):
        text = provenance.restated(path.read_bytes(), NEW, {"hello": Claim(version)})
        path.write_bytes(text)
        assert provenance.claim_for(Claim(), [version], NOW, 0, False).version == (VERSION + 1 if bound else VERSION)
    path.write_bytes(b"[]")
    assert signature._version_in(str(controller.store), NEW, "hello") == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5)), max_size=30))
def test_what_a_name_means_is_always_the_newest(steps):
    signed, now = {}, NOW
    for again, digest, seconds in steps:
        now += timedelta(seconds=seconds - 1)  # a clock may go back
        before = dict(signed)
        others = [claim.version for other, claim in signed.items() if other != digest]
        signed[digest] = claim_for(signed.get(digest, Claim()), others, now, 0, again)
        assert all(signed[digest].version > version for version in others)
        assert signed[digest].version > before.get(digest, Claim(0)).version or not again
        # A second run changes nothing.
        assert claim_for(signed[digest], others, now, 0, False) == signed[digest]


# -- until when ---------------------------------------------------------------------------------------


def test_a_signature_may_expire_and_is_renewed_in_time(controller, monkeypatch):
    at(monkeypatch, NOW)
    assert build(controller, valid_days=30) and not build(controller, valid_days=30)
    version = version_of(controller, NEW)
    for days, renewed in ((14, False), (16, True), (29, False), (32, True)):
        at(monkeypatch, NOW + timedelta(days=days))
        assert build(controller, valid_days=30) is renewed, days
        assert version_of(controller, NEW) == version, "it is the same image"
    at(monkeypatch, NOW + timedelta(days=63))
    with pytest.raises(SignatureError) as failure:
        version_of(controller, NEW)
    assert str(failure.value) == (
        f"image hello ({NEW[:12]}): its signature expired at 2027-01-28T19:30:45Z (unikernel_images_valid_days); sign it again"
    )
    assert build(controller, valid_days=5) and build(controller), "another time, or none any more, is another statement"
    at(monkeypatch, NOW + timedelta(days=9999))
    assert version_of(controller, NEW) == version


def test_what_expired_is_neither_taken_in_nor_started(controller, tmp_path, monkeypatch):
    at(monkeypatch, NOW)
    build(controller, valid_days=1)
    host = tmp_path / "host"
    assert ship(host, controller, NEW)["signers"] == {"hello": "alice@x"}
    at(monkeypatch, NOW + timedelta(days=2))
    with pytest.raises(SignatureError, match="its signature expired at 2026-11-28T19:30:45Z"):
        ship(host, controller, NEW)
    policy = held_by(str(tmp_path / "etc"))
    assert "its signature expired at" in check_bootable(f"{host}/{NEW}.xen", "www", policy)


# -- on a host ----------------------------------------------------------------------------------------


def test_an_older_image_is_refused_and_a_rollback_is_kept(controller, tmp_path):
    host = tmp_path / "host"
    build(controller)
    for digest in (DIGEST, NEW):
        assert ship(host, controller, digest, True)["missing"] and ship(host, controller, digest)["changed"]
        assert not ship(host, controller, digest)["changed"] and kept(tmp_path)["hello"]["sha256"] == digest
    old, new = version_of(controller, DIGEST), version_of(controller, NEW)
    before = (tmp_path / "etc/versions").read_bytes()
    for check in (True, False):
        with pytest.raises(PolicyError) as failure:
            ship(host, controller, DIGEST, check)
        assert str(failure.value) == (
            f"image hello ({DIGEST[:12]}): is older (version {old}) than {NEW[:12]} (version {new}), which this host has had;"
            " playbooks/rollback.yml goes back, and unikernel_images_sign_again: true signs it as the newest"
        )
        assert history(str(host), "hello")[0] == NEW and (tmp_path / "etc/versions").read_bytes() == before
    note = f"image hello: goes back to {DIGEST[:12]} (version {old}), older than {NEW[:12]} (version {new})"
    assert ship(host, controller, DIGEST, True, rollback=True)["notes"] == [note]
    done = ship(host, controller, DIGEST, rollback=True)
    assert done["notes"] == [note] and done["changed"] and history(str(host), "hello")[0] == DIGEST
    assert done["versions"] == kept(tmp_path) and kept(tmp_path)["hello"]["back_to"] == DIGEST
    again = ship(host, controller, DIGEST, rollback=True)
    assert (again["changed"], again["notes"]) == (False, [])
    with pytest.raises(PolicyError, match="is older"):
        ship(host, controller, DIGEST)
    # The declaration is deployed again.
    assert ship(host, controller, NEW)["changed"] and "back_to" not in kept(tmp_path)["hello"]


def test_an_older_image_signed_again_is_a_newer_one(controller, tmp_path):
    host = tmp_path / "host"
    build(controller)
    ship(host, controller, DIGEST)
    ship(host, controller, NEW)
    assert attach(str(controller.store), DIGEST, b"", str(controller.keys / "alice"), False, ("hello",), again=True)
    assert ship(host, controller, DIGEST)["changed"] and kept(tmp_path)["hello"]["sha256"] == DIGEST
    with pytest.raises(PolicyError, match="is older"):
        ship(host, controller, NEW)


def test_a_statement_of_before_versions_is_older_than_any(controller, tmp_path):
    host = tmp_path / "host"
    build(controller)
    ship(host, controller, NEW)
    path = controller.store / f"{DIGEST}.provenance.json"
    path.write_bytes(provenance.restated(path.read_bytes(), DIGEST, {"hello": Claim()}))
    (controller.store / f"{DIGEST}.provenance.json.sig").write_bytes(
        signature.sign(path.read_bytes(), str(controller.keys / "alice"))
    )
    with pytest.raises(PolicyError, match=r"is older \(version none\)"):
        ship(host, controller, DIGEST)


def test_a_damaged_file_of_versions_permits_nothing_until_it_is_reset(controller, tmp_path):
    host = tmp_path / "host"
    ship(host, controller)
    for body in (b"", b"[]", b"1", b'{"hello": 1}', b'{"hello": {}}', b"[" * 200000, b"\xff", b"x" * (5 << 20)):
        (tmp_path / "etc/versions").write_bytes(body)
        with pytest.raises(PolicyError, match=rf"^{tmp_path}/etc/versions: ") as failure:
            ship(host, controller)
        assert "\n" not in str(failure.value)
    assert ship(host, controller, policy_reset=True)["changed"] and "hello" in kept(tmp_path)
    assert not ship(host, controller, policy_reset=True)["changed"], "a reset forgets no version"


def test_where_no_signature_is_required_no_version_is_kept(controller, tmp_path):
    build(controller)
    host = tmp_path / "host"
    for digest in (NEW, DIGEST):
        assert ship(host, controller, digest, signature="optional")["versions"] == {}
    assert not os.path.exists(tmp_path / "etc/versions")


# -- pure ---------------------------------------------------------------------------------------------

A, B = "a" * 64, "b" * 64
DIGESTS = st.sampled_from([A, B, "c" * 64])
ARRIVALS = st.builds(Arrived, DIGESTS, st.integers(0, 9))


@pytest.mark.parametrize(
    ("held", "arrived", "older"),
    [
        (None, Arrived(A, 0), False),
        (Highest(5, A), Arrived(A, 5), False),
        (Highest(5, A), Arrived(A, 4), False),
        (Highest(5, A), Arrived(A, 0), False),
        (Highest(5, A), Arrived(B, 6), False),
        (Highest(5, A), Arrived(B, 5), True),
        (Highest(5, A), Arrived(B, 4), True),
        (Highest(5, A), Arrived(B, 0), True),
        (Highest(0, A), Arrived(B, 0), True),
    ],
)
def test_what_is_older(held, arrived, older):
    assert is_older(held, arrived) is older and bool(refusal("a", held, arrived)) is older


@given(st.lists(st.tuples(ARRIVALS, st.booleans()), max_size=12))
def test_the_highest_never_falls(arrivals):
    held = {}
    for image, rollback in arrivals:
        if refusal("a", held.get("a"), image) and not rollback:
            continue
        result, lines = after(held, {"a": image}, "now")
        assert result["a"].version >= (held["a"].version if held else 0)
        assert bool(lines) == (is_older(held.get("a"), image) and held["a"].back_to != image.sha256)
        assert after(result, {"a": image}, "later") == (result, []), "once more, nothing changes"
        assert versions.parse(json.dumps(versions.rows(result)).encode()) == result
        held = result


@given(st.recursive(st.none() | st.integers() | st.text(), lambda more: st.lists(more) | st.dictionaries(st.text(), more)))
def test_any_json_is_versions_or_refused(content):
    try:
        versions.parse(json.dumps(content).encode())
    except PolicyError as error:
        assert "\n" not in str(error)
