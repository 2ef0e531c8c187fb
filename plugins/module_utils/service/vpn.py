# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VPN endpoint: its variables -> a unikernel with its image, its configuration on a disk, and the PKI that it needs. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .variables import USUAL_MEMORY, Keys, Service, Variables, at, first_address

NAME = "vpn"
OPTIONS = ("interfaces", "remote", "remote_port", "name", "image", "images", "memory", "network", "clients",
           "pki", "update", "arguments", "health")  # fmt: skip
# Names of certificates become file names and arguments of programs.
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}")
PORT = 1194
# What the disk holds before there are keys: in a check, and until the PKI is made.
NO_KEYS = "no keys yet"


@dataclass(frozen=True)
class Material:
    """The texts that the server's configuration has inside it."""

    ca: str
    certificate: str
    key: str
    tls_crypt: str


# Where `make-pki.sh` leaves them, and easy-rsa.
FILES = {"ca": "pki/ca.crt", "certificate": "server.crt", "key": "pki/private/server.key", "tls_crypt": "tls-crypt.key"}


def configuration(network: ipaddress.IPv4Network, material: Material) -> str:
    """As MirageVPN and OpenVPN read it."""
    return (
        f"dev tun\nproto tcp-server\nport {PORT}\nserver {network.network_address} {network.netmask}\ntopology subnet\n"
        "keepalive 10 60\ncipher AES-256-GCM\ndata-ciphers AES-256-GCM:CHACHA20-POLY1305\ndh none\nverb 3\n"
        f"<ca>\n{material.ca}\n</ca>\n<cert>\n{material.certificate}\n</cert>\n<key>\n{material.key}\n</key>\n"
        f"<tls-crypt>\n{material.tls_crypt}\n</tls-crypt>\n"
    )


def _network(given: Variables) -> ipaddress.IPv4Network:
    text = given.text("network", "10.8.0.0/24")
    network = ipaddress.IPv4Network("10.8.0.0/24")
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        given.wrong("network", f"{text!r} is not an IPv4 network, as in 10.8.0.0/24")
    if network.prefixlen > 29:
        given.wrong("network", f"{network} is too small, a /29 holds five clients")
    return network


def _keys(given: Variables, address: str, folder: str) -> Keys:
    remote = given.text("remote", address) or address
    if not _HOST.fullmatch(remote):
        given.wrong("remote", f"{remote!r} is neither a name nor an address")
    clients = given.texts("clients", "names") if given.get("clients") is not None else ["client"]
    for client in clients:
        if not _CLIENT.fullmatch(client) or client in ("server", "ca"):
            given.wrong("clients", f"{client!r} must be letters, digits, '_', '.', '-' and not 'server' or 'ca'")
    port = given.number("remote_port", PORT, 1, 65535, "a TCP port")
    return Keys(given.text("pki", folder) or folder, remote, port, tuple(clients))


def declare(values: Mapping[str, Any], source: str, folder: str = "", material: Material | None = None) -> Service:
    """``folder``: where the PKI is by default; ``material``: what was read there."""
    given = Variables(NAME, values)
    interfaces, name, network = given.interfaces(), given.text("name", "vpn"), _network(given)
    address = first_address(interfaces)
    keys = _keys(given, address, folder)
    unikernel = {
        "name": name,
        "service": NAME,
        "image": name,
        "memory": given.number("memory", USUAL_MEMORY, 4, 16 << 20, "a number of MiB"),
        "interfaces": interfaces,
        **given.update(),
        "arguments": given.mapping("arguments", "boot argument to value"),
        "disks": [{"content": configuration(network, material) if material else NO_KEYS}],
        "health": given.health({"tcp": at(address, PORT)}),
    }
    origin = given.origin({"source": source}, {"standin": NAME})
    return Service(unikernel, {name: origin}, tuple(given.problems), keys)
