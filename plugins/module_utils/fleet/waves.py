# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A rollout: is what was declared right, which host is in which wave, and what follows from how it went. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .plain import number

KEYS = ("waves", "spread", "bake", "watch", "max_failed", "on_failure")
ON_FAILURE = ("rollback", "stop")
MAX_BAKE = 86_400
_SHARE = re.compile(r"\s*([0-9]{1,3})\s*%\s*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DONE, FAILED, BACK, STUCK = "done", "failed", "back", "stuck"


class RolloutError(ValueError):
    """A line for each variable that can't be read."""


@dataclass(frozen=True)
class Rollout:
    """Hosts and shares are as they were written: an int, or a share of all hosts as a negative number of percent."""

    waves: tuple[int, ...] = (-100,)
    spread: str = ""
    bake: int = 0
    every: int = 5
    failures: int = 2
    max_failed: int = 0
    on_failure: str = "rollback"


@dataclass(frozen=True)
class Plan:
    order: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    max_failed: int = 0

    def waves(self) -> list[list[str]]:
        waves, begin = [], 0
        for size in self.sizes:
            waves.append(self.order[begin : begin + size])
            begin += size
        return waves


def rollout_of(value: Any) -> tuple[Rollout, list[str]]:
    """What `rollout` declares, and a line for each mistake in it."""
    problems: list[str] = []
    if not isinstance(value, Mapping):
        named = type(value).__name__
        return Rollout(), [f"rollout: must be a mapping, as in {{waves: [1, 10%, 100%], bake: 300}}, not {named}"]
    unknown = sorted(str(key) for key in value if key not in KEYS)
    if unknown:
        problems.append(f"rollout: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(KEYS)}")
    watch = value.get("watch", {})
    if not isinstance(watch, Mapping) or set(watch) - {"every", "failures"}:
        problems.append("rollout: watch: must be a mapping with every (seconds) and failures (checks in a row)")
        watch = {}
    spread = value.get("spread", "")
    if not isinstance(spread, str) or (spread and not _VARIABLE.fullmatch(spread)):
        problems.append(f"rollout: spread: is {spread!r}, must be the name of a variable of the hosts, as in xen_host_site")
        spread = ""
    on_failure = value.get("on_failure", "rollback")
    if on_failure not in ON_FAILURE:
        problems.append(f"rollout: on_failure: is {on_failure!r}, must be {' or '.join(ON_FAILURE)}")
        on_failure = "rollback"
    rollout = Rollout(
        _waves(value.get("waves", ["100%"]), problems),
        spread,
        _seconds("bake", value.get("bake", 0), 0, MAX_BAKE, problems),
        _seconds("watch: every", watch.get("every", 5), 1, 3600, problems),
        _seconds("watch: failures", watch.get("failures", 2), 1, 100, problems),
        _amount("max_failed", value.get("max_failed", 0), problems, 0),
        on_failure,
    )
    return rollout, problems


def _seconds(option: str, value: Any, low: int, high: int, problems: list[str]) -> int:
    read = number(value)
    if read is None or not low <= read <= high:
        problems.append(f"rollout: {option}: is {value!r}, must be a whole number, {low}..{high}")
        return low
    return read


def _amount(option: str, value: Any, problems: list[str], low: int) -> int:
    share = _SHARE.fullmatch(value) if isinstance(value, str) else None
    read = number(value)
    if share and max(low, 1) <= int(share.group(1)) <= 100:
        return -int(share.group(1))
    if read is not None and low <= read <= 1_000_000:
        return read
    problems.append(f"rollout: {option}: is {value!r}, must be a number of hosts (1) or a share of them (10%)")
    return low


def _waves(value: Any, problems: list[str]) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        problems.append(f"rollout: waves: is {value!r}, must be a list that ends with 100%, as in [1, 10%, 100%]")
        return (-100,)
    before = len(problems)
    waves = tuple(_amount(f"waves[{index}]", wave, problems, 1) for index, wave in enumerate(value))
    if len(problems) > before:
        return (-100,)
    if waves[-1] != -100:
        problems.append(f"rollout: waves: ends with {value[-1]!r} and so never reaches all hosts; the last must be 100%")
    for index in range(1, len(waves)):
        one, other = waves[index - 1], waves[index]
        if (one < 0) == (other < 0) and abs(other) <= abs(one):
            problems.append(
                f"rollout: waves[{index}]: is {value[index]!r}, must be more than {value[index - 1]!r}: waves are cumulative"
            )
    return waves


def hosts_of(amount: int, hosts: int) -> int:
    """How many hosts an amount is; a share is rounded up for waves that must have somebody in them."""
    return min(hosts, amount) if amount >= 0 else math.ceil(-amount * hosts / 100)


def plan(rollout: Rollout, hosts: Mapping[str, Any]) -> tuple[Plan, list[str]]:
    """``hosts``: host -> value of the variable `spread`, or None where the host has none."""
    problems: list[str] = []
    lacking = [host for host, value in hosts.items() if rollout.spread and value is None]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        problems.append(f"rollout: spread: {', '.join(lacking[:3])}{more} has no variable {rollout.spread}")
    sizes, reached = [], 0
    for index, wave in enumerate(rollout.waves):
        upto = hosts_of(wave, len(hosts))
        if upto < reached:
            problems.append(
                f"rollout: waves[{index}]: is {upto} of {len(hosts)} hosts, fewer than the wave before it has ({reached}):"
                " waves are cumulative"
            )
        if upto > reached:
            sizes.append(upto - reached)
            reached = upto
    allowed = rollout.max_failed if rollout.max_failed >= 0 else -rollout.max_failed * len(hosts) // 100
    return Plan(_order(rollout, hosts), sizes, allowed), problems


def _order(rollout: Rollout, hosts: Mapping[str, Any]) -> list[str]:
    """Of each value of `spread` in turn; the last host of each is left to the end."""
    if not rollout.spread:
        return list(hosts)
    groups: dict[str, list[str]] = {}
    for host, value in hosts.items():
        groups.setdefault(repr(value), []).append(host)
    early: list[tuple[int, int, str]] = []
    late: list[str] = []
    for index, members in enumerate(groups.values()):
        held = 1 if len(members) > 1 else 0
        rest = members[: len(members) - held]
        late += members[len(members) - held :]
        early += [(place, index, host) for place, host in enumerate(rest)]
    return [host for _place, _index, host in sorted(early)] + late


@dataclass(frozen=True)
class Verdict:
    stop: bool
    back: bool
    lines: list[str]


def verdict(rollout: Rollout, made: Plan, turns: Mapping[str, str], wave: int) -> Verdict:
    """What follows before wave number ``wave`` (from 0) begins.

    ``turns``: host -> what came of its turn. One of an earlier wave that has none was lost: it could not be reached.
    """
    begun = [host for hosts in made.waves()[:wave] for host in hosts]
    lost = [host for host in begun if turns.get(host) != DONE]
    stop = len(lost) > made.max_failed
    lines = [f"{len(begun) - len(lost)} of {len(made.order)} hosts done, {len(lost)} failed (at most {made.max_failed} may)"]
    if lost:
        lines.append(f"failed: {', '.join(lost)}")
    if stop:
        lines.append(f"no other wave starts; {len(made.order) - len(begun)} hosts are unchanged")
    return Verdict(stop, stop and rollout.on_failure == "rollback", lines)


def last_verdict(rollout: Rollout, made: Plan, turns: Mapping[str, str]) -> Verdict:
    """What follows when no wave is under way: of a wave that was lost as a whole no host has had a turn."""
    waves = made.waves()
    begun = max((index + 1 for index, hosts in enumerate(waves) if any(turns.get(host) for host in hosts)), default=0)
    judged = verdict(rollout, made, turns, begun)
    while not judged.stop and begun < len(waves):
        begun += 1
        judged = verdict(rollout, made, turns, begun)
    return judged


def ending(rollout: Rollout, made: Plan, turns: Mapping[str, str], backs: Mapping[str, str]) -> tuple[bool, list[str]]:
    """Whether all is well in the end, and the lines to report. ``backs``: host -> the result of its rollback."""
    judged = last_verdict(rollout, made, turns)
    lines = list(judged.lines)
    back = [host for host in made.order if backs.get(host) == BACK]
    if back:
        lines.append(f"rolled back: {', '.join(back)}")
    for host in made.order:
        touched = turns.get(host) == FAILED or (judged.back and turns.get(host) == DONE)
        if touched and backs.get(host) != BACK:
            words = backs.get(host) if backs.get(host) not in (None, "", STUCK) else "was not rolled back"
            lines.append(f"{host} {words}; try: ansible-playbook playbooks/rollback.yml --limit {host}")
    return all(turns.get(host) == DONE for host in made.order), lines
