# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write the texts of a VPN: the endpoint's configuration, as MirageVPN and OpenVPN read it, and a client's profile. Pure.

A list of certificates (`peer-fingerprint`) decides which clients may connect. It is the only way to revoke a client that both
support: MirageVPN has no CRL, and accepts either a CA or such a list. So only the certificates of declared clients are valid,
whoever signed them, and there is no list of revoked ones to maintain or to expire.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PORT = 1194
# The disk's content before there are keys: in check mode, and until the PKI is made.
NO_KEYS = "no keys yet"
# The fingerprint of no certificate: OpenVPN refuses an empty list.
_NOBODY = ":".join(["00"] * 32)
# AES-128-GCM is for NetworkManager's and older clients, which offer nothing more; all three authenticate.
_CIPHERS = "cipher AES-256-GCM\ndata-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\ntls-version-min 1.2\n"
# The tunnel carries no IPv6: without this route, IPv6 of a client that sends everything through the tunnel would bypass it.
_NO_IPV6 = ("ifconfig-ipv6 fd15:53b6:dead::2/64 fd15:53b6:dead::1", "redirect-gateway ipv6", "block-ipv6")


@dataclass(frozen=True)
class Material:
    """What the endpoint's configuration takes from the PKI. ``clients``: name -> fingerprints of valid certificates."""

    certificate: str
    key: str
    tls_crypt: str
    clients: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pending: tuple[str, ...] = ()  # what the next run creates or renews, so that its bytes are not known yet


@dataclass(frozen=True)
class Tunnel:
    """The network that clients get. ``addresses``: client -> its own address in ``network``."""

    network: ipaddress.IPv4Network
    clients: tuple[str, ...] = ()
    addresses: Mapping[str, ipaddress.IPv4Address] = field(default_factory=dict)
    between_clients: bool = True
    routes: tuple[ipaddress.IPv4Network, ...] = ()
    everything: bool = False  # clients send all traffic through it
    resolvers: tuple[str, ...] = ()
    nat: bool = False
    ipv6: bool = False  # listens on IPv6 too
    kind: str = "ours"  # whose image: ours | standin | own

    @property
    def forwarded(self) -> tuple[ipaddress.IPv4Network, ...]:
        """The networks that clients may reach, for an image that takes them as boot arguments."""
        if self.kind == "own":
            return ()
        return (ipaddress.IPv4Network("0.0.0.0/0"),) if self.everything else self.routes


def _pushed(tunnel: Tunnel) -> list[str]:
    lines = [f"route {route.network_address} {route.netmask}" for route in tunnel.routes]
    if tunnel.everything:
        lines += ["redirect-gateway def1", *_NO_IPV6]
    return lines + [f"dhcp-option DNS {address}" for address in tunnel.resolvers]


def pool(network: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Address]) -> tuple[str, str]:
    """Return the first and last address of the longest range that belongs to no client. Raise ValueError if there is none."""
    low, high = int(network.network_address) + 2, int(network.broadcast_address) - 1
    edges = [low - 1, *sorted(int(address) for address in taken if low <= int(address) <= high), high + 1]
    size, start = max((after - before - 1, before + 1) for before, after in zip(edges, edges[1:]))
    if size < 1:
        raise ValueError("no address is left")
    return str(ipaddress.IPv4Address(start)), str(ipaddress.IPv4Address(start + size - 1))


def _server_lines(tunnel: Tunnel) -> str:
    network = tunnel.network
    line = f"server {network.network_address} {network.netmask}"
    if not tunnel.addresses:
        return f"{line}\n"
    first, last = pool(network, tunnel.addresses.values())
    return f"{line} nopool\nifconfig-pool {first} {last} {network.netmask}\nclient-config-dir /run/clients\n"


def _for_the_standin(tunnel: Tunnel) -> str:
    """Return the options for a stand-in only, which `service-vpn` reads; OpenVPN takes them for comments."""
    lines = [f"#client {name} {address} {tunnel.network.netmask}" for name, address in sorted(tunnel.addresses.items())]
    if tunnel.nat:
        lines.append(f"#nat {tunnel.network}")
    if not tunnel.between_clients:
        lines.append(f"#apart {tunnel.network}")
    return "".join(f"{line}\n" for line in lines)


def configuration(tunnel: Tunnel, material: Material | None) -> str:
    """Return the endpoint's configuration, as MirageVPN and OpenVPN read it."""
    if material is None:
        return NO_KEYS
    allowed = [mark for name in tunnel.clients for mark in material.clients.get(name, ())] or [_NOBODY]
    pushed = "".join(f'push "{line}"\n' for line in _pushed(tunnel))
    return (
        f"{_for_the_standin(tunnel) if tunnel.kind == 'standin' else ''}"
        f"{''.join(f'# {line}{chr(10)}' for line in material.pending)}"
        f"dev tun\nproto {'tcp6-server' if tunnel.ipv6 else 'tcp-server'}\nport {PORT}\n"
        f"{_server_lines(tunnel)}topology subnet\nkeepalive 10 60\n{_CIPHERS}dh none\nverb 3\n"
        f"{'client-to-client' + chr(10) if tunnel.between_clients else ''}{pushed}"
        f"<peer-fingerprint>\n{chr(10).join(allowed)}\n</peer-fingerprint>\n"
        f"<cert>\n{material.certificate}\n</cert>\n<key>\n{material.key}\n</key>\n"
        f"<tls-crypt>\n{material.tls_crypt}\n</tls-crypt>\n"
    )


def profile(remote: str, port: int, ca: str, certificate: str, key: str, tls_crypt: str) -> str:
    """Return a client's profile in one file, for OpenVPN 2.5 and later, NetworkManager and OpenVPN Connect."""
    return (
        f"client\ndev tun\nproto tcp-client\nremote {remote} {port}\nnobind\npersist-key\nresolv-retry infinite\n"
        f"remote-cert-tls server\nverify-x509-name server name\n{_CIPHERS}verb 3\n"
        f"<ca>\n{ca}\n</ca>\n<cert>\n{certificate}\n</cert>\n<key>\n{key}\n</key>\n<tls-crypt>\n{tls_crypt}\n</tls-crypt>\n"
    )
