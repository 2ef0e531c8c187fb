# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The host's network devices as /sys and ``ip -j`` show them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from ..network import netfilter
from ..network.kinds import BRIDGED, NAT, ROUTED
from ..network.offered import STATE
from .xl import ToolstackError


def ip_json(*arguments: str) -> list[dict[str, Any]]:
    """Return the output of ``ip -j ARGUMENTS`` as Python objects; [] if it fails."""
    try:
        done = subprocess.run(["ip", "-j", *arguments], capture_output=True, text=True, timeout=20, check=False)
        found = json.loads(done.stdout or "[]")
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [one for one in found if isinstance(one, dict)]


def networks_by_device() -> dict[str, list[str]]:
    """Map each device to its global addresses, as ADDRESS/PREFIX."""
    found: dict[str, list[str]] = {}
    for device in ip_json("address", "show"):
        addresses = [
            f"{one['local']}/{one['prefixlen']}"
            for one in device.get("addr_info", [])
            if one.get("scope") == "global" and "local" in one
        ]
        found[str(device.get("ifname", ""))] = addresses
    return found


def bridges() -> list[str]:
    folder = "/sys/class/net"
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name, "bridge")))


def bridge_networks() -> dict[str, list[str]]:
    """Map each bridge to the host's own addresses on it."""
    own = set(bridges())
    return {device: addresses for device, addresses in networks_by_device().items() if device in own}


def offered() -> dict[str, list[str]]:
    """Map each of our networks (xen_networks) to its declared subnets, in addition to the host's own addresses there."""
    try:
        with open(STATE, encoding="utf-8") as file:
            networks = json.load(file)["networks"]
        return {str(name): [str(subnet) for subnet in one["subnets"]] for name, one in networks.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def cut_off(bridge: str, networks: Mapping[str, Any]) -> list[str]:
    """One line for each network whose domains another's packet filter cuts off, or would: of the declared ones, and of bridges
    that have vifs. [] where nft is not installed."""
    modes = {str(name): one.get("mode", BRIDGED) for name, one in networks.items() if isinstance(one, Mapping)}
    used = [name for name in bridges() if any(port.startswith("vif") for port in os.listdir(f"/sys/class/net/{name}/brif"))]
    names = sorted({*used, *modes, *([bridge] if bridge and not networks else [])})
    routed = [name for name in names if modes.get(name) in (ROUTED, NAT)]
    if not shutil.which("nft"):
        return []
    return netfilter.look(_contents, _printed, names, routed)


def _contents(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _printed(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolstackError(f"{words[0]}: {error}") from error
    if done.returncode:
        raise ToolstackError(f"{' '.join(words)} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
    return done.stdout


def uplink() -> str:
    """Return the device of the default route, IPv4 before IPv6; "" if there is none."""
    for family in ("-4", "-6"):
        routes = ip_json(family, "route", "show", "default")
        devices = [str(route["dev"]) for route in routes if "dev" in route]
        if devices:
            return devices[0]
    return ""
