# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the variable `rollout` and every mistake in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..domain.options import shown
from .notices import targets_of
from .plain import number
from .queries import Query, queries_of
from .window import Window, window_of

KEYS = (
    "waves", "spread", "bake", "watch", "deadline", "queries", "max_failed", "on_failure", "approve", "window", "notify",
)  # fmt: skip
WATCH_KEYS = ("every", "failures", "from")
WATCHERS = ("host", "controller")
ON_FAILURE = ("rollback", "stop")
MAX_BAKE, MAX_DEADLINE, MAX_WAVES, MAX_HOSTS = 86_400, 86_400, 50, 1_000_000
_SHARE = re.compile(r"\s*([0-9]{1,3})\s*%\s*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class RolloutError(ValueError):
    """One line for each variable that can't be read."""


@dataclass(frozen=True)
class Rollout:
    """The options of a rollout. Amounts: a number of hosts, or a share of all hosts as a negative percentage."""

    waves: tuple[int, ...] = (-100,)
    spread: str = ""
    bake: int = 0
    every: int = 5
    failures: int = 2
    watchers: tuple[str, ...] = ("host",)
    deadline: int = 0  # 0: no limit
    queries: tuple[Query, ...] = ()
    max_failed: int = 0
    on_failure: str = "rollback"
    approve: tuple[int, ...] = ()
    window: Window | None = None
    notify: tuple[str, ...] = ()


def rollout_of(value: Any) -> tuple[Rollout, list[str]]:
    """Return what `rollout` declares, and a line for each mistake in it."""
    problems: list[str] = []
    if not isinstance(value, Mapping):
        named = "nothing" if value is None else type(value).__name__
        return Rollout(), [f"rollout: must be a mapping, as in {{waves: [1, 10%, 100%], bake: 300}}, not {named}"]
    unknown = sorted(str(key) for key in value if key not in KEYS)
    if unknown:
        problems.append(f"rollout: unknown key {', '.join(map(shown, unknown))}; known are {', '.join(KEYS)}")
    watch = _watch(value.get("watch", {}), problems)
    before = len(problems)
    waves = _waves(value.get("waves", ["100%"]), problems)
    # Of waves that can't be read nobody knows how many there are.
    count = len(waves) if len(problems) == before else MAX_WAVES
    deadline = value.get("deadline")
    rollout = Rollout(
        waves,
        _spread(value.get("spread", ""), problems),
        _seconds("bake", value.get("bake", 0), 0, MAX_BAKE, problems),
        _seconds("watch: every", watch.get("every", 5), 1, 3600, problems),
        _seconds("watch: failures", watch.get("failures", 2), 1, 100, problems),
        _watchers(watch.get("from", ["host"]), problems),
        _seconds("deadline", deadline, 1, MAX_DEADLINE, problems) if deadline is not None else 0,
        queries_of(value["queries"], problems) if "queries" in value else (),
        _amount("max_failed", value.get("max_failed", 0), problems, 0),
        _on_failure(value.get("on_failure", "rollback"), problems),
        _approve(value.get("approve", []), count, problems),
        window_of(value["window"], problems) if "window" in value else None,
        targets_of("rollout: notify", value["notify"], problems) if "notify" in value else (),
    )
    return rollout, problems


def between_hosts(hosts: Iterable[str], rollouts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Host and a line for each whose `rollout` is not that of the others. ``rollouts``: its value, of hosts that have it."""
    lines = []
    first = next(iter(rollouts), "")
    for host in hosts if rollouts else ():
        if host not in rollouts:
            lines.append((host, f"rollout: is not set, but it is for {first}; it must be the same for all hosts of a run"))
        elif rollouts[host] != rollouts[first]:
            lines.append((host, f"rollout: differs from that of {first}; it must be the same for all hosts of a run"))
    return lines


def _watch(value: Any, problems: list[str]) -> Mapping[Any, Any]:
    words = "every (seconds), failures (checks in a row) and from (host, controller)"
    if not isinstance(value, Mapping):
        problems.append(f"rollout: watch: is {shown(value)}, must be a mapping with {words}")
        return {}
    unknown = sorted(str(key) for key in value if key not in WATCH_KEYS)
    if unknown:
        problems.append(f"rollout: watch: unknown key {', '.join(map(shown, unknown))}; known are {words}")
    return value


def _on_failure(value: Any, problems: list[str]) -> str:
    if isinstance(value, str) and value in ON_FAILURE:
        return str(value)
    problems.append(f"rollout: on_failure: is {shown(value)}, must be {' or '.join(ON_FAILURE)}")
    return "rollback"


def _spread(value: Any, problems: list[str]) -> str:
    if isinstance(value, str) and (not value or _VARIABLE.fullmatch(value)):
        return str(value)
    problems.append(f"rollout: spread: is {shown(value)}, must be the name of a variable of the hosts, as in xen_host_site")
    return ""


def _watchers(value: Any, problems: list[str]) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if isinstance(words, list) and words and all(isinstance(word, str) and word in WATCHERS for word in words):
        return tuple(dict.fromkeys(words))
    problems.append(f"rollout: watch: from: is {shown(value)}, must be a list of {' and '.join(WATCHERS)}: who asks for health")
    return ("host",)


def _approve(value: Any, waves: int, problems: list[str]) -> tuple[int, ...]:
    read = [number(wave) for wave in value] if isinstance(value, list) else [None]
    wrong = [wave for wave in read if wave is None or not 1 <= wave <= waves]
    if wrong:
        problems.append(
            f"rollout: approve: is {shown(value)}, must be a list of numbers of waves, 1..{waves}: each waits for an approval"
        )
    return tuple(sorted({wave for wave in read if wave is not None and 1 <= wave <= waves}))


def _seconds(option: str, value: Any, low: int, high: int, problems: list[str]) -> int:
    read = number(value)
    if read is None or not low <= read <= high:
        problems.append(f"rollout: {option}: is {shown(value)}, must be a whole number, {low}..{high}")
        return low
    return read


def _amount(option: str, value: Any, problems: list[str], low: int) -> int:
    share = _SHARE.fullmatch(value) if isinstance(value, str) else None
    read = number(value)
    if share and low <= int(share.group(1)) <= 100:
        return -int(share.group(1))
    if read is not None and low <= read <= MAX_HOSTS:
        return read
    problems.append(
        f"rollout: {option}: is {shown(value)}, must be a number of hosts ({low}..{MAX_HOSTS}) or a share of them ({low}%..100%)"
    )
    return low


def _waves(value: Any, problems: list[str]) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        problems.append(f"rollout: waves: is {shown(value)}, must be a list that ends with 100%, as in [1, 10%, 100%]")
        return (-100,)
    if len(value) > MAX_WAVES:
        problems.append(f"rollout: waves: has {len(value)} waves, at most {MAX_WAVES} are allowed")
        return (-100,)
    before = len(problems)
    waves = tuple(_amount(f"waves[{index}]", wave, problems, 1) for index, wave in enumerate(value))
    if len(problems) > before:
        return (-100,)
    if waves[-1] != -100:
        problems.append(f"rollout: waves: ends with {shown(value[-1])} and so never reaches all hosts; the last must be 100%")
    for index in range(1, len(waves)):
        smaller, larger = waves[index - 1], waves[index]
        if (smaller < 0) == (larger < 0) and abs(larger) <= abs(smaller):
            problems.append(
                f"rollout: waves[{index}]: is {shown(value[index])}, must be more than {shown(value[index - 1])}:"
                " waves are cumulative"
            )
    return waves
