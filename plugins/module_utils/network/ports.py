# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a bridge forward to a domain's vif and tell its neighbours: commands and frames. Pure."""

from __future__ import annotations

import ipaddress
import struct

from .antispoof import UNFILTERED

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ALL_NODES = ipaddress.IPv6Address("ff02::1")
_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_TARGET_LINK_ADDRESS = 2


def led(device: str, mac: str, ip: str) -> list[list[str]]:
    """Return the commands that make a bridge forward to the vif what is for its MAC, permanently.

    ``static``: even before the guest has sent anything. ``sticky``: even if another port sends from that MAC, which would move a
    mere static entry. A filtered vif has only one MAC, so there is nothing to learn behind it, and frames to unknown MACs are not
    for it. All of this disappears with the port.
    """
    commands = [["bridge", "fdb", "replace", mac, "dev", device, "master", "static", "sticky"]]
    if ip != UNFILTERED:
        commands.append(["bridge", "link", "set", "dev", device, "learning", "off", "flood", "off"])
    return commands


def announcement(mac: str, address: str) -> bytes:
    """Return the frame that tells all neighbours the new MAC of an address.

    It is a gratuitous ARP (RFC 826, RFC 5227), or an unsolicited neighbour advertisement with the override flag (RFC 4861).
    """
    ip, hardware = ipaddress.ip_interface(address).ip, bytes.fromhex(mac.replace(":", ""))
    if ip.version == 4:
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + hardware + ip.packed + b"\0" * 6 + ip.packed
        return b"\xff" * 6 + hardware + struct.pack("!H", _ETH_P_ARP) + body
    option = struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + hardware
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + ip.packed + option
    pseudo = ip.packed + _ALL_NODES.packed + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + ip.packed + _ALL_NODES.packed
    return b"\x33\x33" + _ALL_NODES.packed[-4:] + hardware + struct.pack("!H", _ETH_P_IPV6) + header + body


def _checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071. ``data`` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
