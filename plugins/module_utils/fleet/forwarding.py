# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which DNS unikernels of the fleet forward to each other: in a circle a question goes round until somebody drops it. Pure."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..network.guests import Published
from .between import Site

Who = tuple[str, str]  # host and domain


@dataclass(frozen=True)
class Resolver:
    """A DNS unikernel. ``addresses``: (network, address), as `Site.network` names networks."""

    host: str
    name: str
    site: str
    addresses: frozenset[tuple[tuple[str, str], str]] = frozenset()
    forwards: tuple[str, ...] = ()
    variable: str = field(default="dns_forward", compare=False)  # where a user wrote what it forwards to

    def has(self, address: str, asker: Resolver) -> bool:
        """Whether ``asker`` reaches this one by the address: of the same host or site, or of the Internet."""
        for (kind, _bridge), own in self.addresses:
            local = kind.startswith("host ")
            if own == address and (
                self.host == asker.host or (not local and (self.site == asker.site or ipaddress.ip_address(own).is_global))
            ):
                return True
        return False


def resolver_of(site: Site, unikernel: Mapping[str, Any], published: Iterable[Published], variable: str) -> Resolver:
    """``published``: ports of the host; the one of DNS that leads to it is one more address of its."""
    name = str(unikernel.get("name"))
    addresses = {
        (site.network(one.bridge), str(ipaddress.ip_interface(one.address).ip))
        for declaration in site.declarations
        if declaration.name == name
        for one in declaration.addresses
    }
    addresses |= {
        ((f"site {site.name}", ""), one.address) for one in published if one.name == name and one.address and one.port == 53
    }
    arguments = unikernel.get("arguments")
    forward = arguments.get("forward") if isinstance(arguments, dict) else None
    texts = forward if isinstance(forward, list) else [forward] if forward else []
    return Resolver(site.host, name, site.name, frozenset(addresses), tuple(filter(None, map(_address, texts))), variable)


def _address(text: Any) -> str:
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def loops(resolvers: Iterable[Resolver]) -> Iterator[tuple[list[str], str]]:
    """For each circle its hosts, first the one that the line is about, and the line. A resolver is in one of them at most."""
    every = sorted(resolvers, key=lambda one: (one.host, one.name))
    by_address: dict[str, list[Resolver]] = {}
    for resolver in every:
        for address in {address for _network, address in resolver.addresses}:
            by_address.setdefault(address, []).append(resolver)
    named: set[Who] = set()
    for start in every:
        circle = [] if (start.host, start.name) in named else _circle(start, by_address)
        if circle:
            named |= {(one.host, one.name) for one, _address in circle}
            yield [one.host for one, _address in circle], _line(circle)


def _circle(start: Resolver, by_address: Mapping[str, list[Resolver]]) -> list[tuple[Resolver, str]]:
    """The shortest way from a resolver back to itself: each with the address that it forwards to. [] where there is none."""
    before: dict[Who, tuple[Resolver, str]] = {}
    waiting = deque([start])
    while waiting:
        asker = waiting.popleft()
        for address in asker.forwards:
            if asker == start and _leads_nowhere_else(address):
                return [(start, address)]
            for asked in by_address.get(address, []):
                if not asked.has(address, asker):
                    continue
                if asked == start:
                    return _way(start, asker, address, before)
                if (asked.host, asked.name) not in before:
                    before[asked.host, asked.name] = (asker, address)
                    waiting.append(asked)
    return []


def _leads_nowhere_else(address: str) -> bool:
    """Loopback and the like: a unikernel that sends there asks itself, or nobody."""
    ip = ipaddress.ip_address(address)
    return ip.is_loopback or ip.is_unspecified or ip.is_multicast


def _way(start: Resolver, last: Resolver, address: str, before: Mapping[Who, tuple[Resolver, str]]) -> list[tuple[Resolver, str]]:
    way = [(last, address)]
    while way[0][0] != start:
        way.insert(0, before[way[0][0].host, way[0][0].name])
    return way


def _line(circle: list[tuple[Resolver, str]]) -> str:
    (first, address), rest = circle[0], circle[1:]
    if not rest:
        what = (
            "no address of another server" if _leads_nowhere_else(address) else "the resolver's own address: it would ask itself"
        )
        return f"{first.variable}: {address} is {what}; name another server"
    way = ", which forwards to ".join([f"{one.name} of {one.host}" for one, _address in rest] + ["this one"])
    return f"{first.variable}: {address} is {way}: a question would go round; let one of them forward elsewhere, or resolve"
