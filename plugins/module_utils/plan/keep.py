# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decide whether and when to restart a domain that stopped by itself, and when to give up. Pure: observations in, action out.

Only a domain that stopped by itself is restarted; one that a person or a run stopped stays as they left it. xl's own log tells a
destroyed domain from one that shut down. Only a domain with a definition is considered: a definition is written once it was
healthy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Union

from ..domain.spec import RestartLimit

# The longest delay between a domain's end and its next start, seconds.
MAX_DELAY = 60
# A domain hangs when its health check has failed this many times in a row.
MAX_FAILURES = 3
# Xen restarts a domain that asked for it within seconds; if it is still not there after this many, xl has failed.
REBUILD_SECONDS = 60
# SHUTDOWN_* in xen/include/public/sched.h.
REASONS = {0: "poweroff", 1: "reboot", 2: "suspend", 3: "crash", 4: "watchdog", 5: "soft_reset"}

# What xl's daemon logs for each domain (tools/xl/xl_vmcontrol.c), starting with the line that _BEGINS matches.
_BEGINS = re.compile(r"Waiting for domain .* \(domid ([0-9]+)\) to die")
_ENDED = re.compile(r"Domain ([0-9]+) has shut down, reason code ([0-9]+)")
_ACTION = re.compile(r"Action for shutdown reason code [0-9]+ is ([a-z-]+)")
_DESTROYED = re.compile(r"Domain ([0-9]+) has been destroyed")


@dataclass(frozen=True)
class Ending:
    """How a domain ended, from the log of its xl daemon. ``action``: destroy, preserve, restart, ... or BY_HAND."""

    domid: int
    reason: str
    action: str


BY_HAND = "by hand"


def ending_of(log: str) -> Ending | None:
    """Return the last end that a daemon's log reports; None while its domain runs, or when the log reports none."""
    ending: Ending | None = None
    for line in log.splitlines():
        ended, action, destroyed = _ENDED.search(line), _ACTION.search(line), _DESTROYED.search(line)
        if ended:
            ending = Ending(int(ended[1]), REASONS.get(int(ended[2]), "unknown"), "")
        elif action and ending:
            ending = Ending(ending.domid, ending.reason, action[1])
        elif destroyed:
            ending = Ending(int(destroyed[1]), "", BY_HAND)
        elif _BEGINS.search(line):
            ending = None
    return ending


def rebuilds_of(log: str) -> int:
    """Return how many times the daemon itself has restarted its domain."""
    return sum(1 for action in _ACTION.findall(log) if action.endswith("restart"))


@dataclass(frozen=True)
class Policy:
    restart: str = "on-failure"
    limit: RestartLimit = field(default_factory=RestartLimit)


@dataclass(frozen=True)
class Seen:
    """A defined domain at one moment. ``state``: running, paused, shutdown, dying or gone. Times are seconds on one clock."""

    state: str
    reason: str = ""  # why it shut down, as Xen reports it
    ending: Ending | None = None  # how the last domain of this name ended, from xl's log
    ending_age: float = 0.0  # seconds since xl logged it
    exit_code: int | None = None  # from the last line of its console
    guarded: bool = False  # not ours, or in the middle of a change
    asked: bool = False  # somebody asked it to shut down
    failures: int = 0  # failed health checks in a row
    rebuilds: int = 0  # restarts by Xen itself since the last look
    alive_for: float = 0.0


@dataclass(frozen=True)
class Past:
    """What the keeper remembers of a domain. ``starts``: the times of its restarts."""

    starts: tuple[float, ...] = field(default=())
    gave_up: bool = False
    pending: bool = False  # we began to start it and don't know yet whether that succeeded


@dataclass(frozen=True)
class Leave:
    """Do nothing."""


@dataclass(frozen=True)
class Start:
    """Destroy what is left of the domain and create it, not before ``at``. Also ends a domain that hangs."""

    reason: str
    at: float


@dataclass(frozen=True)
class GiveUp:
    """Stop restarting: it ended too often. ``end``: destroy it too, since Xen restarts it in a loop that nothing else stops."""

    reason: str
    end: bool = False


@dataclass(frozen=True)
class Count:
    """Record a restart that Xen itself made."""

    reason: str


@dataclass(frozen=True)
class Forgive:
    """Clear the record: the domain was given up, or its start had failed, but it runs; somebody started it."""


Action = Union[Leave, Start, GiveUp, Count, Forgive]


def decide(policy: Policy, seen: Seen, past: Past, ended_at: float, now: float) -> Action:
    """Return what to do about a domain. ``ended_at``: when its end, or its hang, was first seen."""
    if seen.guarded or policy.restart == "never":
        return Leave()
    recent = recent_starts(policy, past, now)
    if past.gave_up:
        calm = seen.state == "running" and not seen.failures and not seen.rebuilds
        return Forgive() if calm and seen.alive_for >= policy.limit.within else Leave()
    if past.pending and seen.state == "running":
        return Forgive()
    if seen.rebuilds:
        reason = "Xen has started it again by itself"
        if len(recent) + seen.rebuilds > policy.limit.starts:
            return GiveUp(f"{reason}, in a loop", end=True)
        return Count(reason)
    reason = why(policy, seen, past)
    if not reason:
        return Leave()
    if len(recent) >= policy.limit.starts:
        return GiveUp(reason)
    return Start(reason, ended_at + min(MAX_DELAY, 2 ** len(recent)))


def recent_starts(policy: Policy, past: Past, now: float) -> tuple[float, ...]:
    """Return the starts that count towards the limit. One in the future dates from before the clock was corrected."""
    return tuple(start for start in past.starts if now - policy.limit.within < start <= now)


def why(policy: Policy, seen: Seen, past: Past) -> str:
    """Return why the domain has to be restarted, as text for the journal; "" when it has not."""
    if seen.state == "running":
        return f"it hangs: its health check failed {seen.failures} times in a row" if seen.failures >= MAX_FAILURES else ""
    if seen.state not in ("shutdown", "gone"):
        return ""
    if seen.state == "gone" and past.pending:
        return "its last start failed"
    if seen.ending and seen.ending.action.endswith("restart"):
        late = seen.ending_age >= REBUILD_SECONDS
        return "it asked for a restart, and Xen could not build it again" if late else ""
    if seen.state == "shutdown":
        return _of_end(policy, seen, seen.reason)
    # A preserved domain that is gone was destroyed later, but xl's daemon had already exited and logged nothing of it.
    if seen.ending is None or seen.ending.action in (BY_HAND, "preserve", "rename-restart"):
        return ""
    return _of_end(policy, seen, seen.ending.reason)


def _of_end(policy: Policy, seen: Seen, reason: str) -> str:
    if reason in ("crash", "watchdog"):
        return f"it ended by itself, reason {reason}"
    if reason == "suspend" or not reason:
        return ""
    if seen.exit_code and not seen.asked:
        return f"it ended by itself with exit code {seen.exit_code}"
    return f"it ended by itself, reason {reason}" if policy.restart == "always" and not seen.asked else ""
