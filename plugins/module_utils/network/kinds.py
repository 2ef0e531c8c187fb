# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read `xen_host_networks`: the networks that a host offers, each a bridge of the same name. Pure.

bridged   the bridge has an uplink (or none); domains are neighbours of everything there
routed    domains have addresses that a provider routes to the host, or expects on its wire; Dom0 routes, no foreign MAC leaves
nat       domains have private addresses; outgoing packets get the host's, published ports come in
isolated  domains reach only each other
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

BRIDGED, ROUTED, NAT, ISOLATED = "bridged", "routed", "nat", "isolated"
UNKNOWN = "unknown"  # the mode of a network whose declaration has mistakes
MODES = (BRIDGED, ROUTED, NAT, ISOLATED)
AUTO = "auto"  # the device of the default route
# Linux limits a device's name to 15 characters (IFNAMSIZ - 1).
MAX_NAME = 15
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
# IPv6 needs 1280 (RFC 8200); the upper bound is a bridge's.
MIN_MTU, MAX_MTU = 1280, 65535
MAX_VLAN = 4094

IPNetwork = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
IPInterface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]
IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
_KEYS = {
    BRIDGED: ("mode", "uplink", "vlan", "addresses", "subnets", "gateway", "gateway6", "mtu"),
    ROUTED: ("mode", "uplink", "addresses", "subnets", "proxy", "mtu"),
    NAT: ("mode", "uplink", "addresses", "mtu"),
    ISOLATED: ("mode", "addresses", "subnets", "mtu"),
}


@dataclass(frozen=True)
class Network:
    """One network. ``addresses``: Dom0's own on it (ADDRESS/PREFIX); ``subnets``: prefixes that domains may be in."""

    name: str
    mode: str
    uplink: str = ""  # bridged: "" for none; routed, nat: the device for outgoing packets
    vlan: int = 0
    addresses: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    gateway: str = ""
    gateway6: str = ""
    proxy: bool = False  # routed: Dom0 answers for the domains' addresses at the uplink
    mtu: int = 0  # 0: Linux's default

    @property
    def own(self) -> list[IPInterface]:
        return [ipaddress.ip_interface(address) for address in self.addresses]

    @property
    def prefixes(self) -> list[IPNetwork]:
        """The prefixes that domains may be in: the subnets, and the networks of Dom0's addresses if larger than one address."""
        found = [ipaddress.ip_network(subnet) for subnet in self.subnets]
        found += [one.network for one in self.own if one.network.num_addresses > 1 and not is_link_local(one.ip)]
        return list(dict.fromkeys(found))

    @property
    def routes(self) -> list[IPNetwork]:
        """Subnets behind the bridge that are in no network of Dom0's addresses, so that they need a route."""
        own = [one.network for one in self.own]
        return [
            network
            for network in map(ipaddress.ip_network, self.subnets)
            if self.mode == ROUTED and not any(within(network, other) for other in own)
        ]

    @property
    def port(self) -> str:
        """The device under the bridge; only a bridged network has one."""
        if self.mode != BRIDGED:
            return ""
        return f"{self.uplink}.{self.vlan}" if self.vlan else self.uplink

    def gateway_for(self, address: IPInterface) -> str:
        """Return the default gateway for a domain with this address; "" for none."""
        if self.mode == BRIDGED:
            return self.gateway if address.version == 4 else self.gateway6
        if self.mode == ISOLATED:
            return ""
        same = [one for one in self.own if one.version == address.version]
        near = [one for one in same if address.ip in one.network and one.network.num_addresses > 1] or same
        return str(near[0].ip) if near else ""


def is_link_local(address: IPAddress) -> bool:
    return any(address.version == network.version and address in network for network in _LINK_LOCAL)


def within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def read_networks(value: Any, managed: bool = True) -> tuple[dict[str, Network], list[str]]:
    """Return the networks by name, and one line for each mistake. ``managed``: we create the host's networks."""
    where = "xen_host_networks"
    if value in (None, "", {}):
        return {}, []
    if not isinstance(value, Mapping):
        return {}, [f"{where}: must be a mapping of name to network, as in {{inside: {{mode: nat, addresses: [10.77.0.1/24]}}}}"]
    networks, lines = {}, []
    for name, options in value.items():
        problems: list[str] = []
        network = _Reader(str(name), options, problems.append, managed).network()
        lines += [f"{where}.{name}: {problem}" for problem in problems]
        if not problems:
            networks[network.name] = network
    return networks, lines + _between(list(networks.values()))


class _Reader:
    """Reads one network's options; each refusal names the option and what would be right."""

    def __init__(self, name: str, options: Any, problem: Callable[[str], None], managed: bool) -> None:
        self.name, self.problem, self.managed = name, problem, managed
        self.options: Mapping[str, Any] = {}
        if not NAME.fullmatch(name):
            problem(f"the name must be 1..{MAX_NAME} letters, digits, '_', '.', '-', for the bridge has it")
        if isinstance(options, Mapping):
            self.options = {str(key): item for key, item in options.items() if item is not None}
        else:
            problem("must be a mapping, as in {mode: nat, addresses: [10.77.0.1/24]}")

    def network(self) -> Network:
        mode = self.options.get("mode", BRIDGED)
        if mode not in MODES:
            self.problem(f"mode: is {mode!r}, must be one of {', '.join(MODES)}")
            return Network(self.name, BRIDGED)
        for key in self.options:
            if key not in _KEYS[mode]:
                self.problem(f"{key}: is no option of a {mode} network; it has {', '.join(_KEYS[mode])}")
        network = Network(
            name=self.name,
            mode=mode,
            uplink=self._uplink(mode),
            vlan=self._number("vlan", 1, MAX_VLAN),
            addresses=self._addresses(),
            subnets=self._subnets(),
            gateway=self._gateway("gateway", 4),
            gateway6=self._gateway("gateway6", 6),
            proxy=self._flag("proxy"),
            mtu=self._number("mtu", MIN_MTU, MAX_MTU),
        )
        self._fits(network)
        return network

    def _fits(self, network: Network) -> None:
        if network.vlan and not network.uplink:
            self.problem("vlan: needs the uplink that it is on")
        # "auto" is checked on the host, where it has a name.
        if network.vlan and network.uplink != AUTO and len(network.port) > MAX_NAME:
            self.problem(
                f"vlan: {network.port} has {len(network.port)} letters, a device has at most {MAX_NAME}: rename the uplink"
            )
        if network.uplink == network.name:
            self.problem("uplink: has the name of the network: the bridge needs one of its own")
        if self.managed and network.mode in (ROUTED, NAT) and not network.addresses and not self.options.get("addresses"):
            self.problem("addresses: is required: Dom0's own there, which domains send through, as in [10.77.0.1/24]")
        for gateway in (network.gateway, network.gateway6):
            if gateway and any(one.ip == ipaddress.ip_address(gateway) for one in network.own):
                self.problem(f"gateway: {gateway} is Dom0's own address there")
        if network.mode == NAT:
            for one in network.own:
                if one.network.num_addresses == 1 and not is_link_local(one.ip):
                    self.problem(f"addresses: {one} leaves no address for a domain: give its prefix, as in {one.ip}/24")

    def _uplink(self, mode: str) -> str:
        if mode == ISOLATED:
            return ""
        value = self.options.get("uplink", "" if mode == BRIDGED else AUTO)
        if value == "" or (isinstance(value, str) and NAME.fullmatch(value)):
            return str(value)
        self.problem(f"uplink: is {value!r}, must be the name of a network device, or auto for that of the default route")
        return ""

    def _list(self, option: str) -> list[str]:
        value = self.options.get(option, [])
        items = [value] if isinstance(value, str) else value
        if isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items):
            return list(items)
        self.problem(f"{option}: must be a list of texts, as in [10.77.0.1/24]; write an IPv6 address in quotes")
        return []

    def _addresses(self) -> tuple[str, ...]:
        found: list[str] = []
        for text in self._list("addresses"):
            try:
                one = ipaddress.ip_interface(text if "/" in text and "%" not in text else "")
            except ValueError:
                self.problem(f"addresses: {text!r} is not ADDRESS/PREFIX, as in 10.77.0.1/24")
                continue
            if one.ip.is_multicast or one.ip.is_loopback or one.ip.is_unspecified:
                self.problem(f"addresses: {one.ip} can't be a host's own: it is multicast, loopback or zero")
            elif _edge(one):
                self.problem(f"addresses: {one.ip} is the network or broadcast address of {one.network}")
            elif str(one) in found:
                self.problem(f"addresses: {one} is there twice")
            else:
                found.append(str(one))
        return tuple(found)

    def _subnets(self) -> tuple[str, ...]:
        found: list[str] = []
        for text in self._list("subnets"):
            try:
                network = ipaddress.ip_network(text if "%" not in text else "")
            except ValueError:
                self.problem(f"subnets: {text!r} is not a network or a single address, as in 203.0.113.64/29 or 203.0.113.77")
                continue
            if not network.prefixlen or network.is_multicast or network.is_loopback:
                self.problem(f"subnets: {network} can't be domains' own")
            else:
                found.append(str(network))
        return tuple(dict.fromkeys(found))

    def _gateway(self, option: str, version: int) -> str:
        value = self.options.get(option, "")
        if value == "":
            return ""
        try:
            address = ipaddress.ip_address(value if isinstance(value, str) and "%" not in value else "")
            if address.version != version or address.is_multicast or address.is_unspecified or address.is_loopback:
                raise ValueError
        except ValueError:
            self.problem(f"{option}: is {value!r}, must be an IPv{version} address without a prefix")
            return ""
        return str(address)

    def _number(self, option: str, low: int, high: int) -> int:
        value = self.options.get(option, 0)
        text = str(value)
        whole = not isinstance(value, (bool, float)) and re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) is not None
        if option not in self.options or (whole and low <= int(text) <= high):
            return int(text)
        self.problem(f"{option}: is {value!r}, must be a whole number {low}..{high}")
        return 0

    def _flag(self, option: str) -> bool:
        value = self.options.get(option, False)
        word = str(value).strip().lower()
        if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            self.problem(f"{option}: is {value!r}, must be true or false")
        return word in ("true", "yes", "on", "1")


def _edge(one: IPInterface) -> bool:
    """True for the network or broadcast address of an IPv4 network that has one (RFC 3021)."""
    network = one.network
    return network.version == 4 and network.prefixlen < 31 and one.ip in (network.network_address, network.broadcast_address)


def _between(networks: list[Network]) -> list[str]:
    """Return one line for each pair of networks that claim the same."""
    lines = []
    for index, second in enumerate(networks):
        for first in networks[:index]:
            place = f"xen_host_networks.{second.name}"
            for mine in second.prefixes:
                for other in first.prefixes:
                    if mine.version == other.version and mine.overlaps(other):
                        lines.append(f"{place}: {mine} overlaps {other} of {first.name}: each network needs addresses of its own")
            shared = {one.ip for one in first.own} & {one.ip for one in second.own}
            lines += [
                f"{place}: addresses: {address} is Dom0's on {first.name} too" for address in shared if not is_link_local(address)
            ]
            if BRIDGED == first.mode == second.mode and second.port and second.port == first.port:
                lines.append(
                    f"{place}: uplink: {second.port} is under {first.name} already; a device is in one bridge: use a vlan"
                )
            for one, other_one in ((second, first), (first, second)):
                if one.mode == BRIDGED and one.port == other_one.name:
                    lines.append(f"xen_host_networks.{one.name}: uplink: {one.port} is a network itself")
    return lines
