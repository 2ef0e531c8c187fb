# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read zone files as RFC 1035 has them, and write them as each of our servers can read them. Pure.

The unikernel's parser (ocaml-dns) accepts less than people write: no time units, no Windows line ends, no $GENERATE, and some
types not by name. dnspython reads all of it, so a zone is written as plain lines: absolute names, seconds, and types without a
name in ocaml-dns in the form of RFC 3597. Whatever no server could serve is refused here, naming the line.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import time
from typing import Any

MISSING = "reading zones needs the Python library dnspython on the controller (Debian's python3-dnspython, or dnspython by pip)"
# Types that ocaml-dns 10 parses by name; tried one by one. DS and DNSKEY are left to the unikernel: of a key it takes the text.
_NAMED = {
    *(
        "A",
        "AAAA",
        "CAA",
        "CNAME",
        "HTTPS",
        "LOC",
        "MX",
        "NS",
        "PTR",
        "SOA",
        "SRV",
        "SSHFP",
        "SVCB",
        "TLSA",
        "TXT",
    ),
}
# What a signed zone has at its name, beside RRSIG: the keys, and one of the two kinds of proof that something is not there.
_PROOFS = {"NSEC", "NSEC3PARAM"}
_SIGNING = {"RRSIG", "NSEC", "NSEC3", "NSEC3PARAM"}
_TARGETS = {"NS": "target", "MX": "exchange", "SRV": "target"}
_HOST_LABEL = re.compile(rb"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_SINGLE = re.compile(r"^\S*[ \t]+(?:(?:[0-9]\S*|IN)[ \t]+)*(SOA|CNAME|DNAME)[ \t]", re.MULTILINE | re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_LINE = re.compile(r"^[^:]*:(\d+): (.*)$", re.DOTALL)
# ocaml-dns has 31 bits.
_MAX_TTL = 2**31 - 1
# What dnspython says of a value that its type can't have.
_SAYS_NOTHING = "Text input is malformed"
_MAX_SHOWN = 60


class ZoneError(ValueError):
    """One line: what is wrong, with the line of the text if known."""


def canonical(name: str, text: str, now: float | None = None) -> str:
    """Return the zone as $ORIGIN and one line for each record, SOA first. Raise `ZoneError`, or ImportError without dnspython.

    ``now``: when its signatures must be valid, in seconds since 1970.
    """
    # Imported here: hosts without zones need no dnspython.
    import dns.exception
    import dns.name
    import dns.rdatatype

    try:
        origin = dns.name.from_text(name.rstrip(".") + ".")
        _check_owners(text, origin)
        read = _read(text, origin)
    except (dns.exception.DNSException, ValueError) as error:
        raise ZoneError(_words(error, text)) from None
    zone = _Zone(origin, read)
    lines = [
        (record.rdtype != dns.rdatatype.SOA, owner, record.ttl, dns.rdatatype.to_text(record.rdtype), data)
        for owner, record in read.iterate_rdatasets()
        for data in record
    ]
    _check_each_name(text, lines)
    _check(zone, lines)
    _check_signatures(zone, lines, time.time() if now is None else now)
    ordered = sorted(lines, key=lambda line: (line[0], line[1], line[3], line[4].to_digestable(origin)))
    return f"$ORIGIN {origin}\n" + "".join(_line(*line[1:]) for line in ordered)


def is_signed(text: str) -> bool:
    """Whether a canonical zone has signatures (RRSIG)."""
    return " IN TYPE46 " in text


class _Zone:
    """A zone that was read, by owner and type."""

    def __init__(self, origin: Any, read: Any) -> None:
        self.origin = origin
        self._read = read

    def types(self, name: Any) -> set[str]:
        import dns.rdatatype

        node = self._read.nodes.get(name)
        return {dns.rdatatype.to_text(record.rdtype) for record in node} if node else set()


def _read(text: str, origin: Any) -> Any:
    """Return dnspython's zone. Its errors name the line, after a file name."""
    import dns.exception
    import dns.zone

    try:
        return dns.zone.from_text(text, origin=origin, relativize=False, check_origin=False)
    except dns.exception.DNSException as error:
        at = _LINE.match(str(error))
        before = "".join(text.splitlines(keepends=True)[: int(at.group(1)) - 1]).rstrip() if at else ""
        if before and before != text:
            # It names the line where it stopped: the next one, if it sees the mistake at a line's end.
            _read(before, origin)
        raise


def _words(error: Exception, zone: str) -> str:
    if isinstance(error, ZoneError):
        return str(error)
    text = " ".join(str(error).split()).replace("Missing default TTL value", "no TTL; begin the zone with one, as in $TTL 3600")
    at = _LINE.match(text)
    if not at:
        return text or type(error).__name__
    lines = zone.splitlines()
    written = lines[int(at.group(1)) - 1].strip()[:_MAX_SHOWN] if int(at.group(1)) <= len(lines) else ""
    return f"line {at.group(1)}: {f'{written!r} is no record' if _SAYS_NOTHING in at.group(2) and written else at.group(2)}"


def _check_owners(text: str, origin: Any) -> None:
    """Refuse owners outside the zone, which dnspython drops silently."""
    import dns.name

    open_parentheses = 0
    for number, line in enumerate(text.splitlines(), 1):
        bare = _QUOTED.sub("", line).split(";")[0]
        words = bare.split()
        if words and not open_parentheses and not bare[0].isspace():
            name = words[1] if words[0].upper() == "$ORIGIN" and len(words) > 1 else words[0]
            if name.endswith(".") and not dns.name.from_text(name).is_subdomain(origin):
                raise ZoneError(f"line {number}: {name} is not within the zone (a name without a dot at its end is)")
        open_parentheses += bare.count("(") - bare.count(")")


def _line(owner: Any, ttl: int, kind: str, data: Any) -> str:
    if kind == "AAAA":  # ocaml-dns can't read an embedded IPv4 address
        return f"{owner} {ttl} IN AAAA {ipaddress.IPv6Address(data.address).exploded}\n"
    text = (data if kind in _NAMED else data.to_generic()).to_text(chunksize=0)
    named = kind if kind in _NAMED else f"TYPE{int(data.rdtype)}"
    return f"{owner} {ttl} IN {named} {text}\n"


def _check_each_name(text: str, lines: list[Any]) -> None:
    """Refuse a second record of a type that a name can have only once: dnspython silently keeps the last."""
    if "$GENERATE" in text.upper():
        return
    written: dict[str, int] = {}
    for kind in _SINGLE.findall(text):
        written[kind.upper()] = written.get(kind.upper(), 0) + 1
    for kind, count in written.items():
        if count > sum(line[3] == kind for line in lines):
            raise ZoneError(f"a name has two {kind} records, and can have one")


def _check(zone: _Zone, lines: list[Any]) -> None:
    for kind, what in (("SOA", "no SOA record"), ("NS", "no NS record of its own")):
        if kind not in zone.types(zone.origin):
            raise ZoneError(f"it has {what}, as in '@ IN {kind} ...'")
    for _last, owner, ttl, kind, data in lines:
        if ttl > _MAX_TTL:
            raise ZoneError(f"{owner} {kind}: its TTL is {ttl}, must be at most {_MAX_TTL} seconds")
        if kind == "TXT" and not any(data.strings):
            raise ZoneError(f"{owner} TXT is empty: it needs at least one character")
        target = getattr(data, _TARGETS.get(kind, ""), None)
        if target is not None and not all(_HOST_LABEL.fullmatch(label) for label in target.labels if label):
            raise ZoneError(f"{owner} {kind} names {target}, which is no host: of letters, digits and '-' (RFC 1123)")
        if kind in ("NS", "MX") and _lacks_address(zone, target):
            raise ZoneError(f"{owner} {kind} names {target}, which has no A or AAAA record in the zone")


def _check_signatures(zone: _Zone, lines: list[Any], now: float) -> None:
    """Refuse a zone that is signed in part, or that no validating client accepts any more."""
    present = {line[3] for line in lines} & _SIGNING
    if not present:
        return
    apex = zone.types(zone.origin)
    for missing, what in (("RRSIG", "signatures of its own"), ("DNSKEY", "keys")):
        if missing not in apex:
            raise ZoneError(
                f"it has {', '.join(sorted(present))} records, and no {what} ({missing}): serve what the signer wrote, whole"
            )
    if not apex & _PROOFS:
        raise ZoneError("it is signed, and has neither NSEC nor NSEC3: serve what the signer wrote, whole")
    for _last, owner, _ttl, kind, data in lines:
        if kind == "RRSIG" and not data.inception <= now < data.expiration:
            import dns.rdatatype

            ends = now >= data.expiration
            day = datetime.datetime.fromtimestamp(data.expiration if ends else data.inception, datetime.timezone.utc)
            raise ZoneError(
                f"the signature of {owner} {dns.rdatatype.to_text(data.type_covered)} {'ended' if ends else 'begins'} on"
                f" {day:%Y-%m-%d %H:%M} UTC: sign the zone again"
            )


def _lacks_address(zone: _Zone, name: Any) -> bool:
    """True if a name within the zone has no address, is not delegated and not covered by a wildcard."""
    if not name.is_subdomain(zone.origin) or len(name.labels) == 1 or zone.types(name) & {"A", "AAAA"}:
        return False
    parent = name
    while parent != zone.origin:
        if parent != name and "NS" in zone.types(parent):
            return False
        parent = parent.parent()
        if zone.types(type(name)([b"*", *parent.labels])):
            return False
    return True
