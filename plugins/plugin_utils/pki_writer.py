# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Create and renew what is due in a VPN's folder.

Each file is written atomically, and in an order that lets the next run complete what a killed one left: a key before its
certificate, the copy of an old certificate before the new one. A renewal keeps the key, so that only one file changes. A client
that left and is declared again gets a new key.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
from collections.abc import Iterator

from ansible_collections.unikernels.xen.plugins.module_utils.image.store import write_whole
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Keys
from ansible_collections.unikernels.xen.plugins.plugin_utils import pki as pkis
from ansible_collections.unikernels.xen.plugins.plugin_utils.pki import Pki, PkiError, Step
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Allows for clocks that differ: a certificate that begins in the future is not valid.
_SKEW = datetime.timedelta(days=1)
_FOLDERS = ("", "pki", "pki/private", "pki/issued", pkis.RENEWED, pkis.LEFT)


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the lock of a folder, created for its owner only: one run at a time."""
    for inside in _FOLDERS:
        os.makedirs(os.path.join(folder, inside), mode=0o700, exist_ok=True)
    with open(os.open(os.path.join(folder, ".lock"), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Writer:
    def __init__(self, pki: Pki, wanted: Keys, now: datetime.datetime) -> None:
        self._pki, self._wanted, self._now = pki, wanted, now
        self._signer: ec.EllipticCurvePrivateKey | None = None

    def perform(self, step: Step) -> str:
        """Perform a step. Return one line that says what was done."""
        if step.action == "tls-crypt":
            return self._make_tls_crypt()
        if step.action == "ca":
            return self._make_ca()
        if step.action == "renew-ca":
            return self._renew_ca()
        if step.action == "issue":
            return self._issue(step.name)
        if step.action == "renew":
            return self._renew(step.name)
        if step.action == "leave":
            return self._leave(step.name)
        return self._write_profile(step.name)

    def _write(self, name: str, text: str) -> None:
        write_whole(os.path.join(self._pki.folder, name), f"{text.rstrip()}\n".encode(), 0o600)

    def _make_tls_crypt(self) -> str:
        digits = os.urandom(256).hex()
        lines = "\n".join(digits[at : at + 32] for at in range(0, len(digits), 32))
        text = (
            "#\n# 2048 bit OpenVPN static key\n#\n-----BEGIN OpenVPN Static key V1-----\n"
            f"{lines}\n-----END OpenVPN Static key V1-----"
        )
        self._write(pkis.TLS_CRYPT, text)
        self._pki.tls_crypt = text
        return "created the tls-crypt key"

    def _new_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self._write(pkis.key_file(name), text)
        self._pki.keys[name] = text.rstrip()
        return key

    def _ca_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the CA's key, of whatever type; easy-rsa creates RSA keys by default, which have the same methods."""
        if self._signer is None:
            path = os.path.join(self._pki.folder, pkis.CA_KEY)
            try:
                with open(path, "rb") as file:
                    key = serialization.load_pem_private_key(file.read(), None)
            except TypeError:
                raise PkiError(f"{path}: has a passphrase, and a certificate is to be signed; remove it for the run") from None
            except ValueError:
                raise PkiError(f"{path}: is not a private key (PEM)") from None
            if self._pki.ca is not None:
                own = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
                if own != pkis.public_bytes(self._pki.ca):
                    raise PkiError(f"{path}: does not belong to {pkis.CA_CERTIFICATE}; restore both from a backup")
            self._signer = key  # type: ignore[assignment]
        return self._signer  # type: ignore[return-value]

    def _signed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        key = self._ca_key()
        plain = isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
        return builder.sign(key, None if plain else hashes.SHA256())

    def _ca_builder(self, subject: x509.Name) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .not_valid_before(self._now - _SKEW)
            .not_valid_after(self._now + datetime.timedelta(days=self._wanted.ca_days))
        )

    def _make_ca(self) -> str:
        # Use an existing key without a certificate, from a run that was killed in between; it is never overwritten.
        self._signer = self._ca_key() if self._pki.ca_key else self._new_key("ca")
        public = self._signer.public_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "unikernels.xen VPN")])
        builder = self._ca_builder(name).public_key(public).serial_number(x509.random_serial_number())
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        self._pki.ca = self._signed(builder)
        self._write(pkis.CA_CERTIFICATE, pkis.pem(self._pki.ca))
        return f"created a CA, {pkis.ca_id(self._pki.ca)[:16]}"

    def _ca(self) -> x509.Certificate:
        """Return the CA, which exists before anything is signed or renewed: see the order of the steps."""
        if self._pki.ca is None:
            raise AssertionError("no CA has been created")
        return self._pki.ca

    def _renew_ca(self) -> str:
        """Renew the CA with the same key, name, extensions and serial number: what it signed is valid with either certificate."""
        old = self._ca()
        builder = self._ca_builder(old.subject).public_key(old.public_key()).serial_number(old.serial_number)
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        self._pki.ca = self._signed(builder)
        self._write(f"{pkis.RENEWED}/ca.{old.serial_number:x}.crt", pkis.pem(old))
        self._write(pkis.CA_CERTIFICATE, pkis.pem(self._pki.ca))
        return f"renewed the CA's certificate until {pkis.ends(self._pki.ca):%Y-%m-%d}"

    def _certificate(self, name: str, public: ec.EllipticCurvePublicKey) -> x509.Certificate:
        ca = self._ca()
        use = ExtendedKeyUsageOID.SERVER_AUTH if name == pkis.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(ca.subject)
            .not_valid_before(self._now - _SKEW)
            .not_valid_after(min(self._now + datetime.timedelta(days=self._wanted.days), pkis.ends(ca)))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_authority(ca), critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=False)
        )
        if name == pkis.SERVER:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return self._signed(builder)

    def _issue(self, name: str) -> str:
        old = self._pki.renewed.pop(name, None)
        public = self._new_key(name).public_key()
        certificate = self._certificate(name, public)
        self._write(pkis.certificate_file(name), pkis.pem(certificate))
        self._pki.certificates[name] = certificate
        if old is not None:
            self._forget_renewed(name)
        return f"created the key of {'the server' if name == pkis.SERVER else name}"

    def _renew(self, name: str) -> str:
        old = self._pki.certificates[name]
        certificate = self._certificate(name, old.public_key())  # type: ignore[arg-type]
        self._forget_renewed(name)
        self._write(f"{pkis.RENEWED}/{name}.{old.serial_number:x}.crt", pkis.pem(old))
        self._write(pkis.certificate_file(name), pkis.pem(certificate))
        self._pki.certificates[name] = certificate
        self._pki.renewed[name] = old
        whose = "the server" if name == pkis.SERVER else name
        until, before = f"{pkis.ends(certificate):%Y-%m-%d}", f"{pkis.ends(old):%Y-%m-%d}"
        return f"renewed the certificate of {whose} until {until}; the old one ends on {before}"

    def _forget_renewed(self, name: str) -> None:
        folder = os.path.join(self._pki.folder, pkis.RENEWED)
        for file in os.listdir(folder):
            if file.endswith(".crt") and file.rsplit(".", 2)[0] == name:
                os.unlink(os.path.join(folder, file))

    def _leave(self, name: str) -> str:
        certificate = self._pki.certificates[name]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._pki.folder, pkis.profile_file(name)))
        self._write(f"{pkis.LEFT}/{name}.{certificate.serial_number:x}.crt", pkis.pem(certificate))
        self._pki.left.add(pkis.fingerprint(certificate))
        self._pki.renewed.pop(name, None)
        self._forget_renewed(name)
        return f"{name} is refused from now on: it is no longer in vpn_clients"

    def _write_profile(self, name: str) -> str:
        text = pkis.profile_of(self._pki, self._wanted, name)
        write_whole(os.path.join(self._pki.folder, pkis.profile_file(name)), text.encode(), 0o600)
        self._pki.profiles[name] = text
        before = self._pki.renewed.get(name)
        until = f"; the one before is good until {pkis.ends(before):%Y-%m-%d}" if before is not None else ""
        return f"wrote {os.path.join(self._pki.folder, pkis.profile_file(name))}, hand it to {name}{until}"


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Identify the CA by its key only, since its certificate is renewed."""
    try:
        own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def bring_up_to_date(wanted: Keys, now: datetime.datetime, write: bool) -> tuple[list[str], Pki]:
    """Perform what is due (or only list it if not ``write``). Return the lines and the resulting PKI. Raise PkiError."""
    found = pkis.read(wanted.folder, wanted.clients)
    if not write:
        _judge(found, wanted, now)
        return [f"would {step.action} {step.name}".strip() for step in pkis.due(found, wanted, now)], found
    if not pkis.due(found, wanted, now) and not pkis.problems(found, wanted):
        return [], found
    with locked(wanted.folder):
        found = pkis.read(wanted.folder, wanted.clients)  # another run may have changed it meanwhile
        _judge(found, wanted, now)
        writer = Writer(found, wanted, now)
        return [writer.perform(step) for step in pkis.due(found, wanted, now)], found


def _judge(found: Pki, wanted: Keys, now: datetime.datetime) -> None:
    lines = pkis.problems(found, wanted) or pkis.impossible(found, pkis.due(found, wanted, now), now)
    if lines:
        raise PkiError("; ".join(lines))
