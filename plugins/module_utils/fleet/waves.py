# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which host belongs to which wave of a rollout. Pure."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..domain.options import shown
from .rollout import Rollout


@dataclass(frozen=True)
class Plan:
    waves: list[list[str]] = field(default_factory=list)
    max_failed: int = 0
    approve: list[int] = field(default_factory=list)  # indices of `waves` that a person must approve first
    notes: list[str] = field(default_factory=list)  # what differs from the declared waves, and why

    @property
    def order(self) -> list[str]:
        return [host for wave in self.waves for host in wave]

    @property
    def sizes(self) -> list[int]:
        return [len(wave) for wave in self.waves]


def hosts_of(amount: int, hosts: int) -> int:
    """Return how many hosts an amount is. A share is rounded up, so that a wave is never empty."""
    return min(hosts, amount) if amount >= 0 else math.ceil(-amount * hosts / 100)


def plan(rollout: Rollout, hosts: Mapping[str, Any]) -> tuple[Plan, list[str]]:
    """Plan the waves. ``hosts``: host -> value of the variable `spread`, or None if the host has none."""
    problems: list[str] = []
    lacking = [host for host, value in hosts.items() if rollout.spread and value is None]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        problems.append(f"rollout: spread: {', '.join(lacking[:3])}{more} has no variable {rollout.spread}")
    odd = [host for host, value in hosts.items() if rollout.spread and isinstance(value, (list, dict))]
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        # Not shown: a variable may be a secret.
        words = "is a list or a mapping, must be text or a number"
        problems.append(f"rollout: spread: {rollout.spread} of {', '.join(odd[:3])}{more} {words}")
    (order, free), reached, agreed = _order(rollout, hosts), 0, False
    waves: list[list[str]] = []
    approve: list[int] = []
    notes: list[str] = []
    for index, wave in enumerate(rollout.waves):
        upto = hosts_of(wave, len(hosts))
        if upto < reached:
            problems.append(
                f"rollout: waves[{index}]: is {upto} of {len(hosts)} hosts, fewer than the wave before it has ({reached}):"
                " waves are cumulative"
            )
        if index < len(rollout.waves) - 1 and free < upto < len(hosts):
            notes.append(
                f"waves[{index}] ends after {free} hosts, not {upto}: the rest are the last of each {rollout.spread},"
                " for the last wave"
            )
            upto = max(free, reached)
        # In a small fleet several waves have the same hosts; approving one of them approves all.
        agreed = agreed or index + 1 in rollout.approve
        if upto > reached:
            approve += [len(waves)] if agreed else []
            waves.append(order[reached:upto])
            reached, agreed = upto, False
    allowed = rollout.max_failed if rollout.max_failed >= 0 else -rollout.max_failed * len(hosts) // 100
    return Plan(waves, allowed, approve, notes), problems


def filled(waves: list[list[str]], lost: Container[str], done: Container[str]) -> list[list[str]]:
    """Move a reachable host into each wave but the last that has none: otherwise the next wave would have no canary."""
    result = [list(wave) for wave in waves]
    for index, wave in enumerate(result[:-1]):
        if wave and all(host in lost for host in wave):
            later = next(
                (more for more in result[index + 1 :] if any(host not in lost and host not in done for host in more)), None
            )
            if later is not None:
                first = next(host for host in later if host not in lost and host not in done)
                later.remove(first)
                wave.append(first)
    return result


def _order(rollout: Rollout, hosts: Mapping[str, Any]) -> tuple[list[str], int]:
    """Order the hosts: one of each value of `spread` in turn, the last host of each value at the end.

    Also return how many of them may change before the last wave. If each value has one host only, nothing can be held back.
    """
    if not rollout.spread:
        return list(hosts), len(hosts)
    groups: dict[str, list[str]] = {}
    for host, value in hosts.items():
        groups.setdefault(value if isinstance(value, str) else shown(value), []).append(host)
    early = [(place, index, host) for index, members in enumerate(groups.values()) for place, host in enumerate(members[:-1])]
    late = [members[-1] for members in groups.values()]
    return [host for _place, _index, host in sorted(early)] + late, len(early) or len(hosts)
