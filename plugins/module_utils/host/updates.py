# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check whether a host can be updated and what an update left undone. Pure: what xen_host_info and apt printed in, lines out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CHOICES = {"update_which": ("security", "all"), "update_held": ("refuse", "leave")}
_SHOWN = 10


def variable_refusals(values: Mapping[str, Any]) -> list[str]:
    """Return one line for each variable of playbooks/update.yml with a wrong value."""
    return [
        f"{name}: is {value!r}, must be {' or '.join(CHOICES[name])}"
        for name, value in values.items()
        if not isinstance(value, str) or value not in CHOICES[name]
    ]


def _names(packages: list[str]) -> str:
    more = len(packages) - _SHOWN
    return ", ".join(packages[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def refusals(info: Mapping[str, Any], which: str, held: str) -> list[str]:
    """Return why updating the host in ``info`` (xen_host_info, with updates) would stop half-way."""
    if info["updates_problem"]:
        return [f"{info['updates_problem']}; 'dpkg --audit' and 'apt-get --fix-broken install' help"]
    stuck = [name for name in info["held_updates"] if which == "all" or name in info["security_updates"]]
    if stuck and held != "leave":
        return [
            f"{_names(stuck)}: held (apt-mark hold), so newer versions would not be installed: release them by 'apt-mark unhold',"
            " or update the rest with -e update_held=leave"
        ]
    return []


def leftovers(info: Mapping[str, Any], which: str) -> list[str]:
    """Return the updates that were not installed though nobody holds them."""
    if info["updates_problem"]:
        return [str(info["updates_problem"])]
    waiting = info["updates"] if which == "all" else info["security_updates"]
    left = [name for name in waiting if name not in info["held_updates"]]
    return [f"{_names(left)}: not updated, though nothing holds them: see 'apt-get dist-upgrade'"] if left else []


def apt_reason(result: Mapping[str, Any]) -> str:
    """Return the line that says why the module apt failed, from its result."""
    text = "\n".join(str(result.get(key) or "") for key in ("stderr", "stdout", "msg"))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for pattern in (r"dpkg: error processing .*", r"E: (?!Sub-process).*", r"E: .*"):
        found = [line for line in lines if re.match(pattern, line)]
        if found:
            return found[0].removeprefix("E: ").rstrip(":")[:300]
    return next((line for line in reversed(lines) if line), "it printed nothing")[:300]
