# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. From the options of the modules to what happened: read, observe, plan, check, perform."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import threading
from collections.abc import Callable
from typing import Any

from ..domain.checks import clashes, cpu_refusal, outside_networks, shared_disks, strangers
from ..domain.compare import with_image
from ..domain.declaration import declaration_of, declarations_of
from ..domain.observed import Host
from ..domain.options import SpecError
from ..domain.plan import Plan, memory_shortage, plan
from ..domain.spec import CPU_WEIGHT, OVERHEAD_MIB, Declaration, Origin
from ..image.kernels import bootable
from . import console
from .disks import source_format
from .domain_facts import image_name
from .hypercalls import bindings
from .journal import Lock, LockError
from .network import bridge_networks
from .observation import available, observe
from .shared_storage import holder, with_shared
from .toolstack import Toolstack
from .xl import ToolstackError

# Where Debian's libxl looks for the QEMU that serves qcow2 disks.
QEMU = "/usr/libexec/xen-qemu-system-i386"


class Refused(Exception):
    """One line; nothing on the host was changed."""


class Room:
    """Memory for domains that stand by: those worked on at once must fit beside each other. MiB."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._at_work = 0
        self._changed = threading.Condition()

    def take(self, needed: int) -> None:
        """Wait until it is there; whoever is alone goes on and hears from Xen."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed or not self._at_work)
            self._free -= needed
            self._at_work += 1

    def give(self, freed: int) -> None:
        with self._changed:
            self._free += freed
            self._at_work -= 1
            self._changed.notify_all()


def _check_files(one: Plan, missing: Callable[[str], None]) -> None:
    """What Xen would find out half-way: kernel, disks, bridges. Only for domains that are to be built."""
    builds = [step.domain for step in one.steps if step.domain and step.action in ("create", "replace", "recreate", "attach")]
    for domain in builds:
        where = f"domain {domain.name}"
        _check_kernel(where, domain.kernel, domain.type, domain.memory, missing)
        if domain.ramdisk and not os.path.isfile(domain.ramdisk):
            missing(f"{where}: ramdisk: {domain.ramdisk} is not a file on this host")
        for disk in domain.disks:
            if not os.path.exists(disk.path):
                if any(origin.path == disk.path for origin in one.declaration.origins):
                    continue
                missing(f"{where}: disks: {disk.path} does not exist on this host")
                continue
            mode = os.stat(disk.path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise Refused(f"{where}: disks: {disk.path} is neither a file nor a block device")
            if disk.shared:
                other = holder(disk, domain.name)
                if other:
                    raise Refused(f"{where}: disks: {disk.path} is in use, by {other}; one may write alone")
        if any(disk.format != "raw" for disk in domain.disks) and not os.path.exists(QEMU):
            missing(
                f"{where}: disks: format qcow2 needs QEMU in Dom0: set xen_host_qemu: true (package qemu-system-xen), or"
                " declare a raw disk with this one as its source"
            )
        for interface in domain.interfaces:
            if not os.path.isdir(f"/sys/class/net/{interface.bridge}/bridge"):
                missing(f"{where}: interfaces: {interface.bridge} is not a bridge of this host")


def _check_kernel(where: str, kernel: str, kind: str, memory: int, missing: Callable[[str], None]) -> None:
    if not os.path.exists(kernel):
        return missing(f"{where}: kernel: {kernel} does not exist on this host")
    found = bootable(kernel, kind)
    if not found.ok:
        raise Refused(f"{where}: kernel: {kernel}: {found.problem}")
    least = -(-found.memory_size // (1 << 20))
    if found.memory_size > memory << 20:
        raise Refused(f"{where}: memory: is {memory} MiB, the image alone takes {least} MiB")
    return None


def _check_origins(declaration: Declaration, host: Host, missing: Callable[[str], None]) -> None:
    """Disks that are to be made or grown."""
    for origin in declaration.origins:
        where = f"domain {declaration.name}: disks: {origin.path}"
        there = host.disk_sizes.get(origin.path)
        if there is None:
            if origin.source and not os.path.isfile(origin.source):
                missing(f"{where}: its source {origin.source} is not a file on this host")
            elif _needs_qemu_img(origin) and not shutil.which("qemu-img"):
                missing(f"{where}: needs qemu-img on this host: apt-get install qemu-utils")
        elif origin.content is None and origin.size and there > origin.size:
            raise Refused(
                f"{where}: has {there} bytes, declared are {origin.size}; shrinking would lose data:"
                " declare its size, or make a new disk"
            )
        elif not os.path.isfile(origin.path) and origin.size > there:
            raise Refused(f"{where}: is a device of {there} bytes and can't be grown to {origin.size}")


def _needs_qemu_img(origin: Origin) -> bool:
    return origin.format != "raw" or bool(origin.source and source_format(origin.source) != "raw")


def _carry_out(one: Plan, toolstack: Toolstack, lock: Lock, room: Room) -> dict[str, Any]:
    done: list[str] = []
    told: dict[str, Any] = {}
    for step in one.steps:
        needed = step.domain.memory + OVERHEAD_MIB if step.domain and step.action in ("create", "replace") else 0
        room.take(needed)
        freed = needed
        try:
            told.update(toolstack.perform(step, one.declaration, lock))
            freed = int(one.before["memory"]) + OVERHEAD_MIB if step.action == "replace" else 0
        except ToolstackError as error:
            return {
                "failed": True,
                "changed": bool(done) or not (error.rolled_back or error.unchanged),
                "msg": str(error),
                "rolled_back": error.rolled_back,
                "console": error.console[-console.LINES :],
                "steps": done,
            }
        finally:
            room.give(freed)
        done.append(str(step))
    return {"failed": False, "changed": bool(done), "steps": done, **told}


def declare(
    options: list[dict[str, Any]],
    check: bool,
    warn: Callable[[str], None],
    purge: bool = False,
    lock_timeout: int = 60,
    parallel: int = 1,
    stop_at_failure: bool = False,
) -> list[dict[str, Any]]:
    """Make every domain of ``options`` what it is declared to be. Raise `Refused` before anything changes.

    At most ``parallel`` domains are worked on at once; with ``stop_at_failure`` none is begun after one has failed.

    Returns for each: name, state, changed, failed, steps, differs, diff {before, after}, downtime_ms after a
    switch, and msg, console, rolled_back when it failed.
    """
    try:
        declarations = declarations_of([with_shared(one) for one in options], platform.node())
    except SpecError as error:
        raise Refused(str(error)) from error
    problems = clashes(declarations) + outside_networks(declarations, bridge_networks())
    if problems:
        raise Refused("; and ".join(problems))
    if not available():
        if not check:
            raise Refused("this host does not run under Xen (no /proc/xen/capabilities): run the role xen_host first")
        warn("this host does not run under Xen yet: predicting for a host without domains")
        return [_result(plan(one, Host(free_memory=1 << 30)), check=True) for one in declarations]
    try:
        if check:
            return [_result(one, check=True) for one in _plans(declarations, purge, warn, None)[0]]
        with Lock(lock_timeout) as lock:
            plans, host = _plans(declarations, purge, warn, lock)
            return _perform(plans, host, lock, parallel, stop_at_failure)
    except (LockError, ToolstackError) as error:
        raise Refused(str(error)) from error


def _plans(
    declarations: list[Declaration], purge: bool, warn: Callable[[str], None], lock: Lock | None
) -> tuple[list[Plan], Host]:
    """What to do, after every check that needs the host. Without a lock nothing will be done: what is missing is a warning."""

    def missing(line: str) -> None:
        if lock:
            raise Refused(line)
        warn(line + " (a real run may bring it before)")

    files = {origin.path: origin.format for one in declarations for origin in one.origins}
    scheduling = any(one.domain.cpu_weight != CPU_WEIGHT or one.domain.cap for one in declarations)
    host = observe(files, scheduling)
    try:
        if purge:
            kept = {declaration.name for declaration in declarations}
            strays = {one.domain.name.split("~")[0] for one in host.domains if host.owns(one)} | set(host.definitions)
            declarations = declarations + [
                declaration_of({"name": name, "state": "absent"}, platform.node()) for name in sorted(strays - kept)
            ]
        plans = [plan(declaration, host) for declaration in declarations]
    except SpecError as error:
        raise Refused(str(error)) from error
    problems = [line for line in (memory_shortage(plans, host),) if line]
    problems += strangers(declarations, host.domains) + shared_disks(declarations, host.domains)
    problems += [line for one in declarations if one.state != "absent" for line in (cpu_refusal(one.domain, host),) if line]
    if problems:
        raise Refused("; and ".join(problems))
    for one in plans:
        if one.declaration.state != "absent":
            _check_origins(one.declaration, host, missing)
            _check_files(one, missing)
    return plans, host


def _perform(plans: list[Plan], host: Host, lock: Lock, parallel: int, stop_at_failure: bool) -> list[dict[str, Any]]:
    if not any(one.steps for one in plans):
        return [_result(one, check=False) for one in plans]
    toolstack, room, stopped = Toolstack(bindings()), Room(host.free_memory), threading.Event()

    def carry_out(one: Plan) -> dict[str, Any]:
        if stopped.is_set():
            return {"changed": False, "steps": [], "skipped": True}
        outcome = _carry_out(one, toolstack, lock, room)
        if outcome["failed"] and stop_at_failure:
            stopped.set()
        return outcome

    from concurrent.futures import ThreadPoolExecutor  # here: it takes long to load, and most runs change nothing

    with ThreadPoolExecutor(parallel) as pool:
        outcomes = list(pool.map(carry_out, plans))
    return [{**_result(one, check=False), **outcome} for one, outcome in zip(plans, outcomes)]


def _result(one: Plan, check: bool) -> dict[str, Any]:
    diff = {"before": one.before, "after": one.after}
    if one.changed:
        diff = {side: with_image(options, image_name) for side, options in diff.items()}
    return {
        "name": one.declaration.name,
        "state": one.declaration.state,
        "changed": one.changed,
        "failed": False,
        "steps": [str(step) for step in one.steps] if check else [],
        "differs": list(one.differs),
        "diff": diff,
    }
