# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Watch a started domain until it has proved that it serves, or say why it did not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ..domain.spec import NEXT, Declaration, Health
from ..health.checks import ask
from ..health.patterns import problem_of
from . import console
from .xl import ToolstackError

XL_LOGS = "/var/log/xen"
# xl's daemon takes a moment to build a rebooting domain anew; meanwhile its name is in no list.
REBOOT_SECONDS = 30
# Between two looks: short enough for a downtime in milliseconds, long enough to leave Dom0 its CPU.
BETWEEN = 0.05
# xenconsoled may be a moment behind the domain's end.
_LAST_LINES_SECONDS = 2


def prove(declaration: Declaration, mark: int, state_of: Callable[[str], str]) -> float:
    """Until the health check passes, or for the settle time when there is none. Return when it was seen healthy (monotonic).

    ``mark``: where its console's file ended before the start. A unikernel that refuses its arguments powers itself
    off at once; that is a failure here. Raises ToolstackError.
    """
    name, health = declaration.name, declaration.health
    began = time.monotonic()
    bound = health.within if health else declaration.settle
    answer: str | None = "no answer yet"
    returns = "restart" in declaration.domain.on_reboot
    while True:
        state = state_of(name)
        if returns and (state == "rebooting" or (state == "gone" and _restarting(name))):
            # It asked to be started again (a triple fault asks so too), and xl's daemon does it.
            state = wait_for_state(name, ("running",), REBOOT_SECONDS, state_of)
        if state != "running":
            raise _died(declaration, state, time.monotonic() - began, mark)
        if health:
            answer = _ask(health, name, mark, began + bound)
            if answer is None:
                return time.monotonic()
        if time.monotonic() - began >= bound:
            break
        time.sleep(BETWEEN)
    if health:
        lines = console.lines(name, mark)
        raise ToolstackError(f"domain {name}: it runs, but is not healthy after {bound} s: {answer}{console.tail(lines)}", lines)
    return began


def wait_for_state(name: str, states: tuple[str, ...], seconds: float, state_of: Callable[[str], str]) -> str:
    until = time.monotonic() + seconds
    while True:
        state = state_of(name)
        if state in states or time.monotonic() >= until:
            return state
        time.sleep(BETWEEN)


def _restarting(name: str) -> bool:
    """Does the daemon that xl leaves for each domain say that it builds it anew? Its log has the name at creation."""
    for path in (f"{XL_LOGS}/xl-{name}.log", f"{XL_LOGS}/xl-{name}{NEXT}.log"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                if "is restart" in "".join(file.readlines()[-3:]):
                    return True
        except OSError:
            continue
    return False


def _ask(health: Health, name: str, mark: int, deadline: float) -> str | None:
    if health.kind == "console":
        return problem_of(health.target, console.lines(name, mark, 100_000))
    return ask(health, deadline)


def _died(declaration: Declaration, state: str, seconds: float, mark: int) -> ToolstackError:
    name = declaration.name
    console.wait(name, "solo5_exit", mark, _LAST_LINES_SECONDS)
    lines = console.lines(name, mark)
    code = re.search(r"solo5_exit\((\d+)\)", "\n".join(lines))
    why = ""
    if code:
        why = f" with exit code {code.group(1)}" + (" (it refused its boot arguments)" if code.group(1) == "64" else "")
    kept = f" and is kept in state {state}" if state != "gone" else ""
    return ToolstackError(
        f"domain {name}: it ended by itself {seconds:.0f} s after its start{why}{kept}{console.tail(lines)}", lines
    )
