# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check several services repeatedly, until one is unhealthy or the time is over."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from ..domain.options import SpecError
from ..fleet.watching import Watch
from .waiting import ask_all, declared_checks


def watch(domains: Sequence[Any], seconds: int, every: int, failures: int) -> dict[str, Any]:
    """Return the result of the module `service_watch`: arguments of exit_json, or with ``failed`` of fail_json."""
    try:
        checks = [
            (name, dataclasses.replace(health, within=min(health.within, every))) for name, health in declared_checks(domains)
        ]
    except SpecError as error:
        return {"failed": True, "msg": str(error)}
    end, state, extra = time.monotonic() + seconds, Watch(failures), failures
    while checks:
        asked = time.monotonic()
        state.take({answer["name"]: answer["msg"] for answer in ask_all(checks)})
        over = time.monotonic() >= end
        # A check that first fails at the very end still gets its remaining tries.
        if state.bad or (over and not (state.doubtful and extra)):
            break
        extra -= 1 if over else 0
        pause = asked + every - time.monotonic()
        time.sleep(max(0.0, pause if over else min(pause, end - time.monotonic())))
    if not checks:
        time.sleep(seconds)
    result: dict[str, Any] = {"changed": False, "rounds": state.rounds, "ill": state.bad}
    if state.bad:
        result.update(failed=True, msg=" // ".join(state.bad.values()))
    return result
