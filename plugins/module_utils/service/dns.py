# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The DNS resolver: its variables -> a unikernel with its image, and its zones, secondaries and primaries on a disk. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from . import dns_signing, dns_tls, operations, primaries
from .secondaries import lines as lines_of_secondaries
from .variables import USUAL_MEMORY, Service, Variables, at, first_address, is_address, is_network
from .zones import MISSING, ZoneError, canonical, is_signed

NAME = "dns"
OPTIONS = ("interfaces", "name", "image", "images", "memory", "forward", "zones", "sign", "secondaries", "primaries", "clients",
           "tls", "update", "arguments", "health", *operations.OPTIONS)  # fmt: skip
_ZONE = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")


def _zones(given: Variables, keys: Mapping[str, dns_signing.Keys | None], now: float) -> dict[str, str]:
    """Map each zone's name to its canonical text, signed if declared."""
    zones: dict[str, str] = {}
    for name, text in given.mapping("zones", "zone name to the text of its file").items():
        if not isinstance(name, str) or not _ZONE.fullmatch(name):
            given.wrong("zones", f"{name!r} is not the name of a zone, as in example.org")
        elif not isinstance(text, str) or not text.strip():
            given.wrong("zones", f"zone {name}: must be the text of its file")
        else:
            try:
                zones[name.rstrip(".").lower()] = canonical(name, text)
            except ZoneError as error:
                given.wrong("zones", f"zone {name}: {error}")
            except ImportError:
                given.wrong("zones", MISSING)
                break
    signing = dns_signing.read(given)
    found = keys.get(signing.folder, {}) if signing else None
    # A folder that can't be read was reported.
    if signing and found is not None:
        dns_signing.sign_zones(given, signing, found, zones, now)
    return zones


def _forward(given: Variables, own: set[str]) -> list[str]:
    forward = given.texts("forward", "addresses")
    for address in forward:
        if not is_address(address):
            given.wrong("forward", f"{address!r} is not an address")
        elif address in own:
            given.wrong("forward", f"{address} is the resolver's own address: it would ask itself; name another server")
    return forward


def declare(
    values: Mapping[str, Any], source: str, keys: Mapping[str, dns_signing.Keys | None] | None = None, now: float | None = None
) -> Service:
    """Return the service.

    ``source``: the folder of our own unikernel for it; ``keys``: folder -> zone -> its keys; ``now``: when signatures must be
    valid, in seconds since 1970.
    """
    given = Variables(NAME, values)
    interfaces, name = given.interfaces(), given.text("name", "dns")
    own = {
        str(value).split("/")[0] for interface in interfaces for value in (interface.get("address"), interface.get("address6"))
    }
    forward, clients = _forward(given, own), given.texts("clients", "networks, as in 192.0.2.0/24")
    for network in clients:
        if not is_network(network):
            given.wrong("clients", f"{network!r} is not a network, as in 192.0.2.0/24")
    zones, secondaries = _zones(given, keys or {}, time.time() if now is None else now), lines_of_secondaries(given, own)
    transferred, tls = primaries.read(given, own, set(zones)), dns_tls.lines(given)
    arguments: dict[str, Any] = {}
    if forward:
        arguments["forward"] = forward
    if clients:
        arguments["client"] = clients
    content = secondaries + primaries.lines(transferred) + tls + "".join(zones.values())
    if content:
        arguments["zone-block"] = "true"
    ports = {53: "DNS", **({dns_tls.PORT: "DNS over TLS"} if tls else {})}
    arguments.update(operations.arguments(given, name, ports))
    address = first_address(interfaces)
    bracketed = f"[{address}]" if ":" in address else address
    # Every zone has an SOA. If one is answered, the resolver has read all of its disk: otherwise it would not run. One that it
    # transfers must be there, for a new domain begins without.
    asked = [zone for zone, *_primary in transferred] + list(zones)
    default: dict[str, Any] = {"dns": f"{asked[0]}@{bracketed}", "type": "SOA"} if asked else {"tcp": at(address, 53)}
    if asked and is_signed(zones.get(asked[0], "")):
        default["signed"] = True
    unikernel = {
        "name": name,
        "service": NAME,
        "image": name,
        "memory": given.number("memory", USUAL_MEMORY, 4, 16 << 20, "a number of MiB"),
        "interfaces": interfaces,
        **given.update(),
        "arguments": {**arguments, **given.mapping("arguments", "boot argument to value")},
        "disks": [{"content": content}] if content else [],
        "health": given.health(default),
    }
    return Service(unikernel, {name: given.origin({"source": source}, {"standin": NAME})}, tuple(given.problems))
