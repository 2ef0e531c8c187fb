# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plan one domain: from its declaration and what was observed to phases and a diff. Pure.

There is a function for each declared state. For a running or paused domain:

- not there: make its disks and create it. It is defined once it is healthy, so the next run checks one without a definition.
- there and as declared: do nothing.
- different, ``live`` is set and Xen can make the change: change the running domain.
- different otherwise: replace it (`replace`). The old domain is destroyed only when the new one is healthy.
- leftovers of an interrupted change: clear them up first (`recovery`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..domain.compare import differences
from ..domain.observed import Host, Observed, defined_uuid
from ..domain.options import SpecError
from ..domain.spec import NEXT, OVERHEAD_MIB, PREVIOUS, Declaration, Domain, Origin
from ..domain.xl_config import xl_config
from .plan import Former, Phase, Plan, Side
from .recovery import confirmed, former_of, grows, resume
from .replace import create, healthy, live, live_phases, replace
from .steps import (
    Autostart,
    Build,
    Define,
    Destroy,
    GrowDisk,
    MakeDisk,
    NoAutostart,
    Pause,
    RemoveDisk,
    RemoveIntent,
    Shutdown,
    Step,
    Undefine,
    Unpause,
    WriteIntent,
)


@dataclass(frozen=True)
class Case:
    """A declaration with everything needed to plan it."""

    declaration: Declaration
    wanted: Domain
    host: Host
    current: Observed | None  # once the leftovers of an interrupted change are cleared up
    former: Former
    checked: bool  # the running domain has been seen healthy
    text: str  # the text of the declared definition

    @property
    def name(self) -> str:
        return self.declaration.name

    @property
    def definition(self) -> str | None:
        return self.host.definitions.get(self.name)

    @property
    def growing(self) -> tuple[Origin, ...]:
        """Disks that the domain has open and that have to grow."""
        if self.current is None or not self.declaration.origins or not grows(self.declaration, self.current, self.host):
            return ()
        paths = {disk.path for disk in self.current.domain.disks}
        return tuple(origin for origin in self.declaration.origins if origin.path in paths and _smaller(origin, self.host))


def plan(declaration: Declaration, host: Host) -> Plan:
    """Return what to do on ``host`` for ``declaration``. Raise SpecError if that would touch a domain that isn't ours."""
    name = declaration.name
    wanted = identity(declaration, host)
    former = former_of(name, host)
    cleared, current = resume(declaration, wanted, host, former)
    resumed = any(phase.title.startswith("confirm ") for phase in cleared)
    checked = resumed or bool(host.find(name + PREVIOUS)) or confirmed(name, host)
    case = Case(declaration, wanted, host, current, former, checked, xl_config(wanted))
    differs = _differs(case)
    decide = {"absent": _absent, "stopped": _stopped, "paused": _alive, "running": _alive}[declaration.state]
    phases, cleanup = decide(case, differs, resumed)
    phases = cleared + phases
    if name in host.intents and not any(isinstance(step, (Define, RemoveIntent)) for phase in phases for step in phase.steps):
        phases.append(Phase(f"clear_up {name}", (RemoveIntent(name),), final=True, quiet=True))
    shown = host.find(name) or host.find(name + PREVIOUS)
    seen = Side(
        current.domain if current and shown else None, _state_of(shown, case.definition is not None), name in host.autostart
    )
    differs += _outgrown(case)
    stays = (
        bool(differs) and declaration.update == "never" and not any(_replaces(step) for phase in phases for step in phase.steps)
    )
    return Plan(declaration, wanted, tuple(phases), former, seen, differs, tuple(cleanup), stays)


def _replaces(step: Step) -> bool:
    return isinstance(step, (Build, Define))


def identity(declaration: Declaration, host: Host) -> Domain:
    """Return the declared domain with the UUID that it has or will get. Raise SpecError if a foreign domain has its name."""
    name, wanted = declaration.name, declaration.domain
    current, standby, previous = host.find(name), host.find(name + NEXT), host.find(name + PREVIOUS)
    present = (current if current and current.state != "dying" else None) or previous
    if not present and not declaration.uuid_given:
        # Adopted, or created when the host had another name, and stopped now.
        wanted = dataclasses.replace(wanted, uuid=defined_uuid(host.definitions.get(name, "")) or wanted.uuid)
    if present and present.domain.uuid != wanted.uuid:
        if not host.owns(present) and not declaration.adopt:
            raise SpecError(
                f"domain {name}: a domain of that name runs (id {present.domid}) that this collection did not create;"
                " set adopt: true to take it over"
            )
        if not declaration.uuid_given:
            # Adopted, or created when the host had another name: keep its UUID.
            wanted = dataclasses.replace(wanted, uuid=present.domain.uuid)
    for leftover in (standby, previous):
        if leftover and leftover.domain.uuid != wanted.uuid and not host.owns(leftover):
            raise SpecError(
                f"domain {name}: a domain named {leftover.domain.name} runs (id {leftover.domid}) that this collection did"
                " not create; such names are for replacements: rename it"
            )
    return wanted


def _differs(case: Case) -> tuple[str, ...]:
    current = case.current
    if current is None or not current.alive or case.declaration.state not in ("running", "paused"):
        return ()
    differs = tuple(differences(case.wanted, current.domain, case.host.default_cpus))
    return differs + (("uuid",) if case.wanted.uuid != current.domain.uuid else ())


def _outgrown(case: Case) -> tuple[str, ...]:
    """Return the sizes of disks that the domain has open and that are declared larger, as paths like those of `differences`."""
    growing = {origin.path for origin in case.growing}
    if not growing:
        return ()
    return tuple(f"disks[{index}].size" for index, disk in enumerate(case.wanted.disks) if disk.path in growing)


def _absent(case: Case, _differs: tuple[str, ...], _resumed: bool) -> tuple[list[Phase], list[Phase]]:
    name, phases = case.name, _end(case)
    if name in case.host.autostart:
        phases.append(_phase("no_autostart", NoAutostart(name)))
    if case.definition is not None:
        phases.append(_phase("undefine", Undefine(name)))
    return phases + _remove_disks(case), []


def _stopped(case: Case, _differs: tuple[str, ...], _resumed: bool) -> tuple[list[Phase], list[Phase]]:
    """Write the definition first: if the host reboots half-way, only what is declared may start."""
    name, phases = case.name, []
    if not case.declaration.autostart and name in case.host.autostart:
        phases.append(_phase("no_autostart", NoAutostart(name)))
    phases += _make_disks(case) + _define(case) + _end(case) + _grow_disks(case)
    return phases + _link(case), _old_content(case)


def _alive(case: Case, differs: tuple[str, ...], resumed: bool) -> tuple[list[Phase], list[Phase]]:
    """Plan a domain declared running or paused."""
    name, declaration, current = case.name, case.declaration, case.current
    # Replace what an interrupted change created and nobody saw healthy.
    useless = current and (not current.alive or (differs and not case.checked and name in case.host.intents))
    if current is None or useless:
        shell = [_phase("destroy", Destroy(name))] if current else []
        disks = _make_disks(case) + _grow_disks(case)
        return [*shell, *disks, create(declaration, case.wanted, case.former), *_link(case)], _old_content(case)
    growing = case.growing
    disks = _make_disks(case) + _grow_disks(case, but=growing)
    changes = live(name, case.wanted, current, differs) if declaration.live and not growing else []
    if (differs or growing) and declaration.update == "never" and not changes:
        # A link without a definition would be one that starts nothing.
        return [*_state_alone(case, current), *(_link(case) if case.definition is not None else [])], []
    if changes:
        phases = [*live_phases(name, changes), *_in_state(case, current, resumed)]
    elif differs or growing:
        phase = replace(declaration, case.wanted, current, case.host, growing, case.former)
        phases = [*(_define_former(case) if phase.title.startswith("recreate ") else []), phase]
    else:
        phases = _in_state(case, current, resumed)
    return disks + phases + _link(case), _old_content(case)


def _state_alone(case: Case, current: Observed) -> list[Phase]:
    """Phases that change nothing of a domain but whether it runs."""
    if case.declaration.state == "running" and current.state == "paused":
        return [_phase("unpause", Unpause(case.name))]
    if case.declaration.state == "paused" and current.state == "running":
        return [_phase("pause", Pause(case.name))]
    return []


def _in_state(case: Case, current: Observed, resumed: bool) -> list[Phase]:
    """Phases for a domain whose options are as declared: its state, its health or its definition may still be wrong."""
    name, declaration = case.name, case.declaration
    if resumed:
        return []
    define = Define(name, case.text)
    if declaration.state == "running" and current.state == "paused":
        # The intent makes the next run check it if this one dies: having a definition, it would pass for healthy.
        intent = WriteIntent(name, case.definition or case.text, current.state)
        return [Phase(f"unpause {name}", (intent, Unpause(name), healthy(declaration), define))]
    if declaration.state == "running" and not case.checked:
        return [Phase(f"check {name}", (healthy(declaration), define))]
    if declaration.state == "paused" and current.state == "running":
        return [Phase(f"pause {name}", (Pause(name), define))]
    return _define(case)


# -- disks, definition, autostart ----------------------------------------------------------------


def _phase(title: str, step: Step) -> Phase:
    return Phase(" ".join((title, *step.objects())), (step,))


def _define(case: Case) -> list[Phase]:
    return [_phase("define", Define(case.name, case.text))] if case.definition != case.text else []


def _define_former(case: Case) -> list[Phase]:
    """Define a domain that is adopted before it is stopped, so that a run after a killed one can start it again."""
    text, current = case.former.text, case.current
    if text is None or current is None or case.host.owns(current) or case.name in case.host.intents:
        return []
    return [_phase("define", Define(case.name, text))]


def _link(case: Case) -> list[Phase]:
    linked = case.name in case.host.autostart
    if case.declaration.autostart and not linked:
        return [_phase("autostart", Autostart(case.name))]
    if not case.declaration.autostart and linked and case.declaration.state != "stopped":
        return [_phase("no_autostart", NoAutostart(case.name))]
    return []


def _end(case: Case) -> list[Phase]:
    if case.current is None:
        return []
    if case.current.state == "running":
        return [_phase("stop", Shutdown(case.name, case.declaration.shutdown_timeout))]
    return [_phase("destroy", Destroy(case.name))]


def _smaller(origin: Origin, host: Host) -> bool:
    return origin.path in host.disk_sizes and host.disk_sizes[origin.path] < origin.size


def _disk(title: str, name: str, step: Step) -> Phase:
    return Phase(" ".join((title, name, *step.objects())), (step,))


def _make_disks(case: Case) -> list[Phase]:
    missing = [origin for origin in case.declaration.origins if origin.path not in case.host.disk_sizes]
    return [_disk("make_disk", case.name, MakeDisk(origin)) for origin in missing]


def _grow_disks(case: Case, but: tuple[Origin, ...] = ()) -> list[Phase]:
    small = [origin for origin in case.declaration.origins if _smaller(origin, case.host) and origin not in but]
    return [_disk("grow_disk", case.name, GrowDisk(origin)) for origin in small]


def _remove_disks(case: Case) -> list[Phase]:
    """Remove disks made from content, which the declaration can make again; remove others only if ``remove_disks`` is set."""
    paths = list(case.host.contents_of(case.name))
    if case.declaration.remove_disks:
        # One that is missing already is forgotten, so that it can be created again.
        there = {origin.path for origin in case.declaration.origins if _there(origin, case)}
        paths += sorted(there.difference(paths))
    return [_disk("remove_disk", case.name, RemoveDisk(path)) for path in paths]


def _there(origin: Origin, case: Case) -> bool:
    return origin.path in case.host.disk_sizes or (origin.content is None and bool(case.host.users(origin.path)))


def _old_content(case: Case) -> list[Phase]:
    """Remove content disks that only the old domain read; last, once the new one is healthy. They may hold old keys."""
    kept = {disk.path for disk in case.wanted.disks}
    paths = [path for path in case.host.contents_of(case.name) if path not in kept]
    return [_disk("remove_disk", case.name, RemoveDisk(path)) for path in paths]


def _state_of(observed: Observed | None, defined: bool) -> str:
    if observed is None:
        return "stopped" if defined else "absent"
    return observed.state


# -- before and after a run ----------------------------------------------------------------------


def memory_shortage(plans: list[Plan], host: Host) -> str | None:
    """Return one line if the new domains of ``plans`` need more memory than Xen has left, else None."""
    needed, freed = _memory(plans, host)
    if needed > host.free_memory + freed:
        names = [each.name for each in plans for phase in each.phases if phase.builds]
        return (
            f"{', '.join(names)}: need {needed} MiB with Xen's overhead of {OVERHEAD_MIB} MiB a domain,"
            f" the host has {host.free_memory + freed} MiB left; declare less memory or end other domains"
        )
    return None


def in_order(plans: list[Plan], host: Host) -> list[Plan]:
    """Put plans that create nothing first when others need the memory that they free; otherwise keep the declared order."""
    if _memory(plans, host)[0] <= host.free_memory:
        return plans
    return sorted(plans, key=lambda each: any(phase.builds for phase in each.phases))


def _memory(plans: list[Plan], host: Host) -> tuple[int, int]:
    """Return (memory that new domains need in addition to what they replace, memory that others free), in MiB."""
    needed, freed = 0, 0
    for each in plans:
        current = host.find(each.name)
        present = current.domain.memory + OVERHEAD_MIB if current else 0
        for phase in each.phases:
            if phase.builds and phase.frees:
                needed += max(0, phase.builds - present)
            else:
                needed += phase.builds
            if not phase.builds and any(isinstance(step, (Shutdown, Destroy)) and step.name == each.name for step in phase.steps):
                freed += max(0, present - OVERHEAD_MIB)
    return needed, freed


def shortfall(done: Plan, host: Host) -> str | None:
    """Return one line if the domain is not as declared after all phases, else None."""
    declaration, name = done.declaration, done.name
    current = host.find(name)
    state = current.state if current else "gone"
    if declaration.state in ("absent", "stopped"):
        return None if current is None else f"domain {name}: it is still there ({state})"
    if state != declaration.state:
        reason = f", reason {current.shutdown_reason}" if current and current.shutdown_reason else ""
        return f"domain {name}: it was healthy, but is {state} at the end of the run{reason}"
    leftovers = [suffix for suffix in (NEXT, PREVIOUS) if host.find(name + suffix)]
    if leftovers:
        return f"domain {name}: {name}{leftovers[0]} is still there"
    if current and declaration.update != "never":
        known = dataclasses.replace(current.domain, extra_config=done.wanted.extra_config)
        differs = differences(done.wanted, known, host.default_cpus)
        if differs:
            return f"domain {name}: after the run Xen still reports other {', '.join(differs)} than declared"
    return None
