# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Carry out plans, several at once, and roll back those that fail. It knows nothing of what a step does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypedDict

from ..domain.observed import Host
from ..plan.lifecycle import shortfall
from ..plan.plan import Phase, Plan
from ..plan.recovery import way_back
from ..plan.steps import Build, Define, Rename, Step
from ..xen.xl import ToolstackError

# A domain that is not as declared at the end is looked at this many times, this many seconds apart: one that its user just
# restarted is away for a moment.
_LOOKS, _BETWEEN = 3, 2.0


class Performs(Protocol):
    def perform(self, step: Step) -> float | None: ...


class Outcome(TypedDict, total=False):
    """What happened to one domain. ``steps``: titles of the phases that were completed."""

    failed: bool
    steps: list[str]
    msg: str
    console: list[str]
    rolled_back: bool
    downtime_ms: int
    skipped: bool


class Budget:
    """Memory for the domains that are created at the same time, in MiB."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._at_work = 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, phase: Phase) -> Iterator[None]:
        """Wait until there is memory for the phase. The only phase at work does not wait: Xen itself refuses it if need be."""
        needed = phase.builds
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed or not self._at_work)
            self._free -= needed
            self._at_work += 1
        freed = needed
        try:
            yield
            freed = phase.frees
        finally:
            with self._changed:
                self._free += freed
                self._at_work -= 1
                self._changed.notify_all()


class Runner:
    """Carries out plans. ``look``: observe the host; ``performer``: make one for a domain; ``note``: log what is being done."""

    def __init__(
        self, look: Callable[[], Host], performer: Callable[[], Performs], note: Callable[[str], None], free_memory: int
    ) -> None:
        self._look = look
        self._performer = performer
        self._note = note
        self._budget = Budget(free_memory)
        self._stopped = threading.Event()

    def run(self, plans: list[Plan], parallel: int, stop_at_failure: bool) -> tuple[list[Outcome], Host | None]:
        """Return what happened to each domain, and the host as last seen; None if it could not be observed."""
        from concurrent.futures import ThreadPoolExecutor  # here: it loads slowly, and most runs change nothing

        def carry_out(plan: Plan) -> Outcome:
            if self._stopped.is_set():
                return {"failed": False, "steps": [], "skipped": True}
            outcome = self._carry_out(plan)
            if outcome["failed"] and stop_at_failure:
                self._stopped.set()
            return outcome

        with ThreadPoolExecutor(parallel) as pool:
            outcomes = list(pool.map(carry_out, plans))
        try:
            return self._last_look(plans, outcomes)
        except Exception as error:
            for plan, outcome in zip(plans, outcomes):
                if outcome["steps"] and not outcome["failed"]:
                    unseen = f"all steps were carried out, but the host can't be observed: {_line(error)}"
                    outcome.update(_failure(plan.name, None, ToolstackError(f"domain {plan.name}: {unseen}")))
            return outcomes, None

    # -- one domain ------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> Outcome:
        performer, outcome = self._performer(), Outcome(failed=False, steps=[])
        for phase in plan.phases:
            committed = phase.final
            began = 0.0
            with self._budget.held(phase):
                for step in phase.steps:
                    if phase.downtime and step is phase.downtime[0]:
                        began = time.monotonic()
                    try:
                        self._note(str(step))
                        at = performer.perform(step)
                    except BaseException as error:
                        outcome.update(_failure(plan.name, step, error))
                        outcome = outcome if committed else self._take_back(plan, performer, outcome)
                        if not isinstance(error, Exception):
                            raise
                        return outcome
                    # A definition is written once the domain is healthy: failures from here on roll nothing back.
                    committed = committed or isinstance(step, Define)
                    if phase.downtime and step is phase.downtime[1]:
                        outcome["downtime_ms"] = round(((at or time.monotonic()) - began) * 1000)
            if not phase.quiet:
                outcome["steps"].append(phase.title)
        return outcome

    def _take_back(self, plan: Plan, performer: Performs, outcome: Outcome) -> Outcome:
        """Roll back to what was there before, with the steps that the next run would take had this one died."""
        former = plan.former
        try:
            steps = way_back(plan.name, self._look(), former)
            for step in steps:
                self._note(f"takes back: {step}")
                performer.perform(step)
            current = self._look().find(plan.name) if former.alive else None
        except Exception as second:
            outcome["msg"] += f"; and it could not be undone ({_line(second)}): check 'xl list', then run it again"
            outcome["rolled_back"] = False
            return outcome
        if former.alive and (current is None or current.state != former.state):
            # There was nothing to start it from, or it has stopped again.
            outcome["msg"] += f"; the old domain is not back (seen: {current.state if current else 'gone'}): run it again"
            outcome["rolled_back"] = False
        elif former.alive:
            outcome["rolled_back"] = True
            now = "is running" if former.state == "running" else f"is {former.state}"
            if any(isinstance(step, Rename) for step in steps):
                outcome["msg"] += f"; the old domain was put back and {now}"
            elif any(isinstance(step, Build) for step in steps):
                outcome["msg"] += f"; the old domain was started again and {now}"
            else:
                outcome["msg"] += f"; the old domain {'was left as it was' if not steps else 'is as it was'} and {now}"
        return outcome

    # -- all of them -----------------------------------------------------------------------------

    def _last_look(self, plans: list[Plan], outcomes: list[Outcome]) -> tuple[list[Outcome], Host]:
        """Look at the host once more: a domain that is not as declared has failed, and is rolled back."""
        done = [bool(outcome["steps"]) and not outcome["failed"] for outcome in outcomes]
        host = self._look()
        for _again in range(_LOOKS - 1):
            if not any(shortfall(plan, host) for plan, whole in zip(plans, done) if whole):
                break
            time.sleep(_BETWEEN)
            host = self._look()
        undone = False
        for index, plan in enumerate(plans):
            problem = shortfall(plan, host) if done[index] else None
            if problem:
                outcomes[index].update(_failure(plan.name, None, ToolstackError(problem)))
                outcomes[index] = self._take_back(plan, self._performer(), outcomes[index])
                undone = True
            elif plan.cleanup and not outcomes[index]["failed"] and "skipped" not in outcomes[index]:
                outcomes[index] = self._clean_up(plan, outcomes[index])
        return outcomes, self._look() if undone or any(outcome["failed"] for outcome in outcomes) else host

    def _clean_up(self, plan: Plan, outcome: Outcome) -> Outcome:
        performer = self._performer()
        for phase in plan.cleanup:
            for step in phase.steps:
                try:
                    performer.perform(step)
                except Exception as error:
                    outcome.update(_failure(plan.name, step, error))
                    return outcome
            outcome["steps"].append(phase.title)
        return outcome


def _failure(name: str, step: Step | None, error: BaseException) -> Outcome:
    text = _line(error)
    if not isinstance(error, ToolstackError):
        text = f"domain {name}: {step}: {text}" if step else f"domain {name}: {text}"
    return {"failed": True, "msg": text, "console": getattr(error, "console", []), "rolled_back": False}


def _line(error: BaseException) -> str:
    """Return any error as one line."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename  # of two names, the target's
        return f"{name}: {error.strerror}" if name else error.strerror
    text = " ".join(str(error).split())
    return text if isinstance(error, ToolstackError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
