# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Health checks from outside Dom0, whose own packets no filter between domains meets: what is asked, and from where. Pure.

neighbour  from an address on the domain's own network, at a port of the bridge, filtered as a domain's is
controller as clients ask: nat networks by their published ports
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..domain.spec import Health
from .antispoof import ClaimError, claims
from .guests import Guests, Published, addresses
from .kinds import ISOLATED, NAT, IPAddress, IPInterface, IPNetwork, Network, is_edge, is_link_local
from .reach import Limits

# Dom0's own check has passed before, so the service is there.
MAX_WITHIN = 10
# Addresses that are tried from the end of a prefix.
MAX_TRIES = 256
# Kinds with an address, and the protocols that they use ("" for the check's own transport).
_PROTOCOLS = {"http": "tcp", "tcp": "tcp", "dns": "", "openvpn": ""}

Checks = Sequence[tuple[str, Health]]


@dataclass(frozen=True)
class Place:
    """Where a neighbour stands. ``addresses``: at most one of each family, as ADDRESS/PREFIX."""

    network: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()

    @property
    def ips(self) -> list[IPAddress]:
        return [ipaddress.ip_interface(one).ip for one in self.addresses]


@dataclass(frozen=True)
class Round:
    """What is asked from one place."""

    place: Place
    checks: tuple[tuple[str, Health], ...]


class PlaceError(ValueError):
    """One line: what is wrong with an address to ask from."""


def as_neighbours(
    networks: Mapping[str, Network],
    checks: Checks,
    domains: Iterable[Mapping[str, Any]],
    guests: Guests,
    places: Mapping[str, Sequence[str]],
) -> tuple[list[Round], list[str]]:
    """Return what is asked from each network, and one line for each check that is not. Raise PlaceError.

    ``places``: network -> addresses to ask from. Without them a free one is taken where Dom0 knows all addresses: never on a
    bridge over an uplink, whose provider may answer a foreign MAC by closing the port.
    """
    known = list(domains)
    where = _bridges(known)
    rounds, skipped = [], []
    limits = {one.name: one for one in guests.limits}
    found = {name: _place(networks.get(name), name, places.get(name), _taken(networks.get(name), known, name))
             for name in sorted({one for by_address in where.values() for one in by_address.values()} | set(places))}  # fmt: skip
    asked: dict[str, list[tuple[str, Health]]] = {}
    for name, health in checks:
        network = where.get(name, {}).get(_literal(health), "")
        place = found.get(network)
        why = _unasked(health, network, place, limits.get(name))
        if why:
            skipped.append(f"domain {name}: {why}")
        else:
            asked.setdefault(network, []).append((name, _shorter(health)))
    for network, mine in asked.items():
        place = found[network]
        if place:
            rounds.append(Round(place, tuple(mine)))
    return rounds, skipped


def from_controller(
    networks: Mapping[str, Network], checks: Checks, domains: Iterable[Mapping[str, Any]], guests: Guests, host: str
) -> tuple[list[tuple[str, Health]], list[str]]:
    """Return the checks as a client of the host asks, and one line for each that is not asked. ``host``: its name or address."""
    where = _bridges(domains)
    asked, skipped = [], []
    for name, health in checks:
        network = networks.get(where.get(name, {}).get(_literal(health), ""))
        mode = network.mode if network else ""
        there, why = _seen_outside(health), ""
        if there is None:
            why = f"a check of kind {health.kind} is made on the host alone"
        elif mode == ISOLATED:
            why = f"network {network.name if network else ''} is isolated: nobody outside reaches it"
        elif mode == NAT:
            published = [one for one in guests.published if one.name == name and _leads_to(one, there)]
            # IPv4 first: a host that is known by a name may have no other.
            published.sort(key=lambda one: one.version)
            if published:
                there = replace(there, address=published[0].address or host, port=published[0].port)
            else:
                why = f"{_protocol(there)}/{there.port} is not published"
        if why or there is None:
            skipped.append(f"domain {name}: {why}")
        else:
            asked.append((name, _shorter(there)))
    return asked, skipped


def _shorter(health: Health) -> Health:
    return replace(health, within=min(health.within, MAX_WITHIN))


def _literal(health: Health) -> IPAddress | None:
    try:
        return ipaddress.ip_address(health.address)
    except ValueError:
        return None


def _protocol(health: Health) -> str:
    return _PROTOCOLS.get(health.kind) or ("udp" if health.transport == "both" else health.transport)


def _bridges(domains: Iterable[Mapping[str, Any]]) -> dict[str, dict[IPAddress | None, str]]:
    """Map each domain's name to (address -> bridge)."""
    found: dict[str, dict[IPAddress | None, str]] = {}
    for domain in domains:
        interfaces = domain.get("interfaces")
        for interface in interfaces if isinstance(interfaces, list) else []:
            if isinstance(interface, Mapping):
                mine = found.setdefault(str(domain.get("name")), {})
                mine.update({one.ip: str(interface.get("bridge")) for _option, one in addresses(interface)})
    return found


def _seen_outside(health: Health) -> Health | None:
    """Return the check without what only the host has; None if nothing is left of it."""
    if health.kind == "openvpn":  # its key is on the host
        return replace(health, kind="tcp") if health.transport == "tcp" else None
    if health.kind not in _PROTOCOLS:
        return None
    # The certificate has been judged from Dom0, by authorities that are on the host.
    return replace(health, ca="", insecure=True) if health.ca else health


def _leads_to(one: Published, health: Health) -> bool:
    return (one.protocol, one.to) == (_protocol(health), health.port) and ipaddress.ip_address(one.target) == _literal(health)


def _unasked(health: Health, network: str, place: Place | None, limits: Limits | None) -> str:
    """Return why a check is not asked from a neighbour's place; "" if it is."""
    address = _literal(health)
    if health.kind not in _PROTOCOLS:
        return f"a check of kind {health.kind} is made in Dom0 alone"
    if address is None or not network:
        return f"{health.address} is not an address of one of its interfaces"
    if place is None:
        return f"network {network} has no address to ask from: name one that nobody has in verify_neighbours"
    mine = [one for one in place.ips if one.version == address.version]
    if not mine:
        return f"network {network} has no IPv{address.version} address to ask from"
    if limits and limits.accept is not None and not _accepted(limits, _protocol(health), health.port, mine[0]):
        return f"accept does not let {mine[0]} of network {network} in"
    return ""


def _accepted(limits: Limits, protocol: str, port: int, source: IPAddress) -> bool:
    return any(
        rule.protocol in (protocol, "any")
        and rule.low <= port <= rule.high
        and (not rule.peers or any(_in(source, ipaddress.ip_network(peer)) for peer in rule.peers))
        for rule in limits.accept or ()
    )


def _in(address: IPAddress, network: IPNetwork) -> bool:
    return address.version == network.version and address in network


def _taken(network: Network | None, domains: Iterable[Mapping[str, Any]], name: str) -> list[IPNetwork]:
    """Return what on the network is somebody's already."""
    found: list[IPNetwork] = [ipaddress.ip_network(one.ip) for one in network.own] if network else []
    found += [ipaddress.ip_network(text) for text in (network.gateway, network.gateway6) if text] if network else []
    for domain in domains:
        interfaces = domain.get("interfaces")
        for interface in interfaces if isinstance(interfaces, list) else []:
            if not isinstance(interface, Mapping) or interface.get("bridge") != name:
                continue
            found += [ipaddress.ip_network(one.ip) for _option, one in addresses(interface)]
            try:
                found += claims(str(interface.get("ip") or "")) or ()
            except ClaimError:
                continue
    return found


def _place(network: Network | None, name: str, given: Sequence[str] | None, taken: list[IPNetwork]) -> Place | None:
    if given is not None:
        mine = _given(name, given, network, taken)
    elif network is None or network.port:
        return None
    else:
        mine = [one for version in (4, 6) for one in [_free(network, version, taken)] if one]
    gateways = [network.gateway_for(one) for one in mine] if network else []
    return Place(name, tuple(map(str, mine)), tuple(text for text in gateways if text)) if mine else None


def _given(name: str, given: Sequence[str], network: Network | None, taken: list[IPNetwork]) -> list[IPInterface]:
    where = f"verify_neighbours.{name}"
    found: list[IPInterface] = []
    if isinstance(given, str) or not given or not all(isinstance(text, str) for text in given):
        raise PlaceError(f"{where}: must be a list of ADDRESS/PREFIX, as in [192.0.2.250/24]; write an IPv6 address in quotes")
    for text in given:
        try:
            one = ipaddress.ip_interface(text if "/" in text and "%" not in text else "")
        except ValueError:
            raise PlaceError(f"{where}: {text!r} is not ADDRESS/PREFIX, as in 192.0.2.250/24") from None
        if any(_in(one.ip, other) for other in taken):
            raise PlaceError(f"{where}: {one.ip} is Dom0's, the gateway's or a domain's: name an address that nobody has")
        prefixes = [prefix for prefix in network.prefixes if prefix.version == one.version] if network else []
        if prefixes and not any(one.ip in prefix for prefix in prefixes):
            raise PlaceError(f"{where}: {one.ip} is outside network {name} ({', '.join(map(str, prefixes))})")
        if any(one.version == other.version for other in found):
            raise PlaceError(f"{where}: has two addresses of IPv{one.version}, must have at most one of each family")
        found.append(one)
    return found


def _free(network: Network, version: int, taken: list[IPNetwork]) -> IPInterface | None:
    """Return the last free address of the network's first prefix that has one."""
    own = [one.network for one in network.own]
    for prefix in sorted(network.prefixes, key=lambda one: one not in own):
        if prefix.version != version or is_link_local(prefix.network_address):
            continue
        last = int(prefix.network_address) + min(prefix.num_addresses, 1 << 16) - 1
        for number in range(last, max(int(prefix.network_address), last - MAX_TRIES) - 1, -1):
            address = ipaddress.ip_address(number.to_bytes(prefix.max_prefixlen // 8, "big"))
            if not is_edge(address, prefix) and not any(_in(address, other) for other in taken):
                return ipaddress.ip_interface(f"{address}/{prefix.prefixlen}")
    return None
