# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a `Domain` as xl.cfg text, and read one from what Xen reports. Pure.

Source of the keys: xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5). xl ignores unknown keys and misreads
unquoted text, so every value is either a number that we made or a string in double quotes in which only backslash and double
quote are escaped.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, Union

from ..network.antispoof import UNFILTERED
from . import boot_line
from .cpus import cpu_text
from .spec import (
    CONTROL,
    CPU_WEIGHT,
    RESTARTS,
    SHARED_SCRIPT,
    USUAL_MTU,
    Disk,
    Domain,
    Health,
    Interface,
    RestartLimit,
    Watchdog,
    rate_text,
    script_path,
)

EXTRA = "# extra_config"
# Comments in the definition for what Xen doesn't know of a domain; the keeper in Dom0 reads them too.
SERVICE, RESTART, RESTART_LIMIT, WATCHDOG = "# service: ", "# restart: ", "# restart_limit: ", "# watchdog: "


# A value of extra_config: a number, text, or a list of text.
ExtraValue = Union[int, str, tuple[str, ...]]
T = TypeVar("T")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def quote(text: str) -> str:
    """Quote a string for xl's parser (xen/tools/libs/util/libxlu_cfg_l.l), where only \\ and \" are special."""
    if CONTROL.search(text):
        raise ValueError("a control character can't be written to an xl file")
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _list(items: Iterable[str]) -> str:
    return "[" + ", ".join(quote(item) for item in items) + "]"


def _extra_text(value: ExtraValue) -> str:
    if isinstance(value, int):
        return str(value)
    return quote(value) if isinstance(value, str) else _list(value)


def _extra_value(text: str) -> ExtraValue:
    """Read a value that `_extra_text` has written; anything else, written by hand, stays text."""
    if re.fullmatch(r"-?[0-9]{1,19}", text):
        return int(text)
    texts = [re.sub(r"\\(.)", r"\1", quoted) for quoted in _QUOTED.findall(text)]
    value: ExtraValue = tuple(texts) if text.startswith("[") else texts[0] if texts else text
    return value if _extra_text(value) == text else text


def vif(one: Interface) -> str:
    """Return an interface as xl's vif specification (xl-network-configuration(5))."""
    words = [f"mac={one.mac}", f"bridge={one.bridge}"]
    ip = one.ip if one.antispoofing else UNFILTERED
    words += [f"ip={ip}"] if ip else []
    words += [f"{key}={getattr(one, key)}" for key in ("rate", "script", "vifname") if getattr(one, key)]
    if one.mtu != USUAL_MTU:
        words.append(f"mtu={one.mtu}")
    return ",".join(words)


def vbd(one: Disk) -> str:
    """Return a disk as xl's disk specification. target= takes the rest of the string, commas too (xl-disk-configuration(5))."""
    script = f"script={SHARED_SCRIPT}," if one.shared else ""
    return f"{script}format={one.format},vdev={one.vdev},access={one.access},target={one.path}"


def xl_config(domain: Domain, name: str | None = None) -> str:
    """Return the whole definition file. ``name`` replaces the domain's (for a replacement beside it)."""
    lines = [
        "# Written by unikernels.xen; a change by hand is undone by the next run.",
        *_notes(domain),
        f"name = {quote(name or domain.name)}",
        f"type = {quote(domain.type)}",
        f"uuid = {quote(domain.uuid)}",
        f"kernel = {quote(domain.kernel)}",
        *([f"ramdisk = {quote(domain.ramdisk)}"] if domain.ramdisk else []),
        f"memory = {domain.memory}",
        f"maxmem = {domain.maxmem or domain.memory}",
        f"vcpus = {domain.vcpus}",
    ]
    if domain.cpus:
        lines.append(f"cpus = {quote(domain.cpus)}")
    if domain.cpu_weight != CPU_WEIGHT:
        lines.append(f"cpu_weight = {domain.cpu_weight}")
    if domain.cap:
        lines.append(f"cap = {domain.cap}")
    if domain.arguments:
        lines.append(f"cmdline = {quote(domain.arguments)}")
    if domain.interfaces:
        lines.append("vif = " + _list([vif(one) for one in domain.interfaces]))
    if domain.disks:
        lines.append("disk = " + _list([vbd(one) for one in domain.disks]))
    lines += [
        f"on_poweroff = {quote(domain.on_poweroff)}",
        f"on_reboot = {quote(domain.on_reboot)}",
        f"on_crash = {quote(domain.on_crash)}",
    ]
    if domain.extra_config:
        lines.append(EXTRA)
        lines += [f"{key} = {_extra_text(value)}" for key, value in domain.extra_config]
    return "\n".join(lines) + "\n"


def extra_config(text: str) -> tuple[tuple[str, ExtraValue], ...]:
    """Return the extra_config of a definition of ours; Xen doesn't report it."""
    lines = text.partition(EXTRA + "\n")[2].rstrip("\n").split("\n")
    return tuple((key, _extra_value(value)) for key, equals, value in (line.partition(" = ") for line in lines) if equals)


def _notes(domain: Domain) -> list[str]:
    lines = [SERVICE + domain.service] if domain.service else []
    if domain.restart != "never":
        lines.append(RESTART + domain.restart)
        if domain.restart_limit != RestartLimit():
            lines.append(RESTART_LIMIT + json.dumps(vars(domain.restart_limit)))
    if domain.watchdog:
        check = vars(domain.watchdog.health)
        usual = {field.name: field.default for field in dataclasses.fields(Health)}
        said = {key: value for key, value in check.items() if value != usual[key]}
        lines.append(WATCHDOG + json.dumps({"every": domain.watchdog.every, "health": said}))
    return lines


def notes_of(text: str) -> dict[str, Any]:
    """Return the fields of a `Domain` kept in comments of its definition; a broken comment is ignored."""
    head = text.partition("\nname = ")[0].split("\n")  # where we write them; thousands of lines may follow
    restart = _note(head, RESTART)
    return {
        "service": _note(head, SERVICE),
        "restart": restart if restart in RESTARTS else "never",
        "restart_limit": _read(_note(head, RESTART_LIMIT), _restart_limit) or RestartLimit(),
        "watchdog": _read(_note(head, WATCHDOG), _watchdog),
    }


def _note(head: list[str], begin: str) -> str:
    return next((line[len(begin) :] for line in head if line.startswith(begin)), "")


def _read(note: str, made: Callable[[Any], T]) -> T | None:
    try:
        return made(json.loads(note)) if note else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _restart_limit(value: Any) -> RestartLimit:
    return RestartLimit(**{key: int(number) for key, number in value.items()})


def _watchdog(value: Any) -> Watchdog:
    said = dict(value["health"])
    return Watchdog(int(value["every"]), Health(**{**said, "command": tuple(said.get("command", ()))}))


def service_of(text: str) -> str:
    """Return the service of a domain, from its definition."""
    return _note(text.partition("\nname = ")[0].split("\n"), SERVICE)


def _action(config: dict[str, Any], event: str, default: str) -> str:
    return str(config.get(event, default)).replace("_", "-")


def _interface(nic: dict[str, Any]) -> Interface:
    ip = str(nic.get("ip", ""))
    return Interface(
        bridge=str(nic.get("bridge", "")),
        mac=str(nic.get("mac", "")).lower(),
        ip="" if ip == UNFILTERED else ip,
        rate=rate_text(int(nic.get("rate_bytes_per_interval", 0)), int(nic.get("rate_interval_usecs", 0))),
        script=script_path(str(nic.get("script", ""))),
        vifname=str(nic.get("ifname", "")),
        mtu=int(nic.get("mtu") or USUAL_MTU),
        antispoofing=ip != UNFILTERED,
    )


def _disk(disk: dict[str, Any]) -> Disk:
    return Disk(
        path=str(disk.get("pdev_path", "")),
        vdev=str(disk.get("vdev", "")),
        format=str(disk.get("format", "raw")),
        access="w" if disk.get("readwrite") else "r",
        shared=str(disk.get("script", "")).rpartition("/")[2] == SHARED_SCRIPT,
    )


def domain_from_libxl(config: dict[str, Any]) -> Domain:
    """Return a domain from the config part of one entry of ``xl list -l``; keys that libxl left out have libxl's defaults."""
    create, build = config.get("c_info", {}), config.get("b_info", {})
    most = int(build.get("max_vcpus", 1))
    most_memory = int(build.get("max_memkb", 0)) // 1024
    target = build.get("target_memkb")
    scheduling = build.get("sched_params", {})
    pinned = {cpu for affinity in build.get("vcpu_hard_affinity") or [] for cpu in affinity}
    domain = Domain(
        name=str(create.get("name", "")),
        uuid=str(create.get("uuid", "")).lower(),
        type=str(create.get("type", "")),
        kernel=str(build.get("kernel", "")),
        ramdisk=str(build.get("ramdisk", "")),
        memory=most_memory if target is None else int(target) // 1024,
        maxmem=most_memory,
        vcpus=len(build.get("avail_vcpus") or []) or most,
        cpus=cpu_text(pinned),
        cpu_weight=int(scheduling.get("weight", CPU_WEIGHT)) or CPU_WEIGHT,
        cap=max(0, int(scheduling.get("cap", 0))),
        arguments=str(build.get("cmdline", "")),
        interfaces=tuple(_interface(nic) for nic in config.get("nics", [])),
        disks=tuple(_disk(disk) for disk in config.get("disks", [])),
        on_poweroff=_action(config, "on_poweroff", "destroy"),
        on_reboot=_action(config, "on_reboot", "destroy"),
        on_crash=_action(config, "on_crash", "destroy"),
    )
    interfaces, _words = boot_line.read_back(domain)
    return dataclasses.replace(domain, interfaces=interfaces) if interfaces != () else domain
