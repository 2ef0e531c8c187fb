# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PURE. The machines that a lab's inventory declares, as variables of the role lab."""

from __future__ import annotations

import os
import re
from typing import Any

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The machine itself, in QEMU's user network.
ITSELF = "10.0.2.15"
PATHS = ("base", "recipe")
LISTS = ("packages", "disks", "networks", "groups", "forwards")
NUMBERS = {"memory": 512, "cpus": 1}
TEXTS = ("suite", "disk_size", "user", "user_data", "network_config")
KEYS = (*PATHS, *LISTS, *NUMBERS, *TEXTS)


def read(machines: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Return name -> variables (without ports and addresses), in the order of the file. Raise ValueError with one line.

    Paths are relative to ``folder``, that of the inventory.
    """
    if not isinstance(machines, dict) or not machines:
        raise ValueError("machines: must be a mapping of names, such as {xen1: {suite: bookworm}}")
    if len(machines) > 9:
        raise ValueError(f"machines: has {len(machines)} machines, at most 9 are possible")
    return {_name_of(name): _machine(f"machines.{name}", options, folder) for name, options in machines.items()}


def _name_of(name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"machines: '{name}' is not the name of a machine: lower case letters, digits and hyphens, such as xen1")
    return name


def _machine(where: str, options: Any, folder: str) -> dict[str, Any]:
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ValueError(f"{where}: must be a mapping of options, such as {{suite: bookworm}}")
    for key in options:
        if key not in KEYS:
            raise ValueError(f"{where}: has no option '{key}'; there are {', '.join(sorted(KEYS))}")
    variables: dict[str, Any] = {}
    for key, value in options.items():
        if key in NUMBERS:
            variables[key] = _number(f"{where}.{key}", value, NUMBERS[key])
        elif key == "forwards":
            variables[key] = [
                _forward(f"{where}.forwards[{index}]", row) for index, row in enumerate(_list(f"{where}.{key}", value))
            ]
        elif key in LISTS:
            variables[key] = [_text(f"{where}.{key}[{index}]", item) for index, item in enumerate(_list(f"{where}.{key}", value))]
        else:
            text = _text(f"{where}.{key}", value)
            variables[key] = os.path.join(folder, os.path.expanduser(text)) if key in PATHS else text
    for index, group in enumerate(variables.get("groups", [])):
        if not GROUP.fullmatch(group):
            raise ValueError(f"{where}.groups[{index}]: '{group}' is not the name of a group: letters, digits and underscores")
    return variables


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: is {value!r}, must be a list")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: is {value!r}, must be text that is not empty")
    return str(value)


def _number(where: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}: is {value!r}, must be a number of at least {least}")
    return value


def _forward(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or not {"port", "to_port"} <= set(row) <= {"protocol", "port", "to_port", "to_address"}:
        raise ValueError(f"{where}: must be such as {{port: 8443, to_port: 443}}, with protocol and to_address where needed")
    for key in ("port", "to_port"):
        if _number(f"{where}.{key}", row[key], 1) > 65535:
            raise ValueError(f"{where}.{key}: is {row[key]}, must be 1..65535")
    if row.get("protocol", "tcp") not in ("tcp", "udp"):
        raise ValueError(f"{where}.protocol: is {row['protocol']!r}, must be tcp or udp")
    return {"protocol": "tcp", "to_address": ITSELF, **row}
