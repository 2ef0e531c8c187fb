# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Ask several services at once, each until it answers or its time is over."""

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
# A thread for each service, so that each has all of its time, up to this many.
MAX_THREADS = 200


class Answer(TypedDict):
    """What came of one service's check; ``msg`` is empty when it is healthy."""

    name: str
    healthy: bool
    msg: str
    seconds: float


def declared_checks(domains: Sequence[Any]) -> list[tuple[str, Health]]:
    """(name, check) of those that are to run and can be asked: a console is not a service. SpecError."""
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
    """Until it answers as declared, or ``within`` seconds after ``began`` and not more than one attempt longer."""
    absent = lacking(health)
    if absent:  # waiting does not bring it
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
    """In the order of ``checks``. All of their times begin now."""
    began = time.monotonic()
    with ThreadPoolExecutor(max(1, min(len(checks), MAX_THREADS))) as pool:
        return list(pool.map(lambda check: wait_for(check[0], check[1], began), checks))


def service_health(domains: Sequence[Any]) -> dict[str, Any]:
    """What the module `service_health` returns: the arguments of exit_json, or with ``failed`` those of fail_json."""
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
