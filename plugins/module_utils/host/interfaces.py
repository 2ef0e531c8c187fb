# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rewrite a file of interfaces(5) so that a bridge over the uplink has the uplink's addresses. Pure.

Options of an address move to the bridge, options of the device stay. An option that is neither for certain is refused. Source of
the options: interfaces(5), bridge-utils-interfaces(5), and those that vlan, ifenslave, ethtool and wpasupplicant add.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_STARTS = re.compile(r"iface|auto|allow-\S+|mapping|source|source-directory|no-auto-down|no-scripts|rename|template")
_OF_DEVICE = re.compile(
    r"mtu|hwaddress|slaves|(bond|vlan|wpa|wireless|ethernet|hardware|offload|driver|change|link|dma|flow-control|rx|tx)[-_].*"
)
_COMMANDS = ("pre-up", "up", "post-up", "down", "pre-down", "post-down")
# Programs that handle addresses and routes, and the objects of ip(8) that do.
_ADDRESSES = re.compile(r"(\S*/)?(ip(\s+-\S+)*\s+(a|addr|address|r|ro|route|rule|neigh)\b|route\b)")
_DEVICES = re.compile(r"(\S*/)?(ethtool|ip(\s+-\S+)*\s+(l|link)\b|tc|iw|iwconfig|mii-tool)\b")


class InterfacesError(ValueError):
    """The file can't be changed safely; the text says why."""


@dataclass
class _Stanza:
    """A first line and what belongs to it, including comments and empty lines. Lines continued by a backslash are one."""

    lines: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return self.lines[0].replace("\\\n", " ").split()

    @property
    def names(self) -> list[str]:
        """Return the devices of an ``auto`` or ``allow-`` line."""
        return self.words[1:] if re.fullmatch(r"auto|allow-\S+", (self.words or [""])[0]) else []

    def configures(self, device: str) -> bool:
        return self.words[:2] == ["iface", device]


def _stanzas(text: str) -> list[_Stanza]:
    groups = [_Stanza()]
    for line in re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n|(?:[^\n]*\\\n)*[^\n]+\Z", text.replace("\r\n", "\n")):
        line = line.rstrip("\n")
        words = line.split()
        if words and _STARTS.fullmatch(words[0]):
            groups.append(_Stanza([line]))
        else:
            groups[-1].lines.append(line)
    return [group for group in groups if group.lines]


def has(text: str, device: str) -> bool:
    """True if the file configures the device."""
    return any(group.configures(device) for group in _stanzas(text))


def bridged(text: str, uplink: str, bridge: str) -> str:
    """Return the new text. The bridge gets the uplink's configuration (DHCP or static, IPv4 and IPv6).

    The bridge also takes the uplink's MAC, so that a DHCP server gives it the same lease.
    """
    groups = _stanzas(text)
    if any(group.configures(bridge) for group in groups):
        return text
    _check(groups, uplink, bridge)
    kept: list[str] = []
    moved = {id(group): _split(group, uplink, bridge, kept) for group in groups if group.configures(uplink)}
    out: list[str] = []
    first = True
    for group in groups:
        words = group.words
        if id(group) in moved:
            if first:
                out += [f"iface {uplink} inet manual", *kept, ""]
            out.append(" ".join(["iface", bridge, *words[2:]]))
            if first:
                out += [f"    bridge_ports {uplink}", f"    bridge_hw {uplink}", "    bridge_stp off", "    bridge_fd 0"]
                first = False
            out += moved[id(group)]
        elif group.names:
            out += [_starting(group, uplink, bridge), *group.lines[1:]]
        elif words[:1] == ["iface"] and _alias(words[1:2], uplink):
            out.append(" ".join(["iface", bridge + words[1][len(uplink) :], *words[2:]]))
            out += [_renamed(line, uplink, bridge) for line in group.lines[1:]]
        else:
            out += group.lines
    if not any(group.words[:1] == ["auto"] and bridge in group.names for group in _stanzas("\n".join(out))):
        out = [f"auto {bridge}", *out]
    return "\n".join(out) + "\n"


def _alias(names: list[str], uplink: str) -> bool:
    return bool(names) and names[0].startswith(uplink + ":")


def _check(groups: list[_Stanza], uplink: str, bridge: str) -> None:
    configured = [group for group in groups if group.configures(uplink)]
    if not configured:
        raise InterfacesError(f"has no 'iface {uplink}' stanza: make the bridge {bridge} yourself")
    for group in configured:
        if len(group.words) < 4:
            raise InterfacesError(f"'{' '.join(group.words)}' lacks a family and a method, as in: iface {uplink} inet dhcp")
        if any(line.split()[:1] in (["bridge_ports"], ["bridge-ports"]) for line in group.lines):
            raise InterfacesError(f"{uplink} is itself a bridge: set xen_host_bridge: {uplink}")
    for group in groups:
        words = group.words
        if words[:1] == ["mapping"] and uplink in words[1:]:
            raise InterfacesError(f"a mapping chooses how {uplink} is configured: make the bridge {bridge} yourself")
        if words[:1] == ["iface"] and "inherits" in words and words[-1] == uplink:
            raise InterfacesError(f"'{' '.join(words[:2])}' inherits from {uplink}: write its options out")


def _starting(group: _Stanza, uplink: str, bridge: str) -> str:
    """Return an ``auto`` or ``allow-`` line. A bridge can't be hot-plugged, so it always gets auto."""
    if not any(name == uplink or _alias([name], uplink) for name in group.names):
        return group.lines[0]
    names = [bridge + name[len(uplink) :] if name == uplink or _alias([name], uplink) else name for name in group.names]
    if group.words[0] == "auto" or bridge not in names:
        return " ".join([group.words[0], *names])
    others = [name for name in names if name != bridge]
    return "\n".join([f"auto {bridge}", *([" ".join([group.words[0], *others])] if others else [])])


def _split(group: _Stanza, uplink: str, bridge: str, kept: list[str]) -> list[str]:
    """Return the lines that move with the address. The device's own are added to ``kept``, once for both families."""
    moved = []
    for line in group.lines[1:]:
        words = line.split()
        of_device = bool(words) and (
            bool(_OF_DEVICE.fullmatch(words[0]))
            or (words[0] in _COMMANDS and bool(_DEVICES.match(" ".join(words[1:]))) and _speaks_of(line, uplink))
        )
        if not of_device:
            moved.append(_renamed(line, uplink, bridge))
        elif line not in kept:
            kept.append(line)
    return moved


def _speaks_of(line: str, uplink: str) -> bool:
    return bool(re.search(rf"(?<![\w.:-]){re.escape(uplink)}(?![\w.-])|\$\{{?IFACE\b", line))


def _renamed(line: str, uplink: str, bridge: str) -> str:
    """Return a line that moves, with the uplink's name replaced by the bridge's."""
    words = line.split()
    pattern = rf"(?<![\w.:-]){re.escape(uplink)}(?![\w.-])"
    if not words or words[0].startswith("#") or not re.search(pattern, line):
        return line
    if words[0] not in _COMMANDS or not _ADDRESSES.match(" ".join(words[1:])):
        raise InterfacesError(
            f"'{' '.join(words)}' names {uplink}: is that the device or its addresses? Write $IFACE or words of ip(8),"
            " or make the bridge yourself"
        )
    return re.sub(pattern, bridge, line)


def sources(text: str) -> list[str]:
    """Return the patterns of other files that the file sources, in order."""
    found = []
    for group in _stanzas(text):
        if group.words[:1] == ["source"]:
            found += group.words[1:]
        elif group.words[:1] == ["source-directory"]:
            found += [f"{folder.rstrip('/')}/*" for folder in group.words[1:]]
    return found
