# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a host's networks for interfaces(5): a file of our own, and the uplink's file without the addresses that move. Pure.

Options of bridges: bridge-utils-interfaces(5).
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Mapping

from ..host.interfaces import InterfacesError, bridged, has, sources
from .kinds import IPInterface
from .reading import Bridge, NetworkError, Reading

INTERFACES = "/etc/network/interfaces"
OURS = "/etc/network/interfaces.d/unikernels-networks"
HEAD = "# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run."
# File names that source-directory reads (interfaces(5)).
_READ_IN_FOLDER = re.compile(r"[a-zA-Z0-9_-]+")


def files_in_order(files: Mapping[str, str]) -> list[str]:
    """Return the files that ifupdown reads, in its order."""
    paths = [INTERFACES] if INTERFACES in files else []
    for path in paths:
        for pattern in sources(files[path]):
            whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), pattern))
            by_folder = whole.endswith("/*") and f"{pattern[:-2]}" in _folders(files[path])
            for name in sorted(files):
                fits = fnmatch.fnmatch(name, whole) and name.count("/") == whole.count("/")
                if fits and name not in paths and (not by_folder or _READ_IN_FOLDER.fullmatch(posixpath.basename(name))):
                    paths.append(name)
    return paths


def _folders(text: str) -> list[str]:
    lines = [line.split() for line in text.splitlines()]
    return [word.rstrip("/") for words in lines if words[:1] == ["source-directory"] for word in words[1:]]


def configured(files: Mapping[str, str]) -> frozenset[str]:
    """Return the devices that have a stanza."""
    stanza = re.compile(r"^[ \t]*iface[ \t]+(\S+)", re.MULTILINE)
    return frozenset(name for path in files_in_order(files) for name in stanza.findall(files[path]) if ":" not in name)


def write(bridges: list[Bridge], reading: Reading) -> dict[str, str]:
    """Map path to text for each file that has to differ from the original."""
    files = reading.originals
    files.pop(OURS, None)
    if INTERFACES not in files:
        raise NetworkError(f"{INTERFACES}: is not there; is the host's network configured by ifupdown?")
    changed: dict[str, str] = {}
    problems = []
    for bridge in bridges:
        if not bridge.moves:
            continue
        path = next(path for path in files_in_order(files) if has(files[path], bridge.port))
        try:
            changed[path] = files[path] = bridged(files[path], bridge.port, bridge.name)
        except InterfacesError as error:
            problems.append(f"xen_host_networks.{bridge.name}: {path}: {error}")
    if problems:
        raise NetworkError(*problems)
    stanzas = [text for bridge in bridges for text in [_stanzas(bridge)] if text]
    if stanzas:
        changed[OURS] = HEAD + "\n" + "\n".join(stanzas)
        if not _reads_ours(files):
            changed[INTERFACES] = files[INTERFACES].rstrip("\n") + f"\n\nsource {OURS}\n"
    return changed


def _reads_ours(files: Mapping[str, str]) -> bool:
    return OURS in files_in_order({**files, OURS: ""})


def _stanzas(bridge: Bridge) -> str:
    """Return the stanza of a bridge with its first address, then one for each other. After a move: only declared addresses."""
    addresses = bridge.network.own
    if bridge.moves:
        stanzas = [_address(bridge, one, []) for one in addresses]
        if bridge.network.mtu:
            stanzas.append("\n".join([f"iface {bridge.name} inet manual", *_mtu(bridge), ""]))
        return "\n".join(stanzas)
    device = [
        f"    bridge_ports {bridge.port or 'none'}",
        "    bridge_stp off",
        "    bridge_fd 0",
        f"    bridge_hw {bridge.mac}",
    ]
    if bridge.vlan:
        lower = bridge.network.uplink
        device.insert(0, f"    pre-up ip link show dev {bridge.port} >/dev/null 2>&1 ||"
                         f" ip link add link {lower} name {bridge.port} type vlan id {bridge.vlan}")  # fmt: skip
        device.insert(0, f"    pre-up ip link set dev {lower} up")
    device += _mtu(bridge)
    # Before the first address: none may come from router advertisements.
    device.append(f"    post-up sysctl -q -w net.ipv6.conf.{bridge.name.replace('.', '/')}.accept_ra=0 || true")
    device += [f"    post-up ip route replace {route} dev {bridge.name}" for route in bridge.routes]
    device += [f"    post-up ip route replace {route} via {via} dev {bridge.name} onlink" for route, via in bridge.ways]
    if bridge.vlan:
        device.append(f"    post-down ip link delete {bridge.port} || true")
    head = f"auto {bridge.name}\n"
    if not addresses:
        return head + "\n".join([f"iface {bridge.name} inet manual", *device, ""])
    return head + "\n".join([_address(bridge, addresses[0], device), *(_address(bridge, one, []) for one in addresses[1:])])


def _mtu(bridge: Bridge) -> list[str]:
    mtu = bridge.network.mtu
    return [f"    post-up ip link set dev {name} mtu {mtu}" for name in (bridge.port, bridge.name) if name and mtu]


def _address(bridge: Bridge, address: IPInterface, device: list[str]) -> str:
    family = "inet" if address.version == 4 else "inet6"
    # A bridge without an active port would wait forever for duplicate address detection.
    more = [] if address.version == 4 else ["    dad-attempts 0"]
    return "\n".join([f"iface {bridge.name} {family} static", f"    address {address}", *more, *device, ""])


def down(names: list[str]) -> list[str]:
    """Return shell lines that take down devices which the present files still configure."""
    return [f"ifdown --force {' '.join(names)} || true"] if names else []


def up(names: list[str], moved: list[str]) -> list[str]:
    return [
        *(f"ip address flush dev {name}" for name in moved),
        *([f"ifup {' '.join([*moved, *names])}"] if names or moved else []),
    ]
