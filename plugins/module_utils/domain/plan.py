# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what is declared and what was observed to ordered steps and a diff. Pure.

The life of one domain, as this file decides it:

- not there: make its disks, create, define, autostart; the definition is written when the domain has
  proved itself, so a domain without one is proved (again) by the next run;
- there and as declared: nothing;
- there and different, and ``live`` allows it and Xen can do it: the running domain is changed;
- there and different: replace. The new one is built paused beside it as ``NAME~next``; the old one
  becomes ``NAME~prev`` and leaves the bridge, the new one takes the name and runs; when it has proved
  itself the old one is destroyed, else the old one is put back;
- a run that died leaves these names behind; the next plan begins by clearing them up.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .compare import differences, options_of, view
from .fields import LIVE
from .observed import Host, Observed
from .options import SpecError
from .spec import NEXT, OVERHEAD_MIB, PREVIOUS, Declaration, Disk, Domain, Interface, Origin
from .xl_config import extra_config, service_of, xl_config


@dataclass(frozen=True)
class Step:
    """One thing to do. ``domain`` is what to build, for the actions that build."""

    action: str  # see ACTIONS
    name: str
    domain: Domain | None = None
    text: str = ""
    item: str = ""  # what of the domain, in --check's words
    device: Disk | Interface | None = None
    origins: tuple[Origin, ...] = ()

    def __str__(self) -> str:
        return " ".join(filter(None, (self.action, self.name, self.item)))


# In the words of --check's output; toolstack.Toolstack has one method for each.
ACTIONS = (
    "destroy",  # at once: a leftover, or a shell of a domain that has ended
    "put_back",  # the run that died had not proved the new domain: the old one returns
    "confirm",  # the run that died had switched: prove the new domain, then end the old one
    "prove",  # it runs as declared, but no run has yet seen it healthy
    "make_disk",  # a file that is not there
    "grow_disk",
    "remove_disk",
    "create",
    "replace",
    "recreate",  # replace without room for two: end the old one first
    "set_live",  # vcpus, cpus, cpu_weight, cap of a running domain
    "attach",
    "detach",
    "pause",
    "unpause",
    "stop",  # ask, wait, destroy
    "define",
    "undefine",
    "autostart",
    "no_autostart",
)


@dataclass(frozen=True)
class Plan:
    declaration: Declaration
    steps: tuple[Step, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    differs: tuple[str, ...] = ()  # the options in which the running domain is not what is declared

    @property
    def changed(self) -> bool:
        return bool(self.steps)


def plan(declaration: Declaration, host: Host) -> Plan:
    """What to do on ``host`` for ``declaration``. SpecError if that would touch what isn't ours."""
    name = declaration.name
    current, standby, previous = host.find(name), host.find(name + NEXT), host.find(name + PREVIOUS)
    if current and current.state == "dying":
        current = None
    found = current or previous
    wanted = _identity(declaration, found, host)
    definition = host.definitions.get(name)
    if current:
        current = _as_defined(current, definition)

    for leftover in (standby, previous):
        if leftover and leftover.domain.uuid != wanted.uuid and not host.owns(leftover):
            raise SpecError(
                f"domain {name}: a domain named {leftover.domain.name} runs (id {leftover.domid}) that this collection did"
                " not make; such names are for replacements: rename it"
            )

    steps: list[Step] = []
    if standby:
        steps.append(Step("destroy", name + NEXT))
    confirm = False
    if previous:
        same = (
            current is not None
            and current.state == "running"
            and current.domain.uuid == wanted.uuid
            and not differences(wanted, current.domain, host.default_cpus)
            and not _growing_under(declaration, current, host)
        )
        if same and declaration.state == "running":
            confirm = True
        else:
            steps.append(Step("put_back", name))
            former = dataclasses.replace(previous, state="running", domain=dataclasses.replace(previous.domain, name=name))
            current = _as_defined(former, definition)

    differs: tuple[str, ...] = ()
    if current and current.alive and declaration.state in ("running", "paused"):
        differs = tuple(differences(wanted, current.domain, host.default_cpus))
        if wanted.uuid != current.domain.uuid:
            differs += ("uuid",)
    only_told = bool(differs) and declaration.update == "never" and not _live_steps(declaration, wanted, current, differs)

    text = xl_config(wanted)
    define = [Step("define", name, wanted, text)] if definition != text and not only_told else []
    if declaration.state == "absent":
        steps += _remove(name, current)
        if name in host.autostart:
            steps.append(Step("no_autostart", name))
        if definition is not None:
            steps.append(Step("undefine", name))
        steps += _remove_disks(declaration, host)
        after = view(None, "absent", False)
    else:
        if declaration.state == "stopped":
            # The definition first: after a reboot in the middle nothing else than what is declared may start.
            if not declaration.autostart and name in host.autostart:
                steps.append(Step("no_autostart", name))
            steps += _make_disks(declaration, host) + define + _remove(name, current) + _grow_disks(declaration, host)
        elif current is None or not current.alive:
            steps += [Step("destroy", name)] if current else []
            steps += _make_disks(declaration, host) + _grow_disks(declaration, host)
            steps.append(Step("create", name, wanted))
            steps += define
        elif only_told:
            pass
        else:
            steps += _make_disks(declaration, host) + _grow_disks(declaration, host, but=current)
            growing = _growing_under(declaration, current, host)
            live = _live_steps(declaration, wanted, current, differs) if not growing else []
            if live:
                steps += live
            elif differs or growing:
                action = _how(declaration, wanted, current, host, growing)
                steps.append(Step(action, name, wanted, definition or "", origins=growing))
            elif confirm:
                steps.append(Step("confirm", name, wanted))
            elif define and declaration.state == current.state == "running":
                steps.append(Step("prove", name, wanted))
            if live or not (differs or growing):
                if declaration.state == "running" and current.state == "paused":
                    steps.append(Step("unpause", name))
                elif declaration.state == "paused" and current.state == "running":
                    steps.append(Step("pause", name))
            steps += define
        if declaration.autostart and name not in host.autostart:
            steps.append(Step("autostart", name))
        elif not declaration.autostart and name in host.autostart and declaration.state != "stopped":
            steps.append(Step("no_autostart", name))
        if not only_told:
            steps += _remove_old_content(name, wanted, host)
        after = view(wanted, declaration.state, declaration.autostart, wanted)

    before = after
    if steps:
        before = view(
            _as_defined(found, definition).domain if found else None,
            _state_of(found, definition is not None),
            name in host.autostart,
            wanted,
        )
    return Plan(declaration, tuple(steps), before, after, differs)


def _identity(declaration: Declaration, found: Observed | None, host: Host) -> Domain:
    """The declared domain with the UUID that it has or is to have; SpecError when it isn't ours."""
    wanted = declaration.domain
    if found is None or found.domain.uuid == wanted.uuid:
        return wanted
    if not host.owns(found) and not declaration.adopt:
        raise SpecError(
            f"domain {declaration.name}: a domain of that name runs (id {found.domid}) that this collection did not make;"
            " set adopt: true to take it over"
        )
    if declaration.uuid_given:
        return wanted
    # Adopted, or made when the host had another name: it keeps its identity.
    return dataclasses.replace(wanted, uuid=found.domain.uuid)


def _as_defined(observed: Observed, definition: str | None) -> Observed:
    """With what Xen doesn't report: what the last proved definition says is what it runs with."""
    known = dataclasses.replace(
        observed.domain, extra_config=extra_config(definition or ""), service=service_of(definition or "")
    )
    return dataclasses.replace(observed, domain=known)


def _how(declaration: Declaration, wanted: Domain, current: Observed, host: Host, growing: tuple[Origin, ...]) -> str:
    """Beside the old one where that is possible and asked for, else in its place."""
    writes = {disk.path for disk in current.domain.disks + wanted.disks if disk.access == "w"}
    paths = {disk.path for disk in current.domain.disks} & {disk.path for disk in wanted.disks}
    names = {one.vifname for one in current.domain.interfaces} & {one.vifname for one in wanted.interfaces} - {""}
    alone = (
        declaration.update == "recreate"
        or growing
        or host.free_memory < wanted.memory + OVERHEAD_MIB
        # Two domains must never have one disk open for writing, not even with one of them paused.
        or writes & paths
        # Nor can two network devices of Dom0 have one name.
        or names
    )
    return "recreate" if alone else "replace"


def _live_steps(declaration: Declaration, wanted: Domain, current: Observed | None, differs: tuple[str, ...]) -> list[Step]:
    """How to change the running domain to what is declared, [] when only a new one can be it."""
    if not declaration.live or not differs or current is None or current.state != "running" or set(options_of(differs)) - LIVE:
        return []
    name, steps = declaration.name, []
    for option in options_of(differs):
        if option == "vcpus":
            if wanted.vcpus > (current.max_vcpus or current.domain.vcpus):
                return []
            steps.append(Step("set_live", name, wanted, str(wanted.vcpus), "vcpus"))
        elif option == "cpus":
            steps.append(Step("set_live", name, wanted, wanted.cpus or "all", "cpus"))
        elif option in ("cpu_weight", "cap"):
            steps.append(Step("set_live", name, wanted, str(getattr(wanted, option)), option))
        else:
            pairs = _device_changes(getattr(current.domain, option), getattr(wanted, option), option)
            if pairs is None:
                return []
            steps += [
                Step(action, name, wanted, item=device.vdev if isinstance(device, Disk) else device.mac, device=device)
                for action, device in pairs
            ]
    return steps


def _device_changes(old: tuple[Any, ...], new: tuple[Any, ...], option: str) -> list[tuple[str, Disk | Interface]] | None:
    """What to detach and attach; None when a device itself changes or the order would, which a guest can't follow."""
    key = "vdev" if option == "disks" else "mac"
    gone = [one for one in old if getattr(one, key) not in {getattr(other, key) for other in new}]
    come = [one for one in new if getattr(one, key) not in {getattr(other, key) for other in old}]
    if tuple(one for one in old if one not in gone) + tuple(come) != new:
        return None
    return [("detach", one) for one in gone] + [("attach", one) for one in come]


def _make_disks(declaration: Declaration, host: Host) -> list[Step]:
    return [
        Step("make_disk", declaration.name, item=origin.path, origins=(origin,))
        for origin in declaration.origins
        if origin.path not in host.disk_sizes
    ]


def _grows(origin: Origin, host: Host) -> bool:
    return origin.path in host.disk_sizes and host.disk_sizes[origin.path] < origin.size


def _grow_disks(declaration: Declaration, host: Host, but: Observed | None = None) -> list[Step]:
    """Those that have to grow, ``but`` for those that a domain has open."""
    under = _growing_under(declaration, but, host) if but else ()
    return [
        Step("grow_disk", declaration.name, item=origin.path, origins=(origin,))
        for origin in declaration.origins
        if _grows(origin, host) and origin not in under
    ]


def _growing_under(declaration: Declaration, current: Observed, host: Host) -> tuple[Origin, ...]:
    """Disks that have to grow and that the domain has open: it must end for that."""
    paths = {disk.path for disk in current.domain.disks}
    return tuple(origin for origin in declaration.origins if origin.path in paths and _grows(origin, host))


def _remove_disks(declaration: Declaration, host: Host) -> list[Step]:
    """Files made from content go with their domain, for they are in the declaration; others only when that is asked for."""
    paths = list(host.contents_of(declaration.name))
    if declaration.remove_disks:
        paths += [one.path for one in declaration.origins if one.path in host.disk_sizes and one.path not in paths]
    return [Step("remove_disk", declaration.name, item=path) for path in paths]


def _remove_old_content(name: str, wanted: Domain, host: Host) -> list[Step]:
    """Last, when the new domain has proved itself: what only its former self had read. It may hold old keys."""
    kept = {disk.path for disk in wanted.disks}
    return [Step("remove_disk", name, item=path) for path in host.contents_of(name) if path not in kept]


def _state_of(found: Observed | None, defined: bool) -> str:
    if found is None:
        return "stopped" if defined else "absent"
    return found.state


def _remove(name: str, current: Observed | None) -> list[Step]:
    if current is None:
        return []
    return [Step("stop" if current.state == "running" else "destroy", name)]


def memory_shortage(plans: list[Plan], host: Host) -> str | None:
    """One line when the new domains of ``plans`` don't fit into what Xen has left, else None."""
    needed, freed, names = 0, 0, []
    for one in plans:
        for step in one.steps:
            current = host.find(one.declaration.name)
            if step.action == "create" and step.domain:
                needed += step.domain.memory + OVERHEAD_MIB
                names.append(step.name)
            elif step.action in ("replace", "recreate") and step.domain and current:
                needed += max(0, step.domain.memory - current.domain.memory)
                names.append(step.name)
            elif step.action in ("stop", "destroy") and current and step.name == current.domain.name:
                freed += current.domain.memory
    if needed > host.free_memory + freed:
        return (
            f"{', '.join(names)}: need {needed} MiB with Xen's overhead of {OVERHEAD_MIB} MiB a domain,"
            f" the host has {host.free_memory + freed} MiB left; declare less memory or end other domains"
        )
    return None
