# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a domain that died is started again, when, and when no more. Pure: what was seen in, what to do out.

Only what ended by itself is started again. What a person or a run has ended stays as they left it: xl's own log tells a
destroyed domain from one that shut down, and only a definition, which says that it was healthy once, makes a domain our concern.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Union

from ..domain.spec import RestartLimit

# The longest time between a domain's end and its next start.
MAX_DELAY = 60
# So many failed attempts of a health check in a row are a domain that hangs.
MAX_FAILURES = 3
# Xen's own start of a domain that asked for it takes seconds; when it is not there after so many, xl has failed.
REBUILD_SECONDS = 60
# SHUTDOWN_* in xen/include/public/sched.h.
REASONS = {0: "poweroff", 1: "reboot", 2: "suspend", 3: "crash", 4: "watchdog", 5: "soft_reset"}

# What xl's daemon writes for each domain (tools/xl/xl_vmcontrol.c), and the line with which it begins.
_BEGINS = re.compile(r"Waiting for domain .* \(domid ([0-9]+)\) to die")
_ENDED = re.compile(r"Domain ([0-9]+) has shut down, reason code ([0-9]+)")
_ACTION = re.compile(r"Action for shutdown reason code [0-9]+ is ([a-z-]+)")
_DESTROYED = re.compile(r"Domain ([0-9]+) has been destroyed")


@dataclass(frozen=True)
class Ending:
    """The end of a domain, as its xl daemon has logged it. ``action``: destroy, preserve, restart, ... or by hand."""

    domid: int
    reason: str
    action: str


BY_HAND = "by hand"


def ending_of(log: str) -> Ending | None:
    """The last end that a daemon's log tells of; None while its domain runs, or when it tells of none."""
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
    """How often the daemon itself has started its domain again."""
    return sum(1 for action in _ACTION.findall(log) if action.endswith("restart"))


@dataclass(frozen=True)
class Policy:
    restart: str = "on-failure"
    limit: RestartLimit = field(default_factory=RestartLimit)


@dataclass(frozen=True)
class Seen:
    """A defined domain at one moment. ``state``: running, paused, shutdown, dying, or gone; times in seconds of one clock."""

    state: str
    reason: str = ""  # of state shutdown, as Xen has it
    ending: Ending | None = None  # of the last domain of its name, as xl has it
    ending_age: float = 0.0  # since xl wrote it
    exit_code: int | None = None  # that its console ends with
    guarded: bool = False  # somebody else's, or in the middle of a change
    asked: bool = False  # somebody asked it to end
    failures: int = 0  # of its health check, in a row
    rebuilds: int = 0  # by Xen itself since the last look
    alive_for: float = 0.0


@dataclass(frozen=True)
class Past:
    """What is kept of a domain's former starts. ``starts``: when each was."""

    starts: tuple[float, ...] = field(default=())
    gave_up: bool = False
    pending: bool = False  # a start of ours has begun, and is not known to have succeeded


@dataclass(frozen=True)
class Leave:
    """Nothing is to be done."""


@dataclass(frozen=True)
class Start:
    """Destroy what is left of it, and create it, not before ``at``. Hangs are ended by that too."""

    reason: str
    at: float


@dataclass(frozen=True)
class GiveUp:
    """Too often; ``end``: it restarts in a loop, which only its end stops."""

    reason: str
    end: bool = False


@dataclass(frozen=True)
class Count:
    """Xen itself has started it again."""

    reason: str


@dataclass(frozen=True)
class Forgive:
    """After it was given up, or could not be started, it runs all the same: somebody has started it."""


Action = Union[Leave, Start, GiveUp, Count, Forgive]


def decide(policy: Policy, seen: Seen, past: Past, ended_at: float, now: float) -> Action:
    """``ended_at``: when its end, or that it hangs, was seen first."""
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
    """Those that the limit counts; one in the future was made before a clock was set."""
    return tuple(start for start in past.starts if now - policy.limit.within < start <= now)


def why(policy: Policy, seen: Seen, past: Past) -> str:
    """Why it is to be started, in words for a journal; "" when it is not."""
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
    # A domain that was kept and is gone was destroyed after that; xl's daemon had ended by then and logs nothing.
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
