# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run will do on a host for one domain: phases with titles for people, and the primitives that carry them out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..domain.compare import view
from ..domain.spec import OVERHEAD_MIB, Declaration, Domain
from .steps import Build, Step


@dataclass(frozen=True)
class Former:
    """What there was before a change, to roll back to."""

    state: str  # running, paused, stopped (defined only) or absent
    domid: int = 0
    domain: Domain | None = None  # as Xen reported it, under its own name
    text: str | None = None  # the xl file to create it from again
    definition: str | None = None
    autostart: bool = False

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


@dataclass(frozen=True)
class Phase:
    """A group of steps. ``title``: as --check prints it. Memory in MiB."""

    title: str
    steps: tuple[Step, ...]
    frees: int = 0  # memory that is free after it
    downtime: tuple[Step, Step] | None = None  # the service is down from the start of the first step to the end of the second
    final: bool = False  # the new domain is healthy and defined: a failure here rolls nothing back
    quiet: bool = False  # it only removes a file of ours; nothing that a user declares or sees changes

    @property
    def builds(self) -> int:
        """Memory for the domains it creates, in addition to what runs, with Xen's overhead."""
        return sum(step.memory + OVERHEAD_MIB for step in self.steps if isinstance(step, Build))


@dataclass(frozen=True)
class Side:
    """One side of a diff. ``domain``: None when there is none to show."""

    domain: Domain | None
    state: str
    autostart: bool


@dataclass(frozen=True)
class Plan:
    declaration: Declaration
    wanted: Domain  # the declared domain with the UUID that it has or will get
    phases: tuple[Phase, ...]
    former: Former
    seen: Side
    differs: tuple[str, ...] = ()  # the options in which the running domain differs from the declared one
    cleanup: tuple[Phase, ...] = ()  # removes disks only the old domain had read, after a last look found all as declared
    stays: bool = False  # update: never: the running domain keeps what differs

    @property
    def name(self) -> str:
        return self.declaration.name

    # Computed on demand: most domains need no change, and the diff takes a third of the time of a plan.

    @cached_property
    def before(self) -> dict[str, Any]:
        return view(self.seen.domain, self.seen.state, self.seen.autostart, self.wanted) if self.changed else self.after

    @cached_property
    def after(self) -> dict[str, Any]:
        present = self.declaration.state != "absent"
        wanted = None if not present else self.seen.domain if self.stays else self.wanted
        return view(wanted, self.declaration.state, present and self.declaration.autostart, self.wanted)

    @property
    def changed(self) -> bool:
        return bool(self.titles)

    @property
    def titles(self) -> list[str]:
        return [phase.title for phase in self.phases + self.cleanup if not phase.quiet]

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for phase in self.phases + self.cleanup for step in phase.steps)
