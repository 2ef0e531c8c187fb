# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a host's networks as connections of NetworkManager, in files of our own only. Pure.

The connection with the highest priority gets a device, so the administrator's stay as they are: to go back, ours are removed.
Keys: nm-settings-keyfile(5).
"""

from __future__ import annotations

import uuid

from .ini import Section, parse, render, values
from .reading import Bridge, NetworkError, Reading

FOLDER = "/etc/NetworkManager/system-connections"
PREFIX = "unikernels-"
HEAD = "# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run.\n"
# NetworkManager would request an address on each domain's device.
VIFS = {
    "/etc/NetworkManager/conf.d/unikernels-vifs.conf": HEAD
    + "[device-unikernels-vifs]\nmatch-device=interface-name:vif*\nmanaged=0\n"
}
PRIORITY = 900  # at most 999
_ADDRESS_SECTIONS = ("ipv4", "ipv6", "proxy")
# Sections of the uplink's connection that the bridge's port keeps.
_DEVICE_SECTIONS = (
    "ethernet",
    "802-3-ethernet",
    "wired",
    "bond",
    "vlan",
    "802-1x",
    "ethtool",
    "link",
    "dcb",
    "infiniband",
    "sriov",
)
_NAMESPACE = uuid.UUID("6d0ad6a5-93f4-5f3c-9a7c-756e696b0000")


def path_of(name: str) -> str:
    return f"{FOLDER}/{PREFIX}{name}.nmconnection"


def connection_id(host: str, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{host}\0{name}"))


def configured(reading: Reading) -> frozenset[str]:
    """Return the devices that NetworkManager configures: those in its files, and the one of the default route."""
    found = set()
    for path, text in reading.originals.items():
        if path.startswith(FOLDER):
            found |= set(values(parse(text), "connection", "interface-name"))
    return frozenset(found | ({reading.default} if reading.default else set()))


def write(bridges: list[Bridge], reading: Reading) -> dict[str, str]:
    written = {}
    for bridge in bridges:
        original = _original(bridge, reading) if bridge.moves else []
        written[path_of(bridge.name)] = HEAD + render(_bridge(bridge, reading.host, original))
        if bridge.vlan:
            written[path_of(bridge.port)] = HEAD + render(_vlan(bridge, reading.host))
        elif bridge.port:
            written[path_of(bridge.port)] = HEAD + render(_port(bridge, reading, original))
    return written


def _original(bridge: Bridge, reading: Reading) -> list[Section]:
    """Return the connection whose addresses move; without a file, one with DHCP and router advertisements."""
    files = reading.originals
    connection = reading.state.connection if bridge.name in reading.state.moved else reading.connection
    named = [
        path
        for path, text in files.items()
        if path.startswith(FOLDER) and bridge.port in values(parse(text), "connection", "interface-name")
    ]
    path = connection if connection in files else next(iter(named), "")
    if not path:
        return [Section("ipv4", ["method=auto"]), Section("ipv6", ["method=auto"])]
    sections = parse(files[path])
    if values(sections, "connection", "type")[:1] in (["wifi"], ["802-11-wireless"]):
        raise NetworkError(
            f"xen_host_networks.{bridge.name}: uplink: {bridge.port} is a wireless device, which can't be in a bridge"
        )
    if values(sections, "connection", "master") or values(sections, "connection", "controller"):
        raise NetworkError(
            f"xen_host_networks.{bridge.name}: {path}: {bridge.port} belongs to another device: give that as uplink"
        )
    return sections


def _connection(name: str, host: str, kind: str, more: list[str]) -> Section:
    return Section(
        "connection",
        [
            f"id={PREFIX}{name}",
            f"uuid={connection_id(host, name)}",
            f"type={kind}",
            f"interface-name={name}",
            "autoconnect=true",
            f"autoconnect-priority={PRIORITY}",
            *more,
        ],
    )


def _bridge(bridge: Bridge, host: str, original: list[Section]) -> list[Section]:
    moved = {section.name: section.kept(lambda key: True) for section in original if section.name in _ADDRESS_SECTIONS}
    sections = [
        _connection(bridge.name, host, "bridge", ["autoconnect-slaves=1"]),
        Section("ethernet", _mtu(bridge)),
        Section("bridge", ["stp=false", "forward-delay=0", f"mac-address={bridge.mac}"]),
    ]
    for family, version in (("ipv4", 4), ("ipv6", 6)):
        section = moved.pop(family, None) or Section(family)
        own = [one for one in bridge.network.own if one.version == version]
        routes = [*bridge.routes, *(f"{route},{via}" for route, via in bridge.ways)]
        routes = [route for route in routes if (":" in route) == (version == 6)]
        if not bridge.moves:
            section.lines.append(f"method={'manual' if own else 'disabled'}")
        section.lines += _numbered(section, "address", [str(one) for one in own]) + _numbered(section, "route", routes)
        if own and not bridge.moves:
            section.lines.append("never-default=true")
        sections.append(section)
    return [section for section in [*sections, *moved.values()] if section.lines]


def _numbered(section: Section, key: str, items: list[str]) -> list[str]:
    """Return address1=, address2= and so on, after the existing ones."""
    there = len([line for line in section.lines if line.startswith(key) and line[len(key) : len(key) + 1].isdigit()])
    return [f"{key}{index}={item}" for index, item in enumerate(items, there + 1)]


def _mtu(bridge: Bridge) -> list[str]:
    return [f"mtu={bridge.network.mtu}"] if bridge.network.mtu else []


def _port(bridge: Bridge, reading: Reading, original: list[Section]) -> list[Section]:
    kind = reading.links[bridge.port].kind
    connection = _connection(
        bridge.port,
        reading.host,
        kind if kind in ("bond", "vlan") else "ethernet",
        [f"master={bridge.name}", "slave-type=bridge"],
    )
    mine = _mtu(bridge)
    kept = [section.kept(lambda key: key != "mtu" or not mine) for section in original if section.name in _DEVICE_SECTIONS]
    wired = next((section for section in kept if section.name in ("ethernet", "802-3-ethernet", "wired")), None)
    if wired:
        wired.lines += mine
    elif mine:
        kept.append(Section("ethernet", mine))
    return [connection, *(section for section in kept if section.lines), Section("bridge-port", [])]


def _vlan(bridge: Bridge, host: str) -> list[Section]:
    return [
        _connection(bridge.port, host, "vlan", [f"master={bridge.name}", "slave-type=bridge"]),
        Section("ethernet", _mtu(bridge)),
        Section("vlan", ["flags=1", f"id={bridge.vlan}", f"parent={bridge.network.uplink}"]),
        Section("bridge-port", []),
    ]
