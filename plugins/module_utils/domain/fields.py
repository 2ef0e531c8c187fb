# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""THE table of a domain's options: type, default, bounds, keys of xl.cfg, whether compared, whether changed live. Pure.

It feeds the modules' argument specs, the comparison with a running domain, the live changes, and the keys that extra_config may
not have. A new option is a row here, its documentation in the module xen_domain, an attribute of `spec.Domain`, and code in
xl_config that reads it from Xen's report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .spec import CPU_WEIGHT, DISK_FORMATS, EVENT_ACTIONS, RESTARTS, STATES, TYPES, UPDATES, USUAL_MTU


@dataclass(frozen=True)
class Field:
    """One option. ``type``, ``default``, ``choices``: as in Ansible's argument spec; ``low``, ``high``: bounds of a number."""

    name: str
    type: str = "str"
    default: Any = None
    low: int = 0
    high: int = 0
    unit: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False
    no_log: bool = False
    options: tuple[Field, ...] = ()  # of each element of a list
    xl: tuple[str, ...] = ()  # its keys in xl.cfg; the first is the one that we write
    compared: bool = False
    live: bool = False  # Xen can change it in, or add it to and remove it from, a running domain


_MEMORY = {"type": "int", "low": 4, "high": 16 << 20, "unit": "MiB"}
_SECONDS = {"type": "int", "unit": "seconds"}

INTERFACE = (
    Field("bridge", required=True),
    Field("mac"),
    Field("address"),
    Field("gateway"),
    Field("address6"),
    Field("gateway6"),
    Field("gateway_on_link", "bool", False),
    Field("ip"),
    Field("antispoofing", "bool", True),
    Field("rate"),
    Field("script"),
    Field("vifname"),
    # RFC 791's minimum; the maximum of a vif's length field.
    Field("mtu", "int", USUAL_MTU, 68, 65535, "bytes"),
    Field("group"),
)
DISK = (
    # Not Ansible's type "path", which expands ~ and $ wherever it runs; xl takes them literally.
    Field("path"),
    Field("vdev"),
    Field("format", default="raw", choices=DISK_FORMATS),
    Field("access", default="r", choices=("r", "w")),
    Field("shared", "bool"),
    Field("size", "int", None, 0, 1 << 30, "MiB"),
    Field("source"),
    Field("content", no_log=True),  # often keys
)
DOMAIN = (
    Field("name", required=True, xl=("name",)),
    Field("state", default="running", choices=STATES),
    Field("autostart", "bool"),
    Field("type", default="pvh", choices=TYPES, xl=("type", "builder", "pvh"), compared=True),
    Field("uuid", xl=("uuid",)),
    Field("kernel", xl=("kernel",), compared=True),
    Field("ramdisk", xl=("ramdisk",), compared=True),
    Field("memory", default=64, xl=("memory",), compared=True, **_MEMORY),  # type: ignore[arg-type]
    Field("maxmem", xl=("maxmem",), compared=True, **_MEMORY),  # type: ignore[arg-type]
    Field("vcpus", "int", 1, 1, 128, "vCPUs", xl=("vcpus", "maxvcpus"), compared=True, live=True),
    Field("cpus", xl=("cpus",), compared=True, live=True),
    Field("cpu_weight", "int", CPU_WEIGHT, 1, 65535, f"({CPU_WEIGHT} is a domain's usual share)", xl=("cpu_weight",),
          compared=True, live=True),
    Field("cap", "int", 0, 0, 12800, "percent of one CPU", xl=("cap",), compared=True, live=True),
    Field("arguments", "raw", xl=("cmdline", "root", "extra"), compared=True),
    Field("interfaces", "list", options=INTERFACE, xl=("vif",), compared=True, live=True),
    Field("disks", "list", options=DISK, xl=("disk",), compared=True, live=True),
    Field("on_poweroff", default="destroy", choices=EVENT_ACTIONS, xl=("on_poweroff",), compared=True),
    Field("on_reboot", default="restart", choices=EVENT_ACTIONS, xl=("on_reboot",), compared=True),
    Field("on_crash", default="preserve", choices=EVENT_ACTIONS, xl=("on_crash",), compared=True),
    Field("disks_on_absent", default="keep", choices=("keep", "remove")),
    Field("service"),
    Field("extra_config", "dict", compared=True),
    Field("update", default="standby", choices=UPDATES),
    Field("ready"),
    Field("ready_within", default=60, low=1, high=3600, **_SECONDS),  # type: ignore[arg-type]
    Field("live", "bool", False),
    Field("health", "dict"),
    Field("restart", choices=RESTARTS),
    Field("restart_limit", "dict"),
    Field("watchdog", "raw"),
    Field("settle", default=2, high=600, **_SECONDS),  # type: ignore[arg-type]
    Field("shutdown_timeout", default=10, high=600, **_SECONDS),  # type: ignore[arg-type]
    Field("adopt", "bool", False),
)  # fmt: skip

# Options of both modules that are not part of a domain.
LOCK = Field("lock_timeout", "int", 60)

COMPARED = tuple(field.name for field in DOMAIN if field.compared)
LIVE = frozenset(field.name for field in DOMAIN if field.live)
# Keys that our own options write; extra_config must not repeat them.
OUR_KEYS = {key: field.name for field in DOMAIN for key in field.xl}
# Keys of xl.cfg that contradict the domain's options, or run programs in Dom0.
REFUSED_KEYS = {
    "bootloader": "runs a program in Dom0 that selects a kernel other than the option kernel",
    "bootloader_args": "belongs to bootloader, which selects a kernel other than the option kernel",
    "firmware": "boots something other than the option kernel",
    "firmware_override": "boots something other than the option kernel",
    "pvshim": "starts another kernel and another type of domain than the options state",
    "pvshim_path": "starts another kernel than the option kernel",
    "pvshim_cmdline": "belongs to pvshim, which starts another kernel than the option kernel",
    "pvshim_extra": "belongs to pvshim, which starts another kernel than the option kernel",
    "hvm": "makes another type of domain than the option type",
    "bios": "is for HVM guests, which this collection does not manage",
}
REFUSED_PREFIXES = {"device_model_": "selects the program of Dom0 that serves the domain, as root"}


def argument_spec(fields: Iterable[Field]) -> dict[str, Any]:
    """Return Ansible's argument spec for a table of options."""
    return {field.name: _argument(field) for field in fields}


def _argument(field: Field) -> dict[str, Any]:
    argument: dict[str, Any] = {"type": field.type}
    if field.choices:
        argument["choices"] = list(field.choices)
    if field.required:
        argument["required"] = True
    if field.no_log:
        argument["no_log"] = True
    if field.options:
        argument.update(elements="dict", default=[], options=argument_spec(field.options))
    elif field.default is not None:
        argument["default"] = field.default
    return argument


def extra_key_refusal(key: str) -> str:
    """Return why a key of xl.cfg can't be in extra_config; "" if it can."""
    if key in OUR_KEYS:
        return "has an option of its own" + (f": {OUR_KEYS[key]}" if OUR_KEYS[key] != key else "")
    if key in REFUSED_KEYS:
        return REFUSED_KEYS[key]
    return next((why for prefix, why in REFUSED_PREFIXES.items() if key.startswith(prefix)), "")
