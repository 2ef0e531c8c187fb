# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. All facts of the domains of a host, in one call."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from typing import Any

from ..domain.compare import as_options
from ..domain.observed import Host, Observed, base_name, defined_uuid
from ..domain.spec import owned
from ..domain.xl_config import extra_config, notes_of, service_of
from ..image.store import DIGEST, SUFFIX, describe
from ..network.reach_rules import WORDS, words_of
from . import bridge_ports, console, restarts, start_times
from .observation import definition_path

# Linux's counters of a vif in Dom0: what it receives, the domain has sent.
_COUNTERS = {
    "sent_bytes": "rx_bytes",
    "sent_packets": "rx_packets",
    "received_bytes": "tx_bytes",
    "received_packets": "tx_packets",
    "dropped_packets": "tx_dropped",
}


def domain_facts(host: Host, names: list[str], console_lines: int) -> list[dict[str, Any]]:
    """Return one entry for each domain, by id, then those that are only defined. xen_domain_info's RETURN documents the keys."""
    started = start_times.of([one.domid for one in host.domains])
    found = [_running(host, one, started.get(one.domid)) for one in sorted(host.domains, key=lambda one: one.domid)]
    there = {one.domain.name for one in host.domains}
    found += [_defined(host, name) for name in sorted(host.definitions) if name not in there]
    found = [one for one in found if not names or one["name"] in names]
    limits = _limits()
    for one in found:
        one.update(limits.get(base_name(one["name"]), {"accept": None, "reach": None}))
    for one in found:
        one["console"] = console.lines(one["name"], most=console_lines) if console_lines else []
    return found


def _limits() -> dict[str, dict[str, list[str] | None]]:
    """What may reach each unikernel, and what it may reach, as the host was given it last."""
    try:
        with open(WORDS, encoding="utf-8") as file:
            return words_of(file.read())
    except (OSError, UnicodeDecodeError):
        return {}


def _running(host: Host, one: Observed, started: float | None) -> dict[str, Any]:
    base = base_name(one.domain.name)
    text = host.definitions.get(base, "")
    adopted = defined_uuid(text) == one.domain.uuid
    known = dataclasses.replace(one.domain, extra_config=extra_config(text), **notes_of(text))
    return {
        **as_options(known),
        "domid": one.domid,
        "state": one.state,
        "shutdown_reason": one.shutdown_reason,
        "owner": "unikernels.xen" if owned(one.domain.uuid) else "adopted" if adopted else "other",
        "defined": one.domain.name in host.definitions,
        "autostart": one.domain.name in host.autostart,
        "restarts": restarts.summary(one.domain.name),
        "image": image_of(one.domain.kernel),
        "cpu_seconds": round(one.cpu_seconds, 1),
        "uptime_seconds": None if started is None else max(0, round(time.time() - started)),
        "traffic": [_traffic(device) for device in bridge_ports.devices(one.domid)],
    }


def _defined(host: Host, name: str) -> dict[str, Any]:
    text = host.definitions[name]
    kernel = re.search(r'^kernel = "(.*)"$', text, re.MULTILINE)
    return {
        "name": name,
        "uuid": defined_uuid(text),
        "domid": None,
        "state": "stopped",
        "shutdown_reason": "",
        "owner": "unikernels.xen" if owned(defined_uuid(text)) else "adopted",
        "defined": True,
        "autostart": name in host.autostart,
        "service": service_of(text),
        "restarts": restarts.summary(name),
        "kernel": kernel.group(1) if kernel else "",
        "image": image_of(kernel.group(1) if kernel else ""),
        "definition": definition_path(name),
    }


def image_of(kernel: str) -> dict[str, Any]:
    """Return what the image store knows of a kernel in it; {} for any other kernel."""
    folder, name = os.path.split(kernel)
    digest, suffix = os.path.splitext(name)
    if suffix != SUFFIX or not DIGEST.fullmatch(digest):
        return {}
    found = describe(folder, digest)
    return {key: found.get(key) for key in ("sha256", "name", "target", "standin", "size", "description")}


def image_name(kernel: str) -> str:
    """Return the name under which a kernel was last put into the store; "" for a kernel outside the store."""
    return str(image_of(kernel).get("name") or "")


def _traffic(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"device": device}
    for key, counter in _COUNTERS.items():
        try:
            with open(f"/sys/class/net/{device}/statistics/{counter}", encoding="ascii") as file:
                found[key] = int(file.read())
        except (OSError, ValueError):
            found[key] = 0
    return found
