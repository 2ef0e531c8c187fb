# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was read of a host's network, and the bridges that it is to have. Pure.

`settle` returns complete `Bridge`s: each has its port by name, its MAC, and whether the port's own addresses move to it. The
writers (ifupdown, networkd, netplan, networkmanager) turn them into files.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .guests import Guests, Published
from .kinds import BRIDGED, NAT, ROUTED, Network
from .names import AUTO, MAX_NAME

IFUPDOWN, NETWORKD, NETPLAN, NETWORKMANAGER = "ifupdown", "systemd-networkd", "netplan", "NetworkManager"
MANAGERS = (IFUPDOWN, NETWORKD, NETPLAN, NETWORKMANAGER)


class NetworkError(Exception):
    """One line for each thing that is wrong."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; and ".join(lines))
        self.lines = list(lines)


@dataclass(frozen=True)
class Link:
    """A network device. ``kind``: bridge, bond, vlan or whatever ``ip -d`` prints; "" for hardware. ``lower``: of a VLAN."""

    name: str
    mac: str = ""
    kind: str = ""
    master: str = ""
    addresses: tuple[str, ...] = ()
    mtu: int = 0  # 0: not known
    lower: str = ""


@dataclass(frozen=True)
class State:
    """What the last confirmed run left, as in ``networks.json``."""

    networks: Mapping[str, Network] = field(default_factory=dict)  # uplink: auto is replaced by the device
    guests: Guests = field(default_factory=Guests)
    originals: Mapping[str, str | None] = field(default_factory=dict)  # path -> text before us; None: there was no file
    written: Mapping[str, str] = field(default_factory=dict)  # path -> text that we wrote
    adopted: tuple[str, ...] = ()  # bridges that existed before us
    moved: tuple[str, ...] = ()  # bridges that have the addresses of their port
    advertised: tuple[str, ...] = ()  # devices with a default route from a router advertisement
    connection: str = ""  # NetworkManager: the file of the uplink's connection before us


@dataclass(frozen=True)
class Reading:
    host: str
    manager: str
    links: Mapping[str, Link]
    default: str = ""  # the device of the default route
    files: Mapping[str, str] = field(default_factory=dict)  # of all managers, by path
    guests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # bridge -> running domains
    listening: frozenset[tuple[str, str, int]] = frozenset()  # (protocol, address, port) of Dom0 itself
    advertised: tuple[str, ...] = ()  # devices with a default route from a router advertisement
    connection: str = ""  # NetworkManager: the file of the uplink's connection, "" for one that has none
    cloud_init: bool = False
    state: State = field(default_factory=State)

    def original(self, path: str) -> str | None:
        """Return a file as it was before us; None if there was none.

        If somebody edits a file that we changed, the edited text becomes the original.
        """
        current, before = self.files.get(path), self.state.originals.get(path, "")
        ours = before is None or (path in self.state.originals and current == self.state.written.get(path))
        return before if ours else current

    @property
    def originals(self) -> dict[str, str]:
        """All files as they were before us."""
        found = {path: self.original(path) for path in {*self.files, *self.state.originals}}
        return {path: text for path, text in sorted(found.items()) if text is not None}


@dataclass(frozen=True)
class Bridge:
    """A network as a device. ``moves``: the host's manager configures the port, and its addresses go to the bridge."""

    network: Network
    mac: str
    moves: bool = False

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def port(self) -> str:
        return self.network.port

    @property
    def vlan(self) -> int:
        """The VLAN tag, if the port has to be created."""
        return self.network.vlan

    @property
    def routes(self) -> list[str]:
        return [str(route) for route in self.network.routes]

    @property
    def ways(self) -> list[tuple[str, str]]:
        """(prefix, address of the domain that it is behind)."""
        return [(str(prefix), str(address)) for prefix, address in self.network.ways]


def bridge_mac(host: str, name: str) -> str:
    """Return a fixed MAC for a bridge without hardware. Linux would use the lowest MAC of its vifs, so Dom0's would change
    whenever a domain comes, under the domains that send through it."""
    digest = hashlib.sha256(f"{host}\0bridge\0{name}".encode()).hexdigest()
    return "02:" + ":".join(digest[index : index + 2] for index in range(0, 10, 2))


def settle(
    networks: Mapping[str, Network], reading: Reading, configured: frozenset[str]
) -> tuple[list[Bridge], list[Network], list[str]]:
    """Return the bridges to write, the networks whose bridges exist and stay as they are, and what is wrong.

    ``configured``: devices that the host's manager configures.
    """
    bridges, adopted, lines = [], [], []
    for network in networks.values():
        where = f"xen_host_networks.{network.name}"
        link = reading.links.get(network.name)
        ours = network.name in reading.state.networks and network.name not in reading.state.adopted
        if link and not ours:
            if link.kind != "bridge":
                lines.append(f"{where}: {network.name} is a device of this host and no bridge: choose another name")
            else:
                adopted.append(_adopted(network, link, where, lines))
            continue
        settled, before = _with_uplink(network, reading, where, lines), reading.state.networks.get(network.name)
        if settled is None:
            continue
        moves = not settled.vlan and (settled.port in configured or (network.name in reading.state.moved and settled == before))
        mac = bridge_mac(reading.host, network.name)
        if settled.mode == BRIDGED and settled.port and not settled.vlan:
            mac = reading.links[settled.port].mac
        bridges.append(Bridge(settled, mac, settled.mode == BRIDGED and moves))
    return bridges, adopted, [*lines, *_ports(bridges), *_too_large(bridges, reading)]


def _adopted(network: Network, link: Link, where: str, lines: list[str]) -> Network:
    missing = [address for address in network.addresses if address not in link.addresses]
    if missing:
        lines.append(
            f"{where}: bridge {network.name} was there before and has no address {', '.join(missing)}: add it where the bridge is"
            " configured, or give the network another name"
        )
    return replace(network, uplink="", vlan=0) if network.mode == BRIDGED else network


def _with_uplink(network: Network, reading: Reading, where: str, lines: list[str]) -> Network | None:
    """Return the network with its uplink by name; None if it has none, which was reported."""
    if network.mode != BRIDGED or not network.uplink:
        return network
    before = reading.state.networks.get(network.name)
    uplink = network.uplink
    if uplink == AUTO:
        uplink = reading.default
        if before and before.mode == BRIDGED and uplink in (network.name, ""):
            uplink = before.uplink
        if not uplink:
            lines.append(f"{where}: uplink: auto: the host has no default route, so its uplink is not known: name it")
            return None
    # The named uplink is another of our bridges, which has the addresses: use the device under it for a VLAN.
    over = reading.state.networks.get(uplink)
    if over and over.mode == BRIDGED and network.vlan:
        uplink = over.uplink
    settled = replace(network, uplink=uplink)
    link = reading.links.get(uplink)
    if link is None:
        lines.append(f"{where}: uplink: the host has no device {uplink} (it has {_devices(reading)})")
        return None
    if link.kind == "bridge":
        lines.append(f"{where}: uplink: {uplink} is itself a bridge: name the network {uplink}, or give the device under it")
        return None
    if _empty_bond(link, reading):
        lines.append(
            f"{where}: uplink: bond {_empty_bond(link, reading)} has no members: add one where it is configured (bond-slaves)"
        )
        return None
    if link.master and link.master != network.name and not network.vlan:
        lines.append(f"{where}: uplink: {uplink} belongs to {link.master}: give that, or another device")
        return None
    if len(settled.port) > MAX_NAME:
        lines.append(
            f"{where}: vlan: {settled.port} has {len(settled.port)} letters, a device has at most {MAX_NAME}: rename the uplink"
        )
        return None
    return settled


def _devices(reading: Reading) -> str:
    return ", ".join(sorted(name for name, one in reading.links.items() if one.kind in ("", "bond", "vlan") and name != "lo"))


def _empty_bond(link: Link, reading: Reading) -> str:
    """Return the bond without members that the device is, or that it is a VLAN on; "" for none."""
    lower = reading.links.get(link.lower, link) if link.kind == "vlan" else link
    empty = lower.kind == "bond" and not any(one.master == lower.name for one in reading.links.values())
    return lower.name if empty else ""


def _too_large(bridges: list[Bridge], reading: Reading) -> list[str]:
    """Refuse frames larger than those of the device under a VLAN: Linux would, in the middle of the change."""
    raised = {one.port: one.network.mtu for one in bridges if not one.vlan and one.network.mtu}
    lines = []
    for one in bridges:
        link = reading.links.get(one.network.uplink if one.vlan else one.port)
        lower = link.name if link and one.vlan else link.lower if link and link.kind == "vlan" else ""
        carries = raised.get(lower) or (reading.links[lower].mtu if lower in reading.links else 0)
        if carries and one.network.mtu > carries:
            lines.append(
                f"xen_host_networks.{one.name}: mtu: is {one.network.mtu}, but {lower}, which the VLAN is on, carries {carries}:"
                f" raise it where {lower} is configured"
            )
    return lines


def _ports(bridges: list[Bridge]) -> list[str]:
    lines = []
    for index, second in enumerate(bridges):
        for first in bridges[:index]:
            if second.port and second.network.mode == first.network.mode == BRIDGED and second.port == first.port:
                lines.append(
                    f"xen_host_networks.{second.name}: uplink: {second.port} is under {first.name} already; a device is in one"
                    " bridge: use a vlan"
                )
    return lines


def ways(networks: Mapping[str, Network], bridges: list[Bridge], reading: Reading) -> dict[str, str]:
    """Map routed and nat networks to the device by which they reach the world, after the change."""
    over = {one.port: one.name for one in bridges if one.moves}
    found = {}
    for network in networks.values():
        if network.mode in (ROUTED, NAT):
            device = reading.default if network.uplink == AUTO else network.uplink
            found[network.name] = over.get(device, device)
    return found


def refusals(networks: Mapping[str, Network], bridges: list[Bridge], guests: Guests, reading: Reading) -> list[str]:
    """Return one line for each conflict of the networks with the host or with what runs on it."""
    return [
        *_under_guests(bridges, networks, reading),
        *_without_a_way(networks, bridges, reading),
        *_overlaps(networks, reading),
        *_published(guests, networks, reading),
    ]


def _without_a_way(networks: Mapping[str, Network], bridges: list[Bridge], reading: Reading) -> list[str]:
    """Refuse a routed or nat network whose uplink is not there."""
    lines = []
    for name, device in sorted(ways(networks, bridges, reading).items()):
        where, link = f"xen_host_networks.{name}: uplink", reading.links.get(device)
        if not device:
            lines.append(f"{where}: auto: the host has no default route, so its uplink is not known: name it")
        elif link is None and device not in {one.name for one in bridges}:
            lines.append(f"{where}: the host has no device {device} (it has {_devices(reading)})")
        elif link and _empty_bond(link, reading):
            lines.append(
                f"{where}: bond {_empty_bond(link, reading)} has no members: add one where it is configured (bond-slaves)"
            )
    return lines


def _under_guests(bridges: list[Bridge], networks: Mapping[str, Network], reading: Reading) -> list[str]:
    lines = []
    wanted = {one.name: one.network for one in bridges}
    for name, before in reading.state.networks.items():
        running = ", ".join(reading.guests.get(name, ()))
        if not running or name in reading.state.adopted:
            continue
        after = wanted.get(name)
        if after is None and name not in networks:
            lines.append(f"xen_host_networks: {name} is gone, but domains run on it ({running}): move or remove these first")
        elif after is not None and after.mode != before.mode:
            lines.append(
                f"xen_host_networks.{name}: mode: is {after.mode}, was {before.mode}, and domains run on it ({running}): give the"
                " new network another name and move them, or remove these first"
            )
        elif after is not None and after.mode == BRIDGED and after.port != before.port:
            lines.append(
                f"xen_host_networks.{name}: uplink: is {after.port or 'none'}, was {before.port or 'none'}, and domains run on it"
                f" ({running}): remove these first"
            )
    return lines


def _overlaps(networks: Mapping[str, Network], reading: Reading) -> list[str]:
    """Refuse a prefix that is used elsewhere. A part of the uplink's is fine if Dom0 routes it: the longer prefix wins."""
    lines = []
    # A bridged network has the host's own addresses; those of the others are compared where they are declared.
    before = reading.state.networks
    mine = {name for name, one in {**before, **networks}.items() if one.mode != BRIDGED or name not in networks}
    for network in networks.values():
        for prefix in network.carried if network.mode != BRIDGED else []:
            for link in reading.links.values():
                for address in link.addresses if link.name not in mine else ():
                    there = ipaddress.ip_interface(address).network
                    if there.version != prefix.version or not there.overlaps(prefix):
                        continue
                    longer = prefix.prefixlen > there.prefixlen and network.mode == ROUTED
                    if not longer:
                        lines.append(
                            f"xen_host_networks.{network.name}: {prefix} overlaps {there} on {link.name} of this host:"
                            " take another"
                        )
    return lines


def _published(guests: Guests, networks: Mapping[str, Network], reading: Reading) -> list[str]:
    own = {ipaddress.ip_interface(address).ip for link in reading.links.values() for address in link.addresses}
    own |= {one.ip for network in networks.values() for one in network.own}
    there = ", ".join(sorted(str(address) for address in own if not address.is_loopback and not address.is_link_local))
    strange = sorted({(one.name, one.address) for one in guests.published if one.address})
    lines = [
        f"domain {name}: publish: address {address} is not the host's (it has {there})"
        for name, address in strange
        if ipaddress.ip_address(address) not in own
    ]
    return lines + _listening(guests, reading)


def _listening(guests: Guests, reading: Reading) -> list[str]:
    taken: dict[tuple[str, int, str], str] = {}
    for one in guests.published:
        for protocol, address, port in sorted(reading.listening):
            if (protocol, port) == (one.protocol, one.port) and _meets(one, address):
                taken.setdefault((one.protocol, one.port, one.name), address)
    return [
        f"domain {name}: publish: {protocol} port {port} is taken by a program of the host itself, which listens on"
        f" {'all addresses' if ipaddress.ip_address(address).is_unspecified else address}: publish another"
        for (protocol, port, name), address in sorted(taken.items())
    ]


def _meets(one: Published, listener: str) -> bool:
    """Whether a published port takes packets from a program of the host that listens on this address."""
    address = ipaddress.ip_address(listener)
    if address.is_unspecified:
        # A program on [::] gets IPv4 too, unless it asked for IPv6 alone, which /proc does not show.
        return address.version in (6, one.version)
    return address.version == one.version and (not one.address or address == ipaddress.ip_address(one.address))
