"""Who signed an image, under which name; and what may be signed with which key."""

import base64
import json
import os
import pwd
import re
import shutil
import signal
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import lock_file, provenance, signature
from ansible_collections.unikernels.xen.plugins.module_utils.image.provenance import Claim
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import (
    SignatureError,
    attach,
    key_blob,
    key_blobs,
    key_problem,
    login_key_refusal,
    public_half,
    sign,
    verify,
)

DIGEST, OTHER = "ab" * 32, "cd" * 32


def statement(name="web", digest=DIGEST, **more):
    return provenance.statement(name, digest, built=True, parameters={}, materials=[], builder={"id": "b"}, key="k", **more)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store")


def signed(store, keys, *names, key="alice", text=None):
    return attach(store, DIGEST, text or statement(names[0]), str(keys / key), False, names)


def check(store, keys, name="", revoked=True):
    return verify(store, DIGEST, str(keys / "allowed"), str(keys / "revoked") if revoked else "", name)


def refusal(*arguments, **options):
    with pytest.raises(SignatureError) as failure:
        check(*arguments, **options)
    text = str(failure.value)
    assert "\n" not in text and not text.rstrip().endswith(":"), text
    return text


def names_in(store):
    return list(provenance.claims_of(provenance.read(open(f"{store}/{DIGEST}.provenance.json", "rb").read(), DIGEST)))


def test_an_image_signed_as_one_name_is_no_other(store, keys):
    assert signed(store, keys, "throwaway")
    assert check(store, keys, "throwaway") == check(store, keys) == "alice@x"
    assert refusal(store, keys, "web") == f"image web ({DIGEST[:12]}): is signed as throwaway, not as web"


def test_one_image_may_have_several_names_and_keeps_them(store, keys):
    assert signed(store, keys, "ns1", "ns2") and not signed(store, keys, "ns1")
    assert attach(store, DIGEST, b"", str(keys / "alice"), True, ("ns3",)) and names_in(store) == ["ns1", "ns2"]
    assert attach(store, DIGEST, b"", str(keys / "alice"), False, ("ns3",))
    assert names_in(store) == ["ns1", "ns2", "ns3"]
    assert [check(store, keys, name) for name in names_in(store)] == ["alice@x"] * 3
    assert not attach(store, DIGEST, b"", str(keys / "alice"), False, ("ns2",))


@pytest.mark.parametrize(
    "planted",
    [b'{"anything": "at all"}', b"[]", b"1", b"\xff", b"[" * 100000, statement("web", OTHER), b"", b"x" * (5 << 20)],
    ids=range(8),
)
def test_a_planted_statement_is_not_signed(store, keys, planted):
    with open(f"{store}/{DIGEST}.provenance.json", "wb") as file:
        file.write(planted)
    for text in (b"", statement()):
        with pytest.raises(SignatureError, match=rf"^image {DIGEST}: its statement of provenance: .*; remove .*, and run again$"):
            attach(store, DIGEST, text, str(keys / "alice"), False, ("web",))
    assert os.listdir(store) == [f"{DIGEST}.provenance.json"]


def test_names_that_somebody_else_wrote_are_not_signed(store, keys):
    with open(f"{store}/{DIGEST}.provenance.json", "wb") as file:
        file.write(provenance.restated(statement(), DIGEST, {"web": Claim(), "vpn": Claim(7)}))
    attach(store, DIGEST, b"", str(keys / "alice"), False, ("web",))
    assert names_in(store) == ["web"] and "not as vpn" in refusal(store, keys, "vpn")
    # Nor with the signature of another image, or over another text.
    for key in ("mallory", "alice"):
        text = provenance.restated(statement(), DIGEST, {"web": Claim(), "vpn": Claim(7)})
        with open(f"{store}/{DIGEST}.provenance.json", "wb") as file:
            file.write(text)
        with open(f"{store}/{DIGEST}.provenance.json.sig", "wb") as file:
            file.write(sign(text if key == "mallory" else b"x", str(keys / key)))
        attach(store, DIGEST, b"", str(keys / "alice"), False, ("web",))
        assert names_in(store) == ["web"] and check(store, keys, "web") == "alice@x"


def test_without_a_key_a_statement_is_kept_and_a_signed_one_left_alone(store, keys):
    assert attach(store, DIGEST, statement("a"), "", True) and os.listdir(store) == []
    assert attach(store, DIGEST, statement("a"), "", False) and not attach(store, DIGEST, statement("a"), "", False)
    assert attach(store, DIGEST, statement("b"), "", False) and names_in(store) == ["a", "b"]
    signed(store, keys, "a")
    before = open(f"{store}/{DIGEST}.provenance.json").read()
    assert not attach(store, DIGEST, statement("c"), "", False)
    assert open(f"{store}/{DIGEST}.provenance.json").read() == before and check(store, keys, "a") == "alice@x"


def test_a_dry_run_signs_nothing(store, keys):
    assert attach(store, DIGEST, statement(), str(keys / "alice"), True, ("web",)) and os.listdir(store) == []


def test_an_image_without_a_statement_is_said(store, keys):
    with pytest.raises(SignatureError, match=f"has no statement of provenance; remove {DIGEST}.xen from .* and run again"):
        attach(store, DIGEST, b"", str(keys / "alice"), False, ("web",))


def test_another_key_signs_again(store, keys):
    signed(store, keys, "web")
    assert signed(store, keys, "web", key="bob") and not signed(store, keys, "web", key="bob")
    assert check(store, keys, "web", revoked=False) == "bob@x"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("bob", "its signature by bob@x is not good: the key is revoked"),
        ("mallory", "does not allow (unknown, or no longer valid)"),
        ("late", "does not allow (unknown, or no longer valid)"),
    ],
)
def test_who_may_not_sign(store, keys, key, words):
    signed(store, keys, "web", key=key)
    assert words in refusal(store, keys, "web")


def test_what_is_missing_or_altered_is_said(store, keys):
    signed(store, keys, "web")
    path = f"{store}/{DIGEST}.provenance.json"
    text = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(text.replace(b'"id": "b"', b'"id": "c"'))
    assert "its signature by alice@x is not good: " in refusal(store, keys, "web")
    with open(path, "wb") as file:
        file.write(b"x" * (5 << 20))
    assert "its statement of provenance: has more than" in refusal(store, keys, "web")
    with open(path, "wb") as file:
        file.write(statement("web", OTHER))
    assert "its statement of provenance: it is about another image" in refusal(store, keys, "web")
    with open(path, "wb") as file:
        file.write(text)
    with open(path + ".sig", "wb") as file:
        file.write(b"rubbish")
    assert "does not allow" in refusal(store, keys, "web")
    with open(path + ".sig", "wb") as file:
        file.write(b"x" * (5 << 20))
    assert "does not allow" in refusal(store, keys, "web") or "its signature has more than" in refusal(store, keys, "web")
    os.unlink(path + ".sig")
    assert refusal(store, keys, "web") == f"image web ({DIGEST[:12]}): is not signed (no {path}.sig)"
    os.unlink(path)
    assert "has no statement of provenance beside it" in refusal(store, keys)
    with pytest.raises(SignatureError, match="allowed_signers /nosuch is not a file"):
        verify(store, DIGEST, "/nosuch")


def test_a_signature_of_another_namespace_is_not_good(store, keys):
    """A signature made for something else, a commit or a letter, doesn't sign an image."""
    signed(store, keys, "web")
    path = f"{store}/{DIGEST}.provenance.json"
    text = (keys / "allowed").read_text().replace(f' namespaces="{signature.NAMESPACE}"', "")
    (keys / "allowed").write_text(text)
    assert check(store, keys, "web") == "alice@x"
    os.unlink(path + ".sig")
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(keys / "alice"), path], check=True)
    assert "its signature by alice@x is not good: " in refusal(store, keys, "web")


def test_sidecars_are_those_that_are_there(store, keys):
    assert signature.sidecars(store, DIGEST) == {}
    signed(store, keys, "web")
    assert sorted(signature.sidecars(store, DIGEST)) == [f"{DIGEST}.provenance.json", f"{DIGEST}.provenance.json.sig"]


# -- keys ---------------------------------------------------------------------------------------------


def test_a_login_key_signs_no_images(tmp_path, keys, monkeypatch):
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("alice", "alice.pub"):
        shutil.copy(keys / name, home / ".ssh" / name.replace("alice", "id_ed25519"))
    shutil.copy(keys / "bob", home / ".ssh/images")
    for path in ("id_ed25519", "id_ed25519.pub"):
        with pytest.raises(
            SignatureError, match=r"is a key that ssh logs in with; images need a key of their own: ssh-keygen -t"
        ):
            sign(b"x", str(home / ".ssh" / path))
    (tmp_path / "link").symlink_to(home / ".ssh/id_ed25519")
    assert login_key_refusal(str(tmp_path / "link"))
    assert sign(b"x", str(home / ".ssh/images")).startswith(b"-----BEGIN SSH SIGNATURE")
    # Also without its public half beside it; options and comments before the key don't hide it.
    (home / ".ssh/authorized_keys").write_text('# a\nfrom="10.0.0.0/8" ' + (keys / "bob.pub").read_text())
    with pytest.raises(SignatureError, match=r"logs in to this machine \(.*authorized_keys\); images need a key of their own"):
        sign(b"x", str(home / ".ssh/images"))
    assert login_key_refusal(str(keys / "alice")) == "" and login_key_refusal(str(home / "id_ed25519")) == ""


def test_keys_that_log_in_are_found_where_sshd_looks(tmp_path, keys, monkeypatch):
    """A user of a service has a home elsewhere, and sshd_config may name other files."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/x.conf").write_text(
        f'Port 22\nauthorizedkeysfile="{tmp_path}/keys.d/%u"  .keys/%u %h/own\n# AuthorizedKeysFile /no\n'
    )
    monkeypatch.setattr(signature, "_SSHD", (str(tmp_path / "nosuch"), str(tmp_path / "conf.d/*")))
    home = tmp_path / "var/service"
    for path in (tmp_path / "keys.d/ansible", home / ".keys/x", home / "own", home / ".ssh/authorized_keys2"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(keys / "bob.pub", path)
        assert signature.logins([str(home)]) == {public_half(str(keys / "bob")): str(path)}
        path.unlink()
    assert signature.logins([str(home)]) == {}
    assert signature.login_files("AuthorizedKeysFile none\nAuthorizedKeysFile", ["/h[1]"])[0] == "/h[[]1]/.ssh/authorized_keys"
    assert {entry.pw_dir for entry in pwd.getpwall()} <= set(signature.homes()) and "/root" in signature.homes()


def test_a_key_that_does_not_sign_is_said(tmp_path, keys):
    with pytest.raises(SignatureError, match=r"^signing_key: /nosuch is not a file$"):
        sign(b"x", "/nosuch")
    (tmp_path / "bad").write_text("rubbish")
    with pytest.raises(SignatureError, match=r"^signing_key: .*/bad does not sign: .+"):
        sign(b"x", str(tmp_path / "bad"))


def test_the_public_half(keys):
    blob = key_blob((keys / "alice.pub").read_text())
    assert blob[4:15] == b"ssh-ed25519"
    assert public_half(str(keys / "alice")) == public_half(str(keys / "alice.pub")) == blob
    (keys / "alice.pub").unlink()
    assert public_half(str(keys / "alice")) == blob and public_half("/nosuch") == b""
    # With a passphrase, and in old file formats.
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(keys / "alice")], check=True)
    assert public_half(str(keys / "alice")) == blob
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", str(keys / "pem")], check=True)
    old = key_blob((keys / "pem.pub").read_text())
    (keys / "pem.pub").unlink()
    assert public_half(str(keys / "pem")) == old
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "secret", "-f", str(keys / "locked")], check=True)
    assert public_half(str(keys / "locked")) == key_blob((keys / "locked.pub").read_text())
    (keys / "rubbish").write_text("x" * 100)
    assert public_half(str(keys / "rubbish")) == b""


def test_a_key_that_cannot_be_read_does_not_sign_again_and_again(store, keys, monkeypatch):
    signed(store, keys, "web")
    monkeypatch.setattr(signature, "public_half", lambda _key: b"")
    assert not signed(store, keys, "web")


def test_the_key_in_a_signature(keys):
    assert signature.signing_key_of(sign(b"x", str(keys / "alice"))) == key_blob((keys / "alice.pub").read_text())
    for rubbish in (b"", b"!!!", b"AAAA", b"\xff", base64.b64encode(b"x" * 100)):
        assert signature.signing_key_of(rubbish) == b""


@pytest.mark.parametrize("line", ["", "a", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa !!!!", "a@x b c d", "ssh-ed25519 AAAAC3N"])
def test_lines_that_have_no_key(line):
    assert key_blob(line) == b""


def test_keys_are_found_in_any_kind_of_file(keys):
    blob = key_blob((keys / "alice.pub").read_text())
    assert key_blobs((keys / "allowed").read_text()) == {
        key_blob((keys / f"{name}.pub").read_text()) for name in ("alice", "bob", "late")
    }
    assert key_blobs("# " + (keys / "alice.pub").read_text()) == set() and key_blobs((keys / "alice.pub").read_text()) == {blob}


def test_a_key_is_tried_before_anything_is_built(keys):
    allowed, revoked = str(keys / "allowed"), str(keys / "revoked")
    assert key_problem(str(keys / "alice"), allowed, revoked) == "" == key_problem(str(keys / "bob"), allowed)
    assert "the key is revoked" in key_problem(str(keys / "bob"), allowed, revoked)
    assert "does not allow" in key_problem(str(keys / "mallory"), allowed)
    assert key_problem("/nosuch", allowed) == "signing_key: /nosuch is not a file"


def test_a_key_in_a_device_is_looked_up_and_not_used(tmp_path, keys, monkeypatch):
    """A run with nothing to sign must not need its owner."""
    parts = (b"sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:")
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    line = f"sk-ssh-ed25519@openssh.com {base64.b64encode(blob).decode()} alice"
    (keys / "device.pub").write_text(line)
    (keys / "device").write_text("what only the device can use")
    assert signature.is_touched(str(keys / "device")) and not signature.is_touched(str(keys / "alice"))
    started = []
    monkeypatch.setattr(signature, "_ssh_keygen", lambda *arguments, **_data: started.append(arguments) or (1, b"", ""))
    allowed, revoked = str(keys / "allowed"), str(keys / "revoked")
    assert key_problem(str(keys / "device"), allowed, revoked).endswith("device: is a key that " + allowed + " does not allow")
    with open(allowed, "a") as file:
        file.write(f'alice@x namespaces="{signature.NAMESPACE}" {line}\n')
    assert key_problem(str(keys / "device"), allowed, revoked) == ""
    with open(revoked, "a") as file:
        file.write(line)
    assert key_problem(str(keys / "device"), allowed, revoked).endswith("device: the key is revoked")
    assert started == []


def test_a_key_that_an_agent_holds_signs_by_its_public_half(store, keys, tmp_path, monkeypatch):
    agent = subprocess.run(["ssh-agent", "-a", str(tmp_path / "a")], capture_output=True, text=True, check=True).stdout
    process = int(re.search(r"SSH_AGENT_PID=(\d+)", agent).group(1))
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "a"))
        subprocess.run(["ssh-add", "-q", str(keys / "alice")], check=True)
        (keys / "alice").unlink()
        assert signed(store, keys, "web", key="alice.pub") and not signed(store, keys, "web", key="alice.pub")
        assert check(store, keys, "web") == "alice@x" and key_problem(str(keys / "alice.pub"), str(keys / "allowed")) == ""
    finally:
        os.kill(process, signal.SIGTERM)
    with pytest.raises(SignatureError, match=r"^signing_key: .*alice\.pub does not sign: "):
        sign(b"x", str(keys / "alice.pub"))


def test_ssh_keygen_is_missed_by_name_and_not_waited_for_without_end(keys, monkeypatch):
    monkeypatch.setenv("PATH", "/nosuch")
    with pytest.raises(SignatureError, match=r"^there is no ssh-keygen: apt-get install openssh-client$"):
        sign(b"x", str(keys / "alice"))
    monkeypatch.undo()

    def late(*_arguments, **options):
        assert options["timeout"] == 60
        raise subprocess.TimeoutExpired("ssh-keygen", 60)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(
        SignatureError, match="timed out after 60 s; if the key has a passphrase, load it into ssh-agent; if it is"
    ):
        sign(b"x", str(keys / "alice"))


# -- statements ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(_type="x"), "it is of type 'x', not"),
        (lambda s: s.update(predicateType="x"), "it is of type"),
        (lambda s: s.update(subject=[]), "it is about another image"),
        (lambda s: s["subject"][0]["digest"].update(sha256=OTHER), "it is about another image"),
        (lambda s: s["subject"].append({"name": "b", "digest": {"sha256": OTHER}}), "it is about another image"),
        (lambda s: s["subject"].append({"name": "b", "digest": {"sha256": 1}}), "it is not an in-toto statement"),
        (lambda s: s["subject"][0].update(name=1), "it is not an in-toto statement"),
        (lambda s: s["subject"][0].pop("name"), "it is not an in-toto statement"),
        (lambda s: s.update(predicate=1), "it is not an in-toto statement"),
        (lambda s: s["predicate"]["buildDefinition"].update(externalParameters=[]), "it is not an in-toto statement"),
        (lambda s: s.update(subject=["x"]), "it is not an in-toto statement"),
        (lambda s: s["subject"][0].update(annotations=1), "it is not an in-toto statement"),
        (lambda s: s["subject"][0].update(annotations={"version": "1"}), "its version '1' is not a time of signing"),
        (lambda s: s["subject"][0].update(annotations={"version": True}), "its version True is not a time of signing"),
        (lambda s: s["subject"][0].update(annotations={"version": 10**14}), "its version 1(0+) is not a time of signing"),
        (lambda s: s["subject"][0].update(annotations={"version": -1}), "its version -1 is not a time of signing"),
        (lambda s: s["subject"][0].update(annotations={"expires": "soon"}), "it expires 'soon', which is not a time"),
        (lambda s: s["subject"][0].update(annotations={"expires": 1}), "it expires '1', which is not a time"),
    ],
)
def test_what_is_no_statement_about_an_image(change, words):
    content = json.loads(statement())
    change(content)
    with pytest.raises(provenance.ProvenanceError, match=words):
        provenance.read(json.dumps(content).encode(), DIGEST)


def test_a_statement_says_what_was_put_in():
    text = provenance.statement(
        "web", DIGEST, built=True, parameters={"a": 1}, materials=[{"name": "m"}], builder={"id": "host", "mirage": "4"},
        key="k",
    )  # fmt: skip
    found = provenance.read(text, DIGEST)
    definition, details = found["predicate"]["buildDefinition"], found["predicate"]["runDetails"]
    assert definition["buildType"] == provenance.BUILD_TYPE and definition["internalParameters"] == {"key": "k"}
    assert definition["externalParameters"] == {"a": 1} and definition["resolvedDependencies"] == [{"name": "m"}]
    assert details["builder"] == {"id": "host", "version": {"mirage": "4"}} and details["metadata"]["finishedOn"].endswith("Z")
    assert provenance.claims_of(found) == {"web": Claim()}
    given = provenance.statement("web", DIGEST, built=False, parameters={}, materials=[], builder={}, key="")
    found = provenance.read(given, DIGEST)
    assert found["predicate"]["buildDefinition"]["buildType"] == provenance.GIVEN_TYPE
    assert found["predicate"]["buildDefinition"]["externalParameters"] == {}
    assert given.endswith(b"}\n") and provenance.restated(given, DIGEST, {"web": Claim()}) is given


LOCK = """opam-version: "2.0"
depends: [
  "arp" {= "4.0.0" & ?vendor}
  "conf-gmp" {= "4+dune"}
]
pin-depends: [
  ["arp.4.0.0" "https://example.net/arp.tbz"]
]
"""


def test_packages_of_a_lock_file():
    materials = lock_file.materials(lock_file.read(LOCK))
    assert materials == [{"name": "arp", "uri": "pkg:opam/arp@4.0.0"}, {"name": "conf-gmp", "uri": "pkg:opam/conf-gmp@4%2Bdune"}]
    assert lock_file.materials(lock_file.read("")) == []
    others = [{"uri": "git+https://x"}, {"name": "lock file"}, 1, {"uri": 1}]
    text = provenance.statement("a", DIGEST, built=True, parameters={}, materials=others + materials[::-1], builder={}, key="")
    found = provenance.read(text, DIGEST)
    assert provenance.packages(found) == [{"name": "arp", "version": "4.0.0"}, {"name": "conf-gmp", "version": "4+dune"}]
    found["predicate"]["buildDefinition"]["resolvedDependencies"] = 1
    assert provenance.packages(found) == []
