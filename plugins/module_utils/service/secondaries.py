# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Servers that the DNS unikernel exchanges zones with, and its secondaries: the variable -> the first lines of its disk. Pure.

For every reader of zone files these lines are comments. An address alone may have the zones as it is; one with a key when it
signs with that key (TSIG, RFC 8945).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Any

from ..fleet.plain import holds_unresolved
from .serials import SECONDARY
from .variables import Variables, is_address

ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
_AS_IN = "as in {address: 192.0.2.54, key: {name: xfer, secret: ...}}"
NAME = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
# 128 bits at least (RFC 8945, 8); and no more than a line has room for.
MIN_SECRET, MAX_SECRET = 16, 512
MAX_SECONDARIES = 100


def lines(given: Variables, own: set[str]) -> str:
    """Of C(dns_secondaries), "" where there are none. ``own``: addresses of the server itself. A secret is in no problem."""
    found: list[tuple[str, tuple[str, ...]]] = []
    value = given.items("secondaries", f"secondaries, {_AS_IN}")
    if len(value) > MAX_SECONDARIES:
        given.wrong("secondaries", f"are {len(value)}, can be at most {MAX_SECONDARIES}")
        return ""
    # What is not resolved was reported where it stands.
    for index, item in enumerate([] if holds_unresolved(value) else value):
        secondary = _secondary(item, own)
        problem = secondary if isinstance(secondary, str) else _clash(secondary, found)
        if problem:
            given.wrong("secondaries", f"[{index}]: {problem}")
        elif isinstance(secondary, tuple):
            found.append(secondary)
    if found and not given.get("zones") and not given.get("primaries"):
        given.wrong("secondaries", "there is nothing to transfer: declare dns_zones or dns_primaries too")
    return "".join(f"{SECONDARY}{' '.join((address, *key))}\n" for address, key in found)


def _secondary(item: Any, own: set[str]) -> tuple[str, tuple[str, ...]] | str:
    """(address, (key's name, algorithm, secret) or ()), or what is wrong."""
    if not isinstance(item, dict) or not {"address"} <= set(item) <= {"address", "key"}:
        return f"must have address, may have key, and nothing else, {_AS_IN}"
    problem = problem_of_address(item["address"], own, "name the server that shall hold copies of the zones")
    if problem:
        return problem
    key = key_of(item.get("key"))
    return f"{item['address']}: key: {key}" if isinstance(key, str) else (str(ipaddress.ip_address(item["address"])), key)


def problem_of_address(written: Any, own: set[str], otherwise: str) -> str | None:
    """What is wrong with another server's address. ``own``: the resolver's addresses; ``otherwise``: what to write instead."""
    if not isinstance(written, str) or not is_address(written):
        return f"{written!r} is not an address, {_AS_IN}"
    address = ipaddress.ip_address(written)
    if getattr(address, "ipv4_mapped", None):
        return f"{written} is an IPv4 address inside of one of IPv6; write {address.ipv4_mapped}"  # type: ignore[union-attr]
    if address.is_unspecified or address.is_multicast or address.is_loopback or int(address) == 2**32 - 1:
        return f"{written} is no address of another server"
    ours = [ipaddress.ip_address(each) for each in own if is_address(each)]
    if address in ours:
        return f"{written} is the resolver's own address; {otherwise}"
    if ours and all(each.version != address.version for each in ours):
        option = "address" if address.version == 4 else "address6"
        return f"{written} is an IPv{address.version} address, and the resolver has none: give dns_interfaces {option}"
    return None


def key_of(key: Any) -> tuple[str, ...] | str:
    """(name, algorithm, secret), () for none, or what is wrong."""
    if key is None:
        return ()
    if not isinstance(key, dict) or not {"name", "secret"} <= set(key) <= {"name", "algorithm", "secret"}:
        return f"must have name and secret, may have algorithm, and nothing else, {_AS_IN}"
    name, secret, algorithm = key["name"], key["secret"], key.get("algorithm")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return f"name: {name!r} is no name of a key: letters, digits, '-' and '_', with dots between"
    algorithm = ALGORITHMS[1] if algorithm is None else algorithm
    if not isinstance(algorithm, str) or algorithm.lower().rstrip(".") not in ALGORITHMS:
        return f"algorithm: is {algorithm!r}, must be {', '.join(ALGORITHMS[:-1])} or {ALGORITHMS[-1]}"
    try:
        size = len(base64.b64decode(secret.strip(), validate=True)) if isinstance(secret, str) else 0
    except (binascii.Error, ValueError):
        size = 0
    if not MIN_SECRET <= size <= MAX_SECRET:
        return (
            f"secret: must be {MIN_SECRET} to {MAX_SECRET} bytes in base64, as tsig-keygen or openssl rand -base64 32 prints it"
        )
    return name.lower().rstrip(".") + ".", algorithm.lower().rstrip("."), secret.strip()


def _clash(secondary: tuple[str, tuple[str, ...]], found: list[tuple[str, tuple[str, ...]]]) -> str | None:
    """What a server can't hold both of, in one line."""
    address, key = secondary
    for other, held in found:
        if address == other and (key[:1] == held[:1]):
            return f"{address} is declared twice" + (f" with key {key[0]}" if key else "")
        if address == other and not (key and held):
            return f"{address} is declared with a key and without one; without one its key would protect nothing"
        if key and held and key[0] == held[0] and key != held:
            return f"{address}: key {key[0]} has another secret or algorithm at {other}; give it another name"
    return None
