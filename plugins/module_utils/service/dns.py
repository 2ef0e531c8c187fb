# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The DNS resolver: its variables -> a unikernel with its image and its zones on a disk. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .variables import USUAL_MEMORY, Service, Variables, at, first_address, is_address, is_network

NAME = "dns"
OPTIONS = ("interfaces", "name", "image", "images", "memory", "forward", "zones", "clients", "update", "arguments", "health")
_ZONE = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")


def zone_text(zones: Mapping[str, str]) -> str:
    """All zones as one file (RFC 1035)."""
    return "".join(f"$ORIGIN {name.rstrip('.')}.\n{text.strip()}\n" for name, text in zones.items())


def _zones(given: Variables) -> dict[str, str]:
    zones: dict[str, str] = {}
    for name, text in given.mapping("zones", "zone name to the text of its file").items():
        if not _ZONE.fullmatch(name):
            given.wrong("zones", f"{name!r} is not the name of a zone")
        elif not isinstance(text, str) or not re.search(r"\bSOA\b", text):
            given.wrong("zones", f"the text of zone {name} has no SOA record")
        elif "\0" in text:
            given.wrong("zones", f"the text of zone {name} has a zero byte in it")
        else:
            zones[name] = text
    return zones


def declare(values: Mapping[str, Any], source: str) -> Service:
    """``source``: the folder of our own unikernel for it."""
    given = Variables(NAME, values)
    interfaces, name = given.interfaces(), given.text("name", "dns")
    forward, clients = given.texts("forward", "addresses"), given.texts("clients", "networks, as in 192.0.2.0/24")
    for address in forward:
        if not is_address(address):
            given.wrong("forward", f"{address!r} is not an address")
    for network in clients:
        if not is_network(network):
            given.wrong("clients", f"{network!r} is not a network, as in 192.0.2.0/24")
    zones = _zones(given)
    arguments: dict[str, Any] = {}
    if forward:
        arguments["forward"] = forward
    if clients:
        arguments["client"] = clients
    if zones:
        arguments["zone-block"] = "true"
    address = first_address(interfaces)
    bracketed = f"[{address}]" if ":" in address else address
    default = {"dns": f"www.{next(iter(zones))}@{bracketed}"} if zones else {"tcp": at(address, 53)}
    unikernel = {
        "name": name,
        "service": NAME,
        "image": name,
        "memory": given.number("memory", USUAL_MEMORY, 4, 16 << 20, "a number of MiB"),
        "interfaces": interfaces,
        **given.update(),
        "arguments": {**arguments, **given.mapping("arguments", "boot argument to value")},
        "disks": [{"content": zone_text(zones)}] if zones else [],
        "health": given.health(default),
    }
    return Service(unikernel, {name: given.origin({"source": source}, {"standin": NAME})}, tuple(given.problems))
