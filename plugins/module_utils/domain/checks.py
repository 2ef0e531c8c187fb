# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that the declarations of one host fit together, and with its other domains, networks, CPUs and memory. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter

from . import boot_line
from .compare import narrowed
from .cpus import cpu_set
from .observed import Host, Observed, base_name
from .spec import Declaration, Domain, plain_path


def clashes(declarations: list[Declaration]) -> list[str]:
    """Return one line for every name, MAC or address that two declarations of one host claim."""
    names = Counter(declaration.name for declaration in declarations)
    lines = [f"domain {name}: declared twice; a name is unique on its host" for name, count in names.items() if count > 1]
    seen: dict[tuple[str, str], str] = {}
    for declaration in declarations:
        claims = []
        if declaration.state != "absent":
            claims.append(("UUID", declaration.domain.uuid))
            claims += [("MAC", interface.mac) for interface in declaration.domain.interfaces]
            claims += [("address", f"{ipaddress.ip_interface(one.address).ip} on {one.bridge}") for one in declaration.addresses]
        for what, value in claims:
            other = seen.setdefault((what, value), declaration.name)
            if other != declaration.name:
                lines.append(f"domains {other} and {declaration.name} have the same {what} {value}")
    return lines


def outside_networks(
    declarations: list[Declaration], networks: dict[str, list[str]], subnets: dict[str, list[str]] | None = None
) -> list[str]:
    """Return one line for every address outside the networks of its bridge. A bridge without networks is not checked.

    ``networks``: the host's own addresses on each bridge; ``subnets``: further networks that are reached through it.
    """
    lines = []
    for declaration in declarations:
        if declaration.state == "absent":
            continue
        for claim in declaration.addresses:
            bridge, ip = claim.bridge, ipaddress.ip_interface(claim.address).ip
            own = [ipaddress.ip_interface(network).network for network in networks.get(bridge, [])]
            own += [ipaddress.ip_network(subnet) for subnet in (subnets or {}).get(bridge, []) if own]
            same = [network for network in own if network.version == ip.version]
            if same and not any(ip in network for network in same):
                lines.append(
                    f"domain {declaration.name}: address {ip} is outside the network of {bridge} ({', '.join(map(str, same))})"
                )
            hosts = [one for one in networks.get(bridge, []) if ipaddress.ip_interface(one).ip == ip]
            if hosts:
                lines.append(f"domain {declaration.name}: address {ip} is the host's own on {bridge}")
    return lines


def strangers(declarations: list[Declaration], domains: tuple[Observed, ...]) -> list[str]:
    """Return one line for every UUID, MAC or address that a domain outside the declarations uses already.

    A domain that has ended sends nothing: with on_crash: rename-restart, Xen keeps it beside the one that it started.
    """
    names = {declaration.name for declaration in declarations}
    lines = []
    for observed in domains:
        base = base_name(observed.domain.name)
        if base in names:
            continue
        macs = {interface.mac for interface in observed.domain.interfaces}
        bridges = {interface.bridge for interface in observed.domain.interfaces}
        addresses = _addresses(observed)
        for declaration in declarations:
            if declaration.state == "absent":
                continue
            where = f"domain {declaration.name}"
            if observed.domain.uuid == declaration.domain.uuid:
                lines.append(f"{where}: uuid {declaration.domain.uuid} is used by running domain {base}")
            if not observed.alive:
                continue
            lines += [
                f"{where}: mac {one.mac} is used by running domain {base}"
                for one in declaration.domain.interfaces
                if one.mac in macs
            ]
            lines += [
                f"{where}: address {ipaddress.ip_interface(one.address).ip} on {one.bridge} is used by running domain {base}"
                for one in declaration.addresses
                if one.bridge in bridges and ipaddress.ip_interface(one.address).ip in addresses
            ]
    return lines


def _addresses(observed: Observed) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses that Xen knows of: those in MirageOS boot arguments, and those the hotplug script lets through."""
    words = boot_line.addresses(observed.domain.arguments)
    words += [word for interface in observed.domain.interfaces for word in interface.ip.split()]
    found = set()
    for word in words:
        try:
            found.add(ipaddress.ip_interface(word).ip)
        except ValueError:
            continue
    return found


def shared_disks(declarations: list[Declaration], domains: tuple[Observed, ...]) -> list[str]:
    """Return one line for every disk that two domains would have open, one of them for writing."""
    wanted = [one for one in declarations if one.state in ("running", "paused")]
    users: dict[str, list[tuple[str, str]]] = {}  # path -> (name, access) of each user
    for domain in (*(one.domain for one in domains), *(one.domain for one in wanted)):
        for disk in domain.disks:
            users.setdefault(plain_path(disk.path), []).append((base_name(domain.name), disk.access))
    lines = []
    for declaration in wanted:
        for disk in declaration.domain.disks:
            used = users[plain_path(disk.path)]
            others = {name for name, access in used if name != declaration.name and "w" in (access, disk.access)}
            lines += [
                f"domain {declaration.name}: disks: {disk.path} is used by domain {other};"
                " only one domain may open a disk for writing"
                for other in sorted(others)
            ]
    return lines


def removed_disks(declarations: list[Declaration], host: Host) -> list[str]:
    """Return one line for every disk that would be removed with its domain although another domain uses it."""
    gone = {declaration.name for declaration in declarations if declaration.state == "absent"}
    users = [(base_name(one.domain.name), disk) for one in host.domains for disk in one.domain.disks]
    users += [(declaration.name, disk) for declaration in declarations for disk in declaration.domain.disks]
    lines = []
    for declaration in declarations:
        for origin in declaration.origins if declaration.state == "absent" and declaration.remove_disks else ():
            others = {name for name, disk in users if plain_path(disk.path) == plain_path(origin.path)}
            lines += [
                f"domain {declaration.name}: disks: {origin.path} is used by domain {other}, so it can't be removed:"
                " disks_on_absent: keep leaves it"
                for other in sorted(others.union(host.defining(origin.path)) - gone)
            ]
    return lines


def cpu_refusal(domain: Domain, host: Host) -> str | None:
    """Return one line if the domain is pinned to CPUs on which it can't run, else None."""
    chosen = cpu_set(domain.cpus)
    if chosen is None:
        return None
    if host.cpus and max(chosen) >= host.cpus:
        return f"domain {domain.name}: cpus: is {domain.cpus}, the host has CPUs 0-{host.cpus - 1}"
    if not narrowed(domain.cpus, host.default_cpus):
        return (
            f"domain {domain.name}: cpus: is {domain.cpus}, but this host lets domains run on {host.default_cpus} only"
            " (vm.cpumask in /etc/xen/xl.conf, the variable xen_host_domain_cpus)"
        )
    return None
