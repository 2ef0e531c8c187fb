# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The network side of a switch: take a domain's vifs off the bridge, put them back, notify neighbours."""

from __future__ import annotations

import os
import re
import socket
import subprocess

from ..network.ports import announcement, led
from .xenstore import Xenstore
from .xl import ToolstackError


def devices(domid: int) -> list[str]:
    """Return Dom0's network devices for the domain, in the order of its interfaces."""
    found = [name for name in os.listdir("/sys/class/net") if re.fullmatch(rf"vif{domid}\.[0-9]+", name)]
    return sorted(found, key=lambda name: int(name.split(".")[1]))


def leave(domid: int) -> None:
    """Take the vifs off their bridges, which forget their MACs at once."""
    for device in devices(domid):
        _run("ip", "link", "set", "dev", device, "nomaster")


def join(domid: int) -> None:
    """Put the vifs (back) on the bridges that the domain was created with."""
    for device, bridge, mac, ip in _made_with(domid):
        _run("ip", "link", "set", "dev", device, "master", bridge)
        for command in led(device, mac, ip):
            _run(*command)


def lead_to(domid: int) -> None:
    """Make the bridges forward to the domain before it has sent anything itself.

    Until then they would flood its frames to every port, also to the network outside, where somebody else may answer.
    """
    for device, _bridge, mac, ip in _made_with(domid):
        for command in led(device, mac, ip):
            _run(*command)


def _made_with(domid: int) -> list[tuple[str, str, str, str]]:
    """Return (device in Dom0, bridge, MAC, ip=) for each interface that was put on a bridge."""
    names = devices(domid)
    paths = [f"/libxl/{domid}/device/vif/{name.split('.')[1]}" for name in names]
    with Xenstore() as store:
        values = store.read([f"{path}/{key}" for path in paths for key in ("bridge", "mac", "ip")])
    found = zip(names, values[::3], values[1::3], values[2::3])
    return [(device, bridge, mac, ip or "") for device, bridge, mac, ip in found if bridge and mac]


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolstackError(f"'{' '.join(words)}' failed: {error}") from error
    if done.returncode:
        raise ToolstackError(f"'{' '.join(words)}' failed: {done.stderr.strip()}")


def announce(bridge: str, mac: str, address: str) -> None:
    """Tell the bridge's neighbours that an address is now at another MAC. Best effort.

    For a domain that got another MAC and doesn't announce itself.
    """
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((bridge, 0))
            sock.send(announcement(mac, address))
    except OSError:
        return
