# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VPN endpoints: their variables -> a unikernel with its image, its configuration on a disk, and the PKI that it needs. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from ..domain.devices import VDEV
from ..domain.options import kind_of
from ..fleet.plain import flag
from . import operations
from .variables import USUAL_MEMORY, Keys, Service, Variables, at, first_address, is_address
from .vpn_config import PORT, Material, Tunnel, configuration, pool

NAME = "vpn"
OPTIONS = ("interfaces", "remote", "remote_port", "name", "image", "images", "memory", "network", "clients", "client_to_client",
           "routes", "redirect_gateway", "dns", "nat", "pki", "new_ca", "days", "ca_days", "renew_days", "update", "arguments",
           "health", "vdev", *operations.OPTIONS)  # fmt: skip
# Names of certificates become file names and arguments of programs.
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_RESERVED = ("server", "ca")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}")
USUAL_NETWORK = ipaddress.IPv4Network("10.8.0.0/24")
# Ours and stand-ins read their configuration there. Mirage keeps the first disk for a boot disk, so what `block_of_file` names in
# a public unikernel's config.ml is the next one.
_OUR_DISK, _MIRAGE_DISK = "xvda", "xvdb"
# On the host, 0600: which CA its endpoints serve, and what their health checks need. In it a folder for each endpoint.
FOLDER = "/var/lib/unikernels/vpn"
HEALTH_KEY = "health.pem"


def name_of(values: Mapping[str, Any]) -> str:
    return str(values.get(f"{NAME}_name") or NAME)


def _flag(given: Variables, option: str, default: bool) -> bool:
    value = given.get(option, default)
    read = flag(value)
    if not isinstance(value, bool) and read is None:
        given.wrong(option, f"is {value!r}, must be true or false")
    return default if read is None else read


def _network(given: Variables) -> ipaddress.IPv4Network:
    text, network = given.text("network", str(USUAL_NETWORK)), USUAL_NETWORK
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        given.wrong("network", f"{text!r} is not an IPv4 network, as in 10.8.0.0/24")
    if network.prefixlen > 29:
        given.wrong("network", f"{network} is too small, a /29 holds five clients")
    elif network.prefixlen < 8 or network.is_multicast or network.is_reserved or network.is_loopback:
        given.wrong("network", f"{network} must be a network of hosts, /8 or smaller, as in 10.8.0.0/24")
        return USUAL_NETWORK
    return network


def _overlaps(
    given: Variables, network: ipaddress.IPv4Network, interfaces: list[dict[str, Any]], host: Mapping[str, Any]
) -> None:
    """Refuse a tunnel network that overlaps a network of the endpoint or its host: packets of one would go into the other."""
    places = [
        (f"{NAME}_interfaces[{index}].{key}", interface.get(key))
        for index, interface in enumerate(interfaces)
        for key in ("address", "address6")
    ]
    for name, declared in host.items():
        addresses = declared.get("addresses") or [] if isinstance(declared, dict) else []
        places += [
            (f"xen_host_networks[{name}]", address) for address in (addresses if isinstance(addresses, list) else [addresses])
        ]
    for place, text in places:
        try:
            own = ipaddress.ip_interface(str(text)).network if text else None
        except ValueError:
            continue  # refused where that variable is read
        if isinstance(own, ipaddress.IPv4Network) and own.overlaps(network):
            given.wrong("network", f"{network} overlaps {own} ({place}); choose a network that nothing else is in")


def _clients(given: Variables, network: ipaddress.IPv4Network) -> dict[str, ipaddress.IPv4Address | None]:
    """Map each client to its own address; None without one."""
    value = given.get("clients", ["client"])
    clients: dict[str, ipaddress.IPv4Address | None] = {}
    for item in [value] if isinstance(value, (str, dict)) else value if isinstance(value, list) else []:
        named = item if isinstance(item, dict) else {"name": item}
        name = named.get("name")
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or set(named) - {"name", "address"}:
            given.wrong("clients", f"{item!r} must be a name, or a mapping as in {{name: alice, address: 10.8.0.10}}")
            continue
        text = str(name)
        if not _CLIENT.fullmatch(text) or text.lower() in _RESERVED:
            given.wrong("clients", f"{text!r} must be letters, digits, '_', '.', '-' and not 'server' or 'ca'")
        elif text.lower() in map(str.lower, clients):
            given.wrong("clients", f"{text!r} is listed twice (upper and lower case count as the same)")
        else:
            clients[text] = _address(given, text, named.get("address"), network)
    if not isinstance(value, (list, str, dict)):
        given.wrong("clients", f"must be a list of names, not {kind_of(value)}")
    return clients


def _address(given: Variables, name: str, text: Any, network: ipaddress.IPv4Network) -> ipaddress.IPv4Address | None:
    if text is None:
        return None
    try:
        address = ipaddress.IPv4Address(str(text))
    except ValueError:
        given.wrong("clients", f"{name}: address: {text!r} is not an IPv4 address")
        return None
    first = network.network_address + 1
    if address not in network or address in (network.network_address, network.broadcast_address, first):
        given.wrong("clients", f"{name}: address: {address} must be in {network} and not {first}, which is the endpoint's")
        return None
    return address


def _addresses(given: Variables, network: ipaddress.IPv4Network, clients: Mapping[str, Any]) -> dict[str, Any]:
    addresses = {name: address for name, address in clients.items() if address is not None}
    holders: dict[Any, str] = {}
    for name, address in addresses.items():
        if address in holders:
            given.wrong("clients", f"{name} and {holders[address]} have the same address {address}")
        holders[address] = name
    if addresses and len(addresses) < len(clients):
        try:
            pool(network, addresses.values())
        except ValueError:
            given.wrong("clients", f"no address of {network} is left for clients without one")
    return addresses


def _routes(given: Variables, network: ipaddress.IPv4Network) -> tuple[ipaddress.IPv4Network, ...]:
    routes = []
    for text in given.texts("routes", "networks, as in 192.0.2.0/24"):
        try:
            route = ipaddress.IPv4Network(text)
        except ValueError:
            given.wrong("routes", f"{text!r} is not an IPv4 network, as in 192.0.2.0/24 (IPv6 is not carried)")
            continue
        if route.prefixlen == 0:
            given.wrong("routes", "0.0.0.0/0 is everything: set redirect_gateway instead")
        elif route.overlaps(network):
            given.wrong("routes", f"{route} overlaps the tunnel's own network {network}")
        routes.append(route)
    return tuple(routes)


def _resolvers(given: Variables, resolver: str, routes: tuple[ipaddress.IPv4Network, ...], everything: bool) -> tuple[str, ...]:
    """Return the declared resolvers, else the host's own if clients reach it through the tunnel."""
    if given.get("dns") is None:
        own = ipaddress.ip_address(resolver) if is_address(resolver) else None
        reached = isinstance(own, ipaddress.IPv4Address) and (everything or any(own in route for route in routes))
        return (resolver,) if reached else ()
    addresses = given.texts("dns", "addresses")
    for address in addresses:
        if not is_address(address) or ":" in address:
            given.wrong("dns", f"{address!r} is not an IPv4 address of a resolver")
    return tuple(addresses)


def _image_kind(given: Variables) -> str:
    """Return ours, standin or own: which options make sense depends on the image."""
    image, images = given.get("image"), given.get("images", "build")
    if isinstance(image, dict) and image:
        return "standin" if image.get("standin") else "own"
    return {"build": "ours", "standin": "standin"}.get(str(images), "own")


def _vdev(given: Variables, kind: str, source: str) -> dict[str, str]:
    """The device that the image looks for its configuration at. A finished file may be anybody's: it is taken for ours."""
    image = given.get("image")
    public = kind == "own" and isinstance(image, dict) and str(image.get("source") or source).rstrip("/") != source.rstrip("/")
    vdev = given.text("vdev", _MIRAGE_DISK if public else _OUR_DISK)
    if not VDEV.fullmatch(vdev):
        given.wrong("vdev", f"{vdev!r} is not a disk of the domain, as in {_OUR_DISK} or {_MIRAGE_DISK}")
    return {"vdev": vdev} if vdev != _OUR_DISK else {}


def _refuse_what_the_image_lacks(given: Variables, tunnel: Tunnel, kind: str) -> None:
    """Refuse options that the image would silently ignore."""
    if tunnel.nat and kind == "ours":
        given.wrong("nat", "our unikernel routes: give the network behind it a route to vpn_network by the endpoint's address")
    if tunnel.nat and kind == "own":
        given.wrong("nat", "is only for stand-ins: an image of your own decides about NAT itself")
    if tunnel.addresses and kind != "standin":
        given.wrong("clients", "an address of a client's own is for stand-ins: MirageVPN gives each client the next free address")


def _tunnel(given: Variables, interfaces: list[dict[str, Any]], host: Mapping[str, Any], resolver: str) -> Tunnel:
    network = _network(given)
    _overlaps(given, network, interfaces, host)
    clients, routes = _clients(given, network), _routes(given, network)
    everything, kind = _flag(given, "redirect_gateway", False), _image_kind(given)
    tunnel = Tunnel(
        network=network,
        clients=tuple(clients),
        addresses=_addresses(given, network, clients),
        between_clients=_flag(given, "client_to_client", True),
        routes=routes,
        everything=everything,
        resolvers=_resolvers(given, resolver, routes, everything),
        nat=_flag(given, "nat", False),
        ipv6=any(":" in str(one.get(key) or "") for one in interfaces for key in ("address", "address6")),
        kind=kind,
    )
    _refuse_what_the_image_lacks(given, tunnel, kind)
    return tunnel


def _keys(given: Variables, address: str, folder: str, clients: tuple[str, ...], name: str) -> Keys:
    remote = given.text("remote", address) or address
    if not _HOST.fullmatch(remote):
        given.wrong("remote", f"{remote!r} is neither a name nor an address")
    days = given.number("days", 1825, 2, 36500, "days that certificates are good for")
    ca_days = given.number("ca_days", 3650, 2, 36500, "days that a CA's certificate is good for")
    renew = given.number("renew_days", 90, 1, 36500, "days before their end that certificates are renewed")
    if renew >= days:
        given.wrong("renew_days", f"is {renew}, must be less than days ({days}), or each run renews all certificates")
    if ca_days < days + renew:
        given.wrong("ca_days", f"is {ca_days}, must be at least days and renew_days together ({days + renew})")
    return Keys(
        folder=given.text("pki", folder) or folder,
        remote=remote,
        port=given.number("remote_port", PORT, 1, 65535, "a TCP port"),
        clients=clients,
        name=name,
        new_ca=_flag(given, "new_ca", False),
        days=days,
        ca_days=ca_days,
        renew_days=renew,
    )


def _with_tunnel(interfaces: list[dict[str, Any]], tunnel: Tunnel) -> list[dict[str, Any]]:
    """Add the tunnel's network to what the first interface may send from: clients' packets keep their addresses without NAT."""
    if not interfaces or tunnel.nat or not tunnel.forwarded:
        return interfaces
    words = str(interfaces[0].get("ip") or "").split()
    if str(tunnel.network) in words or interfaces[0].get("antispoofing") is False:
        return interfaces
    return [{**interfaces[0], "ip": " ".join([*words, str(tunnel.network)])}, *interfaces[1:]]


def declare(
    values: Mapping[str, Any],
    source: str,
    folder: str = "",
    material: Material | None = None,
    networks: Mapping[str, Any] | None = None,
    resolver: str = "",
) -> Service:
    """Return the service with its PKI.

    ``folder``: the PKI's default folder; ``material``: what was read there; ``networks``: the host's; ``resolver``: the address
    of its own DNS resolver.
    """
    given = Variables(NAME, values)
    interfaces, name = given.interfaces(), given.text("name", NAME)
    tunnel = _tunnel(given, interfaces, networks or {}, resolver)
    address = first_address(interfaces)
    keys = _keys(given, address, folder, tunnel.clients, name)
    unikernel = {
        "name": name,
        "service": NAME,
        "image": name,
        "memory": given.number("memory", USUAL_MEMORY, 4, 16 << 20, "a number of MiB"),
        "interfaces": _with_tunnel(interfaces, tunnel),
        **given.update(),
        "arguments": {
            **({"forward": [str(network) for network in tunnel.forwarded]} if tunnel.forwarded else {}),
            **operations.arguments(given, name, {PORT: "OpenVPN"}),
            **given.mapping("arguments", "boot argument to value"),
        },
        "disks": [{"content": configuration(tunnel, material), **_vdev(given, tunnel.kind, source)}],
        "health": given.health({"openvpn": at(address, PORT), "key": f"{FOLDER}/{name}/{HEALTH_KEY}"}),
    }
    origin = given.origin({"source": source}, {"standin": NAME})
    return Service(unikernel, {name: origin}, tuple(given.problems), keys)
