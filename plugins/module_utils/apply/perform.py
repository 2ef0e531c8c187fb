# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Perform primitives: one short function for each, through ``xl``, Xen's bindings where installed, and Dom0's files."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from functools import singledispatchmethod

from ..domain.observed import Intent
from ..domain.spec import Disk, Health
from ..domain.xl_config import vbd, vif
from ..health.checks import ask
from ..health.patterns import problem_of
from ..image.store import write_whole
from ..plan import steps as do
from ..wait import until
from ..xen import bridge_ports, console, devices, disks, former_disks, restarts, start_times
from ..xen.hypercalls import SCHEDULERS, Hypercalls
from ..xen.observation import AUTOSTART, DEFINITIONS, autostart_path, definition_of, definition_path, intent_path
from ..xen.watch import BETWEEN, Idle, Look, ended, look, restarting, wait_for_state
from ..xen.xl import ToolstackError, last_words, must, xl

# How long a destroyed domain may keep its name, and how long xl's daemon may take to rebuild a rebooting domain; seconds.
DESTROY_SECONDS = 30
REBOOT_SECONDS = 30
_MAX_PAUSES = 8
_ALL_LINES = 100_000


class Performer:
    """Carry out steps for one domain. It remembers the domain ids, and where each console's log ended before an unpause."""

    def __init__(self, hypercalls: Hypercalls | None = None) -> None:
        self.hypercalls = hypercalls
        self._domids: dict[str, int] = {}
        self._marks: dict[str, int] = {}

    def look(self, name: str) -> Look:
        return look(name, self.hypercalls)

    @singledispatchmethod
    def perform(self, step: do.Step) -> float | None:
        """Perform a step; ToolstackError or OSError if it fails. For `AwaitHealthy` return when it was healthy (monotonic)."""
        raise NotImplementedError(type(step).__name__)

    # -- disks -----------------------------------------------------------------------------------

    @perform.register
    def _(self, step: do.MakeDisk) -> None:
        disks.make(step.origin)

    @perform.register
    def _(self, step: do.GrowDisk) -> None:
        disks.grow(step.origin)

    @perform.register
    def _(self, step: do.RemoveDisk) -> None:
        disks.remove(step.path)
        former_disks.removed(step.path)

    # -- domains ---------------------------------------------------------------------------------

    @perform.register
    def _(self, step: do.Build) -> None:
        with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
            path = os.path.join(folder, step.name + ".cfg")
            write_whole(path, step.text.encode("utf-8"), 0o600)
            code, out, err = xl("create", "-p", path)
        if code:
            raise ToolstackError(f"domain {step.name}: Xen could not build it ({code}): {last_words(err + out)}")
        built = self.look(step.name)
        if built.state != "paused":
            raise ToolstackError(f"domain {step.name}: it was built, but is {built.state}")
        self._domids[step.name] = built.domid
        start_times.note(built.domid)
        if step.qemu:
            devices.await_qemu(built.domid, step.name)

    @perform.register
    def _(self, step: do.Rename) -> None:
        self._marks[step.new] = console.mark(step.new)
        must("rename", step.name, step.new)
        if step.name in self._domids:
            self._domids[step.new] = self._domids.pop(step.name)

    @perform.register
    def _(self, _step: do.ReopenConsoles) -> None:
        console.reopen()

    @perform.register
    def _(self, step: do.ForgetConsole) -> None:
        console.forget(step.name)

    @perform.register
    def _(self, step: do.Pause) -> None:
        self._pause(step.name)

    def _pause(self, name: str) -> Look:
        """Pause a running domain, once: Xen counts pauses. Return its state before."""
        seen = self.look(name)
        if seen.state == "running":
            try:
                if self.hypercalls:
                    self.hypercalls.pause(seen.domid)
                else:
                    must("pause", name)
            except ToolstackError:
                now = self.look(name)
                if (now.domid, now.state) == (seen.domid, "running"):
                    raise
                return now  # it stopped, or restarted, at that moment
        return seen

    @perform.register
    def _(self, step: do.Unpause) -> None:
        """Unpause, however often it was paused."""
        self._marks[step.name] = console.mark(step.name)
        for _count in range(_MAX_PAUSES):
            seen = self.look(step.name)
            if seen.state != "paused":  # running, or already stopped, which AwaitHealthy reports
                return
            self._domids[step.name] = seen.domid
            if self.hypercalls:
                self.hypercalls.unpause(seen.domid)
            else:
                must("unpause", step.name)

    @perform.register
    def _(self, step: do.Shutdown) -> None:
        if step.within:
            # Without -w, since xl's own waiting has no limit. It fails for a guest that doesn't listen, which is destroyed below.
            try:
                xl("shutdown", step.name, timeout=step.within)
                wait_for_state(step.name, ("gone", "shutdown"), step.within, self.hypercalls)
            except ToolstackError:
                pass
        self._destroy(step.name)

    @perform.register
    def _(self, step: do.Destroy) -> None:
        self._destroy(step.name)

    def _destroy(self, name: str) -> None:
        self._hold_still(name)
        seen = self.look(name)
        if seen.state == "gone":
            return
        with start_times.kept(seen.domid):
            code, out, err = xl("destroy", name)
            # xl destroy fails for a domain that is just stopping by itself, though it is gone afterwards.
            state = wait_for_state(name, ("gone",), DESTROY_SECONDS, self.hypercalls)
        if state != "gone":
            raise ToolstackError(f"domain {name}: 'xl destroy' failed ({code}): {last_words(err + out)}; it is still there")

    def _hold_still(self, name: str) -> None:
        """Pause the domain: if it rebooted meanwhile, xl's daemon would build it again after it was destroyed."""

        def still() -> bool:
            seen = self._pause(name)
            if seen.state in ("running", "rebooting"):
                return False
            return not restarting(name) if seen.state == "gone" else True

        until(still, REBOOT_SECONDS, BETWEEN)

    @perform.register
    def _(self, step: do.AwaitConsole) -> None:
        mark, last = self._marks.get(step.name, 0), Look()

        def printed() -> bool:
            nonlocal last
            if console.find(step.name, step.pattern, mark):
                return True
            last = self.look(step.name)
            return last.state != "running"

        until(printed, step.within)
        if console.find(step.name, step.pattern, mark):
            return
        lines = console.lines(step.name, mark)
        missing = f"did not print a line matching {step.pattern!r} within {step.within} s"
        why = missing if last.state == "running" else f"is {last.state} before it printed a line matching {step.pattern!r}"
        raise ToolstackError(f"domain {step.name}: the new domain {why}{console.tail(lines)}", lines)

    @perform.register
    def _(self, step: do.AwaitHealthy) -> float:
        """Wait until healthy. A domain that stops or restarts before that fails, so a boot loop never passes."""
        name, mark, began = step.name, self._marks.get(step.name, 0), time.monotonic()
        domid = self._domids.get(name) or self.look(name).domid
        judge = self._judge(step, mark)
        while True:
            seen = self.look(name)
            if seen.state == "rebooting" or seen.domid not in (0, domid) or (seen.state == "gone" and restarting(name)):
                lines = console.lines(name, mark)
                raise ToolstackError(
                    f"domain {name}: it restarted {time.monotonic() - began:.1f} s after its start, before it"
                    f" was healthy{console.tail(lines)}",
                    lines,
                )
            if seen.state == "paused":
                raise ToolstackError(f"domain {name}: somebody paused it before it was healthy")
            if seen.state != "running":
                raise ended(name, seen.state, time.monotonic() - began, mark, domid)
            if judge(seen):
                return time.monotonic() if step.health else began
            time.sleep(BETWEEN)

    def _judge(self, step: do.AwaitHealthy, mark: int) -> Callable[[Look], bool]:
        """Return the check for each look: true when healthy, ToolstackError when the time is over."""
        return self._asking(step.name, step.health, mark) if step.health else self._settling(step, mark)

    def _asking(self, name: str, health: Health, mark: int) -> Callable[[Look], bool]:
        end = time.monotonic() + health.within

        def healthy(_seen: Look) -> bool:
            answer = self._ask(name, health, mark, end)
            if answer is not None and time.monotonic() >= end:
                lines = console.lines(name, mark)
                raise ToolstackError(
                    f"domain {name}: it runs, but is not healthy after {health.within} s: {answer}{console.tail(lines)}", lines
                )
            return answer is None

        return healthy

    @staticmethod
    def _ask(name: str, health: Health, mark: int, end: float) -> str | None:
        if health.kind == "console":
            return problem_of(health.target, console.lines(name, mark, _ALL_LINES))
        return ask(health, end)

    def _settling(self, step: do.AwaitHealthy, mark: int) -> Callable[[Look], bool]:
        """Return a check: true ``settle`` seconds after the ready line, or after it was seen idle, or after ``ready_within``."""
        idle, latest = Idle(), time.monotonic() + step.ready_within
        since = time.monotonic() if not step.settle and not step.ready else 0.0

        def settled(seen: Look) -> bool:
            nonlocal since
            now = time.monotonic()
            if not since:
                ready = console.find(step.name, step.ready, mark) if step.ready else idle.seen(seen.cpu_seconds)
                since = now if ready or now >= latest else 0.0
                if since and step.ready and not ready:
                    lines = console.lines(step.name, mark)
                    raise ToolstackError(
                        f"domain {step.name}: it runs, but did not print a line matching {step.ready!r} within"
                        f" {step.ready_within} s{console.tail(lines)}",
                        lines,
                    )
            return bool(since) and now - since >= step.settle

        return settled

    # -- network ---------------------------------------------------------------------------------

    @perform.register
    def _(self, step: do.LeaveBridge) -> None:
        bridge_ports.leave(self.look(step.name).domid)

    @perform.register
    def _(self, step: do.JoinBridge) -> None:
        bridge_ports.join(self.look(step.name).domid)

    @perform.register
    def _(self, step: do.LeadTo) -> None:
        try:
            bridge_ports.lead_to(self.look(step.name).domid)
        except ToolstackError:
            # A domain that stopped has no vif any more; AwaitHealthy reports why it stopped.
            if self.look(step.name).state == "running":
                raise

    @perform.register
    def _(self, step: do.Announce) -> None:
        bridge_ports.announce(step.bridge, step.mac, step.address)

    # -- files beside Xen ------------------------------------------------------------------------

    @perform.register
    def _(self, step: do.WriteIntent) -> None:
        os.makedirs(DEFINITIONS, mode=0o755, exist_ok=True)
        write_whole(intent_path(step.name), Intent(step.text, step.former).content().encode("utf-8"), 0o600)

    @perform.register
    def _(self, step: do.RemoveIntent) -> None:
        _remove(intent_path(step.name))

    @perform.register
    def _(self, step: do.Define) -> None:
        os.makedirs(DEFINITIONS, mode=0o755, exist_ok=True)
        former_disks.redefined(step.name, definition_of(step.name), step.text)
        write_whole(definition_path(step.name), step.text.encode("utf-8"), 0o600)
        # The domain is healthy, or declared stopped or paused: the keeper's count of restarts begins again.
        restarts.forget(step.name)
        _remove(intent_path(step.name))

    @perform.register
    def _(self, step: do.Undefine) -> None:
        former_disks.redefined(step.name, definition_of(step.name), "")
        _remove(definition_path(step.name))
        restarts.forget(step.name)
        _remove(intent_path(step.name))

    @perform.register
    def _(self, step: do.Autostart) -> None:
        os.makedirs(AUTOSTART, mode=0o755, exist_ok=True)
        # A hidden name: xendomains starts every other file that it finds here.
        temporary = os.path.join(AUTOSTART, f".{step.name}.{os.getpid()}")
        _remove(temporary)  # left by a run that died with the same process id
        os.symlink(definition_path(step.name), temporary)
        os.rename(temporary, autostart_path(step.name))

    @perform.register
    def _(self, step: do.NoAutostart) -> None:
        _remove(autostart_path(step.name))

    # -- a running domain ------------------------------------------------------------------------

    @perform.register
    def _(self, step: do.SetVcpus) -> None:
        devices.set_vcpus(step.name, step.count)

    @perform.register
    def _(self, step: do.PinCpus) -> None:
        must("vcpu-pin", step.name, "all", step.cpus)

    @perform.register
    def _(self, step: do.SetShare) -> None:
        scheduler = (self.hypercalls.scheduler() if self.hypercalls else scheduler_of(must("info"))) or "sched-credit2"
        must(scheduler, "-d", step.name, "-w" if step.option == "cpu_weight" else "-c", str(step.value))

    @perform.register
    def _(self, step: do.Attach) -> None:
        kind, text = ("vbd", vbd(step.device)) if isinstance(step.device, Disk) else ("vif", vif(step.device))
        devices.attach(self.look(step.name).domid, step.name, kind, text, do.label(step.device))

    @perform.register
    def _(self, step: do.Detach) -> None:
        kind, key = ("vbd", step.device.vdev) if isinstance(step.device, Disk) else ("vif", step.device.mac)
        devices.detach(self.look(step.name).domid, step.name, kind, key, step.force)


def scheduler_of(info: str) -> str:
    """Return xl's command for the scheduler that ``xl info`` names; "" for one without weights."""
    found = re.search(r"^xen_scheduler\s*: (\S+)", info, re.MULTILINE)
    command = f"sched-{found[1]}" if found else ""
    return command if command in SCHEDULERS.values() else ""


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
