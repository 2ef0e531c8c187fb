# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs between a declared and a running domain, in the words of the modules' options. Pure."""

from __future__ import annotations

from typing import Any

from .cpus import cpu_set, cpu_text
from .spec import Domain

COMPARED = (
    "type",
    "kernel",
    "memory",
    "maxmem",
    "vcpus",
    "cpus",
    "cpu_weight",
    "cap",
    "arguments",
    "interfaces",
    "disks",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "extra_config",
)


def as_options(domain: Domain) -> dict[str, Any]:
    """A domain in the words of the modules' options, for diffs and return values."""
    options = dict(vars(domain))  # not asdict: nothing in it changes, and its deep copy is half of a plan's time
    for key in ("interfaces", "disks"):
        options[key] = [dict(vars(item)) for item in options[key]]
    options["maxmem"] = domain.maxmem or domain.memory
    options["extra_config"] = dict(domain.extra_config)
    return options


def differences(wanted: Domain, running: Domain, default_cpus: str = "") -> list[str]:
    """The options in which the two differ; identity (name, uuid) is not one of them.

    ``default_cpus``: where the host lets domains run; xl narrows every domain's own choice to it. Xen doesn't
    report extra_config: the caller says in ``running`` what is known of it.
    """

    def seen(domain: Domain) -> dict[str, Any]:
        return {
            **{key: getattr(domain, key) for key in COMPARED},
            "maxmem": (domain.maxmem or domain.memory) - domain.memory,  # follows memory where nothing else is said
            "cpus": narrowed(domain.cpus, default_cpus),
        }

    one, other = seen(wanted), seen(running)
    return [key for key in COMPARED if one[key] != other[key]]


def narrowed(cpus: str, default_cpus: str) -> str:
    """The CPUs that ``cpus`` becomes on a host that lets domains run on ``default_cpus`` only."""
    chosen, allowed = cpu_set(cpus), cpu_set(default_cpus)
    if chosen is None or allowed is None:
        return cpus or default_cpus
    return cpu_text(chosen & allowed)


def view(domain: Domain | None, state: str, autostart: bool) -> dict[str, Any]:
    if domain is None:
        return {"state": state}
    options = {key: value for key, value in as_options(domain).items() if key in ("name", "service", *COMPARED)}
    if options["maxmem"] == options["memory"]:
        del options["maxmem"]
    return {**options, "state": state, "autostart": autostart}
