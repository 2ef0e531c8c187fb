# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare a declared with a running domain, in the words of the modules' options. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from .boot_line import ADDRESS_FIELDS, read_back
from .cpus import cpu_set, cpu_text
from .fields import COMPARED
from .spec import CONTENT_PATH, Disk, Domain, Interface, RestartLimit

# Files in the image store are named after their content.
_STORED = re.compile(r"/.*/([0-9a-f]{64})\.xen")
_PLAIN = tuple(key for key in COMPARED if key not in ("maxmem", "cpus"))
_VALUES = attrgetter(*_PLAIN)
_DIGITS = 12


# -- which options differ ----------------------------------------------------------------------------


def differences(wanted: Domain, running: Domain, default_cpus: str = "") -> list[str]:
    """Return the options that differ, as paths: memory, interfaces[0].rate, extra_config.pool. Name and UUID are not compared.

    ``default_cpus``: where the host lets domains run; xl narrows every domain's own choice to it. Xen doesn't report
    extra_config: the caller puts what it knows of it into ``running``. Addresses are in the boot line, so a change of
    interfaces[0].address is a change of the option arguments: see `option_of`.
    """
    same = _VALUES(wanted) == _VALUES(running)
    differing = set() if same else {key for key in _PLAIN if getattr(wanted, key) != getattr(running, key)}
    # Compared as the difference to memory, which it equals by default.
    if (wanted.maxmem or wanted.memory) - wanted.memory != (running.maxmem or running.memory) - running.memory:
        differing.add("maxmem")
    if wanted.cpus != running.cpus and narrowed(wanted.cpus, default_cpus) != narrowed(running.cpus, default_cpus):
        differing.add("cpus")
    if not differing:
        return []
    paths = [path for key in COMPARED if key in differing for path in _paths(key, wanted, running)]
    # By default ip follows from the addresses, so don't report both.
    readdressed = {path.partition(".")[0] for path in paths if path.endswith((".address", ".address6"))}
    return [path for path in paths if not (path.endswith("].ip") and path.partition(".")[0] in readdressed)]


def option_of(path: str) -> str:
    """Return the option (a row of `fields.DOMAIN`) that has to change for a path of `differences`."""
    if path == "image":
        return "kernel"
    option, _dot, field = path.partition(".")
    option = option.partition("[")[0]
    return "arguments" if option == "interfaces" and field in ADDRESS_FIELDS else option


def options_of(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the options of several paths, each once, in order."""
    return tuple(dict.fromkeys(map(option_of, paths)))


def _paths(key: str, wanted: Domain, running: Domain) -> list[str]:
    if key == "kernel":
        return ["image" if _STORED.fullmatch(wanted.kernel) and _STORED.fullmatch(running.kernel) else "kernel"]
    if key == "arguments":
        return _argument_paths(wanted, running)
    if key == "interfaces":
        return _device_paths(key, "mac", wanted.interfaces, running.interfaces)
    if key == "disks":
        return _device_paths(key, "vdev", wanted.disks, running.disks)
    if key == "extra_config":
        old, new = dict(running.extra_config), dict(wanted.extra_config)
        return [f"{key}.{item}" for item in sorted({*old, *new}) if old.get(item) != new.get(item)]
    return [key]


def _argument_paths(wanted: Domain, running: Domain) -> list[str]:
    new, words = read_back(wanted, wanted)
    old, running_words = read_back(running, wanted)
    blank = Interface("", "")
    paths = []
    for index in range(max(len(new), len(old))):
        left = new[index] if index < len(new) else blank
        right = old[index] if index < len(old) else blank
        differing = [field for field in ADDRESS_FIELDS if getattr(left, field) != getattr(right, field)]
        # A group can be read back only from an address word.
        if not (left.address or left.address6) or not (right.address or right.address6):
            differing = [field for field in differing if field != "group"]
        paths += [f"interfaces[{index}].{field}" for field in differing]
    return paths if paths and words == running_words else [*paths, "arguments"]


def _device_paths(
    option: str, key: str, wanted: tuple[Interface | Disk, ...], running: tuple[Interface | Disk, ...]
) -> list[str]:
    """Return the paths of devices that differ. Devices are paired by MAC or vdev, or else by position."""
    keys = {getattr(device, key) for device in wanted}
    by_key = {getattr(device, key): index for index, device in enumerate(running)}
    paths, paired = [], set()
    for index, device in enumerate(wanted):
        at = by_key.get(getattr(device, key), index)
        if at >= len(running) or (getattr(running[at], key) in keys and getattr(running[at], key) != getattr(device, key)):
            paths.append(f"{option}[{index}]")
            continue
        paired.add(at)
        paths += [f"{option}[{index}].{field}" for field in _differing_fields(device, running[at])]
    paths += [f"{option}[{index}]" for index in range(len(running)) if index not in paired]
    return list(dict.fromkeys(paths)) or [option]


def _differing_fields(wanted: Interface | Disk, running: Interface | Disk) -> list[str]:
    names = [field.name for field in dataclasses.fields(wanted) if field.compare]
    differing = [name for name in names if getattr(wanted, name) != getattr(running, name)]
    # The user declared content; the path follows from it.
    content = isinstance(wanted, Disk) and CONTENT_PATH.fullmatch(wanted.path)
    return ["content" if name == "path" and content else name for name in differing]


def narrowed(cpus: str, default_cpus: str) -> str:
    """Return the CPUs that ``cpus`` amounts to on a host that lets domains run only on ``default_cpus``."""
    chosen, allowed = cpu_set(cpus), cpu_set(default_cpus)
    if chosen is None or allowed is None:
        return cpus or default_cpus
    return cpu_text(chosen & allowed)


# -- a domain as a user would have written it --------------------------------------------------------


def as_options(domain: Domain, like: Domain | None = None) -> dict[str, Any]:
    """Return a domain as the modules' options, for diffs and return values; options at their default are included.

    ``like``: the declared domain, which knows the groups of its interfaces; it may be ``domain`` itself.
    """
    options = dict(vars(domain))  # not asdict: nothing in it changes, and a deep copy takes half the time of a plan
    interfaces, options["arguments"] = read_back(domain, like)
    options["interfaces"] = [dict(vars(interface)) for interface in interfaces]
    options["disks"] = [dict(vars(disk)) for disk in domain.disks]
    options["restart_limit"] = dict(vars(domain.restart_limit))
    options["watchdog"] = domain.watchdog.every if domain.watchdog else 0
    options["maxmem"] = domain.maxmem or domain.memory
    options["extra_config"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in domain.extra_config
    }  # fmt: skip
    return options


def view(domain: Domain | None, state: str, autostart: bool, like: Domain | None = None) -> dict[str, Any]:
    """Return one side of a diff, without the interface options that are empty."""
    if domain is None:
        return {"state": state}
    options = {key: value for key, value in as_options(domain, like).items() if key in ("name", "service", *COMPARED)}
    options["interfaces"] = [
        {key: value for key, value in interface.items() if value or key not in ADDRESS_FIELDS}
        for interface in options["interfaces"]
    ]
    if options["maxmem"] == options["memory"]:
        del options["maxmem"]
    if domain.restart != "never":
        options["restart"] = domain.restart
    if domain.restart_limit != RestartLimit():
        options["restart_limit"] = dict(vars(domain.restart_limit))
    if domain.watchdog:
        options["watchdog"] = domain.watchdog.every
    return {**options, "state": state, "autostart": autostart}


def with_image(side: dict[str, Any], name_of: Callable[[str], str]) -> dict[str, Any]:
    """Return one side of a diff with the image instead of a kernel in the store. ``name_of``: path -> image name, or ""."""
    stored = _STORED.fullmatch(str(side.get("kernel", "")))
    if not stored:
        return side
    image = f"{name_of(side['kernel'])} ({stored[1][:_DIGITS]})".strip()
    return {"image" if key == "kernel" else key: image if key == "kernel" else value for key, value in side.items()}
