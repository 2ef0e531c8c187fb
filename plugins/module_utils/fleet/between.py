# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find what several hosts claim at once: addresses and MACs in one network, disks on shared storage. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..domain.spec import MAC_PREFIX, Declaration, derived_mac, plain_path
from ..network.kinds import ROUTED
from .plain import flag

# Modes of `xen_host_networks` whose addresses are used on one host only.
_LOCAL = ("nat", "isolated")


@dataclass(frozen=True)
class Site:
    """One host and its declarations. ``derived``: (domain, index) of the interfaces whose MAC we choose."""

    host: str
    values: Mapping[str, Any] = field(default_factory=dict)
    declarations: list[Declaration] = field(default_factory=list)
    derived: set[tuple[str, int]] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The site's name. Hosts of one site share their bridged networks and their storage."""
        site = self.values.get("xen_host_site")
        return "" if site is None else str(site)

    def network(self, bridge: str) -> tuple[str, str]:
        """Return an identifier of the network behind a bridge: the site's, or the host's own if it doesn't extend beyond it."""
        networks = self.values.get("xen_host_networks")
        mode = networks.get(bridge) if isinstance(networks, dict) else None
        local = isinstance(mode, dict) and mode.get("mode") in _LOCAL
        return (f"host {self.host}" if local else f"site {self.name}", bridge)

    def is_anycast(self, bridge: str, ip: str) -> bool:
        """Whether the host says for itself that just this address is routed to it: then other hosts may say so too."""
        networks = self.values.get("xen_host_networks")
        network = networks.get(bridge) if isinstance(networks, dict) else None
        if not isinstance(network, dict) or network.get("mode") != ROUTED or flag(network.get("proxy")):
            return False
        subnets = network.get("subnets")
        return any(_single(one) == ip for one in (subnets if isinstance(subnets, list) else [subnets]))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names that the host may use for itself: it derives MACs from its own name."""
        return tuple(dict.fromkeys((self.host, self.host.split(".", maxsplit=1)[0])))


def distinct_macs(sites: list[Site]) -> Iterator[tuple[str, str, int, str]]:
    """Yield (host, domain, index, another MAC) for each derived MAC that is already taken within the site.

    Only 24 bits are derived, so a few thousand interfaces have collisions. A declared MAC is never changed; of two derived ones,
    the host whose name sorts first keeps it.
    """
    taken: dict[str, set[str]] = {}
    for site in sites:
        taken.setdefault(site.name, set()).update(
            interface.mac
            for declaration in site.declarations
            for index, interface in enumerate(declaration.domain.interfaces)
            if declaration.state != "absent" and (declaration.name, index) not in site.derived
        )
    for site in sorted(sites, key=lambda one: one.host):
        macs = taken[site.name]
        for declaration in sorted(site.declarations, key=lambda one: one.name):
            if declaration.state == "absent":
                continue
            for index in range(len(declaration.domain.interfaces)):
                if (declaration.name, index) not in site.derived:
                    continue
                own = {derived_mac(node, declaration.name, index) for node in site.nodes}
                if own & macs:
                    mac = _another_mac(site.host, declaration.name, index, macs)
                    own = {mac}
                    yield site.host, declaration.name, index, mac
                macs |= own


def _another_mac(host: str, name: str, index: int, taken: set[str]) -> str:
    attempt = 1
    while True:
        digest = hashlib.sha256(f"{host}\0{name}\0{index}\0{attempt}".encode()).hexdigest()
        mac = f"{MAC_PREFIX}:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"
        if mac not in taken:
            return mac
        attempt += 1


def fleet_clashes(sites: list[Site]) -> list[tuple[str, str, str]]:
    """Return (host, host, line) for each address, declared MAC or shared disk that two hosts claim."""
    lines: list[tuple[str, str, str]] = []
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    for site in sites:
        for declaration in site.declarations:
            if declaration.state == "absent":
                continue
            for key, words in _claims(site, declaration):
                host, name = seen.setdefault(key, (site.host, declaration.name))
                if host != site.host:
                    line = f"domain {declaration.name}: {words} is declared for domain {name} of {host} too"
                    lines.append((site.host, host, line + _HINT))
    return lines + _shared_writers(sites)


_HINT = "; hosts that share no network have different values of xen_host_site"


def _claims(site: Site, declaration: Declaration) -> Iterator[tuple[tuple[str, ...], str]]:
    for one in declaration.addresses:
        ip = str(ipaddress.ip_interface(one.address).ip)
        if not site.is_anycast(one.bridge, ip):
            yield ("address", *site.network(one.bridge), ip), f"address {ip} on {one.bridge}"
    for index, interface in enumerate(declaration.domain.interfaces):
        if (declaration.name, index) not in site.derived:
            yield ("mac", *site.network(interface.bridge), interface.mac), f"mac {interface.mac} on {interface.bridge}"


def _single(text: Any) -> str:
    """The address that a subnet has, if it has one alone."""
    try:
        network = ipaddress.ip_network(text if isinstance(text, str) else "")
    except ValueError:
        return ""
    return str(network.network_address) if network.num_addresses == 1 else ""


def _shared_writers(sites: list[Site]) -> list[tuple[str, str, str]]:
    users: dict[tuple[str, str], list[tuple[str, str, bool, bool]]] = {}
    for site in sites:
        for declaration in site.declarations:
            for disk in declaration.domain.disks if declaration.state in ("running", "paused") else ():
                users.setdefault((site.name, plain_path(disk.path)), []).append(
                    (site.host, declaration.name, disk.access == "w", disk.shared)
                )
    lines = []
    for (_site, path), claims in users.items():
        first = next((one for one in claims if one[2]), None)
        if first is None or not any(shared for _host, _name, _writes, shared in claims):
            continue
        for host, name, _writes, _shared in claims:
            if host != first[0]:
                line = f"domain {name}: disks: {path} is on shared storage and domain {first[1]} of {first[0]} writes it"
                lines.append((host, first[0], line + "; only one domain may open a disk for writing"))
    return lines
