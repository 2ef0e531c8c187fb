"""Lines of allowed signers: what ssh-keygen would leave out in silence is refused, with the number of the line."""

import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.image import signer_lines
from ansible_collections.unikernels.xen.plugins.module_utils.image.policy import PolicyError, revocations, signers
from ansible_collections.unikernels.xen.plugins.module_utils.image.signature import NAMESPACE, key_blob, sign

GOOD = [
    "alice@x {key}",
    'alice@x {key} a comment, with = and "',
    "alice@x\t{key}",
    '"alice in x" {key}',
    "alice@x,bob@x {key}",
    "*@x,!mallory@x {key}",
    'alice@x namespaces="image@unikernels.xen" {key}',
    'alice@x NAMESPACES="git,image@*" {key}',
    'alice@x namespaces="*",valid-after="20200101Z",valid-before="29990101000000Z" {key}',
]
FORM = "is not 'NAME [options] TYPE KEY', see ssh-keygen(1)"
BAD = [
    ("{key}", FORM),  # a .pub file as it is
    ("{key} alice@x", FORM),
    ("alice@x", FORM),
    ("alice@x ssh-ed25519", FORM),
    ("alice@x ssh-ed25519 AAAA", FORM),
    ("alice@x ssh-rsa {data}", FORM),
    ("alice@x namespaces=image@unikernels.xen {key}", FORM),
    ('alice@x namespaces="image@unikernels.xen", {key}', FORM),
    # A login key may not hide behind a key that is none.
    ('alice@x namespaces="{key}" ssh-ed25519 AAAA', FORM),
    ("alice@x\u2028 {key}", FORM),
    ("\u202ealice@x {key}", FORM),
    ("ali\x00ce@x {key}", FORM),
    ("ali\x1bce@x {key}", FORM),
    ("alice@x cert-authority {key}", "cert-authority: what a certificate signed can't be revoked by its key"),
    ('alice@x namespaces="git" {key}', f"namespaces: has no {NAMESPACE}, so it is for no image"),
    ('alice@x namespaces="*,!image@*" {key}', "namespaces: has no"),
    ('alice@x namespaces="" {key}', "namespaces: has no"),
    ('alice@x namespace="image@unikernels.xen" {key}', "namespace: is not an option; known are"),
    ("alice@x verify-required {key}", "verify-required: is not an option; known are"),
    ('alice@x valid-before="2027-01-01" {key}', "valid-before: '2027-01-01' is not a time, as in 20270101Z"),
    ("alice@x valid-before {key}", "valid-before: is not an option"),
    ('alice@x valid-before="20271301" {key}', "valid-before: '20271301' is not a time"),
    ('alice@x valid-before="202701312500Z" {key}', "valid-before: '202701312500Z' is not a time"),
    ('alice@x valid-before="00000000" {key}', "valid-before: '00000000' is not a time"),
    ('alice@x valid-before="19690101" {key}', "valid-before: '19690101' is not a time"),
    ('alice@x valid-before="20270101",valid-before="29990101" {key}', "has an option twice"),
    ('alice@x namespaces="image@*",NameSpaces="image@*" {key}', "has an option twice"),
    ('alice@x valid-after="20300101",valid-before="20270101" {key}', "valid-after: is not before valid-before"),
    ("!alice@x {key}", "names nobody: it has no name without '!'"),
    (", {key}", "names nobody"),
    ("a" * 2000 + " {key}", "has a name of more than 1000 characters"),
    ("alice@x {key}=", FORM),
]


@pytest.fixture
def key(keys):
    return " ".join((keys / "alice.pub").read_text().split()[:2])


def test_what_is_taken_is_taken_by_ssh_keygen_as_well(keys, key, tmp_path):
    (tmp_path / "signature").write_bytes(sign(b"x", str(keys / "alice")))
    for line in GOOD:
        line = line.format(key=key)
        assert signers(f"# {line}\n\n{line}\r\n{line}") == (line,) and signer_lines.blob_of(line) == key_blob(key)
        (tmp_path / "allowed").write_text(line + "\n")
        command = ["ssh-keygen", "-Y", "find-principals", "-s", tmp_path / "signature", "-f", tmp_path / "allowed"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0, line


@pytest.mark.parametrize(("line", "words"), BAD)
def test_what_ssh_keygen_leaves_out_is_refused(key, line, words):
    line = line.format(key=key, data=key.split()[1])
    with pytest.raises(PolicyError) as failure:
        signers(f"alice@x {key}\n\n{line}\n")
    assert str(failure.value).startswith(f"unikernel_images_allowed_signers: line 3 {words}") and "\n" not in str(failure.value)


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r"])
def test_no_signer_hides_in_a_comment(key, end):
    """What ends a line for Python, and not for ssh-keygen or an editor, ends none here."""
    assert signers(f"# who left: {end}mallory@x {key}\n") == ()
    assert revocations(f"# {end}{key}\n") == ()
