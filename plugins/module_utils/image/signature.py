# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Signatures by ``ssh-keygen -Y``, with a key that people have already (ssh-keygen(1), ALLOWED SIGNERS).

What is signed is the statement of provenance, which names the image by its sha256.
"""

from __future__ import annotations

import os
import subprocess

from .provenance import ProvenanceError, read
from .store import write_whole

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


def attach(store: str, digest: str, text: bytes, key: str, check: bool) -> bool:
    """Put the statement ``text`` beside the image, where none is, and with a ``key`` the signature over the one that is.

    Whether that is a change. What is there stays as it is. ``text`` may be empty for an image that was stored before, and
    has its statement.
    """
    statement, signature = (os.path.join(store, digest + kind) for kind in (STATEMENT, SIGNATURE))
    there = os.path.exists(statement)
    wanted = bool(key) and not os.path.exists(signature)
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
