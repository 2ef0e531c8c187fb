# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check several services at once, each until it is healthy or its time is over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

from ..domain.health import health_of
from ..domain.options import Reader, SpecError
from ..domain.spec import STATES, Health
from .checks import ask, lacking

BETWEEN = 0.3
# One thread for each service, up to this many, so that none waits for another.
MAX_THREADS = 200


class Answer(TypedDict):
    """The result of one service's check. ``msg``: empty if it is healthy."""

    name: str
    healthy: bool
    msg: str
    seconds: float


def declared_checks(domains: Sequence[Any]) -> list[tuple[str, Health]]:
    """Return (name, check) of the domains that should run, without console checks. Raise SpecError."""
    checks, problems = [], []
    for index, options in enumerate(domains):
        reader = Reader(f"domains[{index}]", options)
        try:
            name = reader.text("name")
            reader.where = f"domain {name}"
            health = health_of(reader, options.get("health"))
            if health and health.kind != "console" and reader.choice("state", "running", STATES) == "running":
                checks.append((name, health))
        except SpecError as refusal:
            problems += refusal.problems
    if problems:
        raise SpecError(*problems)
    return checks


def wait_for(name: str, health: Health, began: float) -> Answer:
    """Check until healthy, or until ``within`` seconds after ``began`` (and at most one attempt longer)."""
    absent = lacking(health)
    if absent:  # waiting does not help
        return {"name": name, "healthy": False, "msg": f"domain {name}: health: {absent}", "seconds": 0.0}
    deadline = began + health.within
    while True:
        problem = ask(health, deadline)
        now = time.monotonic()
        if problem is None or now >= deadline:
            msg = f"domain {name}: not healthy after {health.within} s: {problem}" if problem else ""
            return {"name": name, "healthy": problem is None, "msg": msg, "seconds": round(now - began, 3)}
        time.sleep(min(BETWEEN, deadline - now))


def ask_all(checks: Sequence[tuple[str, Health]]) -> list[Answer]:
    """Check all services at the same time; return the answers in the order of ``checks``."""
    began = time.monotonic()
    with ThreadPoolExecutor(max(1, min(len(checks), MAX_THREADS))) as pool:
        return list(pool.map(lambda check: wait_for(check[0], check[1], began), checks))


def service_health(domains: Sequence[Any]) -> dict[str, Any]:
    """Return the result of the module `service_health`: arguments of exit_json, or with ``failed`` of fail_json."""
    try:
        answers = ask_all(declared_checks(domains))
    except SpecError as error:
        return {"failed": True, "msg": str(error)}
    healthy = [answer["name"] for answer in answers if answer["healthy"]]
    result: dict[str, Any] = {"changed": False, "healthy": healthy, "answers": answers}
    problems = [answer["msg"] for answer in answers if not answer["healthy"]]
    if problems:
        result.update(failed=True, msg=" // ".join(problems))
    return result
