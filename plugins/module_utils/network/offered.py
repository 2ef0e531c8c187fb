# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which networks the role xen_host offers on a host, with and without a declaration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .kinds import BRIDGED
from .names import AUTO

# What the host offers, as xen_networks writes it.
STATE = "/var/lib/unikernels/networks.json"


def offered_networks(networks: Mapping[str, Any] | None, host: Mapping[str, Any], bridge: str, uplink: str) -> dict[str, Any]:
    """Return the declared networks, or the default bridge; {} if the bridge exists or is left to xen_bridge.

    ``host``: the result of xen_host_info. A host that once had our networks keeps them.
    """
    if networks:
        return dict(networks)
    missing = bridge not in host["bridges"] and not str(host["network_style"]).startswith("ifupdown")
    return {bridge: {"mode": BRIDGED, "uplink": uplink or AUTO}} if missing or host["offered"] else {}


def main_bridge(networks: Mapping[str, Any] | None, bridge: str) -> str:
    """Return the bridge that has, or will have, the addresses of the host's uplink; "" for none."""
    if not networks:
        return bridge
    return next(
        (
            str(name)
            for name, one in networks.items()
            if isinstance(one, Mapping)
            and one.get("mode", BRIDGED) == BRIDGED
            and one.get("uplink") == AUTO
            and not one.get("vlan")
        ),
        "",
    )
