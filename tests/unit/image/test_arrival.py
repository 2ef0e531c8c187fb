"""Images taken into a host's store: from the controller, with signatures and names, under the host's policy."""

import hashlib
import json

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import arrival, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import PolicyError
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import SignatureError
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import (
    StoreError,
    describe,
    history,
    known_names,
)

from .stores import ALL, DIGEST, IMAGE, call, files, signed, whole


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


def test_a_statement_that_was_signed_again_goes_alone(tmp_path, controller):
    host = tmp_path / "host"
    whole(host, controller)
    signature.attach(str(controller.store), DIGEST, b"", str(controller.keys / "bob"), False, ("hello",))
    looked = call(host, shipping={"files": controller.files(), "final": False})
    # The statement too when the second has changed, which is the version of a name; never the image.
    assert {f"{DIGEST}.provenance.json.sig"} == set(looked["missing"]) - {f"{DIGEST}.provenance.json"}
    assert whole(host, controller)["taken"] == []
    assert (host / ALL[2]).read_bytes() == (controller.store / ALL[2]).read_bytes()
    # Each store writes its own descriptions; another one doesn't count as missing.
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
        with pytest.raises(StoreError, match=rf"^{DIGEST}.xen: the received file has the sha256 .*; it was removed: run again$"):
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


def test_optional_after_a_policy_that_left_it_open_stays_required(tmp_path, controller):
    """trust.yml without unikernel_images_signature makes a policy that requires signatures by default."""
    host = tmp_path / "host"
    for _run in range(2):
        policy = call(host, signature=None, allowed_signers=controller.allowed, trust=str(tmp_path / "etc"))["policy"]
    assert policy["signature"] == "required"
    assert not call(host, signature=None, allowed_signers=controller.allowed, trust=str(tmp_path / "etc"))["changed"]
    later = call(host, signature="optional", trust=str(tmp_path / "etc"))
    assert later["policy"]["signature"] == "required" and "stays required" in later["notes"][0]
    # As it was written before.
    written = json.loads((tmp_path / "etc/policy").read_text())
    (tmp_path / "etc/policy").write_text(json.dumps({**written, "signature": None}))
    assert call(host, signature="optional", trust=str(tmp_path / "etc"))["policy"]["signature"] == "required"


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
