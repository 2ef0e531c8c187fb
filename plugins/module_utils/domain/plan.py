# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what is declared and what was observed to ordered steps and a diff. Pure.

The life of one domain, as this file decides it:

- not there: create, define, autostart; the definition is written when the domain has proved itself,
  so a domain without one is proved (again) by the next run;
- there and as declared: nothing;
- there and different: replace. The new one is built paused beside it as ``NAME~next``; the old
  one is paused and renamed ``NAME~prev``, the new one takes the name and runs; when it has proved
  itself the old one is destroyed, else the old one is put back;
- a run that died leaves these names behind; the next plan begins by clearing them up.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from .spec import NEXT, PREVIOUS, Declaration, Domain, SpecError, owned
from .xl_config import xl_config

# What Xen itself needs beside a guest's memory (page tables, shared pages): measured 9.2 MiB, rounded up.
OVERHEAD_MIB = 12

_COMPARED = (
    "type",
    "kernel",
    "memory",
    "vcpus",
    "arguments",
    "interfaces",
    "disks",
    "on_poweroff",
    "on_reboot",
    "on_crash",
)


@dataclass(frozen=True)
class Observed:
    """A domain as Xen reports it. ``state``: running, paused, shutdown or dying."""

    domid: int
    state: str
    domain: Domain

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


@dataclass(frozen=True)
class Host:
    """Everything that was observed on one host in one go. Memory in MiB."""

    domains: tuple[Observed, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)
    autostart: frozenset[str] = frozenset()
    free_memory: int = 0

    def find(self, name: str) -> Observed | None:
        return next((one for one in self.domains if one.domain.name == name), None)

    def owns(self, observed: Observed) -> bool:
        """Ours: made by us (the UUID says so) or adopted (the definition we keep has its UUID)."""
        if observed.domid == 0:
            return False
        base = observed.domain.name.split("~")[0]
        return owned(observed.domain.uuid) or defined_uuid(self.definitions.get(base, "")) == observed.domain.uuid


@dataclass(frozen=True)
class Step:
    """One thing to do. ``domain`` is what to build, for the actions that build."""

    action: str  # see ACTIONS
    name: str
    domain: Domain | None = None
    text: str = ""

    def __str__(self) -> str:
        return f"{self.action} {self.name}"


# In the words of --check's output; toolstack.Toolstack has one method for each.
ACTIONS = (
    "destroy",  # at once: a leftover, or a shell of a domain that has ended
    "put_back",  # the run that died had not proved the new domain: the old one returns
    "confirm",  # the run that died had switched: prove the new domain, then end the old one
    "prove",  # it runs as declared, but no run has yet seen it healthy
    "create",
    "replace",
    "recreate",  # replace without room for two: end the old one first
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

    @property
    def changed(self) -> bool:
        return bool(self.steps)


def defined_uuid(text: str) -> str:
    found = re.search(r'^uuid = "([0-9a-f-]{36})"$', text, re.MULTILINE)
    return found.group(1) if found else ""


def as_options(domain: Domain) -> dict[str, Any]:
    """A domain in the words of the modules' options, for diffs and return values."""
    options = dataclasses.asdict(domain)
    for key in ("interfaces", "disks"):
        options[key] = [dict(item) for item in options[key]]
    return options


def differences(wanted: Domain, running: Domain) -> list[str]:
    """The options in which the two differ; identity (name, uuid) is not one of them."""
    return [key for key in _COMPARED if getattr(wanted, key) != getattr(running, key)]


def _view(domain: Domain | None, state: str, autostart: bool) -> dict[str, Any]:
    if domain is None:
        return {"state": state}
    options = {key: value for key, value in as_options(domain).items() if key in ("name", *_COMPARED)}
    return {**options, "state": state, "autostart": autostart}


def plan(declaration: Declaration, host: Host) -> Plan:
    """What to do on ``host`` for ``declaration``. SpecError if that would touch what isn't ours."""
    name, wanted = declaration.name, declaration.domain
    current, standby, previous = host.find(name), host.find(name + NEXT), host.find(name + PREVIOUS)
    if current and current.state == "dying":
        current = None
    found = current or previous
    if found and not host.owns(found):
        if not declaration.adopt:
            raise SpecError(
                f"domain {name}: a domain of that name runs (id {found.domid}) that this collection did not make;"
                " set adopt: true to take it over"
            )
        wanted = dataclasses.replace(wanted, uuid=found.domain.uuid)
    elif found and not owned(found.domain.uuid):
        wanted = dataclasses.replace(wanted, uuid=found.domain.uuid)  # adopted before: it keeps its identity

    steps: list[Step] = []
    before_state = _state_of(found, name in host.definitions)
    if standby:
        steps.append(Step("destroy", name + NEXT))
    confirm = False
    if previous:
        same = current is not None and current.state == "running" and not differences(wanted, current.domain)
        if same and declaration.state == "running":
            confirm = True
        else:
            steps.append(Step("put_back", name))
            current = dataclasses.replace(previous, state="running", domain=dataclasses.replace(previous.domain, name=name))

    text = xl_config(wanted)
    drift = host.definitions.get(name) != text
    define = [Step("define", name, wanted, text)] if drift else []
    if declaration.state == "absent":
        steps += _remove(name, current)
        if name in host.autostart:
            steps.append(Step("no_autostart", name))
        if name in host.definitions:
            steps.append(Step("undefine", name))
        after = _view(None, "absent", False)
    else:
        if declaration.state == "stopped":
            # The definition first: after a reboot in the middle nothing else than what is declared may start.
            if not declaration.autostart and name in host.autostart:
                steps.append(Step("no_autostart", name))
            steps += define + _remove(name, current)
        elif current is None or not current.alive:
            steps += [Step("destroy", name)] if current else []
            steps.append(Step("create", name, wanted))
            steps += define
        elif differences(wanted, current.domain):
            room = host.free_memory >= wanted.memory + OVERHEAD_MIB
            writes = {disk.path for disk in current.domain.disks + wanted.disks if disk.access == "w"}
            # Two domains must never have one disk open for writing, not even with one of them paused.
            shared = writes & {disk.path for disk in current.domain.disks} & {disk.path for disk in wanted.disks}
            steps.append(Step("replace" if room and not shared else "recreate", name, wanted, host.definitions.get(name, "")))
            steps += define
        else:
            if confirm:
                steps.append(Step("confirm", name, wanted))
            elif define and declaration.state == current.state == "running":
                steps.append(Step("prove", name, wanted))
            if declaration.state == "running" and current.state == "paused":
                steps.append(Step("unpause", name))
            elif declaration.state == "paused" and current.state == "running":
                steps.append(Step("pause", name))
            steps += define
        if declaration.autostart and name not in host.autostart:
            steps.append(Step("autostart", name))
        elif not declaration.autostart and name in host.autostart and declaration.state != "stopped":
            steps.append(Step("no_autostart", name))
        after = _view(wanted, declaration.state, declaration.autostart)

    before = _view(found.domain if found else None, before_state, name in host.autostart)
    if not steps:
        before = after
    return Plan(declaration, tuple(steps), before, after)


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
