# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a host's networks for netplan: a file of our own, and the uplink's file without the addresses that move. Pure.

netplan merges its files: lists grow, and no later file can remove anything. So the addresses are removed from the file that has
them; its original text is kept for the way back.
"""

from __future__ import annotations

import copy
import fnmatch
import json
from collections.abc import Mapping
from typing import Any

from .reading import Bridge, NetworkError, Reading

try:
    import yaml
except ImportError:  # netplan itself needs it, so only hosts without netplan lack it
    yaml = None  # type: ignore[assignment]

FOLDER = "/etc/netplan"
OURS = f"{FOLDER}/95-unikernels.yaml"
HEAD = "# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run.\n"
KINDS = ("ethernets", "bonds", "vlans", "wifis", "bridges", "modems", "tunnels")
# Keys of a device that concern its addresses (netplan's YAML reference, "Properties for all device types").
_OF_ADDRESS = (
    "dhcp4", "dhcp6", "dhcp-identifier", "dhcp4-overrides", "dhcp6-overrides", "accept-ra", "addresses",
    "ipv6-address-generation", "ipv6-address-token", "ipv6-privacy", "gateway4", "gateway6", "nameservers", "routes",
    "routing-policy", "link-local",
)  # fmt: skip


def documents(files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Map path to what is below ``network:``, for the files that netplan reads, in its order."""
    found = {}
    for path in sorted((path for path in files if path.endswith(".yaml")), key=lambda path: path.rpartition("/")[2]):
        if not path.startswith((f"{FOLDER}/", "/run/netplan/", "/lib/netplan/")):
            continue
        if yaml is None:
            raise NetworkError(f"{path}: can't be read without Debian's package python3-yaml: install it")
        try:
            document = yaml.safe_load(files[path])
        except yaml.YAMLError as error:
            raise NetworkError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from None
        if isinstance(document, dict) and isinstance(document.get("network"), dict):
            found[path] = document["network"]
    return found


def _devices(network: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (kind, id, options) of each device."""
    return [
        (kind, str(name), options)
        for kind in KINDS
        for name, options in (network.get(kind) or {}).items()
        if isinstance(options, dict)
    ]


def _is(name: str, options: Mapping[str, Any], device: str, mac: str) -> bool:
    """True if an entry is for this device: by its id, or by what it matches and is renamed to."""
    match = options.get("match")
    if options.get("set-name") == device:
        return True
    if not isinstance(match, dict):
        return name == device
    if match.get("name") is not None and not fnmatch.fnmatchcase(device, str(match["name"])):
        return False
    return match.get("macaddress") is None or str(match["macaddress"]).lower() == mac.lower()


def renderer(files: Mapping[str, str]) -> str:
    """Return the renderer of the last file that names one."""
    named = [str(network["renderer"]) for network in documents(files).values() if network.get("renderer")]
    return named[-1] if named else "networkd"


def configured(reading: Reading) -> frozenset[str]:
    entries = [entry for network in documents(reading.originals).values() for entry in _devices(network)]
    return frozenset(
        link.name
        for link in reading.links.values()
        if any(_is(name, options, link.name, link.mac) for _kind, name, options in entries)
    )


def write(bridges: list[Bridge], reading: Reading) -> dict[str, str]:
    networks = {path: copy.deepcopy(network) for path, network in documents(reading.originals).items() if path != OURS}
    own: dict[str, dict[str, Any]] = {"ethernets": {}, "vlans": {}, "bridges": {}}
    changed: dict[str, str] = {}
    for bridge in bridges:
        options: dict[str, Any] = {}
        if bridge.moves:
            port, options = _move(bridge, reading, networks, changed)
        else:
            port = _port_of(bridge, reading, networks, own)
        own["bridges"][bridge.name] = _bridge(bridge, port, options)
    for path in changed:
        changed[path] = _text({"network": networks[path]})
    # A renderer applies to its own file only.
    document = {
        "version": 2,
        "renderer": renderer(reading.originals),
        **{kind: entries for kind, entries in own.items() if entries},
    }
    if bridges:
        changed[OURS] = _text({"network": document})
    return changed


def _text(document: dict[str, Any]) -> str:
    # Through JSON: it removes anchors and tags, whatever was in the file.
    return HEAD + str(yaml.safe_dump(json.loads(json.dumps(document, default=str)), sort_keys=False, default_flow_style=False))


def _move(
    bridge: Bridge, reading: Reading, networks: Mapping[str, dict[str, Any]], changed: dict[str, str]
) -> tuple[str, dict[str, Any]]:
    """Return netplan's id of the port, and what the bridge takes over from it."""
    moved: dict[str, Any] = {}
    port = ""
    for path, network in networks.items():
        for kind, name, options in _devices(network):
            if not _is(name, options, bridge.port, reading.links[bridge.port].mac):
                continue
            if kind == "wifis":
                raise NetworkError(
                    f"xen_host_networks.{bridge.name}: uplink: {bridge.port} is a wireless device, which can't be in a bridge"
                )
            if _others(options, reading, bridge.port):
                raise NetworkError(
                    f"xen_host_networks.{bridge.name}: {path}: {name} matches several devices"
                    f" ({', '.join(_others(options, reading, bridge.port))} too): give {bridge.port} an entry of its own"
                )
            port = name
            for key in [key for key in options if key in _OF_ADDRESS]:
                value = options.pop(key)
                moved[key] = [*moved[key], *value] if isinstance(value, list) and isinstance(moved.get(key), list) else value
                changed[path] = ""
            changed[path] = ""
            options.update({"dhcp4": False, "dhcp6": False, "link-local": [], **_mtu(bridge)})
    return port, moved


def _others(options: Mapping[str, Any], reading: Reading, device: str) -> list[str]:
    match = options.get("match")
    if not isinstance(match, dict):
        return []
    return sorted(
        link.name
        for link in reading.links.values()
        if link.name not in (device, "lo") and not link.kind and _is("", {"match": match}, link.name, link.mac)
    )


def _port_of(bridge: Bridge, reading: Reading, networks: Mapping[str, dict[str, Any]], own: dict[str, dict[str, Any]]) -> str:
    """Return netplan's id of a port whose addresses stay; a device without an entry gets one in our file."""
    if not bridge.port:
        return ""
    lower = bridge.network.uplink
    name = next(
        (
            name
            for network in networks.values()
            for _kind, name, options in _devices(network)
            if _is(name, options, lower, reading.links[lower].mac)
        ),
        "",
    )
    if not name:
        own["ethernets"].setdefault(lower, {"dhcp4": False, "dhcp6": False, "link-local": []})
        name = lower
    if not bridge.vlan:
        return name
    own["vlans"][bridge.port] = {
        "id": bridge.vlan,
        "link": name,
        "dhcp4": False,
        "dhcp6": False,
        "link-local": [],
        **_mtu(bridge),
    }
    return bridge.port


def _mtu(bridge: Bridge) -> dict[str, int]:
    return {"mtu": bridge.network.mtu} if bridge.network.mtu else {}


def _bridge(bridge: Bridge, port: str, moved: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"interfaces": [port] if port else [], "macaddress": bridge.mac, **_mtu(bridge)}
    options["parameters"] = {"stp": False, "forward-delay": 0}
    if not bridge.moves:
        six = any(one.version == 6 for one in bridge.network.own)
        options.update(
            {"dhcp4": False, "dhcp6": False, "accept-ra": False, "link-local": ["ipv6"] if six else [], "optional": True}
        )
        options["ignore-carrier"] = True
    options.update(moved)
    addresses = [*(options.get("addresses") or []), *(str(one) for one in bridge.network.own)]
    routes = [*(options.get("routes") or []), *({"to": route, "scope": "link"} for route in bridge.routes)]
    routes += [{"to": route, "via": via, "on-link": True} for route, via in bridge.ways]
    if addresses:
        options["addresses"] = addresses
    if routes:
        options["routes"] = routes
    return options
