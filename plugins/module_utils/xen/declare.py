# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. From the options of the modules to what happened: read, observe, plan, check, perform."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..domain.plan import Host, Plan, memory_shortage, plan
from ..domain.spec import Declaration, SpecError, clashes, declaration_of, outside_networks
from ..image.elf import ImageError, inspect_file
from .journal import Lock, LockError
from .network import bridge_networks
from .toolstack import CONSOLE_LINES, Toolstack, ToolstackError

# Where Debian's libxl looks for the QEMU that serves qcow2 and vmdk disks.
QEMU = "/usr/libexec/xen-qemu-system-i386"


class Refused(Exception):
    """One line; nothing on the host was changed."""


def _check_files(one: Plan, host: Host, missing: Callable[[str], None]) -> None:
    """What Xen would find out half-way: kernel, disks, bridges. Only for domains that are to be built."""
    builds = [step.domain for step in one.steps if step.domain and step.action in ("create", "replace", "recreate")]
    for domain in builds:
        where = f"domain {domain.name}"
        if not os.path.exists(domain.kernel):
            missing(f"{where}: kernel: {domain.kernel} does not exist on this host")
        else:
            try:
                image = inspect_file(domain.kernel)
            except (ImageError, OSError) as error:
                raise Refused(f"{where}: kernel: {domain.kernel}: {getattr(error, 'strerror', None) or error}") from error
            least = -(-image.memory_size // (1 << 20))
            if image.memory_size > domain.memory << 20:
                raise Refused(f"{where}: memory: is {domain.memory} MiB, the image alone takes {least} MiB")
        for disk in domain.disks:
            if not os.path.exists(disk.path):
                missing(f"{where}: disks: {disk.path} does not exist on this host")
                continue
            mode = os.stat(disk.path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise Refused(f"{where}: disks: {disk.path} is neither a file nor a block device")
            if disk.format != "raw" and not os.path.exists(QEMU):
                raise Refused(
                    f"{where}: disks: format {disk.format} needs QEMU in Dom0: set xen_host_qemu: true (package"
                    " qemu-system-xen), or convert the disk to raw with qemu-img"
                )
            for other in host.domains:
                if other.domain.name.split("~")[0] != domain.name and any(
                    used.path == disk.path and "w" in (used.access, disk.access) for used in other.domain.disks
                ):
                    raise Refused(f"{where}: disks: {disk.path} is used by domain {other.domain.name}; one may write alone")
        for interface in domain.interfaces:
            if not os.path.isdir(f"/sys/class/net/{interface.bridge}/bridge"):
                missing(f"{where}: interfaces: {interface.bridge} is not a bridge of this host")


def _check_strangers(declarations: list[Declaration], host: Host) -> None:
    """MACs of domains that are not in this call."""
    names = {declaration.name for declaration in declarations}
    for observed in host.domains:
        base = observed.domain.name.split("~")[0]
        for declaration in declarations:
            if base in names or declaration.state == "absent":
                continue
            both = {one.mac for one in declaration.domain.interfaces} & {one.mac for one in observed.domain.interfaces}
            if both:
                raise Refused(f"domain {declaration.name}: mac {both.pop()} is used by running domain {base}")


def _carry_out(one: Plan, toolstack: Toolstack, lock: Lock) -> dict[str, Any]:
    done: list[str] = []
    for step in one.steps:
        try:
            toolstack.perform(step, one.declaration, lock)
        except ToolstackError as error:
            return {
                "failed": True,
                "changed": bool(done) or not error.rolled_back,
                "msg": str(error),
                "rolled_back": error.rolled_back,
                "console": error.console[-CONSOLE_LINES:],
                "steps": done,
            }
        done.append(str(step))
    return {"failed": False, "changed": bool(done), "steps": done}


def declare(
    options: list[dict[str, Any]],
    check: bool,
    warn: Callable[[str], None],
    purge: bool = False,
    lock_timeout: int = 60,
    parallel: int = 1,
) -> list[dict[str, Any]]:
    """Make every domain of ``options`` what it is declared to be. Raise `Refused` before anything changes.

    At most ``parallel`` domains are worked on at once.

    Returns for each: name, changed, failed, steps, diff {before, after}, and msg, console,
    rolled_back when it failed.
    """
    names = platform.node()
    try:
        declarations = [declaration_of(one, names) for one in options]
    except SpecError as error:
        raise Refused(str(error)) from error
    problems = clashes(declarations) + outside_networks(declarations, bridge_networks())
    if problems:
        raise Refused(problems[0])
    toolstack = Toolstack()
    if not toolstack.available():
        if not check:
            raise Refused("this host does not run under Xen (no /proc/xen/capabilities): run the role xen_host first")
        warn("this host does not run under Xen yet: predicting for a host without domains")
        return [_result(plan(one, Host(free_memory=1 << 30)), check=True) for one in declarations]
    if check:
        return _run(declarations, toolstack, None, warn, purge, parallel)
    try:
        with Lock(lock_timeout) as lock:
            return _run(declarations, toolstack, lock, warn, purge, parallel)
    except LockError as error:
        raise Refused(str(error)) from error


def _run(
    declarations: list[Declaration],
    toolstack: Toolstack,
    lock: Lock | None,
    warn: Callable[[str], None],
    purge: bool,
    parallel: int,
) -> list[dict[str, Any]]:
    def missing(line: str) -> None:
        if lock:
            raise Refused(line)
        warn(line + " (a real run may bring it before)")

    try:
        host = toolstack.observe()
    except ToolstackError as error:
        raise Refused(str(error)) from error
    if purge:
        kept = {declaration.name for declaration in declarations}
        strays = {one.domain.name.split("~")[0] for one in host.domains if host.owns(one)} | set(host.definitions)
        declarations = declarations + [
            declaration_of({"name": name, "state": "absent"}, platform.node()) for name in sorted(strays - kept)
        ]
    try:
        plans = [plan(declaration, host) for declaration in declarations]
    except SpecError as error:
        raise Refused(str(error)) from error
    shortage = memory_shortage(plans, host)
    if shortage:
        raise Refused(shortage)
    _check_strangers(declarations, host)
    for one in plans:
        _check_files(one, host, missing)
    if lock is None:
        return [_result(one, check=True) for one in plans]
    held = lock
    with ThreadPoolExecutor(parallel) as pool:
        outcomes = list(pool.map(lambda one: _carry_out(one, toolstack, held), plans))
    return [{**_result(one, check=False), **outcome} for one, outcome in zip(plans, outcomes)]


def _result(one: Plan, check: bool) -> dict[str, Any]:
    return {
        "name": one.declaration.name,
        "state": one.declaration.state,
        "changed": one.changed,
        "failed": False,
        "steps": [str(step) for step in one.steps] if check else [],
        "diff": {"before": one.before, "after": one.after},
    }
