# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Watch a domain while it starts: whether it boots, whether it stays, and why it ended."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from ..domain.spec import NEXT
from ..wait import until
from . import console
from .hypercalls import Hypercalls
from .observation import parse_list
from .xenstore import Xenstore
from .xl import ToolstackError, xl

XL_LOGS = "/var/log/xen"
# Seconds between two looks: short enough to measure a downtime in milliseconds, long enough to leave Dom0 its CPU.
BETWEEN = 0.05
# A domain that used less than this share of a CPU for this many seconds has booted and waits for work.
IDLE_SHARE, IDLE_SECONDS = 0.1, 0.3
# xenconsoled may log the last lines a moment after the domain's end.
_LAST_LINES_SECONDS = 2


@dataclass(frozen=True)
class Look:
    """A domain at one moment. ``state``: running, paused, rebooting, shutdown, dying or gone."""

    domid: int = 0
    state: str = "gone"
    cpu_seconds: float = 0.0


def look(name: str, hypercalls: Hypercalls | None) -> Look:
    if hypercalls:
        infos = hypercalls.domains()
        with Xenstore() as store:
            names = store.read([f"/local/domain/{info['domid']}/name" for info in infos])
        rows = [
            (info["domid"], info["state"], info["reason"], info["cpu_time"] / 1e9)
            for info, own in zip(infos, names)
            if own == name
        ]
    else:
        code, out, _err = xl("list", "-v", name)
        rows = [] if code else [(domid, *row) for domid, row in parse_list(out).items()]
    if not rows:
        return Look()
    domid, state, reason, seconds = rows[0]
    # A triple fault has the reason "reboot" too.
    return Look(domid, "rebooting" if state == "shutdown" and reason == "reboot" else state, seconds)


def restarting(name: str) -> bool:
    """True if xl's daemon of the domain logs that it restarts it. The log is named after the domain at creation."""
    for path in (f"{XL_LOGS}/xl-{name}.log", f"{XL_LOGS}/xl-{name}{NEXT}.log"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                if "is restart" in "".join(file.readlines()[-3:]):
                    return True
        except OSError:
            continue
    return False


class Idle:
    """Detects that a domain has become idle since this object was made."""

    def __init__(self) -> None:
        self._since, self._used = time.monotonic(), -1.0

    def seen(self, cpu_seconds: float) -> bool:
        now = time.monotonic()
        if self._used < 0 or cpu_seconds < self._used:
            self._since, self._used = now, cpu_seconds
        passed = now - self._since
        if passed < IDLE_SECONDS:
            return False
        busy = (cpu_seconds - self._used) / passed > IDLE_SHARE
        self._since, self._used = now, cpu_seconds
        return not busy


def ended(name: str, state: str, seconds: float, mark: int, domid: int = 0) -> ToolstackError:
    """Return the error for a domain that ended, with the reason from its console or Xen. ``mark``: where its console began."""
    console.wait(name, "solo5_exit", mark, _LAST_LINES_SECONDS)
    lines = console.lines(name, mark)
    code = re.search(r"solo5_exit\((\d+)\)", "\n".join(lines))
    why = ""
    if code:
        why = f" with exit code {code.group(1)}" + (" (it refused its boot arguments)" if code.group(1) == "64" else "")
    why += device_hint(lines)
    kept = f" and is kept in state {state}" if state != "gone" else ""
    last = console.tail(lines) if lines else console.tail(lines) + of_xen(domid)
    return ToolstackError(f"domain {name}: it ended by itself {seconds:.0f} s after its start{why}{kept}{last}", lines)


def device_hint(lines: list[str]) -> str:
    """Return which disk a unikernel's last lines are about, as the user's vdev; "" if about none.

    They contain a virtual device's number, 202 << 8 | disk << 4 (Xen's docs/man/xen-vbd-interface.7). Mirage reserves the first
    for a boot disk.
    """
    numbers = [int(word) for line in lines[-5:] for word in re.findall(r"\b51[7-9][0-9]{2}\b", line)]
    disks = sorted({(number - 51712) // 16 for number in numbers if (number - 51712) % 16 == 0 and 51712 <= number < 51968})
    return "".join(f" (device {51712 + 16 * disk} is vdev: xvd{chr(97 + disk)})" for disk in disks[:3])


def of_xen(domid: int) -> str:
    """Return a domain's lines of Xen's own log, as the end of a message; "" if there are none."""
    try:
        code, out, _err = xl("dmesg", timeout=20)
    except ToolstackError:
        return ""
    rows = (
        [line.strip() for line in out.splitlines() if re.search(rf"\bd{domid}(v[0-9]+)?\b", line)] if domid and not code else []
    )
    return "; Xen's log has: " + " | ".join(rows[-3:]) if rows else ""


def wait_for_state(name: str, states: tuple[str, ...], seconds: float, hypercalls: Hypercalls | None) -> str:
    """Wait for one of ``states``. Return the state seen last."""
    last = Look()

    def there() -> bool:
        nonlocal last
        last = look(name, hypercalls)
        return last.state in states

    until(there, seconds, BETWEEN)
    return last.state
