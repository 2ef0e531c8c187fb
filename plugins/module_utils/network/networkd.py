# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a host's networks for systemd-networkd, in files of our own only. Pure.

Only the first file whose [Match] fits configures a device. Ours sort first by name and the administrator's stay as they are: to
go back, ours are removed. Keys: systemd.netdev(5), systemd.network(5).
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Mapping

from .ini import Section, parse, render, values
from .reading import Bridge, NetworkError, Reading

FOLDER = "/etc/systemd/network"
# In networkd's order: a file hides those of the same name in later folders.
FOLDERS = (FOLDER, "/run/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network")
PREFIX = "00-unikernels-"
HEAD = "# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run.\n"
# Keeps an administrator's catch-all file from configuring the domains' devices.
VIFS = {f"{FOLDER}/{PREFIX}vif.network": f"{HEAD}[Match]\nName=vif*\n\n[Link]\nUnmanaged=yes\n"}
# Keys of [Network] that concern the device, not its addresses.
_OF_DEVICE = (
    "Bond", "Bridge", "VRF", "VLAN", "IPVLAN", "MACVLAN", "MACVTAP", "IPVTAP", "VXLAN", "Tunnel", "MACsec", "PrimarySlave",
    "ActiveSlave", "LLDP", "EmitLLDP", "BindCarrier", "BatmanAdvanced", "Xfrm", "IPoIB",
)  # fmt: skip
# Sections that stay with the device.
_DEVICE_SECTIONS = ("Link", "SR-IOV", "BridgeVLAN", "BridgeFDB", "Bridge", "CAN", "IPoIB")


def network_files(files: Mapping[str, str]) -> list[str]:
    """Return the paths of all other .network files, the administrator's and the system's, in networkd's order."""
    names: dict[str, str] = {}
    for folder in FOLDERS:
        for path in files:
            name = posixpath.basename(path)
            if posixpath.dirname(path) == folder and name.endswith(".network") and not name.startswith(PREFIX):
                names.setdefault(name, path)
    return [names[name] for name in sorted(names) if files[names[name]].strip()]  # an empty file masks others


def file_of(device: str, mac: str, files: Mapping[str, str], virtual: bool = False) -> str:
    """Return the path of the file that configures a device; "" if none does."""
    for path in network_files(files):
        if _matches(parse(files[path]), device, mac, virtual):
            return path
    return ""


def _matches(sections: list[Section], device: str, mac: str, virtual: bool) -> bool:
    match = [one for one in sections if one.name == "Match"]
    keys: dict[str, list[str]] = {}
    for section in match:
        for key in ("Name", "MACAddress", "PermanentMACAddress", "Type", "Kind", "Driver", "Path", "Host", "Virtualization"):
            keys.setdefault(key, []).extend(word for value in section.get(key) for word in value.split())
    said = {key: words for key, words in keys.items() if words}
    if not said:
        return False
    for key, words in said.items():
        if key == "Name":
            wrong = [word[1:] for word in words if word.startswith("!")]
            right = [word for word in words if not word.startswith("!")]
            fits = not any(fnmatch.fnmatchcase(device, word) for word in wrong)
            fits = fits and (not right or any(fnmatch.fnmatchcase(device, word) for word in right))
        elif key in ("MACAddress", "PermanentMACAddress"):
            fits = mac.lower() in [word.lower().replace("-", ":") for word in words]
        elif key == "Type":
            fits = "ether" in words
        elif key == "Kind":
            fits = virtual and any(word not in ("veth", "tun", "tap") for word in words)
        else:
            fits = True  # only the host can tell
        if not fits:
            return False
    return True


def configured(reading: Reading) -> frozenset[str]:
    files = reading.originals
    return frozenset(
        link.name for link in reading.links.values() if link.name != "lo" and file_of(link.name, link.mac, files, bool(link.kind))
    )


def write(bridges: list[Bridge], reading: Reading) -> dict[str, str]:
    files = reading.originals
    written: dict[str, list[Section]] = {}
    for bridge in bridges:
        written[f"{PREFIX}{bridge.name}.netdev"] = _device(bridge)
        written[f"{PREFIX}{bridge.name}.network"] = _network(bridge)
        if bridge.port:
            written[f"{PREFIX}port-{bridge.port}.network"] = _port(bridge)
        if bridge.vlan:
            written[f"{PREFIX}{bridge.port}.netdev"] = [
                Section("NetDev", [f"Name={bridge.port}", "Kind=vlan", *_mtu(bridge, "MTUBytes")]),
                Section("VLAN", [f"Id={bridge.vlan}"]),
            ]
    for bridge in bridges:
        if bridge.moves:
            _move(bridge, reading, files, written)
    dropins = _vlans(bridges, reading, files, written)
    texts = {f"{FOLDER}/{name}": HEAD + render(sections) for name, sections in written.items()}
    for path, lines in dropins.items():
        texts[path] = HEAD + render([Section("Network", lines)])
    return texts


def _mtu(bridge: Bridge, key: str) -> list[str]:
    return [f"{key}={bridge.network.mtu}"] if bridge.network.mtu else []


def _device(bridge: Bridge) -> list[Section]:
    return [
        Section("NetDev", [f"Name={bridge.name}", "Kind=bridge", f"MACAddress={bridge.mac}", *_mtu(bridge, "MTUBytes")]),
        Section("Bridge", ["STP=no", "ForwardDelaySec=0"]),
    ]


def _addresses(bridge: Bridge) -> list[Section]:
    sections = []
    for address in bridge.network.own:
        # Duplicate address detection needs an active port, and there is none before the first domain.
        more = ["DuplicateAddressDetection=none"] if address.version == 6 else []
        sections.append(Section("Address", [f"Address={address}", *more]))
    sections += [Section("Route", [f"Destination={route}", *_scope(route)]) for route in bridge.routes]
    behind = ([f"Destination={route}", f"Gateway={via}", "GatewayOnLink=yes"] for route, via in bridge.ways)
    return [*sections, *(Section("Route", lines) for lines in behind)]


def _scope(route: str) -> list[str]:
    return [] if ":" in route else ["Scope=link"]


def _network(bridge: Bridge) -> list[Section]:
    link_local = "ipv6" if any(one.version == 6 for one in bridge.network.own) else "no"
    return [
        Section("Match", [f"Name={bridge.name}"]),
        Section("Link", ["RequiredForOnline=no", *_mtu(bridge, "MTUBytes")]),
        Section("Network", ["ConfigureWithoutCarrier=yes", "IPv6AcceptRA=no", f"LinkLocalAddressing={link_local}"]),
        *_addresses(bridge),
    ]


def _port(bridge: Bridge) -> list[Section]:
    return [
        Section("Match", [f"Name={bridge.port}"]),
        Section("Link", _mtu(bridge, "MTUBytes")),
        Section("Network", [f"Bridge={bridge.name}", "LinkLocalAddressing=no", "IPv6AcceptRA=no"]),
    ]


def _move(bridge: Bridge, reading: Reading, files: Mapping[str, str], written: dict[str, list[Section]]) -> None:
    """Move the address options of the port's file to the bridge's; the device options stay."""
    link = reading.links[bridge.port]
    path = file_of(bridge.port, link.mac, files, bool(link.kind))
    if posixpath.basename(path) < PREFIX:
        raise NetworkError(f"xen_host_networks.{bridge.name}: {path}: is read before ours ({PREFIX}...): rename it to 10-...")
    sections = parse(files[path]) + [
        section for name in sorted(files) if f"/{posixpath.basename(path)}.d/" in name for section in parse(files[name])
    ]
    if values(sections, "Network", "Bridge"):
        raise NetworkError(
            f"xen_host_networks.{bridge.name}: {path}: {bridge.port} is in a bridge already:"
            " give that bridge's name to the network"
        )
    port, moved = _port(bridge), [Section("Match", [f"Name={bridge.name}"])]
    for section in sections:
        if section.name == "Network":
            port[2].lines += section.kept(lambda key: key in _OF_DEVICE).lines
            moved.append(section.kept(lambda key: key not in _OF_DEVICE))
        elif section.name in _DEVICE_SECTIONS:
            port.append(section.kept(lambda key: key != "MTUBytes" or not bridge.network.mtu))
            online = section.kept(lambda key: key.startswith("RequiredFor")).lines
            if section.name == "Link" and online:
                moved.append(Section("Link", online))
        elif section.name not in ("", "Match"):
            moved.append(section.kept(lambda key: True))
    written[f"{PREFIX}port-{bridge.port}.network"] = [one for one in port if one.lines]
    written[f"{PREFIX}{bridge.name}.network"] = [*moved, *_addresses(bridge)]


def _vlans(
    bridges: list[Bridge], reading: Reading, files: Mapping[str, str], written: dict[str, list[Section]]
) -> dict[str, list[str]]:
    """Name the VLAN in the file of its lower device: ours, else a drop-in for the administrator's, else a new one of ours."""
    dropins: dict[str, list[str]] = {}
    for bridge in bridges:
        if not bridge.vlan:
            continue
        lower, line = bridge.network.uplink, f"VLAN={bridge.port}"
        mine = written.get(f"{PREFIX}port-{lower}.network")
        link = reading.links[lower]
        path = file_of(lower, link.mac, files, bool(link.kind))
        if mine is not None:
            next(one for one in mine if one.name == "Network").lines.append(line)
        elif path:
            dropins.setdefault(f"{FOLDER}/{posixpath.basename(path)}.d/unikernels.conf", []).append(line)
        else:
            written[f"{PREFIX}port-{lower}.network"] = [
                Section("Match", [f"Name={lower}"]),
                Section("Network", [line, "LinkLocalAddressing=no", "IPv6AcceptRA=no"]),
            ]
    return dropins
