# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Read the folder with a VPN's keys on the controller: its content, what is wrong with it, what is due.

The layout is easy-rsa's, so that an existing folder can be used as it is. `due` decides alike in check mode and in a run; only
`pki_writer` writes. There are only PEM files: a copy of the folder is a backup.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Keys
from ansible_collections.unikernels.xen.plugins.module_utils.service.vpn_config import Material, profile
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

CA_CERTIFICATE, CA_KEY, TLS_CRYPT = "pki/ca.crt", "pki/private/ca.key", "tls-crypt.key"
# Folders for renewed certificates, of which the last stays valid beside the new one, and for those of clients that left.
RENEWED, LEFT = "pki/renewed", "pki/left"
SERVER = "server"
# vpn_pki could name a file of any size.
_MAX_FILE = 1 << 20


class PkiError(Exception):
    """One line: the file, and what is wrong with it."""


@dataclass(frozen=True)
class Step:
    """Something to do. ``action``: tls-crypt, ca, renew-ca, issue (with a new key), renew, leave, profile."""

    action: str
    name: str = ""


@dataclass
class Pki:
    folder: str
    ca: x509.Certificate | None = None
    ca_key: bool = False  # whether its file exists: it may be kept elsewhere
    tls_crypt: str = ""
    certificates: dict[str, x509.Certificate] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    renewed: dict[str, x509.Certificate] = field(default_factory=dict)  # the last one of each name
    left: set[str] = field(default_factory=set)  # fingerprints
    profiles: dict[str, str] = field(default_factory=dict)


def certificate_file(name: str) -> str:
    return f"pki/issued/{name}.crt"


def key_file(name: str) -> str:
    return f"pki/private/{name}.key"


def profile_file(name: str) -> str:
    return f"{name}.ovpn"


def _text(folder: str, name: str) -> str:
    """Return a file's text; "" if there is none."""
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PkiError(f"{path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise PkiError(f"{path}: has more than {_MAX_FILE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PkiError(f"{path}: is not text") from None


def _certificate(folder: str, name: str) -> x509.Certificate | None:
    text = _text(folder, name)
    if not text:
        return None
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        raise PkiError(f"{os.path.join(folder, name)}: is not a certificate (PEM)") from None


def _names(folder: str, inside: str, ending: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(os.path.join(folder, inside)) if name.endswith(ending))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PkiError(f"{os.path.join(folder, inside)}: {error.strerror}") from None


def read(folder: str, clients: tuple[str, ...]) -> Pki:
    """Read the folder. Raise PkiError for a file that can't be read, or whose content doesn't match its name."""
    pki = Pki(folder, _certificate(folder, CA_CERTIFICATE), bool(_text(folder, CA_KEY)), _text(folder, TLS_CRYPT).rstrip())
    for file in _names(folder, "pki/issued", ".crt"):
        name = file[: -len(".crt")]
        certificate = _certificate(folder, certificate_file(name))
        if certificate is not None:
            pki.certificates[name] = certificate
    for name in (SERVER, *clients):
        pki.keys[name] = _text(folder, key_file(name)).rstrip()
        pki.profiles[name] = _text(folder, profile_file(name))
    for file in _names(folder, RENEWED, ".crt"):
        name, certificate = file.rsplit(".", 2)[0], _certificate(folder, f"{RENEWED}/{file}")
        newest = pki.renewed.get(name)
        if certificate is not None and (newest is None or ends(newest) < ends(certificate)):
            pki.renewed[name] = certificate
    for file in _names(folder, LEFT, ".crt"):
        certificate = _certificate(folder, f"{LEFT}/{file}")
        pki.left |= {fingerprint(certificate)} if certificate is not None else set()
    return pki


def ends(certificate: x509.Certificate) -> datetime.datetime:
    after = getattr(certificate, "not_valid_after_utc", None)  # cryptography 42 and later
    return after if after is not None else certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def begins(certificate: x509.Certificate) -> datetime.datetime:
    before = getattr(certificate, "not_valid_before_utc", None)
    return before if before is not None else certificate.not_valid_before.replace(tzinfo=datetime.timezone.utc)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the fingerprint as OpenVPN writes it: SHA-256, in pairs separated by colons."""
    return ":".join(f"{byte:02X}" for byte in certificate.fingerprint(hashes.SHA256()))


def public_bytes(holder: x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def ca_id(certificate: x509.Certificate) -> str:
    """Return the CA's identity: a digest of its public key, which a renewal keeps."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_bytes(certificate))
    return digest.finalize().hex()


def pem(certificate: x509.Certificate) -> str:
    """Return the certificate without the text that easy-rsa writes before it."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode().rstrip()


def signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    public, algorithm = ca.public_key(), certificate.signature_hash_algorithm
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(public, ec.EllipticCurvePublicKey) and algorithm:
            public.verify(signature, signed, ec.ECDSA(algorithm))
        elif isinstance(public, rsa.RSAPublicKey) and algorithm:
            public.verify(signature, signed, padding.PKCS1v15(), algorithm)
        else:
            public.verify(signature, signed)  # type: ignore[call-arg,union-attr]
    except (InvalidSignature, UnsupportedAlgorithm, AttributeError, TypeError, ValueError):
        return False
    return certificate.issuer == ca.subject


def _key_fits(folder: str, name: str, text: str, certificate: x509.Certificate) -> str:
    """Return what is wrong with a private key; "" if it matches its certificate."""
    path = os.path.join(folder, key_file(name))
    if not text:
        return f"{path}: is missing, and {certificate_file(name)} is useless without it; restore it from a backup"
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except TypeError:
        return f"{path}: has a passphrase; an endpoint and a profile need it without one"
    except (ValueError, UnsupportedAlgorithm):
        return f"{path}: is not a private key (PEM)"
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "" if public == public_bytes(certificate) else f"{path}: does not belong to {certificate_file(name)}"


def _foreign(pki: Pki, name: str) -> bool:
    """True if there is a certificate that another CA signed."""
    return pki.ca is not None and name in pki.certificates and not signed_by(pki.certificates[name], pki.ca)


def is_new(pki: Pki) -> bool:
    """True if nothing was ever issued here; files of an interrupted creation don't count."""
    return pki.ca is None and not pki.certificates


def problems(pki: Pki, wanted: Keys) -> list[str]:
    """What is wrong, a line each. `vpn_new_ca` is how a user says that another CA is meant."""
    lines: list[str] = []
    foreign: list[str] = []

    def path(name: str) -> str:
        return os.path.join(pki.folder, name)

    if is_new(pki):
        return []
    if pki.ca is None and not wanted.new_ca:
        return [
            f"{path(CA_CERTIFICATE)}: is missing; restore it from a backup, or set vpn_new_ca: true for a new CA and profiles"
        ]
    if not pki.tls_crypt and not wanted.new_ca:
        lines.append(f"{path(TLS_CRYPT)}: is missing, and each profile has it; restore it from a backup, or set vpn_new_ca: true")
    for name in (SERVER, *wanted.clients):
        certificate = pki.certificates.get(name)
        if certificate is None or (wanted.new_ca and (pki.ca is None or _foreign(pki, name))) or _has_left(pki, name):
            continue
        if _foreign(pki, name):
            foreign.append(name)
            continue
        unfit = _key_fits(pki.folder, name, pki.keys.get(name, ""), certificate)
        lines += [unfit] if unfit else []
    return [_not_signed(pki.folder, foreign), *lines] if foreign else lines


def _not_signed(folder: str, names: list[str]) -> str:
    """One line for one cause, however many certificates it is seen by."""
    files = [certificate_file(name) for name in names]
    if len(files) == 1:
        what = f"{os.path.join(folder, files[0])}: is not signed by {CA_CERTIFICATE}"
    else:
        what = f"{os.path.join(folder, CA_CERTIFICATE)}: did not sign {files[0]} and {len(files) - 1} more"
    return (
        f"{what}: was a file of the CA replaced by hand?"
        " Restore it from a backup, or set vpn_new_ca: true for new certificates and profiles"
    )


def _has_left(pki: Pki, name: str) -> bool:
    return name in pki.certificates and fingerprint(pki.certificates[name]) in pki.left


def _days_left(certificate: x509.Certificate, now: datetime.datetime) -> float:
    return (ends(certificate) - now) / datetime.timedelta(days=1)


def _ca_is_due(ca: x509.Certificate, wanted: Keys, now: datetime.datetime) -> bool:
    """True if the CA must be renewed: it must outlast what it signs. If its life is too short for that, after a quarter of it."""
    life = (ends(ca) - begins(ca)) / datetime.timedelta(days=1)
    return _days_left(ca, now) < min(wanted.days + wanted.renew_days, 0.75 * life)


def _due_ca(pki: Pki, wanted: Keys, now: datetime.datetime) -> Iterator[Step]:
    if not pki.tls_crypt:
        yield Step("tls-crypt")
    if pki.ca is None:
        yield Step("ca")
    elif pki.ca_key and _ca_is_due(pki.ca, wanted, now):
        yield Step("renew-ca")


def due(pki: Pki, wanted: Keys, now: datetime.datetime) -> list[Step]:
    """Return the steps in order. Don't perform them if there are problems."""
    steps = list(_due_ca(pki, wanted, now))
    new_ca = bool(steps)
    for name in (SERVER, *wanted.clients):
        certificate = pki.certificates.get(name)
        if certificate is None or pki.ca is None or _has_left(pki, name) or (wanted.new_ca and _foreign(pki, name)):
            steps.append(Step("issue", name))
        elif _days_left(certificate, now) < wanted.renew_days or (name == SERVER and Step("renew-ca") in steps):
            # Certificates by easy-rsa name the CA's certificate, not only its key.
            steps.append(Step("renew", name))
    declared = {SERVER, *wanted.clients}
    steps += [Step("leave", name) for name in sorted(pki.certificates) if name not in declared and not _has_left(pki, name)]
    touched = {step.name for step in steps}
    steps += [
        Step("profile", name)
        for name in wanted.clients
        if new_ca or name in touched or pki.profiles.get(name) != profile_of(pki, wanted, name)
    ]
    return steps


def impossible(pki: Pki, steps: list[Step], now: datetime.datetime) -> list[str]:
    """Return one line for each step that needs the CA's key if that is kept elsewhere."""
    signs = [step for step in steps if step.action in ("issue", "renew", "renew-ca")]
    if pki.ca is None or pki.ca_key or not signs:
        return []
    lines = []
    for step in signs:
        certificate = pki.certificates.get(step.name) if step.action == "renew" else None
        why = "is to be issued" if certificate is None else f"ends on {ends(certificate):%Y-%m-%d}"
        if certificate is not None and _days_left(certificate, now) < 0:
            why = f"has ended on {ends(certificate):%Y-%m-%d}"
        path = os.path.join(pki.folder, certificate_file(step.name))
        lines.append(f"{path}: {why}, and {CA_KEY} is not there to sign it")
    return lines


def profile_of(pki: Pki, wanted: Keys, name: str) -> str:
    if pki.ca is None or name not in pki.certificates:
        return ""
    return profile(wanted.remote, wanted.port, pem(pki.ca), pem(pki.certificates[name]), pki.keys.get(name, ""), pki.tls_crypt)


def _good(pki: Pki, name: str) -> tuple[str, ...]:
    """Return the fingerprints of a client's valid certificates: the current one, and the previous one until the next renewal."""
    current, before = pki.certificates.get(name), pki.renewed.get(name)
    if current is None or fingerprint(current) in pki.left:
        return ()
    marks = [fingerprint(current)]
    if before is not None and fingerprint(before) not in (*pki.left, *marks):
        marks.append(fingerprint(before))
    return tuple(marks)


def material_of(pki: Pki, wanted: Keys, now: datetime.datetime) -> Material | None:
    """Return what the endpoint's configuration takes from the PKI; None if it is incomplete."""
    if pki.ca is None or SERVER not in pki.certificates or not pki.tls_crypt:
        return None
    pending = tuple(f"{step.action} {step.name}".strip() for step in due(pki, wanted, now) if step.action in ("issue", "renew"))
    return Material(
        certificate=pem(pki.certificates[SERVER]),
        key=pki.keys.get(SERVER, ""),
        tls_crypt=pki.tls_crypt,
        clients={name: _good(pki, name) for name in wanted.clients},
        pending=pending,
    )


def ends_of(pki: Pki) -> dict[str, str]:
    """Map CA, server and each client that may connect to the end of its certificate."""
    found = {name: item for name, item in pki.certificates.items() if fingerprint(item) not in pki.left}
    if pki.ca is not None:
        found["ca"] = pki.ca
    return {name: f"{ends(certificate):%Y-%m-%dT%H:%M:%SZ}" for name, certificate in sorted(found.items())}
