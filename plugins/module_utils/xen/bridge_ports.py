# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The network side of a switch: a domain's vifs leave the bridge, or come back, and neighbours are told."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import subprocess

from .xenstore import Xenstore
from .xl import ToolstackError

_ETH_P_ARP = 0x0806


def devices(domid: int) -> list[str]:
    """Dom0's network devices for the domain, in the order of its interfaces."""
    found = [name for name in os.listdir("/sys/class/net") if re.fullmatch(rf"vif{domid}\.[0-9]+", name)]
    return sorted(found, key=lambda name: int(name.split(".")[1]))


def leave(domid: int) -> None:
    """Off the bridge, which forgets at once that the MAC was there: the next frame for it goes to every port."""
    for device in devices(domid):
        _ip("link", "set", "dev", device, "nomaster")


def join(domid: int) -> None:
    """(Back) on the bridges that the domain was made with."""
    names = devices(domid)
    with Xenstore() as store:
        bridges = store.read([f"/libxl/{domid}/device/vif/{name.split('.')[1]}/bridge" for name in names])
    for device, bridge in zip(names, bridges):
        if bridge:
            _ip("link", "set", "dev", device, "master", bridge)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise ToolstackError(f"'ip {' '.join(words)}' failed: {done.stderr.strip()}")


def announce(bridge: str, mac: str, address: str) -> None:
    """Tell the bridge's neighbours that an IPv4 address is now at another MAC: a gratuitous ARP (RFC 826, RFC 5227).

    For a domain whose MAC was changed by its declaration and which doesn't announce itself. Best effort.
    """
    ip = ipaddress.ip_interface(address).ip
    if ip.version != 4:
        return
    hardware = bytes.fromhex(mac.replace(":", ""))
    frame = b"\xff" * 6 + hardware + struct.pack("!HHHBBH", _ETH_P_ARP, 1, 0x0800, 6, 4, 1)
    frame += hardware + ip.packed + b"\0" * 6 + ip.packed
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((bridge, 0))
            sock.send(frame)
    except OSError:
        return
