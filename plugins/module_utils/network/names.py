# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which names a device of a host can have, so that Linux, its programs and Xen read them as that device's. Pure."""

from __future__ import annotations

import re

# Linux limits a device's name to 15 characters (IFNAMSIZ - 1).
MAX_NAME = 15
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
AUTO = "auto"  # the device of the default route
# Linux's loopback, its settings for all devices (sysctl), its file of bonds; words of declarations and of ifupdown.
TAKEN_NAMES = ("lo", "all", "default", "bonding_masters", AUTO, "none")
# Xen names domains' interfaces so. The packet filter takes each device whose name begins with vif for one.
VIF = "vif"
_XENS = re.compile(r"(vif|tap)[0-9]+\.[0-9]+.*")


def bridge_refusal(name: str) -> str:
    """Return why a bridge can't have this name; "" if it can."""
    if not NAME.fullmatch(name):
        return f"the name must be 1..{MAX_NAME} letters, digits, '_', '.', '-': the network's bridge gets it"
    if name.startswith(VIF) or _XENS.fullmatch(name):
        return "the name is one of domains' interfaces: choose another, because the bridge gets it"
    if name in TAKEN_NAMES:
        return "the name has another meaning for Linux or its programs: choose another, because the bridge gets it"
    if name.isdigit():
        return "the name is a number, which Linux's programs take for a device's index: begin it with a letter"
    return ""


def uplink_refusal(name: str) -> str:
    """Return why no device of the host can have this name; "" if one can."""
    if not NAME.fullmatch(name):
        return f"is {name!r}, must be the name of a network device"
    if name.startswith(VIF) or _XENS.fullmatch(name):
        return f"{name} is a domain's interface: name one of the host"
    if name in TAKEN_NAMES or name.isdigit():
        return f"{name} leads nowhere: name a network device"
    return ""


def vif_refusal(name: str) -> str:
    """Return why a domain's interface can't have this name in Dom0; "" if it can."""
    if not NAME.fullmatch(name):
        return "is not the name of a network device"
    if _XENS.fullmatch(name):
        return "is what Xen itself calls an interface of another domain: choose another, as in vif-www"
    if name in TAKEN_NAMES or name.isdigit():
        return "has another meaning for Linux or its programs: choose another, as in vif-www"
    return ""
