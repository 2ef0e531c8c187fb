# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Serials and keys of the zones on a disk: can secondaries and validating resolvers follow a new declaration? Pure."""

from __future__ import annotations

import re

# What each line of a secondary begins with, and so a disk with secondaries.
SECONDARY = "; secondary "
_ORIGIN = re.compile(r"^\$ORIGIN (\S+)\n", re.MULTILINE)
# As `zones.canonical` writes it, the first line of a zone.
_SOA = re.compile(r"(\S+ \d+ IN SOA \S+ \S+ )(\d{1,10})( [^\n]*\n)")
_WHOLE, _HALF = 2**32, 2**31
# DNSKEY, which `zones.canonical` writes by number.
_KEY = re.compile(r"^(\S+) \d+ IN TYPE48 (\S.*)$", re.MULTILINE)


def has_zones(text: str) -> bool:
    """Whether a disk's text is of the DNS unikernel: zones, perhaps after lines for the unikernel itself."""
    return text.startswith(("$ORIGIN ", "; ")) and _ORIGIN.search(text) is not None


def is_newer(serial: int, old: int) -> bool:
    """RFC 1982, 3.2."""
    return 0 < (serial - old) % _WHOLE < _HALF


def after(serial: int) -> int:
    """The next one; 0 is passed over, because some servers take it for none."""
    return (serial + 1) % _WHOLE or 1


def raised(text: str, by: int) -> str:
    """Return a canonical zone with a serial that is higher by ``by``."""
    return _SOA.sub(lambda soa: f"{soa[1]}{(int(soa[2]) + by) % _WHOLE}{soa[3]}", text, count=1)


def _zones(text: str) -> dict[str, tuple[int, str]]:
    """Name -> (serial, everything else)."""
    parts = _ORIGIN.split(text)
    zones = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        soa = _SOA.match(body)
        if soa:
            zones[name.rstrip(".").lower()] = (int(soa.group(2)), soa.group(1) + soa.group(3) + body[soa.end() :])
    return zones


def not_raised(old: str, new: str) -> list[str]:
    """A line for each zone that changes from ``old`` to ``new`` without a newer serial, where secondaries hold it."""
    if not (old.startswith(SECONDARY) and new.startswith(SECONDARY)):
        return []
    served, declared = _zones(old), _zones(new)
    return [
        f"zone {name} changes and its serial does not rise: it is {declared[name][0]}, {served[name][0]} is served. Secondaries"
        f" keep what they have until it is newer: write {after(served[name][0])} into its SOA"
        for name in declared
        if name in served and declared[name] != served[name] and not is_newer(declared[name][0], served[name][0])
    ]


def lost_keys(old: str, new: str) -> tuple[list[str], list[str]]:
    """Compare the zones' keys (DNSKEY). Return what no validating resolver could follow, and what to be warned of."""
    served, declared = _keys(old), _keys(new)
    problems = [
        f"zone {name} is served with other keys than the declared ones, and resolvers accept only what the parent's DS names:"
        f" restore the keys from their backup; if they are lost, remove the DS, serve the zone unsigned for its TTL, then sign it"
        for name in served
        if served[name] and declared.get(name) and not served[name] & declared[name]
    ]
    warnings = [
        f"zone {name} is no longer signed: while the parent has a DS for it, resolvers that validate answer SERVFAIL"
        for name in served
        if served[name] and name in declared and not declared[name]
    ]
    return problems, warnings


def _keys(text: str) -> dict[str, set[str]]:
    """Name of each zone -> its keys; of those with keys, and of those without."""
    parts = _ORIGIN.split(text)
    keys = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        keys[name.rstrip(".").lower()] = {key for owner, key in _KEY.findall(body) if owner.lower() == name.lower()}
    return keys
