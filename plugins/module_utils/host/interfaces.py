# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""/etc/network/interfaces with the uplink's addresses moved to a bridge over it. Pure.

Source of the words: interfaces(5), bridge-utils-interfaces(5).
"""

from __future__ import annotations

_STARTS = ("iface", "auto", "allow-", "mapping", "source", "source-directory", "no-auto-down", "no-scripts", "rename")


class InterfacesError(ValueError):
    """The file can't be changed safely; the text says why."""


def _stanzas(text: str) -> list[list[str]]:
    """Lines grouped so that a stanza's first line begins a group; comments and blank lines stay where they are."""
    groups: list[list[str]] = [[]]
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith(_STARTS):
            groups.append([line])
        else:
            groups[-1].append(line)
    return [group for group in groups if group]


def bridged(text: str, uplink: str, bridge: str) -> str:
    """The new text. What the uplink was configured with (DHCP or static, IPv4 and IPv6) the bridge gets.

    The bridge takes over the uplink's MAC, so that a DHCP server hands out the same lease.
    """
    groups = _stanzas(text)
    configured = [group for group in groups if group[0].split()[:2] == ["iface", uplink]]
    if any(group[0].split()[:2] == ["iface", bridge] for group in groups):
        return text
    if not configured:
        raise InterfacesError(f"has no 'iface {uplink}' stanza: make the bridge {bridge} yourself")
    if any(line.split()[:1] == ["bridge_ports"] for group in configured for line in group):
        raise InterfacesError(f"{uplink} is itself a bridge: set xen_host_bridge: {uplink}")
    out: list[str] = []
    first = True
    for group in groups:
        words = group[0].split()
        if words[0] in ("auto",) or words[0].startswith("allow-"):
            names = [bridge if name == uplink else name for name in words[1:]]
            out += [" ".join([("auto" if bridge in names else words[0]), *names]), *group[1:]]
        elif words[:2] == ["iface", uplink]:
            if first:
                out.append(f"iface {uplink} inet manual")
                out.append("")
            out.append(" ".join(["iface", bridge, *words[2:]]))
            if first:
                out += [
                    f"    bridge_ports {uplink}",
                    f"    bridge_hw {uplink}",
                    "    bridge_stp off",
                    "    bridge_fd 0",
                ]
                first = False
            out += group[1:]
        else:
            out += group
    if not any(line.split()[:1] == ["auto"] and bridge in line.split() for line in out):
        out = [f"auto {bridge}", *out]
    return "\n".join(out) + "\n"
