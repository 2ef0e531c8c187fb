# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Observe all domains of a host at once, with the configuration that they really run with.

There are two ways with the same result: Xen's Python bindings, xenstore and the files in which libxl keeps each domain's
configuration (milliseconds, no process), or ``xl`` (a few processes for any number of domains).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..domain.cpus import cpu_mask, cpu_set, cpu_text, xl_topology
from ..domain.observed import Host, Intent, Observed, intent_of
from ..domain.spec import DISKS, Domain
from ..domain.xl_config import domain_from_libxl
from .hypercalls import Hypercalls, bindings
from .xenstore import Xenstore
from .xl import ToolstackError, last_words, must, xl

DEFINITIONS = "/etc/xen/unikernels"
AUTOSTART = "/etc/xen/auto"
XL_CONF = "/etc/xen/xl.conf"
LIBXL_FILES = "/var/lib/xen"
# xl's names of states, by the letter in the fifth column of `xl list`.
_LETTERS = (("d", "dying"), ("s", "shutdown"), ("c", "shutdown"), ("p", "paused"))
_REASONS = {"0": "poweroff", "1": "reboot", "2": "suspend", "3": "crash", "4": "watchdog", "5": "soft_reset"}
# A domain that is being built or torn down is in only one of the two lists, for a moment.
_ATTEMPTS, _BETWEEN = 5, 1.0
_INTENT = ".cfg.next"
_QCOW2_MAGIC = b"QFI\xfb"


def available() -> bool:
    """True if this kernel runs as the control domain of a Xen host."""
    try:
        with open("/proc/xen/capabilities", encoding="ascii") as file:
            return "control_d" in file.read()
    except OSError:
        return False


def observe(disks: dict[str, str] | None = None, scheduling: bool = False, hypercalls: Hypercalls | None = None) -> Host:
    """Return everything that a plan needs. ``disks``: path -> format, to read sizes; ``scheduling``: read weights and caps.

    Weights and caps cost a process with the bindings (those of Xen 4.17 can't read them), so they are read only if somebody
    declares some.
    """
    definitions = _definitions()
    scheduling = scheduling or any("\ncpu_weight = " in text or "\ncap = " in text for text in definitions.values())
    hypercalls = hypercalls or bindings()
    if hypercalls:
        domains, free, cpus = by_hypercalls(hypercalls, scheduling), hypercalls.free_memory(), hypercalls.cpu_nodes()
    else:
        text = must("info", "-n")
        info = dict(re.findall(r"^(\w+)\s*: (.*)$", text, re.MULTILINE))
        domains, free = by_xl(), int(info.get("free_memory", 0))
        cpus = {cpu: node for cpu, _core, node in xl_topology(text)} or dict.fromkeys(range(int(info.get("nr_cpus", 0))), 0)
    return Host(
        domains=tuple(
            dataclasses.replace(one, domain=dataclasses.replace(one.domain, cpus=""))
            if _everywhere(one.domain.cpus, cpus)
            else one
            for one in domains
        ),
        definitions=definitions,
        intents=_intents(),
        autostart=_autostarted(),
        free_memory=free,
        cpus=max(cpus, default=-1) + 1,
        default_cpus=_default_cpus(cpus),
        disk_sizes=_disk_sizes(disks or {}),
        content_disks=_content_disks(),
    )


# -- by Xen's bindings ---------------------------------------------------------------------------


def by_hypercalls(hypercalls: Hypercalls, scheduling: bool) -> list[Observed]:
    """Observe with Xen's bindings; with xl if libxl has no file for a domain."""
    for attempt in range(_ATTEMPTS):
        infos = hypercalls.domains()
        configurations = {info["domid"]: _libxl_file(info["domid"], info["uuid"]) for info in infos}
        if all(configurations[info["domid"]] or info["dying"] for info in infos):
            break
        if attempt == _ATTEMPTS - 1:
            return by_xl()
        time.sleep(_BETWEEN)
    weights = _weights(hypercalls.scheduler()) if scheduling else {}
    with Xenstore() as store:
        infos = [info for info in infos if configurations[info["domid"]]]
        live = _live_values(store, {info["domid"]: configurations[info["domid"]] or {} for info in infos})
    found = []
    for info in infos:
        domid = info["domid"]
        config, values = configurations[domid] or {}, live[domid]
        if not values["name"]:
            continue  # being torn down: Xen itself shows it as (null)
        most = int(config.get("b_info", {}).get("max_vcpus", 1))
        domain = dataclasses.replace(
            domain_from_libxl(config),
            name=values["name"],
            uuid=info["uuid"],
            **{key: values[key] for key in ("memory", "maxmem", "vcpus") if values.get(key)},
        )
        try:
            domain = dataclasses.replace(domain, cpus=cpu_text(hypercalls.affinity(domid, most)))
        except Exception as error:  # the bindings' own type; the domain is gone meanwhile
            if info["state"] != "dying" and any(one["domid"] == domid for one in hypercalls.domains()):
                raise ToolstackError(f"domain {domain.name}: Xen does not report the CPUs that it may use: {error}") from error
            continue
        if domid in weights:
            domain = dataclasses.replace(domain, cpu_weight=weights[domid][0], cap=weights[domid][1])
        found.append(Observed(domid, info["state"], domain, most, info["reason"], info["cpu_time"] / 1e9))
    return found


def _libxl_file(domid: int, uuid: str) -> dict[str, Any] | None:
    try:
        with open(f"{LIBXL_FILES}/userdata-d.{domid}.{uuid}.libxl-json", encoding="utf-8", errors="replace") as file:
            found = json.loads(file.read().rstrip("\0"))  # libxl writes the final zero byte of the C string too
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _live_values(store: Xenstore, configurations: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return what libxl reads from xenstore for ``xl list -l``: names, memory, vCPUs, existing devices.

    Devices that no longer exist are removed from ``configurations``.
    """
    ids = list(configurations)
    keys = [f"/local/domain/{domid}/{key}" for domid in ids for key in ("name", "memory/target", "memory/static-max")]
    values = store.read(keys)
    found: dict[int, dict[str, Any]] = {}
    for index, domid in enumerate(ids):
        name, target, most = values[3 * index : 3 * index + 3]
        found[domid] = {"name": name or ""}
        if target and target.isdigit() and most and most.isdigit():
            found[domid].update(memory=int(target) // 1024, maxmem=int(most) // 1024)
    _online_vcpus(store, configurations, found)
    kinds = (("nics", "vif"), ("disks", "vbd"))
    asked = [(domid, *kind) for domid in ids for kind in kinds if configurations[domid].get(kind[0])]
    paths = [f"/libxl/{domid}/device/{kind}" for domid, _key, kind in asked]
    for (domid, key, _kind), path, devices in zip(asked, paths, store.directories(paths)):
        config = configurations[domid]
        if key == "nics":
            config["nics"] = [nic for nic in config["nics"] if str(nic.get("devid", 0)) in devices]
        elif len(config["disks"]) != len(devices):
            names = store.read([f"{path}/{device}/dev" for device in devices])
            config["disks"] = [disk for disk in config["disks"] if disk.get("vdev") in names]
    return found


def _online_vcpus(store: Xenstore, configurations: dict[int, dict[str, Any]], found: dict[int, dict[str, Any]]) -> None:
    several = {
        domid: int(config.get("b_info", {}).get("max_vcpus", 1))
        for domid, config in configurations.items()
        if int(config.get("b_info", {}).get("max_vcpus", 1)) > 1
    }
    keys = [(domid, f"/local/domain/{domid}/cpu/{vcpu}/availability") for domid, most in several.items() for vcpu in range(most)]
    for (domid, _key), value in zip(keys, store.read([key for _domid, key in keys])):
        found[domid]["vcpus"] = found[domid].get("vcpus", 0) + (value == "online")


def _weights(scheduler: str) -> dict[int, tuple[int, int]]:
    """Map each domain id to (weight, cap)."""
    if not scheduler:
        return {}
    rows = re.findall(r"^.*\s(\d+)\s+(\d+)\s+(\d+)\s*$", must(scheduler), re.MULTILINE)
    return {int(domid): (int(weight), int(cap)) for domid, weight, cap in rows}


# -- by xl ---------------------------------------------------------------------------------------


def by_xl() -> list[Observed]:
    for attempt in range(_ATTEMPTS):
        states, configurations = _states(), _configurations()
        if attempt == _ATTEMPTS - 1 or set(states) == set(configurations):
            break
        time.sleep(_BETWEEN)
    affinities = _affinities()
    found = []
    for domid, (domain, most) in configurations.items():
        if domid in states and domain.name:
            state, reason, seconds = states[domid]
            cpus = affinities.get(domid, domain.cpus)
            found.append(Observed(domid, state, dataclasses.replace(domain, cpus=cpus), most, reason, seconds))
    return found


def _states() -> dict[int, tuple[str, str, float]]:
    """Map each domain id to (state, shutdown reason, CPU seconds), without Domain-0."""
    return parse_list(must("list", "-v"))


def parse_list(text: str) -> dict[int, tuple[str, str, float]]:
    """Parse ``xl list -v``. Each row is read from its UUID to the left, since a name may contain spaces."""
    found = {}
    for line in text.splitlines()[1:]:
        row = re.search(r"\s(\d+)\s+\d+\s+\d+\s+([a-z-]{6})\s+([0-9.]+)\s+[0-9a-f-]{36}\s+(\S+)", line)
        if row and row.group(1) != "0":
            state = next((state for letter, state in _LETTERS if letter in row.group(2)), "running")
            reason = _REASONS.get(row.group(4), "") if state == "shutdown" else ""
            found[int(row.group(1))] = (state, reason, float(row.group(3)))
    return found


def _configurations() -> dict[int, tuple[Domain, int]]:
    """Map each domain id to (configuration, maximum of vCPUs). xl fails if a domain dies meanwhile, but prints the rest."""
    code, out, err = xl("list", "-l")
    try:
        entries = json.loads(out) if out.strip() else []
    except ValueError as error:
        raise ToolstackError(f"'xl list -l' printed no JSON ({code}): {last_words(err) or error}") from error
    return {
        int(entry["domid"]): (
            domain_from_libxl(entry.get("config", {})),
            int(entry.get("config", {}).get("b_info", {}).get("max_vcpus", 1)),
        )
        for entry in entries
        if entry.get("domid")
    }


def _affinities() -> dict[int, str]:
    """Map each domain id to the CPUs that its vCPUs may run on; "" here for xl's "all"."""
    found: dict[int, set[int]] = {}
    free: set[int] = set()
    for line in must("vcpu-list").splitlines()[1:]:
        row = re.search(r"\s(\d+)\s+\d+\s+(?:\d+|-)\s+\S+\s+[0-9.]+\s+(\S+) / ", line)
        if not row:
            continue
        chosen = cpu_set(row.group(2))
        found.setdefault(int(row.group(1)), set()).update(chosen or ())
        if chosen is None:
            free.add(int(row.group(1)))
    return {domid: "" if domid in free else cpu_text(cpus) for domid, cpus in found.items()}


# -- what lies beside Xen ------------------------------------------------------------------------


def definition_path(name: str) -> str:
    return os.path.join(DEFINITIONS, name + ".cfg")


def definition_of(name: str) -> str:
    """Return the text of a definition; "" if there is none."""
    try:
        with open(definition_path(name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def autostart_path(name: str) -> str:
    return os.path.join(AUTOSTART, name + ".cfg")


def intent_path(name: str) -> str:
    """Return the path of an intent. It is hidden: it is not a definition yet."""
    return os.path.join(DEFINITIONS, f".{name}{_INTENT}")


def _texts(wanted: Callable[[str], bool]) -> dict[str, str]:
    """Map file names in the folder of definitions to their text."""
    found = {}
    if os.path.isdir(DEFINITIONS):
        for name in sorted(filter(wanted, os.listdir(DEFINITIONS))):
            path = os.path.join(DEFINITIONS, name)
            if not os.path.isfile(path):  # opening a pipe would block forever
                raise ToolstackError(f"{path}: must be a file that this collection has written; remove it by hand")
            with open(path, encoding="utf-8", errors="replace") as file:
                found[name] = file.read()
    return found


def _definitions() -> dict[str, str]:
    texts = _texts(lambda name: name.endswith(".cfg") and not name.startswith("."))
    return {name[: -len(".cfg")]: text for name, text in texts.items()}


def _intents() -> dict[str, Intent]:
    texts = _texts(lambda name: name.endswith(_INTENT) and name.startswith("."))
    return {name[1 : -len(_INTENT)]: intent_of(text) for name, text in texts.items()}


def _autostarted() -> frozenset[str]:
    if not os.path.isdir(AUTOSTART):
        return frozenset()
    names = [name[: -len(".cfg")] for name in os.listdir(AUTOSTART) if name.endswith(".cfg")]
    folder = os.path.realpath(DEFINITIONS)
    return frozenset(name for name in names if os.path.realpath(autostart_path(name)) == os.path.join(folder, name + ".cfg"))


def _everywhere(cpus: str, on: Iterable[int]) -> bool:
    """True if a domain with these CPUs may run on all that are on; without SMT Xen also names those that are off."""
    return bool(cpus) and set(on) <= (cpu_set(cpus) or set())


def _default_cpus(nodes: dict[int, int]) -> str:
    """Return the CPUs of xl.conf's vm.cpumask and vm.pvh.cpumask, to which xl narrows each domain; all that are on without them.

    ``nodes``: each CPU that is on -> its NUMA node.
    """
    try:
        with open(XL_CONF, encoding="utf-8", errors="replace") as file:
            masks = dict(re.findall(r'^\s*vm\.((?:pvh\.)?cpumask)\s*=\s*"([^"]*)"', file.read(), re.MULTILINE))
    except OSError:
        masks = {}
    chosen = set(nodes)
    of_nodes: dict[int, set[int]] = {}
    for cpu, node in nodes.items():
        of_nodes.setdefault(node, set()).add(cpu)
    for key, text in masks.items():
        try:
            chosen &= cpu_mask(text or "all", set(nodes), of_nodes)
        except ValueError as error:
            raise ToolstackError(f"{XL_CONF}: vm.{key}: {error}") from None
    return cpu_text(chosen)


def _disk_sizes(disks: dict[str, str]) -> dict[str, int]:
    sizes = {path: disk_size(path, form) for path, form in disks.items()}
    return {path: size for path, size in sizes.items() if size is not None}


def kind_is_disk(mode: int) -> bool:
    """True if a mode from `os.stat` is that of a file or a block device."""
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def disk_size(path: str, form: str) -> int | None:
    """Return the size in bytes that a domain sees; None if the file or device is missing.

    ``form``: the declared format, since a guest can write any header to its raw disk.
    """
    try:
        if not kind_is_disk(os.stat(path).st_mode):  # opening a pipe would block forever
            return None
        with open(path, "rb") as file:
            if form == "raw":
                return file.seek(0, os.SEEK_END)
            head = file.read(32)
    except OSError:
        return None
    # docs/interop/qcow2.txt of QEMU: bytes 24 to 31 are the size.
    return int(struct.unpack_from(">Q", head, 24)[0]) if head[:4] == _QCOW2_MAGIC and len(head) == 32 else 0


def _content_disks() -> tuple[str, ...]:
    try:
        return tuple(sorted(f"{DISKS}/{name}" for name in os.listdir(DISKS) if name.endswith(".img")))
    except OSError:
        return ()
