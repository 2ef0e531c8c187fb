# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Signatures by ``ssh-keygen -Y`` (ssh-keygen(1), ALLOWED SIGNERS), with a key that signs only images.

The signed text is the statement of provenance. It has the image's sha256 and its permitted names, each with a version: an image
signed under one name can't be used under another, and of two images of a name the newer one is known.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import glob
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from . import provenance
from .elf import printable
from .provenance import Claim, ProvenanceError
from .store import digest_of, history, read_text, write_whole

NAMESPACE = "image@unikernels.xen"
STATEMENT, SIGNATURE = ".provenance.json", ".provenance.json.sig"
NEW_KEY = "ssh-keygen -t ed25519 -f ~/.config/unikernels/images"
_SECONDS = 60
# One of an RSA key of 16384 bits has 6 KB. ssh-keygen takes minutes to see that megabytes are no signature.
MAX_SIGNATURE = 16 << 10
# What may name further files of keys that log in (sshd_config(5)).
_SSHD = ("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*")
_PRIVATE = b"openssh-key-v1\0"
# The file names that ssh tries by itself at a login (ssh_config(5), IdentityFile).
_LOGIN_KEY = re.compile(r"id_(rsa|dsa|ecdsa|ecdsa_sk|ed25519|ed25519_sk|xmss)(\.pub)?")


class SignatureError(Exception):
    """One line: which image, and what is wrong with its signature."""


def _ssh_keygen(*arguments: str, data: bytes = b"") -> tuple[int, bytes, str]:
    """Run ssh-keygen. Return (exit code, output, the reason in one line, never empty after a failure)."""
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments], input=data, capture_output=True, timeout=_SECONDS, check=False,
            env={**os.environ, "SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SignatureError("there is no ssh-keygen: apt-get install openssh-client") from error
    except subprocess.TimeoutExpired as error:
        raise SignatureError(
            f"ssh-keygen timed out after {_SECONDS} s; if the key has a passphrase, load it into ssh-agent; if it is in a device,"
            " touch that while the task runs"
        ) from error
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return done.returncode, done.stdout, printable(lines[-1].strip()) if lines else f"ssh-keygen exits with {done.returncode}"


# -- keys ---------------------------------------------------------------------------------------------


def key_blob(line: str) -> bytes:
    """Return the public key in a line of a .pub, authorized_keys, allowed_signers or revoked_keys file; b"" if none."""
    fields = line.split()
    for kind, text in zip(fields, fields[1:]):
        if len(text) % 4:  # Python takes a "=" too many, ssh doesn't
            continue
        try:
            blob = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            continue
        # A public key begins with its type (RFC 4253, 6.6).
        if blob[4 : 4 + int.from_bytes(blob[:4], "big")] == kind.encode("utf-8", "replace") and kind:
            return blob
    return b""


def key_blobs(text: str) -> set[bytes]:
    """Return the public keys in a file's lines; comments have none."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return {blob for blob in map(key_blob, lines) if blob}


def public_half(key: str) -> bytes:
    """Return the public key of a key file, from its .pub or itself, even with a passphrase; b"" if unreadable."""
    for path in [key] if key.endswith(".pub") else [key + ".pub", key]:
        try:
            text = read_text(path).decode("utf-8", "replace")
        except (OSError, ValueError):
            continue
        blobs = key_blobs(text) or {_in_private_file(text)}
        if any(blobs):
            return blobs.pop()
    code, out, _words = _ssh_keygen("-y", "-P", "", "-f", key)  # old keys in PEM
    return key_blob(out.decode("utf-8", "replace")) if not code else b""


def _in_private_file(text: str) -> bytes:
    """Return the public key of an OpenSSH private key file, where it is not encrypted (PROTOCOL.key); b"" for another file."""
    try:
        blob = base64.b64decode("".join(line for line in text.splitlines() if not line.startswith("-")), validate=True)
    except ValueError:
        return b""
    fields, rest = [], blob[len(_PRIVATE) :] if blob.startswith(_PRIVATE) else b""
    # Cipher, key derivation and its options, each with its length; the number of keys; the first public key.
    for before in (0, 0, 0, 4):
        size = int.from_bytes(rest[before : before + 4], "big")
        fields.append(rest[before + 4 : before + 4 + size])
        rest = rest[before + 4 + size :]
    return fields[-1]


def is_touched(key: str) -> bool:
    """True if somebody must touch a device for each signature (ssh-keygen's types that end with -sk)."""
    return public_half(key)[4:7] == b"sk-"


def logins(homes: list[str]) -> dict[bytes, str]:
    """Return the keys that log in to this machine, each with the file that allows it. ``homes``: home folders."""
    texts = []
    for path in [path for pattern in _SSHD for path in sorted(glob.glob(pattern))]:
        with contextlib.suppress(OSError, ValueError):
            texts.append(read_text(path).decode("utf-8", "replace"))
    keys: dict[bytes, str] = {}
    for pattern in login_files("\n".join(texts), homes):
        for path in glob.glob(pattern):
            with contextlib.suppress(OSError, ValueError):
                keys.update({blob: path for blob in key_blobs(read_text(path).decode("utf-8", "replace"))})
    return keys


def login_files(config: str, homes: list[str]) -> list[str]:
    """Return patterns (glob) of the files with keys that log in: the usual ones, and AuthorizedKeysFile in sshd's ``config``."""
    names = [".ssh/authorized_keys", ".ssh/authorized_keys2"]
    for line in config.splitlines():
        words = line.replace("=", " ", 1).replace('"', " ").split()
        names += words[1:] if words and words[0].lower() == "authorizedkeysfile" else []
    patterns = []
    for name in dict.fromkeys(names):
        # %h is a user's home, %u the user's name, %U their number.
        inside = name[len("%h/") :] if name.startswith("%h/") else name
        pattern = re.sub("%[a-zA-Z]", "*", glob.escape(inside))
        patterns += [pattern] if inside.startswith("/") else [os.path.join(glob.escape(home), pattern) for home in homes]
    return patterns


def homes() -> list[str]:
    """Return the home folders on this machine, those of services too."""
    return sorted({"/root", *glob.glob("/home/*"), *(entry.pw_dir for entry in pwd.getpwall() if entry.pw_dir)})


def login_key_refusal(key: str) -> str:
    """Return why a key file may not sign images; "" if it may. Whoever steals a login key must not get the images too."""
    make = f"images need a key of their own: {NEW_KEY}"
    path = os.path.realpath(key)
    if _LOGIN_KEY.fullmatch(os.path.basename(path)) and os.path.basename(os.path.dirname(path)) == ".ssh":
        return f"{key} is a key that ssh logs in with; {make}"
    where = logins([os.path.expanduser("~"), *homes()]).get(public_half(key))
    return f"{key} logs in to this machine ({where}); {make}" if where else ""


# -- signing ------------------------------------------------------------------------------------------


def sign(text: bytes, key: str) -> bytes:
    """Return the signature of a statement by the ``key`` file, private (or public, if an agent has the key)."""
    if not os.path.isfile(key):
        raise SignatureError(f"signing_key: {key} is not a file")
    refusal = login_key_refusal(key)
    if refusal:
        raise SignatureError(f"signing_key: {refusal}")
    code, out, words = _ssh_keygen("-q", "-Y", "sign", "-n", NAMESPACE, "-f", key, data=text)
    if code:
        raise SignatureError(f"signing_key: {key} does not sign: {words}")
    return out


def signing_key_of(signature: bytes) -> bytes:
    """Return a signature's public key: after "SSHSIG" and a version of 4 bytes, with its length (OpenSSH's PROTOCOL.sshsig)."""
    lines = [line for line in signature.decode("ascii", "replace").splitlines() if not line.startswith("-")]
    try:
        blob = base64.b64decode("".join(lines), validate=True)
    except ValueError:
        return b""
    return blob[10 + 4 : 14 + int.from_bytes(blob[10:14], "big")] if blob[:6] == b"SSHSIG" else b""


def read_signature(path: str) -> bytes:
    """OSError, or ValueError where it is too long to be one."""
    data = read_text(path)
    if len(data) > MAX_SIGNATURE:
        raise ValueError(f"has more than {MAX_SIGNATURE} bytes")
    return data


def _signed_by(statement: str, signature: str, key: str) -> bool:
    """True if the signature file is valid for the statement file and by ``key``. An unreadable key matches any."""
    try:
        text, signer, own = read_text(statement), signing_key_of(read_signature(signature)), public_half(key)
    except (OSError, ValueError):
        return False
    return own in (b"", signer) and not _ssh_keygen("-Y", "check-novalidate", "-n", NAMESPACE, "-s", signature, data=text)[0]


def sidecars(store: str, digest: str) -> dict[str, str]:
    """Return an image's statement and signature, if they exist: file name -> sha256."""
    paths = [os.path.join(store, digest + kind) for kind in (STATEMENT, SIGNATURE)]
    return {os.path.basename(path): digest_of(path) for path in paths if os.path.exists(path)}


def attach(
    store: str, digest: str, text: bytes, key: str, check: bool, names: tuple[str, ...] = (), valid_days: int = 0,
    again: bool = False, stated: Callable[[bytes, bool], bytes] = lambda text, _good: text,
) -> bool:  # fmt: skip
    """Save the statement ``text`` of an image, and its signature by ``key`` if given. Return whether anything changes.

    A statement that is there stays, but that it gets the ``names`` that the image is declared to have. It is read before it
    is signed: one about another image is refused, and of its names those are signed that are declared, or that this very key
    has signed before: nothing is vouched for that somebody else wrote into the store. ``text`` may be empty for an image
    that was stored before, and has its statement. Each declared name gets a version, higher than that of the name's other
    images; ``again``: also where it has one. ``stated``: the statement as it may be signed, `origin.naming`.
    SignatureError says what can't be signed, and why.
    """
    statement, signature = (os.path.join(store, digest + kind) for kind in (STATEMENT, SIGNATURE))
    there = os.path.exists(statement)
    if not there and not text:
        raise SignatureError(f"image {digest}: has no statement of provenance; remove {digest}.xen from {store} and run again")
    try:
        old = read_text(statement) if there else text
        before = provenance.claims_of(provenance.read(old, digest))
        declared = set(names) or set(provenance.claims_of(provenance.read(text, digest)) if text else before)
        good = there and bool(key) and _signed_by(statement, signature, key)
        if not key:  # unsigned: the names only inform people
            named = {**before, **{name: Claim() for name in declared - set(before)}}
            new = old if os.path.exists(signature) else provenance.restated(old, digest, named)
        else:
            signed_before = before if good else {}
            claims = {name: _claim(store, name, digest, signed_before, valid_days, again) for name in declared}
            new = provenance.restated(stated(old, good), digest, {**signed_before, **claims})
    except (ProvenanceError, ValueError) as error:
        raise SignatureError(
            f"image {digest}: its statement of provenance: {error}; remove {statement}, and run again"
        ) from error
    wanted = bool(key) and not (good and new == old)
    signed = sign(new, key) if wanted and not check else b""
    changed = wanted or not there or new != old
    if not check:
        if not there or new != old:
            write_whole(statement, new, 0o644)
        if signed:
            write_whole(signature, signed, 0o644)
    return changed


def _claim(store: str, name: str, digest: str, before: dict[str, Claim], valid_days: int, again: bool) -> Claim:
    others = [_version_in(store, other, name) for other in history(store, name) if other != digest]
    return provenance.claim_for(before.get(name, Claim()), others, datetime.now(timezone.utc), valid_days, again)


def _version_in(store: str, digest: str, name: str) -> int:
    """Return the version that a stored statement gives the image under a name; 0 if none, or if it is invalid."""
    try:
        claims = provenance.claims_of(provenance.read(read_text(os.path.join(store, digest + STATEMENT)), digest))
    except (OSError, ValueError):
        return 0
    return claims.get(name, Claim()).version


# -- verifying ----------------------------------------------------------------------------------------


def verify(store: str, digest: str, allowed_signers: str, revoked: str = "", name: str = "") -> str:
    """Return who signed the image ``digest`` as ``name``. Raise SignatureError if no allowed signer (at this time) did."""
    return verified(store, digest, allowed_signers, revoked, name)[0]


def verified(store: str, digest: str, allowed_signers: str, revoked: str = "", name: str = "") -> tuple[str, int]:
    """Return (who signed the image ``digest`` as ``name``, its version under that name).

    ``allowed_signers``: a file as in ssh-keygen(1); ``revoked``: a file of revoked keys (a KRL, or public keys). An empty
    ``name`` accepts any.
    """
    where = f"image {name} ({digest[:12]})" if name else f"image {digest}"
    if not os.path.isfile(allowed_signers):
        raise SignatureError(f"{where}: cannot be verified: allowed_signers {allowed_signers} is not a file")
    text, content = _statement_of(where, store, digest)
    try:
        signer = _good_signer(where, text, os.path.join(store, digest + SIGNATURE), allowed_signers, revoked)
    except (OSError, ValueError) as error:
        raise SignatureError(f"{where}: its signature {getattr(error, 'strerror', None) or error}") from error
    claims = provenance.claims_of(content)
    if name and name not in claims:
        raise SignatureError(f"{where}: is signed as {printable(', '.join(claims))}, not as {name}")
    now = datetime.now(timezone.utc)
    valid = {called: claim for called, claim in claims.items() if called == (name or called) and not claim.expired(now)}
    if not valid:
        expired = max(claim.expires for called, claim in claims.items() if called == (name or called))
        raise SignatureError(f"{where}: its signature expired at {expired} (unikernel_images_valid_days); sign it again")
    return signer, max(claim.version for claim in valid.values())


def _statement_of(where: str, store: str, digest: str) -> tuple[bytes, dict[str, Any]]:
    """Return the text and the content of a signed image's statement."""
    statement, signature = (os.path.join(store, digest + kind) for kind in (STATEMENT, SIGNATURE))
    try:
        text = read_text(statement)
    except FileNotFoundError as error:
        raise SignatureError(f"{where}: has no statement of provenance beside it ({statement})") from error
    except (OSError, ValueError) as error:
        raise SignatureError(f"{where}: its statement of provenance: {getattr(error, 'strerror', None) or error}") from error
    if not os.path.exists(signature):
        raise SignatureError(f"{where}: is not signed (no {signature})")
    try:
        return text, provenance.read(text, digest)
    except ProvenanceError as error:
        raise SignatureError(f"{where}: its statement of provenance: {error}") from error


def _good_signer(
    where: str, text: bytes, signature: str, allowed_signers: str, revoked: str, what: str = "is signed by a key"
) -> str:
    signer = signing_key_of(read_signature(signature))
    code, out, _words = _ssh_keygen("-Y", "find-principals", "-s", signature, "-f", allowed_signers)
    principals = out.decode("utf-8", "replace").splitlines()
    if code or not principals:
        raise SignatureError(f"{where}: {what} that {allowed_signers} does not allow (unknown, or no longer valid)")
    if revoked and signer in key_blobs(read_text(revoked).decode("utf-8", "replace")):
        raise SignatureError(f"{where}: its signature by {printable(', '.join(principals))} is not good: the key is revoked")
    reason = ""
    for principal in principals:
        code, _out, reason = _ssh_keygen(
            "-Y", "verify", "-n", NAMESPACE, "-I", principal, "-s", signature, "-f", allowed_signers,
            *(["-r", revoked] if revoked else []), data=text,
        )  # fmt: skip
        if not code:
            return principal
    raise SignatureError(f"{where}: its signature by {printable(', '.join(principals))} is not good: {reason}")


def _not_listed(where: str, blob: bytes, allowed_signers: str, revoked: str) -> str:
    if blob not in key_blobs(read_text(allowed_signers).decode("utf-8", "replace")):
        return f"{where}: is a key that {allowed_signers} does not allow"
    is_revoked = revoked and blob in key_blobs(read_text(revoked).decode("utf-8", "replace"))
    return f"{where}: the key is revoked" if is_revoked else ""


def key_problem(key: str, allowed_signers: str, revoked: str = "") -> str:
    """Return why signatures by ``key`` would be refused; "" if accepted. Signs a meaningless text and discards it.

    A key on a device that must be touched is only looked up: a run without anything to sign must not need anybody.
    """
    if is_touched(key):
        return login_key_refusal(key) or _not_listed(f"signing_key: {key}", public_half(key), allowed_signers, revoked)
    text = b"a key is tried\n"
    try:
        with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
            path = os.path.join(folder, "signature")
            write_whole(path, sign(text, key), 0o600)
            _good_signer(f"signing_key: {key}", text, path, allowed_signers, revoked, "is a key")
    except SignatureError as error:
        return str(error)
    return ""
