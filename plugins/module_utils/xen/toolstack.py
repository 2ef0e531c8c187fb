# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Performs one step of a plan through ``xl``, Xen's bindings where they are, and Dom0's files."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ..domain.plan import Step
from ..domain.spec import NEXT, PREVIOUS, Declaration, Disk, Domain
from ..domain.xl_config import vbd, vif, xl_config
from ..image.store import write_whole
from . import bridge_ports, console, disks
from .hypercalls import Hypercalls
from .journal import Lock
from .observation import AUTOSTART, DEFINITIONS, autostart_path, definition_path, parse_list
from .proof import XL_LOGS, prove, wait_for_state
from .xenstore import Xenstore
from .xl import ToolstackError, last_words, must, xl

# How long the name of a destroyed domain may stay taken, and how long a device may take to connect.
DESTROY_SECONDS = 30
DEVICE_SECONDS = 20
_MOST_PAUSES = 8
# XenbusStateInitialising and XenbusStateConnected in xen/include/public/io/xenbus.h
_UNTOUCHED, _CONNECTED = "1", "4"


class Toolstack:
    def __init__(self, hypercalls: Hypercalls | None = None) -> None:
        self.hypercalls = hypercalls

    # -- looking at one domain -------------------------------------------------------------------

    def find(self, name: str) -> tuple[int, str]:
        """(domain id, state): running, paused, rebooting, shutdown, dying, or (0, gone)."""
        if self.hypercalls:
            infos = self.hypercalls.domains()
            with Xenstore() as store:
                names = store.read([f"/local/domain/{info['domid']}/name" for info in infos])
            found = [(info["domid"], info["state"], info["reason"]) for info, own in zip(infos, names) if own == name]
        else:
            code, out, _err = xl("list", "-v", name)
            found = [] if code else [(domid, state, reason) for domid, (state, reason, _time) in parse_list(out).items()]
        if not found:
            return 0, "gone"
        domid, state, reason = found[0]
        # A triple fault asks for a reboot as well.
        return domid, "rebooting" if state == "shutdown" and reason == "reboot" else state

    def state_of(self, name: str) -> str:
        return self.find(name)[1]

    # -- performing ------------------------------------------------------------------------------

    def perform(self, step: Step, declaration: Declaration, lock: Lock) -> dict[str, Any]:
        """Do one step; what was running before a failed replace runs again. ToolstackError.

        Returns what the step has to tell: ``downtime_ms`` of a switch.
        """
        lock.note(str(step))
        actions: dict[str, Callable[[Step, Declaration], dict[str, Any] | None]] = {
            "destroy": lambda step, _declaration: self.destroy(step.name),
            "put_back": lambda step, _declaration: self.put_back(step.name),
            "confirm": self._confirm,
            "prove": lambda _step, declaration: self._prove(declaration, 0),
            "make_disk": lambda step, _declaration: disks.make(step.origins[0]),
            "grow_disk": lambda step, _declaration: disks.grow(step.origins[0]),
            "remove_disk": lambda step, _declaration: disks.remove(step.item),
            "create": self._create,
            "replace": self._replace,
            "recreate": self._recreate,
            "set_live": self._set_live,
            "attach": self._attach,
            "detach": self._detach,
            "pause": lambda step, _declaration: self._pause(step.name),
            "unpause": lambda _step, declaration: self._start(declaration),
            "stop": lambda step, declaration: self.stop(step.name, declaration.shutdown_timeout),
            "define": lambda step, _declaration: self._define(step.name, step.text),
            "undefine": lambda step, _declaration: os.unlink(definition_path(step.name)),
            "autostart": lambda step, _declaration: self._autostart(step.name),
            "no_autostart": lambda step, _declaration: os.unlink(autostart_path(step.name)),
        }
        try:
            return actions[step.action](step, declaration) or {}
        except OSError as error:
            raise ToolstackError(f"domain {step.name}: {step.action}: {error.filename}: {error.strerror}") from error

    def _define(self, name: str, text: str) -> None:
        os.makedirs(DEFINITIONS, mode=0o755, exist_ok=True)
        write_whole(definition_path(name), text.encode("utf-8"), 0o600)

    def _autostart(self, name: str) -> None:
        os.makedirs(AUTOSTART, mode=0o755, exist_ok=True)
        # Hidden: xendomains starts every other name that it finds here.
        temporary = os.path.join(AUTOSTART, f".{name}.{os.getpid()}")
        os.symlink(definition_path(name), temporary)
        os.rename(temporary, autostart_path(name))

    def _pause(self, name: str) -> None:
        """Once, for Xen counts."""
        domid, state = self.find(name)
        if state == "paused":
            return
        if self.hypercalls and domid:
            self.hypercalls.pause(domid)
        else:
            must("pause", name)

    def _let_run(self, name: str) -> None:
        """However often it was paused."""
        for _count in range(_MOST_PAUSES):
            domid, state = self.find(name)
            if state != "paused":  # running, or ended already, as the one who proves it will see
                return
            if self.hypercalls and domid:
                self.hypercalls.unpause(domid)
            else:
                must("unpause", name)

    def destroy(self, name: str) -> None:
        """End a domain at once and wait until its name is free."""
        code, out, err = xl("destroy", name)
        # A domain that is just ending by itself makes destroy fail, and is gone all the same.
        if wait_for_state(name, ("gone",), DESTROY_SECONDS, self.state_of) != "gone":
            raise ToolstackError(f"domain {name}: 'xl destroy' failed ({code}): {last_words(err + out)}; it is still there")

    def stop(self, name: str, timeout: int) -> None:
        """Ask the guest to end, wait at most ``timeout`` seconds, then destroy it."""
        if timeout:
            # Without -w: xl's own waiting has no limit. A guest that doesn't listen makes it fail; so be it.
            try:
                xl("shutdown", name, timeout=timeout)
                wait_for_state(name, ("gone", "shutdown"), timeout, self.state_of)
            except ToolstackError:
                pass
        if self.state_of(name) != "gone":
            self.destroy(name)

    def put_back(self, name: str, running: bool = True) -> None:
        """Safe to be cut anywhere: until the last rename it is still NAME~prev, and put back again."""
        if self.state_of(name) != "gone":
            self.destroy(name)
        domid, _state = self.find(name + PREVIOUS)
        bridge_ports.join(domid)
        must("rename", name + PREVIOUS, name)
        console.reopen()
        if running:
            self._let_run(name)

    def _build(self, domain: Domain, name: str) -> int:
        """Create ``domain`` paused under ``name``; its id."""
        with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
            path = os.path.join(folder, name + ".cfg")
            write_whole(path, xl_config(domain, name).encode("utf-8"), 0o600)
            code, out, err = xl("create", "-p", path)
        if code:
            message = f"domain {domain.name}: Xen could not build it ({code}): {last_words(err + out)}"
            raise ToolstackError(message, unchanged=True)
        domid, state = self.find(name)
        if state != "paused":
            raise ToolstackError(f"domain {domain.name}: it was built, but is {state}")
        if any(disk.format != "raw" for disk in domain.disks):
            self._await_qemu(domid, name)
        return domid

    def _await_qemu(self, domid: int, name: str) -> None:
        """xl does not wait for the QEMU that serves a domain's disks, and QEMU tells nobody but its log of one it can't open."""
        backends = f"/local/domain/0/backend/qdisk/{domid}"
        until = time.monotonic() + DEVICE_SECONDS
        with Xenstore() as store:
            (disks_of_qemu,) = store.directories([backends])
            while _UNTOUCHED in store.read([f"{backends}/{one}/state" for one in disks_of_qemu]):
                if time.monotonic() >= until:
                    break
                time.sleep(0.1)
            else:
                return
        log = os.path.join(XL_LOGS, f"qemu-dm-{name}.log")
        words = _last_line(log)
        self.destroy(name)
        raise ToolstackError(f"domain {name}: QEMU in Dom0 did not attach a disk: {words} ({log})", unchanged=True)

    def _create(self, step: Step, declaration: Declaration) -> None:
        self._build(step.domain or declaration.domain, step.name)
        if declaration.state == "running":
            self._start(declaration)

    def _start(self, declaration: Declaration) -> None:
        mark = console.mark(declaration.name)
        self._let_run(declaration.name)
        self._prove(declaration, mark)

    def _prove(self, declaration: Declaration, mark: int) -> None:
        prove(declaration, mark, self.state_of)

    # -- replacing -------------------------------------------------------------------------------

    def _replace(self, step: Step, declaration: Declaration) -> dict[str, Any]:
        name = step.name
        old_id, old_state = self.find(name)
        new_id = self._build(step.domain or declaration.domain, name + NEXT)
        told: dict[str, Any] = {}
        try:
            if declaration.update == "warm" and declaration.state == "running":
                self._warm_up(declaration, new_id)
            # While the old one still serves: a run that dies from here on leaves NAME~prev, which is put back.
            must("rename", name, name + PREVIOUS)
            must("rename", name + NEXT, name)
            console.reopen()
            told = self._switch(declaration, old_id, new_id)
        except ToolstackError as error:
            lines = error.console or console.lines(name)
            if self.state_of(name + PREVIOUS) == "gone":  # it never lost its name
                self.destroy(name + NEXT)
            else:
                if self.state_of(name + NEXT) != "gone":
                    self.destroy(name + NEXT)
                try:
                    self.put_back(name, old_state == "running")
                except ToolstackError as second:
                    message = f"{error}; and the former domain could not be put back ({second}): look at 'xl list', run it again"
                    raise ToolstackError(message, lines) from error
            raise ToolstackError(f"{error}; the former domain {_kept(old_state)}", lines, True) from error
        self.destroy(name + PREVIOUS)
        for leftover in (NEXT, PREVIOUS):  # of the moment in which they had those names
            console.forget(name + leftover)
        return told

    def _warm_up(self, declaration: Declaration, new_id: int) -> None:
        """Let the new one boot with its interfaces off the bridge, until its console says that it has."""
        name = declaration.name + NEXT
        bridge_ports.leave(new_id)
        mark = console.mark(name)
        self._let_run(name)
        until = time.monotonic() + declaration.ready_within
        while not console.find(name, declaration.ready, mark):
            state = self.state_of(name)
            if state != "running" or time.monotonic() >= until:
                lines = console.lines(name, mark)
                why = (
                    f"is {state}" if state != "running" else f"has not said {declaration.ready!r} in {declaration.ready_within} s"
                )
                raise ToolstackError(f"domain {declaration.name}: the new one {why}{console.tail(lines)}", lines)
            time.sleep(0.1)

    def _switch(self, declaration: Declaration, old_id: int, new_id: int) -> dict[str, Any]:
        """The short moment without service: the old one leaves the bridge, the new one takes over."""
        mark = console.mark(declaration.name)
        began = time.monotonic()
        bridge_ports.leave(old_id)
        if declaration.state != "running":
            self._pause(declaration.name + PREVIOUS)
            return {}
        if declaration.update == "warm":
            bridge_ports.join(new_id)
        else:
            self._let_run(declaration.name)
            bridge_ports.lead_to(new_id)
        # Only now: the old one is deaf already, and this costs a process where there are no bindings.
        self._pause(declaration.name + PREVIOUS)
        for one in declaration.addresses:
            bridge_ports.announce(one.bridge, one.mac, one.address)
        healthy = prove(declaration, mark, self.state_of)
        return {"downtime_ms": round((healthy - began) * 1000)}

    def _recreate(self, step: Step, declaration: Declaration) -> dict[str, Any]:
        began = time.monotonic()
        self.stop(step.name, declaration.shutdown_timeout)
        try:
            for origin in step.origins:
                disks.grow(origin)
            self._create(step, declaration)
        except ToolstackError as error:
            lines = error.console or console.lines(step.name)
            if not step.text:
                raise
            if self.state_of(step.name) != "gone":
                self.destroy(step.name)
            # The definition on disk is still the former one.
            code, out, err = xl("create", definition_path(step.name))
            if code:
                raise ToolstackError(
                    f"{error}; and the former domain could not be started again: {last_words(err + out)}; NOTHING runs"
                    f" under that name, start it with: xl create {definition_path(step.name)}",
                    lines,
                ) from error
            raise ToolstackError(f"{error}; the former domain was started again", lines, True) from error
        return {"downtime_ms": round((time.monotonic() - began) * 1000)} if declaration.state == "running" else {}

    def _confirm(self, step: Step, declaration: Declaration) -> None:
        try:
            self._prove(declaration, 0)
        except ToolstackError as error:
            self.put_back(step.name)
            raise ToolstackError(f"{error}; the former domain was put back and runs", error.console, True) from error
        self.destroy(step.name + PREVIOUS)

    # -- changing a running domain ---------------------------------------------------------------

    def _set_live(self, step: Step, _declaration: Declaration) -> None:
        name, value = step.name, step.text
        if step.item == "cpus":
            must("vcpu-pin", name, "all", value)
        elif step.item == "vcpus":
            self._set_vcpus(name, int(value))
        else:
            scheduler = (self.hypercalls.scheduler() if self.hypercalls else "") or "sched-credit2"
            must(scheduler, "-d", name, "-w" if step.item == "cpu_weight" else "-c", value)

    @staticmethod
    def _set_vcpus(name: str, count: int) -> None:
        """A guest takes its vCPUs on and off line itself; one that does not is told back."""

        def vcpus_in_use() -> int:
            return len(re.findall(r"\s(?:r--|-b-|---)\s", must("vcpu-list", name)))  # --p: off line

        before = vcpus_in_use()
        must("vcpu-set", name, str(count))
        until = time.monotonic() + DEVICE_SECONDS
        while True:
            online = vcpus_in_use()
            if online == count:
                return
            if time.monotonic() >= until:
                must("vcpu-set", name, str(before))
                raise ToolstackError(
                    f"domain {name}: vcpus: the guest does not follow (it uses {online}, not {count}); it was told to stay at"
                    f" {before}; without live: true it would be replaced",
                    rolled_back=True,
                )
            time.sleep(0.2)

    def _attach(self, step: Step, _declaration: Declaration) -> None:
        device = step.device
        if device is None:
            return
        kind, command, text = ("vbd", "block", vbd(device)) if isinstance(device, Disk) else ("vif", "network", vif(device))
        domid, _state = self.find(step.name)
        before = self._devices(domid, kind)
        # xl reads the words of a vif one by one, those of a disk as one.
        code, out, err = xl(f"{command}-attach", step.name, *([text] if kind == "vbd" else text.split(",")))
        new = [one for one in self._devices(domid, kind) if one not in before]
        problem = f"xl says: {last_words(err + out)}" if code else self._connect(domid, kind, new)
        if problem:
            for one in new:  # a disk must be taken by force, for the guest will not let go of what it never had
                xl(f"{command}-detach", *(["--force"] if kind == "vbd" else []), step.name, one)
            raise ToolstackError(
                f"domain {step.name}: {step.item} could not be attached to the running domain: {problem}; it was taken away"
                " again; without live: true the domain would be replaced",
                rolled_back=True,
            )

    def _detach(self, step: Step, _declaration: Declaration) -> None:
        device = step.device
        if device is None:
            return
        kind, command = ("vbd", "block") if isinstance(device, Disk) else ("vif", "network")
        domid, _state = self.find(step.name)
        before = self._devices(domid, kind)
        one = device.vdev if isinstance(device, Disk) else self._devid(domid, device.mac)
        code, out, err = xl(f"{command}-detach", step.name, one)
        until = time.monotonic() + (DEVICE_SECONDS if not code else 0)
        while len(self._devices(domid, kind)) >= len(before):
            if time.monotonic() >= until:
                raise ToolstackError(
                    f"domain {step.name}: the guest does not give {step.item} back, it is still attached"
                    f" ({last_words(err + out) or 'xl says nothing'}); without live: true the domain would be replaced",
                    unchanged=True,
                )
            time.sleep(0.2)

    @staticmethod
    def _devices(domid: int, kind: str) -> list[str]:
        with Xenstore() as store:
            return store.directories([f"/libxl/{domid}/device/{kind}"])[0]

    @staticmethod
    def _devid(domid: int, mac: str) -> str:
        with Xenstore() as store:
            ids = store.directories([f"/libxl/{domid}/device/vif"])[0]
            macs = store.read([f"/libxl/{domid}/device/vif/{one}/mac" for one in ids])
        return next((one for one, own in zip(ids, macs) if (own or "").lower() == mac), mac)

    @staticmethod
    def _connect(domid: int, kind: str, devices: list[str]) -> str | None:
        """None when the guest has taken all of them, else why not."""
        until = time.monotonic() + DEVICE_SECONDS
        with Xenstore() as store:
            while True:
                states = store.read([f"/local/domain/{domid}/device/{kind}/{one}/state" for one in devices])
                if devices and all(state == _CONNECTED for state in states):
                    return None
                if not devices or time.monotonic() >= until:
                    return f"the guest does not take it (state {', '.join(map(str, states)) or 'none'})"
                time.sleep(0.2)


def _last_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()[-1].strip()
    except (OSError, IndexError):
        return "it says nothing"


def _kept(old_state: str) -> str:
    return "was put back and runs" if old_state == "running" else f"was put back and is {old_state}"
