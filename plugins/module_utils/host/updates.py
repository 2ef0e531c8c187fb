# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check whether a host can be updated and what an update left undone. Pure: what xen_host_info and apt printed in, lines out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .hardening import BOOTED_PACKAGES

CHOICES = {"update_which": ("security", "all"), "update_held": ("refuse", "leave")}
_SHOWN = 10
# Without these a host runs no domain, or can't be reached.
_NEEDED = re.compile(
    r"xen-|libxen|linux-image-amd64|grub-|openssh-server|bridge-utils|nftables|python3(?:-apt)?$|ifupdown|systemd$"
)
# An unpacked kernel package with its modules: 400 MiB on Debian 12, rounded up.
MIN_KERNEL_MIB = 500


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
    lines = []
    stuck = [name for name in info["held_updates"] if which == "all" or name in info["security_updates"]]
    if stuck and held != "leave":
        lines.append(
            f"{_names(stuck)}: held (apt-mark hold), so newer versions would not be installed: release them by 'apt-mark unhold',"
            " or update the rest with -e update_held=leave"
        )
    removed = [name for name in info["updates_remove"] if _NEEDED.match(name)]
    if removed:
        lines.append(f"{_names(removed)}: would be removed by the updates: see 'apt-get -s dist-upgrade' and the sources of apt")
    return lines + _space_refusals(info, info["updates"] if which == "all" else info["security_updates"])


def _space_refusals(info: Mapping[str, Any], waiting: list[str]) -> list[str]:
    """Return why the files of a boot would not fit: dpkg would stop half-way, with a kernel that has no initrd."""
    space = info["updates_space"]
    booted = [name for name in waiting if any(re.match(pattern, name) for pattern in BOOTED_PACKAGES)]
    kernels = [name for name in booted if name.startswith("linux-image-")]
    what = "remove old kernels ('apt-get autoremove --purge') or make room"
    lines = []
    if booted and space["boot"] < space["boot_needs"]:
        lines.append(f"{_names(booted)}: /boot has {space['boot']} MiB free, {space['boot_needs']} are needed: {what}")
    if kernels and space["root"] < MIN_KERNEL_MIB:
        lines.append(f"{_names(kernels)}: / has {space['root']} MiB free, {MIN_KERNEL_MIB} are needed: {what}")
    return lines


def stopped(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the domains that ran ``before`` a reboot and don't run ``after`` it (RV(domains) of xen_domain_info).

    ``failed``: those that start with the host; ``left``: those that don't, for whoever runs them to start.
    """
    runs = {str(domain["name"]) for domain in after if domain["state"] in ("running", "paused")}
    gone = [domain for domain in before if domain["state"] in ("running", "paused") and domain["name"] not in runs]
    # One that was being replaced is the next run's matter.
    gone = [domain for domain in gone if "~" not in str(domain["name"])]
    return {
        "failed": [str(domain["name"]) for domain in gone if domain["autostart"]],
        "left": [str(domain["name"]) for domain in gone if not domain["autostart"]],
    }


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
