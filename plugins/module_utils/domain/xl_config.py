# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A `Domain` as xl.cfg text, and what Xen reports of a domain as a `Domain`. Pure.

Source of the keys: xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5).
xl ignores unknown keys and misreads unquoted text, so every value is either a number we made
or a string in double quotes with only backslash and double quote escaped.
"""

from __future__ import annotations

from typing import Any

from .spec import Disk, Domain, Interface

# libxl leaves out what has its default.
_FORMATS_TO_XL = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk"}


def quote(text: str) -> str:
    """A string for xl's parser (xen/tools/libs/util/libxlu_cfg_l.l): only \\ and \" are special to it."""
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ValueError("a control character can't be written to an xl file")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(items: list[str]) -> str:
    return "[" + ", ".join(quote(item) for item in items) + "]"


def xl_config(domain: Domain, name: str | None = None) -> str:
    """The whole definition file. ``name`` replaces the domain's (for the one that stands by)."""
    lines = [
        "# Written by unikernels.xen; a change by hand is undone by the next run.",
        f"name = {quote(name or domain.name)}",
        f"type = {quote(domain.type)}",
        f"uuid = {quote(domain.uuid)}",
        f"kernel = {quote(domain.kernel)}",
        f"memory = {domain.memory}",
        f"maxmem = {domain.memory}",
        f"vcpus = {domain.vcpus}",
    ]
    if domain.arguments:
        lines.append(f"cmdline = {quote(domain.arguments)}")
    if domain.interfaces:
        lines.append("vif = " + _list([f"mac={one.mac},bridge={one.bridge}" for one in domain.interfaces]))
    if domain.disks:
        # target= takes the rest of the string, commas and all (xl-disk-configuration(5)).
        lines.append(
            "disk = "
            + _list(
                [
                    f"format={_FORMATS_TO_XL[one.format]},vdev={one.vdev},access={one.access},target={one.path}"
                    for one in domain.disks
                ]
            )
        )
    lines += [
        f"on_poweroff = {quote(domain.on_poweroff)}",
        f"on_reboot = {quote(domain.on_reboot)}",
        f"on_crash = {quote(domain.on_crash)}",
    ]
    return "\n".join(lines) + "\n"


def _action(config: dict[str, Any], event: str, default: str) -> str:
    return str(config.get(event, default)).replace("_", "-")


def domain_from_libxl(config: dict[str, Any]) -> Domain:
    """The configuration part of one entry of ``xl list -l``; what libxl left out has libxl's default."""
    create, build = config.get("c_info", {}), config.get("b_info", {})
    interfaces = tuple(Interface(str(nic.get("bridge", "")), str(nic.get("mac", "")).lower()) for nic in config.get("nics", []))
    disks = tuple(
        Disk(
            path=str(disk.get("pdev_path", "")),
            vdev=str(disk.get("vdev", "")),
            format=str(disk.get("format", "raw")),
            access="w" if disk.get("readwrite") else "r",
        )
        for disk in config.get("disks", [])
    )
    return Domain(
        name=str(create.get("name", "")),
        uuid=str(create.get("uuid", "")).lower(),
        type=str(create.get("type", "")),
        kernel=str(build.get("kernel", "")),
        memory=int(build.get("max_memkb", 0)) // 1024,
        vcpus=int(build.get("max_vcpus", 1)),
        arguments=str(build.get("cmdline", "")),
        interfaces=interfaces,
        disks=disks,
        on_poweroff=_action(config, "on_poweroff", "destroy"),
        on_reboot=_action(config, "on_reboot", "destroy"),
        on_crash=_action(config, "on_crash", "destroy"),
    )
