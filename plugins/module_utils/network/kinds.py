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

from .antispoof import reserved
from .names import AUTO, MAX_NAME, NAME, bridge_refusal, uplink_refusal

BRIDGED, ROUTED, NAT, ISOLATED = "bridged", "routed", "nat", "isolated"
UNKNOWN = "unknown"  # the mode of a network whose declaration has mistakes
MODES = (BRIDGED, ROUTED, NAT, ISOLATED)
# IPv6 needs 1280 (RFC 8200); the upper bound is a bridge's.
MIN_MTU, MAX_MTU = 1280, 65535
MAX_VLAN = 4094

IPNetwork = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
IPInterface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]
IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

_ROUTE = "10.8.0.0/24 via 10.77.0.10"  # for messages
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
_KEYS = {
    BRIDGED: ("mode", "uplink", "vlan", "addresses", "subnets", "gateway", "gateway6", "mtu"),
    ROUTED: ("mode", "uplink", "addresses", "subnets", "routes", "proxy", "mtu"),
    NAT: ("mode", "uplink", "addresses", "routes", "mtu"),
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
    behind: tuple[str, ...] = ()  # routed, nat: what a domain routes for, each as "PREFIX via ADDRESS"

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
    def ways(self) -> list[tuple[IPNetwork, IPAddress]]:
        """Prefixes behind domains that are routers, and the domain's address."""
        pairs = (one.split(" via ") for one in self.behind)
        return [(ipaddress.ip_network(prefix), ipaddress.ip_address(address)) for prefix, address in pairs]

    @property
    def carried(self) -> list[IPNetwork]:
        """The prefixes that packets of the network come from: of its domains, and what is behind them."""
        return [*self.prefixes, *(prefix for prefix, _address in self.ways)]

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
    names = [str(name) for name in value]
    for name, options in value.items():
        problems: list[str] = []
        if name is None or isinstance(name, bool):
            problems.append(f"the name is {name!r}, as YAML reads it: put it in quotes")
        elif names.count(str(name)) > 1:
            problems.append("is listed twice, as a number and as a text")
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
        refused = bridge_refusal(name)
        if refused:
            problem(refused)
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
            behind=self._routes(),
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
        self._gateways_fit(network)
        self._routes_fit(network)
        self._room(network)

    def _room(self, network: Network) -> None:
        """Refuse a network without an address for a domain, or for Dom0."""
        if self.managed and network.mode in (ROUTED, NAT) and not network.addresses and not self.options.get("addresses"):
            self.problem("addresses: is required: Dom0's own there, which domains send through, as in [10.77.0.1/24]")
        single = [one for one in network.own if one.network.num_addresses == 1]
        for one in single if network.mode == NAT else ():
            if not is_link_local(one.ip):
                prefix = 24 if one.version == 4 else 64
                self.problem(f"addresses: {one} leaves no address for a domain: give its prefix, as in {one.ip}/{prefix}")
        if network.mode == NAT and network.own and not single and not network.prefixes:
            self.problem("addresses: are link-local, which nobody routes: add a private one, as in 10.77.0.1/24")
        if network.mode != ROUTED:
            return
        for subnet in map(ipaddress.ip_network, network.subnets):
            if is_link_local(subnet.network_address):
                self.problem(f"subnets: {subnet} is link-local, which nobody routes")
            elif any(subnet == ipaddress.ip_network(one.ip) for one in network.own):
                self.problem(f"subnets: {subnet} is Dom0's own address there")
        if network.own and not network.prefixes and not self.options.get("subnets"):
            self.problem("subnets: is required, as in [203.0.113.7]: Dom0's addresses there leave none for a domain")

    def _gateways_fit(self, network: Network) -> None:
        for option, text in (("gateway", network.gateway), ("gateway6", network.gateway6)):
            if not text:
                continue
            gateway = ipaddress.ip_address(text)
            if any(one.ip == gateway for one in network.own):
                self.problem(f"{option}: {gateway} is Dom0's own address there")
            for prefix in network.prefixes:
                if is_edge(gateway, prefix):
                    self.problem(f"{option}: {gateway} is the network or broadcast address of {prefix}")

    def _uplink(self, mode: str) -> str:
        if mode == ISOLATED:
            return ""
        value = self.options.get("uplink", "")
        if value == "":
            return "" if mode == BRIDGED else AUTO
        if value == AUTO:
            return AUTO
        if not isinstance(value, str):
            self.problem(f"uplink: is {value!r}, must be the name of a network device, or auto for that of the default route")
            return ""
        refused = uplink_refusal(value)
        if refused:
            self.problem(f"uplink: {refused}, or auto for that of the default route")
        return value if NAME.fullmatch(value) else ""

    def _list(self, option: str, example: str = "10.77.0.1/24") -> list[str]:
        value = self.options.get(option, [])
        items = [value] if isinstance(value, str) else value
        if isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items):
            return list(items)
        self.problem(f"{option}: must be a list of texts, as in [{example}]; write an IPv6 address in quotes")
        return []

    def _addresses(self) -> tuple[str, ...]:
        found: list[str] = []
        for text in self._list("addresses"):
            try:
                one = ipaddress.ip_interface(text if "/" in text and "%" not in text else "")
            except ValueError:
                self.problem(f"addresses: {text!r} is not ADDRESS/PREFIX, as in 10.77.0.1/24")
                continue
            before = [ipaddress.ip_interface(other) for other in found]
            refused = _address_refusal(one, before)
            if refused:
                self.problem(f"addresses: {refused}")
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
            other = reserved(network)
            if other:
                self.problem(f"subnets: {network} can't be domains' own: no address of {other} can")
            else:
                found.append(str(network))
        return tuple(dict.fromkeys(found))

    def _routes(self) -> tuple[str, ...]:
        found: list[str] = []
        for text in self._list("routes", _ROUTE):
            prefix, via, address = (word.strip() for word in text.partition(" via "))
            try:
                network = ipaddress.ip_network(prefix if via and "%" not in text else "")
                router = ipaddress.ip_address(address)
            except ValueError:
                self.problem(f"routes: {text!r} is not PREFIX via ADDRESS, as in {_ROUTE}")
                continue
            if network.version != router.version:
                self.problem(f"routes: {text}: one is of IPv4, the other of IPv6")
            elif reserved(network):
                self.problem(f"routes: {network} can't be behind a domain: no address of {reserved(network)} can")
            elif is_link_local(network.network_address):
                self.problem(f"routes: {network} is link-local, which nobody routes")
            else:
                found.append(f"{network} via {router}")
        return tuple(dict.fromkeys(found))

    def _routes_fit(self, network: Network) -> None:
        """Refuse a route over what is not on the network, or to what is there already."""
        for index, (prefix, router) in enumerate(network.ways):
            if not any(router in one for one in network.prefixes):
                there = ", ".join(map(str, network.prefixes)) or "no subnet"
                self.problem(f"routes: {router} is not on the network ({there}): name the address of a domain there")
            elif any(router == one.ip for one in network.own):
                self.problem(f"routes: {router} is Dom0's own address there: name the address of a domain")
            elif any(is_edge(router, one.network) for one in network.own):
                self.problem(f"routes: {router} is a network or broadcast address: name the address of a domain")
            for other in [*network.prefixes, *(one for one, _router in network.ways[:index])]:
                if other.version == prefix.version and other.overlaps(prefix):
                    self.problem(f"routes: {prefix} overlaps {other}, which is on the network or behind another domain")

    def _gateway(self, option: str, version: int) -> str:
        value = self.options.get(option, "")
        if value == "":
            return ""
        try:
            address = ipaddress.ip_address(value if isinstance(value, str) and "%" not in value else "")
            if address.version != version or reserved(ipaddress.ip_network(address)):
                raise ValueError
        except ValueError:
            self.problem(f"{option}: is {value!r}, must be an IPv{version} address of a router, without a prefix or zone")
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


def is_edge(address: IPAddress, network: IPNetwork) -> bool:
    """True for the network or broadcast address of an IPv4 network that has one (RFC 3021), and for IPv6's anycast address of
    all routers (RFC 4291, 6164)."""
    if address.version != network.version or network.prefixlen > network.max_prefixlen - 2:
        return False
    return address == network.network_address or (address.version == 4 and address == network.broadcast_address)


def _address_refusal(one: IPInterface, before: list[IPInterface]) -> str:
    """Return why Dom0 can't have this address; "" if it can. ``before``: its others there."""
    mapped = one.ip.ipv4_mapped if isinstance(one.ip, ipaddress.IPv6Address) else None
    other = reserved(one.network)
    if mapped:
        return f"{one} is an IPv4 address written as one of IPv6: write {mapped}/PREFIX"
    if one.ip.is_multicast or one.ip.is_loopback or one.ip.is_unspecified:
        return f"{one.ip} can't be a host's own: it is multicast, loopback or zero"
    if other and one.ip in other:
        return f"{one.ip} can't be a host's own: no address of {other} can"
    if other:
        return f"{one}: the prefix is too short: {one.network} holds {other}, which is nobody's"
    if is_edge(one.ip, one.network):
        return f"{one.ip} is the network or broadcast address of {one.network}"
    if any(one.ip == that.ip for that in before):
        return f"{one} is listed twice"
    for that in before:
        many = 1 not in (one.network.num_addresses, that.network.num_addresses) and one.version == that.version
        if many and one.network != that.network and one.network.overlaps(that.network):
            return f"{one.network} overlaps {that.network}: give both addresses the same prefix"
    return ""


def _between(networks: list[Network]) -> list[str]:
    """Return one line for each pair of networks that claim the same."""
    lines = []
    for index, second in enumerate(networks):
        for first in networks[:index]:
            place = f"xen_host_networks.{second.name}"
            lines += [f"{place}: {line}" for line in _shared_addresses(first, second)]
            if BRIDGED == first.mode == second.mode and second.port and second.port == first.port:
                lines.append(
                    f"{place}: uplink: {second.port} is under {first.name} already; a device is in one bridge: use a vlan"
                )
            for one, other in ((second, first), (first, second)):
                lines += [f"xen_host_networks.{one.name}: {line}" for line in _over(one, other)]
    return lines


def _shared_addresses(first: Network, second: Network) -> list[str]:
    lines = [
        f"{mine} overlaps {other} of {first.name}: each network needs addresses of its own"
        for mine in second.carried
        for other in first.carried
        if mine.version == other.version and mine.overlaps(other)
    ]
    both = {one.ip for one in first.own} & {one.ip for one in second.own}
    lines += [f"addresses: {address} is Dom0's on {first.name} too" for address in both if not is_link_local(address)]
    return lines


def _over(one: Network, other: Network) -> list[str]:
    """Return what is wrong with ``one`` where it leaves by ``other``, or has an address inside of it."""
    lines = []
    if one.mode == BRIDGED and one.port == other.name:
        lines.append(f"uplink: {one.port} is a network itself")
    if one.mode != BRIDGED and other.mode != BRIDGED and one.uplink == other.name:
        lines.append(f"uplink: {other.name} is itself a network of mode {other.mode}: name a device, or a bridged network")
    # On a bridged network the host's own address is there anyway, and may be Dom0's on a routed one.
    for own in one.own if other.mode != BRIDGED else ():
        inside = [prefix for prefix in other.prefixes if own.network.num_addresses == 1 and own.ip in prefix]
        if inside and all(own.ip != that.ip for that in other.own):
            lines.append(f"addresses: {own.ip} is in {inside[0]} of {other.name}, where a domain may have it")
    same = one.mode == other.mode == BRIDGED and one.uplink == other.uplink
    if same and one.vlan and not other.vlan and one.mtu > other.mtu > 0:
        lines.append(f"mtu: is {one.mtu}, but {one.uplink}, which the VLAN is on, carries {other.mtu} ({other.name})")
    return lines
