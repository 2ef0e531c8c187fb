# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""DNSSEC: a zone's text and its keys -> the signed zone. Pure.

There is no state beside the keys. Time is divided into periods of half the days that signatures are valid; all runs of a period
write the same signatures, byte for byte, so that a second run changes nothing and check mode predicts it. The first run of the
next period renews them, when half of their time is left.

Each key signs everything (a combined signing key). With two keys, while one replaces the other, both sign, so that a resolver
may know either of them. CDS and CDNSKEY name all keys for a parent that reads them (RFC 7344).
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..fleet.plain import holds_unresolved
from .serials import raised
from .variables import Variables
from .zones import ZoneError, canonical

MISSING = (
    "signing zones needs the Python libraries dnspython 2.4 or later and cryptography on the controller (Debian 13's"
    " python3-dnspython and python3-cryptography, or both by pip)"
)
ALGORITHMS = ("ed25519", "ecdsap256sha256")
USUAL_DAYS, MIN_DAYS, MAX_DAYS = 28, 4, 365
MAX_KEYS = 2
# Resolvers keep the keys for so long, whatever the zone's TTL: short enough to replace a key within a day.
KEY_TTL = 3600
_OPTIONS = ("keys", "zones", "days")
_AS_IN = "as in {keys: /srv/keys/dns}"
_DAY = 86400
# 2025-01-01: serials rise by the days since then.
_EPOCH = 1735689600
# What only the signer writes.
_OURS = re.compile(r"^\S+ \d+ IN (TYPE(?:46|47|48|50|51|59|60)) ", re.MULTILINE)
_NAMES = {"46": "RRSIG", "47": "NSEC", "48": "DNSKEY", "50": "NSEC3", "51": "NSEC3PARAM", "59": "CDS", "60": "CDNSKEY"}


@dataclass(frozen=True)
class ZoneKey:
    """A private key of a zone. ``number``: counts up with each new one; ``text``: PEM."""

    number: int
    text: str = field(repr=False)


Keys = Mapping[str, tuple[ZoneKey, ...]]


@dataclass(frozen=True)
class Signing:
    """How a server's zones are signed: the folder with keys, the names of the zones, days that signatures are valid."""

    folder: str
    zones: tuple[str, ...]
    days: int = USUAL_DAYS


def key_file(zone: str, number: int) -> str:
    return f"{zone}.{number}.pem"


def read(given: Variables) -> Signing | None:
    """Return C(dns_sign), None if no zone is to be signed."""
    value = given.mapping("sign", f"keys, zones and days, {_AS_IN}")
    # What is not resolved was reported where it stands.
    if not value or holds_unresolved(value):
        return None
    unknown = sorted(str(key) for key in set(value) - set(_OPTIONS))
    if unknown:
        given.wrong("sign", f"unknown key {', '.join(map(repr, unknown))}; known are {', '.join(_OPTIONS)}")
        return None
    nested = Variables("sign", {f"sign_{key}": entry for key, entry in value.items()})
    folder, names = nested.text("keys"), nested.texts("zones", "names of zones")
    if not folder.strip() and not nested.problems:
        nested.wrong("keys", f"is empty, must be a folder, {_AS_IN}")
    days = nested.number("days", USUAL_DAYS, MIN_DAYS, MAX_DAYS, "a number of days")
    for line in nested.problems:
        given.wrong("sign", line.removeprefix("sign_"))
    zones = given.get("zones")
    # What can't be a zone's name is reported there, and must not name a file.
    names_of_zones = [name for name in zones if isinstance(name, str) and "/" not in name] if isinstance(zones, dict) else []
    declared = list(map(_plain, names_of_zones))
    chosen = list(dict.fromkeys(map(_plain, names))) if value.get("zones") is not None else declared
    for name in chosen:
        if name not in declared:
            given.wrong("sign", f"zones: {name} is not in dns_zones (a zone of dns_primaries is signed by its primary)")
    if not chosen and not nested.problems:
        given.wrong("sign", "there is no zone to sign: declare dns_zones too")
    return None if nested.problems else Signing(folder, tuple(chosen), days)


def _plain(name: str) -> str:
    return name.rstrip(".").lower()


def sign_zones(given: Variables, signing: Signing, keys: Keys, zones: dict[str, str], now: float) -> None:
    """Replace each text by the signed one, and report each zone that can't be signed. ``keys``: what the folder has."""
    # Of a zone that could not be read that was reported.
    for name in (each for each in signing.zones if each in zones):
        if not keys.get(name):
            given.wrong(
                "sign",
                f"zone {name} has no key: {signing.folder}/{key_file(name, 1)} is missing; restore it from its backup, or, if"
                " the zone was never signed, create it with playbooks/dns_keys.yml",
            )
            continue
        try:
            zones[name] = signed(name, zones[name], keys[name], signing.days, now)
        except ZoneError as error:
            given.wrong("sign", f"zone {name}: {error}")
        except ImportError:
            given.wrong("sign", MISSING)
            return


def period(days: int, now: float) -> tuple[int, int]:
    """Return when signatures of now begin to be valid, and when they end. They are renewed after half of ``days``."""
    start = int(now) // (days * _DAY // 2) * (days * _DAY // 2)
    # Allows for clocks that differ.
    return start - _DAY, start + days * _DAY


def signed(name: str, text: str, keys: tuple[ZoneKey, ...], days: int, now: float) -> str:
    """Return a canonical zone signed and canonical again. Raise `ZoneError`, or ImportError without the libraries."""
    return _signed(name, text, keys, *period(days, now))


@functools.lru_cache(maxsize=1024)  # one zone is often served by many hosts
def _signed(name: str, text: str, keys: tuple[ZoneKey, ...], begins: int, ends: int) -> str:
    import dns.dnssec
    import dns.exception
    import dns.name
    import dns.zone

    if not hasattr(dns.dnssec, "sign_zone"):
        raise ImportError(MISSING)
    ours = _OURS.search(text)
    if ours:
        written = _NAMES[ours.group(1)[4:]]
        raise ZoneError(f"it has {written} records, which the run writes: remove them, or leave the zone out of dns_sign.zones")
    if len(keys) > MAX_KEYS:
        files = ", ".join(key_file(name, key.number) for key in keys)
        raise ZoneError(
            f"it has {len(keys)} keys ({files}), and can have {MAX_KEYS} while one replaces the other: remove the oldest"
        )
    origin = dns.name.from_text(f"{name}.")
    zone = dns.zone.from_text(_with_serial(text, keys, begins), origin=origin, relativize=False)
    _check(zone)
    pairs = _publish(zone, [_private(name, key) for key in keys])
    glue = _without_glue(zone)
    try:
        dns.dnssec.sign_zone(zone, keys=pairs, add_dnskey=False, inception=begins, expiration=ends)
    except (dns.exception.DNSException, ValueError) as error:
        raise ZoneError(" ".join(str(error).split()) or type(error).__name__) from None
    for owner, records in glue:
        zone.replace_rdataset(owner, records)
    # `begins` is in the past for sure, and so the signatures are valid then.
    return canonical(name, zone.to_text(relativize=False), begins)


def ds_records(name: str, keys: tuple[ZoneKey, ...]) -> list[str]:
    """Return the records for the parent zone, one for each key."""
    import dns.dnssec
    import dns.name

    origin = dns.name.from_text(f"{name}.")
    publics = [dns.dnssec.make_dnskey(private.public_key(), algorithm, flags=257)
               for private, algorithm in (_private(name, key) for key in keys)]  # fmt: skip
    return [f"{origin} IN DS {dns.dnssec.make_ds(origin, public, 'SHA256')}" for public in publics]


def _publish(zone: Any, keys: list[tuple[Any, str]]) -> list[tuple[Any, Any]]:
    """Add the public keys to a zone, for resolvers and for its parent. Return pairs of a private key and its DNSKEY."""
    import dns.dnssec
    import dns.rdatatype

    pairs = []
    publics = zone.find_rdataset(zone.origin, dns.rdatatype.DNSKEY, create=True)
    of_child = zone.find_rdataset(zone.origin, dns.rdatatype.CDNSKEY, create=True)
    for private, algorithm in keys:
        # 257: it signs the keys as well (SEP).
        public = dns.dnssec.make_dnskey(private.public_key(), algorithm, flags=257)
        publics.add(public, KEY_TTL)
        of_child.add(dns.dnssec.make_cdnskey(private.public_key(), algorithm, flags=257), KEY_TTL)
        pairs.append((private, public))
    digests = dns.dnssec.dnskey_rdataset_to_cds_rdataset(zone.origin, publics, "SHA256", zone.origin)
    zone.replace_rdataset(zone.origin, digests)
    return pairs


def _check(zone: Any) -> None:
    """Refuse what can be served unsigned, although no client gets it as it is meant, but has no valid proof."""
    import dns.rdatatype

    renamed = {owner for owner, _records in zone.iterate_rdatasets(dns.rdatatype.DNAME)}
    for owner in zone.nodes:
        if owner.is_wild() and zone.get_rdataset(owner, dns.rdatatype.NS):
            raise ZoneError(f"{owner} has NS records, and a wildcard can't be delegated (RFC 4592): write each name")
        parent = owner
        while renamed and parent != zone.origin:
            parent = parent.parent()
            if parent in renamed:
                raise ZoneError(f"{owner} is below the DNAME of {parent}, which replaces it (RFC 6672): remove one of them")


def _without_glue(zone: Any) -> list[tuple[Any, Any]]:
    """Take out, and return, what a delegation's name has beside NS and DS.

    Its NSEC record must not name these (RFC 4035, 2.3), which dnspython would write into it.
    """
    import dns.rdatatype

    signed_here = (dns.rdatatype.NS, dns.rdatatype.DS)
    glue = [
        (owner, records)
        for owner, records in zone.iterate_rdatasets()
        if owner != zone.origin and records.rdtype not in signed_here and zone.get_rdataset(owner, dns.rdatatype.NS)
    ]
    for owner, records in glue:
        zone.delete_rdataset(owner, records.rdtype)
    return glue


def _with_serial(text: str, keys: tuple[ZoneKey, ...], begins: int) -> str:
    """Raise the serial by what else changes the zone: the days until the period, and how often a key came or went."""
    newest = max(key.number for key in keys)
    return raised(text, (begins - _EPOCH) // _DAY + 2 * newest - len(keys))


def _private(name: str, key: ZoneKey) -> tuple[Any, str]:
    """Return a private key and its algorithm."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    file = key_file(name, key.number)
    try:
        private = load_pem_private_key(key.text.encode(), None)
    except TypeError:
        raise ZoneError(f"{file} has a passphrase; a run needs the key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ZoneError(f"{file} is not a private key (PEM)") from None
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private, "ED25519"
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp256r1":
        if not _repeatable(private):
            raise ZoneError(
                f"{file} is an ECDSA key, which these versions of dnspython and cryptography sign differently each time: use an"
                " Ed25519 key, or dnspython 2.7 and cryptography 43 with OpenSSL 3.2"
            )
        return private, "ECDSAP256SHA256"
    raise ZoneError(f"{file} is of another kind: use Ed25519 or ECDSA P-256, as playbooks/dns_keys.yml creates them")


def _repeatable(private: Any) -> bool:
    """Whether the libraries sign alike each time with ECDSA (RFC 6979)."""
    import dns.dnssec
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    if "deterministic" not in inspect.signature(dns.dnssec.sign_zone).parameters:
        return False
    try:
        private.sign(b"", ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    except (TypeError, UnsupportedAlgorithm):
        return False
    return True
