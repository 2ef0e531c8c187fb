# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check a certificate with its chain and key, as a user gives them, before any host is touched.

No message repeats any part of a key. Pure except for the clock, which can be passed in.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any

MISSING = "reading it needs the Python library cryptography on the controller (ansible-core brings it along)"
_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----.*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----", re.DOTALL)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Chain:
    """``text``: the certificates, the server's own first, then the key, in PEM. ``name``: the first name that it is for."""

    text: str
    name: str
    ends: datetime.datetime
    names: tuple[str, ...] = ()
    begins: datetime.datetime | None = None

    def is_late(self, now: datetime.datetime) -> bool:
        """Whether it should have been renewed: a sixth of its time is left, and less than three weeks."""
        left, begins = self.ends - now, self.begins or self.ends
        return left < min((self.ends - begins) / 6, datetime.timedelta(days=21))

    def is_for(self, name: str) -> bool:
        """As browsers see it: a ``*`` is for one label, the first."""
        wanted = name.lower().rstrip(".")
        parent = f"*.{wanted.partition('.')[2]}"
        return any(own.lower() == wanted or (own.lower() == parent and len(parent) > 2) for own in self.names)


def problem_of(certificate: Any, key: Any, now: datetime.datetime | None = None) -> Chain | str:
    """Return the chain, or what is wrong with it, in one line. ``now``: in UTC, without a time zone."""
    for name, text in (("certificate", certificate), ("key", key)):
        if not isinstance(text, str):
            return f"{name} must be text in PEM, as lookup('ansible.builtin.file', ...) gives it"
    certificates, keys = _CERTIFICATE.findall(certificate), _KEY.findall(key)
    if not certificates:
        return "certificate has no -----BEGIN CERTIFICATE-----; give the text of the file, not its path"
    if len(keys) != 1:
        return f"key has {len(keys)} private keys, must have one, without a passphrase"
    try:
        return _chain(certificates, keys[0], now or datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None))
    except ImportError:
        return MISSING


def _chain(certificates: list[str], key: str, now: datetime.datetime) -> Chain | str:
    # Imported here: what imports this room must not need it.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain = [x509.load_pem_x509_certificate(text.encode()) for text in certificates]
    except ValueError:
        return "certificate can't be read: a block of it is not a certificate in PEM"
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except TypeError:
        return "key has a passphrase, and nobody can type it when the domain starts"
    except (ValueError, _unsupported()):
        return "key can't be read: it is not a private key in PEM"
    own = chain[0]
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if own.public_key().public_bytes(encoding, form) != private.public_key().public_bytes(encoding, form):
        return "certificate and key don't belong together (the server's own certificate comes first, then those that signed it)"
    for signed, signer in zip(chain, chain[1:]):
        if signed.issuer != signer.subject:
            return "certificate is not a chain: each one must be signed by the next; the server's own comes first"
        if not _signed_by(signed, signer):
            return "certificate is not a chain: one was signed by another key than the next one has; was that replaced?"
    return _in_time(chain, key, now)


def _signed_by(signed: Any, signer: Any) -> bool:
    from cryptography.exceptions import InvalidSignature

    verify = getattr(signed, "verify_directly_issued_by", None)  # cryptography 40 has it; before, names must do
    try:
        return verify is None or verify(signer) is None
    except (InvalidSignature, TypeError, ValueError):
        return False


def _in_time(chain: list[Any], key: str, now: datetime.datetime) -> Chain | str:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    begins = max(_naive(each, "not_valid_before") for each in chain)
    ends = min(_naive(each, "not_valid_after") for each in chain)
    if now < begins:
        return f"certificate is valid from {begins:%Y-%m-%d %H:%M} UTC on, not yet"
    if now >= ends:
        return f"certificate has expired, on {ends:%Y-%m-%d %H:%M} UTC"
    try:
        own = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = (*own.get_values_for_type(x509.DNSName), *map(str, own.get_values_for_type(x509.IPAddress)))
    except x509.ExtensionNotFound:
        names = ()
    if not names:
        return "certificate has no subjectAltName, so browsers refuse it"
    pem = "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in chain)
    return Chain(f"{pem}{key}\n", re.sub(r"^\*\.", "www.", names[0]), ends, names, begins)


def _naive(certificate: Any, field: str) -> datetime.datetime:
    """cryptography has time-zone-aware fields since version 42; earlier ones have only naive fields."""
    aware = getattr(certificate, f"{field}_utc", None)
    value: datetime.datetime = aware.replace(tzinfo=None) if aware else getattr(certificate, field)
    return value


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm
