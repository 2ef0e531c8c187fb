# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Signatures by ``ssh-keygen -Y``, with a key that people have already (ssh-keygen(1), ALLOWED SIGNERS).

What is signed is the statement of provenance, which names the image by its sha256.
"""

from __future__ import annotations

import base64
import os
import subprocess

from .provenance import ProvenanceError, read
from .store import digest_of, write_whole

NAMESPACE = "image@unikernels.xen"
STATEMENT, SIGNATURE = ".provenance.json", ".provenance.json.sig"
_SECONDS = 60


class SignatureError(Exception):
    """One line: which image, and what is wrong with its signature."""


def _ssh_keygen(*arguments: str, data: bytes = b"") -> tuple[int, bytes, str]:
    """Exit code, output, and the last line of what it said on stderr."""
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments], input=data, capture_output=True, timeout=_SECONDS, check=False,
            env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SignatureError("there is no ssh-keygen: apt-get install openssh-client") from error
    except subprocess.TimeoutExpired as error:
        raise SignatureError(f"ssh-keygen did not end within {_SECONDS} s: has the key a passphrase, and no agent?") from error
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return done.returncode, done.stdout, words[-1] if words else ""


def sign(text: bytes, key: str) -> bytes:
    """The signature over a statement, by the private (or an agent's public) ``key`` file."""
    if not os.path.isfile(key):
        raise SignatureError(f"signing_key: {key} is not a file")
    code, out, words = _ssh_keygen("-q", "-Y", "sign", "-n", NAMESPACE, "-f", key, data=text)
    if code:
        raise SignatureError(f"signing_key: {key} does not sign: {words or code}")
    return out


def _signed_by(signature: str, key: str) -> bool:
    """Whether the signature file was made with ``key``, as its public half beside it says; True where there is none.

    A signature is "SSHSIG", a version of 4 bytes, and the public key with its length (OpenSSH's PROTOCOL.sshsig).
    """
    try:
        with open(key if key.endswith(".pub") else key + ".pub", encoding="utf-8") as file:
            own = base64.b64decode(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return True
    with open(signature, encoding="ascii", errors="replace") as file:
        lines = [line for line in file.read().splitlines() if not line.startswith("-")]
    try:
        blob = base64.b64decode("".join(lines))
    except ValueError:
        return False
    return blob[:6] == b"SSHSIG" and blob[14 : 14 + int.from_bytes(blob[10:14], "big")] == own


def sidecars(store: str, digest: str) -> dict[str, str]:
    """The statement and the signature of an image, where they are: file name to sha256."""
    paths = [os.path.join(store, digest + kind) for kind in (STATEMENT, SIGNATURE)]
    return {os.path.basename(path): digest_of(path) for path in paths if os.path.exists(path)}


def attach(store: str, digest: str, text: bytes, key: str, check: bool) -> bool:
    """Put the statement ``text`` beside the image, where none is, and with a ``key`` the signature over the one that is.

    Whether that is a change. A statement that is there stays; a signature by another key than ``key`` is replaced, for keys
    change. ``text`` may be empty for an image that was stored before, and
    has its statement.
    """
    statement, signature = (os.path.join(store, digest + kind) for kind in (STATEMENT, SIGNATURE))
    there = os.path.exists(statement)
    wanted = bool(key) and not (os.path.exists(signature) and _signed_by(signature, key))
    if not there and not text:
        raise SignatureError(f"image {digest}: has no statement of provenance; remove {digest}.xen from {store} and run again")
    if there and wanted:
        with open(statement, "rb") as file:
            text = file.read()
    signed = sign(text, key) if wanted and not check else b""
    if not there and not check:
        write_whole(statement, text, 0o644)
    if signed:
        write_whole(signature, signed, 0o644)
    return wanted or not there


def verify(store: str, digest: str, allowed_signers: str, revoked: str = "") -> str:
    """Who signed the image ``digest``; SignatureError when nobody, or nobody who may (now).

    ``allowed_signers``: a file as of ssh-keygen(1); ``revoked``: a file of revoked keys (a KRL, or public keys).
    """
    statement, signature = (os.path.join(store, digest + kind) for kind in (STATEMENT, SIGNATURE))
    where = f"image {digest}"
    if not os.path.isfile(allowed_signers):
        raise SignatureError(f"{where}: cannot be verified: allowed_signers {allowed_signers} is not a file")
    try:
        with open(statement, "rb") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise SignatureError(f"{where}: has no statement of provenance beside it ({statement})") from error
    if not os.path.exists(signature):
        raise SignatureError(f"{where}: is not signed (no {signature}); build it with signing_key, or image_signature: optional")
    try:
        read(text, digest)
    except ProvenanceError as error:
        raise SignatureError(f"{where}: its statement of provenance: {error}") from error
    code, out, _words = _ssh_keygen("-Y", "find-principals", "-s", signature, "-f", allowed_signers)
    principals = out.decode("utf-8", "replace").splitlines()
    if code or not principals:
        raise SignatureError(f"{where}: is signed by a key that {allowed_signers} does not allow (unknown, or no longer valid)")
    revocation = ["-r", revoked] if revoked else []
    words = ""
    for principal in principals:
        code, _out, words = _ssh_keygen(
            "-Y", "verify", "-n", NAMESPACE, "-I", principal, "-s", signature, "-f", allowed_signers, *revocation, data=text
        )
        if not code:
            return principal
    raise SignatureError(f"{where}: its signature by {', '.join(principals)} is not good: {words}")
