# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What a host records of its VPN endpoints: their CA, the key for their health check, the expiry of their certificates."""

from __future__ import annotations

import calendar
import glob
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..image.store import write_whole
from ..service.vpn import FOLDER as FOLDER
from ..service.vpn import HEALTH_KEY

_CA, _ENDS = "ca", "ends.json"
# Where an endpoint from before there were records shows: a domain's disks, named after it and their content's digest.
DISKS = "/var/lib/unikernels/disks"
_MAX_DISK = 1 << 20


class ServedError(Exception):
    """One line: an endpoint would change its CA."""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_DISK)
    except FileNotFoundError:
        return ""


def known_ca(path: str, name: str) -> str:
    return _text(os.path.join(path, name, _CA)).strip()


def _serves_unknown(name: str, disks: str) -> bool:
    """True if a domain of that name has an endpoint's disk, but its CA was never recorded."""
    files = glob.glob(os.path.join(glob.escape(disks), f"{glob.escape(name)}-*.img"))
    return any("<tls-crypt>" in _text(file) for file in files)


def refusal(path: str, endpoint: Mapping[str, Any], disks: str = DISKS) -> str:
    """Return why the controller's CA is not the one that this host serves; "" if it is, or if none is recorded."""
    name, ca, known = endpoint["name"], endpoint["ca"], known_ca(path, endpoint["name"])
    if endpoint["new_ca"] or (known == ca and ca):
        return ""
    if not known and (ca or not _serves_unknown(name, disks)):
        return ""
    serves = f"CA {known[:16]}" if known else "a CA"
    has = f"has CA {ca[:16]}" if ca else "has none"
    return (
        f"vpn_pki: this host serves {serves} for {name}, and {endpoint['folder'] or 'the folder'} on this controller {has}:"
        " restore the folder from its backup, or set vpn_new_ca: true and hand every client a new profile"
    )


def keep(path: str, endpoints: Sequence[Mapping[str, Any]], write: bool, disks: str = DISKS) -> bool:
    """Record the endpoints. Return whether something changes. Raise ServedError for another CA, before anything is written."""
    lines = [line for line in (refusal(path, endpoint, disks) for endpoint in endpoints) if line]
    if lines:
        raise ServedError("; ".join(lines))
    changed = False
    for endpoint in endpoints:
        if not endpoint["ca"]:
            continue  # its keys are created in this run
        files = {
            # The CA comes last: once it is recorded, so is all else.
            HEALTH_KEY: endpoint["health"],
            _ENDS: json.dumps(endpoint["ends"], sort_keys=True) + "\n",
            _CA: endpoint["ca"] + "\n",
        }
        folder = os.path.join(path, endpoint["name"])
        for file, text in files.items():
            whole = os.path.join(folder, file)
            if _text(whole) == text:
                continue
            changed = True
            if write:
                os.makedirs(path, mode=0o700, exist_ok=True)
                os.makedirs(folder, mode=0o700, exist_ok=True)
                write_whole(whole, text.encode(), 0o600)
    return changed


def _days(text: Any, now: float) -> int | None:
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text):
        return None
    return int((calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - now) // 86400)


def days_left(path: str, now: float) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Return a line for each endpoint recorded here, and the days left of all its certificates."""
    lines, found = [], {}
    for name in sorted(os.listdir(path)) if os.path.isdir(path) else []:
        try:
            ends = json.loads(_text(os.path.join(path, name, _ENDS)) or "{}")
        except ValueError:
            ends = {}
        read = {str(key): _days(value, now) for key, value in ends.items()} if isinstance(ends, dict) else {}
        days = {key: value for key, value in read.items() if value is not None}
        if not days:
            continue
        found[name] = days
        words = [_words(key, days[key]) for key in ("server", "ca") if key in days]
        clients = sorted((value, key) for key, value in days.items() if key not in ("server", "ca"))
        words += [f"first client {_words(clients[0][1], clients[0][0])}"] if clients else []
        lines.append(f"{name}: {', '.join(words)}")
    return lines, found


def _words(name: str, days: int) -> str:
    return f"{name} {days} days" if days >= 0 else f"{name} ENDED {-days} days ago"
