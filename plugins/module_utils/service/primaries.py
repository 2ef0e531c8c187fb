# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Zones that the DNS unikernel transfers from other servers: the variable -> lines of its disk, before the zones. Pure.

For every reader of zone files these lines are comments.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from ..fleet.plain import holds_unresolved
from .operations import is_standin
from .secondaries import NAME, key_of, problem_of_address
from .variables import Variables

PRIMARY = "; primary "
_AS_IN = "as in {address: 192.0.2.1, key: {name: xfer, secret: ...}, zones: [example.org]}"
MAX_LINES = 1000
# (zone, address, and the key's name, algorithm and secret if there is one).
Line = tuple[str, ...]


def lines(transferred: list[Line]) -> str:
    return "".join(f"{PRIMARY}{line[0]}. {' '.join(line[1:])}\n" for line in transferred)


def read(given: Variables, own: set[str], zones: set[str]) -> list[Line]:
    """Of C(dns_primaries). ``own``: the server's addresses; ``zones``: those of C(dns_zones). A secret is in no problem."""
    found: list[Line] = []
    value = given.items("primaries", f"primaries, {_AS_IN}")
    # What is not resolved was reported where it stands.
    for index, item in enumerate([] if holds_unresolved(value) else value):
        read_lines = _primary(item, own, is_standin(given))
        problem = read_lines if isinstance(read_lines, str) else _clash(read_lines, found, zones)
        if problem:
            given.wrong("primaries", f"[{index}]: {problem}")
        elif not isinstance(read_lines, str):
            found += read_lines
    if len(found) > MAX_LINES:
        given.wrong("primaries", f"have {len(found)} zones, can have at most {MAX_LINES}; a zone counts once for each primary")
        return []
    return found


def _primary(item: Any, own: set[str], standin: bool) -> list[Line] | str:
    """A line for each of its zones, or what is wrong."""
    if not isinstance(item, dict) or not {"address", "zones"} <= set(item) <= {"address", "zones", "key"}:
        return f"must have address and zones, may have key, and nothing else, {_AS_IN}"
    written = item["address"]
    problem = problem_of_address(written, own, "name the server that it shall transfer the zones from")
    if problem:
        return problem
    key = key_of(item.get("key"))
    if isinstance(key, str):
        return f"{written}: key: {key}"
    if key and standin:
        return f"{written}: key: stand-ins sign nothing (unbound has no TSIG): leave it out, or use our unikernel (images: build)"
    names = [item["zones"]] if isinstance(item["zones"], str) else item["zones"]
    if not isinstance(names, list) or not names:
        return f"{written}: zones: must be a list of names, as in [example.org]"
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            return f"{written}: zones: {name!r} is not the name of a zone, as in example.org"
    return [(name.rstrip(".").lower(), str(ipaddress.ip_address(written)), *key) for name in names]


def _clash(read_lines: list[Line], found: list[Line], zones: set[str]) -> str | None:
    """What a server can't have both of, in one line."""
    for number, line in enumerate(read_lines):
        zone, address = line[:2]
        if zone in zones:
            return f"{address}: zones: {zone} is in dns_zones too; remove it there, or here"
        for other in (*found, *read_lines[:number]):
            if other[:2] == line[:2]:
                return f"{address}: zones: {zone} is declared twice for this primary"
            if other[2:3] == line[2:3] and other[2:] != line[2:]:
                return f"{address}: key {line[2]} has another secret or algorithm at {other[1]}; give it another name"
    return None
