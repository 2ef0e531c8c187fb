# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's unikernels on its networks: `network` of an interface becomes bridge, gateway and MTU; `publish`, `accept` and
`reach` become rules. Pure.

`on_networks` turns the given unikernels into what the modules take, and returns what their host needs to know of them. Values
that the modules check themselves (is it an address at all?) are left to them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .antispoof import reserved
from .kinds import BRIDGED, ISOLATED, NAT, ROUTED, UNKNOWN, IPInterface, IPNetwork, Network, is_edge, is_link_local, within
from .reach import Limits, limits_of, read_limits

PROTOCOLS = ("tcp", "udp")
_PUBLISH_KEYS = ("port", "to", "protocol", "address", "network")
USUAL_MTU = 1500


@dataclass(frozen=True)
class Published:
    """Forwards a port of the host to a domain's. ``address``: only for this address of the host; "" for any."""

    name: str
    protocol: str
    port: int
    to: int
    target: str  # the domain's address
    network: str
    address: str = ""

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.target).version


@dataclass
class Guests:
    """What a host's networks need to know of its domains."""

    published: list[Published] = field(default_factory=list)
    # Network -> addresses that Dom0 answers for at the uplink.
    proxied: dict[str, list[str]] = field(default_factory=dict)
    # What may reach them, and what they may reach.
    limits: list[Limits] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        limits = {"limits": [one.plain() for one in self.limits]} if self.limits else {}
        return {"published": [asdict(one) for one in self.published], "proxied": self.proxied, **limits}


def guests_of(plain: Mapping[str, Any]) -> Guests:
    """Return the Guests from `Guests.plain`."""
    return Guests(
        [Published(**one) for one in plain.get("published", [])],
        {k: list(v) for k, v in plain.get("proxied", {}).items()},
        [limits_of(one) for one in plain.get("limits", [])],
    )


def on_networks(
    networks: Mapping[str, Network], unikernels: list[dict[str, Any]], ssh_port: int, problem: Callable[[str], None]
) -> Guests:
    """Put ``unikernels`` (options of each, changed in place) on networks. ``ssh_port``: where the controller reaches the host."""
    guests = Guests()
    for unikernel in unikernels:
        name = unikernel.get("name")
        where = f"domain {name}" if isinstance(name, str) else "a domain without a name"
        absent = unikernel.get("state") == "absent"
        placed = [
            (network, interface)
            for index, interface in _interfaces(unikernel)
            for network in [_network_of(networks, interface, f"{where}: interfaces[{index}]", problem)]
            if network
        ]
        if not absent:
            for network, interface in placed:
                if network.mode == ROUTED and network.proxy:
                    guests.proxied.setdefault(network.name, []).extend(str(one.ip) for _key, one in addresses(interface))
        limits = read_limits(unikernel, problem)
        guests.limits += [limits] if limits else []
        publish = unikernel.pop("publish", None)
        if publish is not None and not absent:
            guests.published += _published(unikernel, publish, placed, networks, problem)
    _taken(guests.published, ssh_port, problem)
    return guests


def _interfaces(unikernel: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    interfaces = unikernel.get("interfaces")
    for index, interface in enumerate(interfaces if isinstance(interfaces, list) else []):
        if isinstance(interface, dict):
            yield index, interface


def addresses(interface: Mapping[str, Any]) -> list[tuple[str, IPInterface]]:
    """Return (option, value) of the addresses that are valid."""
    found: list[tuple[str, IPInterface]] = []
    for option in ("address", "address6"):
        value = interface.get(option)
        try:
            found.append((option, ipaddress.ip_interface(value if isinstance(value, str) and "/" in value else "")))
        except ValueError:
            continue
    return found


def _network_of(
    networks: Mapping[str, Network], interface: dict[str, Any], where: str, problem: Callable[[str], None]
) -> Network | None:
    """Return the declared network that the interface is on. If it is named by ``network``, fill in the network's values."""
    name, bridge = interface.get("network"), interface.get("bridge")
    if name is None:
        interface.pop("network", None)
        network = networks.get(bridge) if isinstance(bridge, str) else None
    else:
        interface.pop("network")
        if bridge is not None:
            problem(f"{where}: network: is given beside bridge: remove one of them")
            return None
        if not isinstance(name, str) or name not in networks:
            interface["bridge"] = str(name)
            known = ", ".join(sorted(networks)) or "none"
            problem(f"{where}: network: {name!r} is not in xen_host_networks (known: {known})")
            return None
        network = networks[name]
        interface["bridge"] = name
        _fill(network, interface, where, problem)
    if network and network.mode != UNKNOWN:
        _judge(network, interface, where, problem)
    return network


def _fill(network: Network, interface: dict[str, Any], where: str, problem: Callable[[str], None]) -> None:
    for option, address in addresses(interface):
        key = "gateway6" if option == "address6" else "gateway"
        if interface.get(key) is not None:
            continue
        if network.gateway_for(address):
            interface[key] = network.gateway_for(address)
        elif network.mode in (ROUTED, NAT) and network.own and any(one.version == address.version for one in network.prefixes):
            example = "10.255.255.1/32" if address.version == 4 else "fe80::1/64"
            problem(
                f"{where}: {option}: Dom0 has no IPv{address.version} address on network {network.name} to send through: add one"
                f" to its addresses, as in {example}"
            )
    if network.mtu and interface.get("mtu") is None and network.mtu != USUAL_MTU:
        interface["mtu"] = network.mtu


def _judge(network: Network, interface: dict[str, Any], where: str, problem: Callable[[str], None]) -> None:
    for option, address in addresses(interface):
        prefixes = [one for one in network.prefixes if one.version == address.version]
        own = [one for one in network.own if one.version == address.version]
        edges = [one for one in _with_edges(network) if is_edge(address.ip, one)]
        if any(address.ip == one.ip for one in own):
            problem(f"{where}: {option}: {address.ip} is the host's own on {network.name}")
        elif str(address.ip) in (network.gateway, network.gateway6):
            problem(f"{where}: {option}: {address.ip} is the gateway of network {network.name}")
        elif edges and (address.version == 6 or address.network != edges[0]):  # the rest is checked with the interface
            problem(f"{where}: {option}: {address.ip} is the network or broadcast address of {edges[0]} ({network.name})")
        elif prefixes and not any(address.ip in one for one in prefixes):
            problem(f"{where}: {option}: {address.ip} is outside network {network.name} ({', '.join(map(str, prefixes))})")
        elif not prefixes and network.mode in (ROUTED, NAT) and (network.prefixes or own):
            problem(f"{where}: {option}: network {network.name} has no IPv{address.version} subnet: add one to it")
        _judge_prefix(network, address, f"{where}: {option}", problem)
        _judge_gateway(network, interface, "gateway6" if option == "address6" else "gateway", address, where, problem)
    _judge_claims(network, interface, where, problem)
    mtu = str(interface.get("mtu") or "")  # a template's number is a text
    # What an uplink carries is not known here.
    carries = network.mtu or (0 if network.port else USUAL_MTU)
    if carries and mtu.isascii() and mtu.isdigit() and len(mtu) < 7 and int(mtu) > carries:
        problem(
            f"{where}: mtu: is {mtu}, but network {network.name} carries {carries}: set the network's mtu, or a smaller one here"
        )


def _with_edges(network: Network) -> list[IPNetwork]:
    """Return the prefixes in which neighbours take the first and the last address for the network's and for broadcast.

    Of what is routed to the host as a whole, each address may be a domain's.
    """
    own = [one.network for one in network.own]
    return own if network.mode == ROUTED else [*own, *(ipaddress.ip_network(one) for one in network.subnets)]


def _judge_prefix(network: Network, address: IPInterface, where: str, problem: Callable[[str], None]) -> None:
    """Refuse a prefix wider than the network's: the domain would use ARP for addresses that Dom0 has to route."""
    mine = address.network
    if network.mode == BRIDGED or mine.num_addresses == 1:
        return
    prefixes = [one for one in network.prefixes if one.version == address.version and address.ip in one]
    wide = [one for one in prefixes if not within(mine, one)]
    if prefixes and len(wide) == len(prefixes):
        problem(
            f"{where}: /{mine.prefixlen} is wider than network {network.name} ({prefixes[0]}):"
            f" write {address.ip}/{prefixes[0].prefixlen}"
        )


def _judge_gateway(
    network: Network, interface: dict[str, Any], option: str, address: IPInterface, where: str, problem: Callable[[str], None]
) -> None:
    try:
        gateway = ipaddress.ip_address(interface.get(option) or "")
    except ValueError:
        return
    if gateway.version != address.version:
        return
    on_link = any(gateway.version == one.version and gateway in one for one in (address.network, *network.prefixes))
    on_link = on_link or is_link_local(gateway) or str(gateway) in (network.gateway, network.gateway6)
    dom0 = any(gateway == one.ip for one in network.own)
    if dom0 or (on_link and network.mode in (BRIDGED, ISOLATED)):
        if address.network.num_addresses > 1 and gateway not in address.network and not is_link_local(gateway):
            interface["gateway_on_link"] = True
    elif network.mode in (ROUTED, NAT) and not network.own:
        return  # somebody else made the bridge, and so decides the gateway
    elif network.mode in (ROUTED, NAT):
        ways = ", ".join(str(one.ip) for one in network.own if one.version == gateway.version) or "none of this family"
        problem(f"{where}: {option}: {gateway} is not Dom0's address on the {network.mode} network {network.name} ({ways})")
    elif address.network.num_addresses > 1:
        problem(
            f"{where}: {option}: {gateway} can't be reached: it is not in {address.network}, and not on network {network.name}"
            f" (its subnets, or its {option}, say what is on the link)"
        )


def _judge_claims(network: Network, interface: dict[str, Any], where: str, problem: Callable[[str], None]) -> None:
    """Refuse ``ip`` that has the whole network in it, Dom0's address or the gateway: a router may declare prefixes, but not what
    its neighbours send through."""
    value = interface.get("ip")
    for word in value.split() if isinstance(value, str) else []:
        try:
            claim = ipaddress.ip_network(word)
        except ValueError:
            continue
        whole = [prefix for prefix in network.prefixes if claim.num_addresses > 1 and within(prefix, claim)]
        dom0 = [one.ip for one in network.own if one.version == claim.version and one.ip in claim]
        gateways = [text for text in (network.gateway, network.gateway6) if text and _within(text, claim)]
        held = [f"the whole network {network.name} ({prefix})" for prefix in whole]
        held += [f"{address}, the host's own on {network.name}" for address in dom0]
        held += [f"{text}, the gateway of {network.name}" for text in gateways]
        beside = not is_link_local(claim.network_address) and not any(within(claim, one) for one in network.carried)
        if network.mode in (ROUTED, NAT) and network.own and beside and not held:
            router = next((str(one.ip) for _key, one in addresses(interface) if one.version == claim.version), "ADDRESS")
            problem(
                f"{where}: ip: {claim} is beside network {network.name}, and Dom0 has no route to it: add"
                f" '{claim} via {router}' to the network's routes"
            )
        if held:
            verb = f"{claim} holds" if claim.num_addresses > 1 else "is"
            problem(f"{where}: ip: {verb} {held[0]}: name what the domain itself has")


def _within(address: str, network: IPNetwork) -> bool:
    return within(ipaddress.ip_network(address), network)


def _published(
    unikernel: dict[str, Any],
    publish: Any,
    placed: list[tuple[Network, dict[str, Any]]],
    networks: Mapping[str, Network],
    problem: Callable[[str], None],
) -> Iterator[Published]:
    name = str(unikernel.get("name"))
    if not isinstance(publish, list) or any(not isinstance(one, dict) for one in publish):
        problem(f"domain {name}: publish: must be a list of mappings, as in [{{port: 443, to: 8443}}]")
        return
    for index, options in enumerate(publish):
        where = f"domain {name}: publish[{index}]"
        read = _read_publish(options, where, problem)
        if read is None:
            continue
        port, to, protocol, address, wanted = read
        if wanted and wanted not in networks:
            problem(f"{where}: network: {wanted!r} is not in xen_host_networks")
            continue
        nat = [(network, item) for network, item in placed if network.mode == NAT and wanted in ("", network.name)]
        version = ipaddress.ip_address(address).version if address else 0
        targets = [(network, one) for network, item in nat[:1] for _key, one in addresses(item) if version in (0, one.version)]
        if not targets and not any(network.mode == UNKNOWN for network, _item in placed):
            kind = f"IPv{version} address" if version else "address"
            problem(
                f"{where}: domain {name} has no {kind} on a nat network{f' {wanted}' if wanted else ''}; others need no publish"
            )
        for network, one in targets:
            yield Published(name, protocol, port, to, str(one.ip), network.name, address)


def _read_publish(options: dict[str, Any], where: str, problem: Callable[[str], None]) -> tuple[int, int, str, str, str] | None:
    """Return port, to, protocol, address, network; None after a mistake, which was reported."""
    before: list[str] = []
    unknown = sorted(str(key) for key in options if key not in _PUBLISH_KEYS)
    if unknown:
        before.append(f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(_PUBLISH_KEYS)}")
    numbers = {}
    for key in ("port", "to") if "to" in options else ("port",):
        value = options.get(key)
        text = str(value)
        if isinstance(value, (bool, float)) or not (
            text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535
        ):
            before.append(f"{where}: {key}: is {value!r}, must be a port 1..65535")
        else:
            numbers[key] = int(text)
    protocol = options.get("protocol", "tcp")
    if protocol not in PROTOCOLS:
        before.append(f"{where}: protocol: is {protocol!r}, must be one of {', '.join(PROTOCOLS)}")
    address = ""
    try:
        address = _hosts_address(options.get("address"))
    except ValueError:
        before.append(
            f"{where}: address: is {options.get('address')!r}, must be an address of the host that others reach, as in 192.0.2.2"
        )
    for line in dict.fromkeys(before):
        problem(line)
    if before:
        return None
    return numbers["port"], numbers.get("to", numbers["port"]), str(protocol), address, str(options.get("network") or "")


def _hosts_address(value: Any) -> str:
    """Return the canonical text; "" for none. Raise ValueError for what no packet from outside is sent to."""
    if value is None or value == "":
        return ""
    address = ipaddress.ip_address(value if isinstance(value, str) and "%" not in value else "")
    if reserved(ipaddress.ip_network(address)) or is_link_local(address):
        raise ValueError
    return str(address)


def _taken(published: list[Published], ssh_port: int, problem: Callable[[str], None]) -> None:
    seen: list[Published] = []
    reported: set[tuple[str, str, int]] = set()
    for one in published:
        key = (one.name, one.protocol, one.port)
        for other in seen:
            same = (other.protocol, other.port, other.version) == (one.protocol, one.port, one.version)
            if same and (not one.address or not other.address or one.address == other.address) and key not in reported:
                reported.add(key)
                who = f"domain {other.name}" if other.name != one.name else "it"
                problem(f"domain {one.name}: publish: {one.protocol} port {one.port} is published for {who} already")
        if (one.protocol, one.port) == ("tcp", ssh_port) and key not in reported:
            reported.add(key)
            free = f"2{one.port:02}" if one.port <= 5535 else str(one.port - 1)
            problem(f"domain {one.name}: publish: tcp port {one.port} is the host's own sshd's: publish another, as in {free}")
        seen.append(one)
