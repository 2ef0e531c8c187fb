# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What Xen would find out half-way: files, kernels, disks and bridges that a plan needs and that must be there."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable

from ..domain.observed import Host
from ..domain.spec import BLOCK, Disk, Domain, Origin
from ..health.checks import lacking
from ..image.kernels import bootable
from ..plan.plan import Plan
from ..plan.steps import Attach, Build, MakeDisk
from ..xen import disks
from ..xen.shared_storage import holder

# Where Debian's libxl looks for the QEMU that serves qcow2 disks.
QEMU = "/usr/libexec/xen-qemu-system-i386"


class Findings:
    """``problems`` refuse the run; ``missing`` too, though in check mode an earlier task may make it; ``warnings`` do not."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.missing: list[str] = []
        self.warnings: list[str] = []


def check(plan: Plan, host: Host) -> Findings:
    """What stands in the way of ``plan``."""
    findings = Findings()
    if plan.declaration.state == "absent":
        return findings
    _check_origins(plan, host, findings)
    if any(isinstance(step, (Build, Attach)) for step in plan.steps):
        where, domain = f"domain {plan.name}", plan.wanted
        _check_kernel(where, domain, findings)
        for disk in domain.disks:
            _check_disk(where, disk, plan, findings)
        if any(disk.format != "raw" for disk in domain.disks) and not os.path.exists(QEMU):
            findings.missing.append(
                f"{where}: disks: format qcow2 needs QEMU in Dom0: set xen_host_qemu: true (package qemu-system-xen), or"
                " declare a raw disk with this one as its source"
            )
        findings.missing += [
            f"{where}: interfaces: {interface.bridge} is not a bridge of this host"
            for interface in domain.interfaces
            if not os.path.isdir(f"/sys/class/net/{interface.bridge}/bridge")
        ]
        absent = lacking(plan.declaration.health) if plan.declaration.health else None
        if absent:
            findings.missing.append(f"{where}: health: {absent}")
    return findings


def _check_kernel(where: str, domain: Domain, findings: Findings) -> None:
    kernel = domain.kernel
    if not os.path.exists(kernel):
        findings.missing.append(f"{where}: kernel: {kernel} does not exist on this host")
    else:
        image = bootable(kernel, domain.type)
        if not image.ok:
            findings.problems.append(f"{where}: kernel: {kernel}: {image.problem}")
        elif image.memory_size > domain.memory << 20:
            least = -(-image.memory_size // (1 << 20))
            findings.problems.append(f"{where}: memory: is {domain.memory} MiB, the image alone takes {least} MiB")
    if domain.ramdisk and not os.path.isfile(domain.ramdisk):
        findings.missing.append(f"{where}: ramdisk: {domain.ramdisk} is not a file on this host")


def _check_disk(where: str, disk: Disk, plan: Plan, findings: Findings) -> None:
    if not os.path.exists(disk.path):
        if not any(origin.path == disk.path for origin in plan.declaration.origins):
            findings.missing.append(f"{where}: disks: {disk.path} does not exist on this host")
        return
    status = os.stat(disk.path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        findings.problems.append(f"{where}: disks: {disk.path} is neither a file nor a block device")
        return
    if stat.S_ISREG(status.st_mode) and disk.format == "raw" and status.st_size % BLOCK:
        seen = status.st_size // BLOCK * BLOCK
        findings.warnings.append(
            f"{where}: disks: {disk.path} has {status.st_size} bytes, which is no multiple of {BLOCK}: a MirageOS unikernel sees"
            f" the first {seen} only (truncate -s %{BLOCK} {disk.path})"
        )
    if disk.shared:
        user = holder(disk, plan.name)
        if user:
            findings.problems.append(
                f"{where}: disks: {disk.path} is in use, by {user}; only one domain may open a disk for writing"
            )


def _check_origins(plan: Plan, host: Host, findings: Findings) -> None:
    """Disks that are to be made or grown."""
    made = {step.origin.path for step in plan.steps if type(step) is MakeDisk}
    for origin in plan.declaration.origins:
        where = f"domain {plan.name}: disks: {origin.path}"
        there = host.disk_sizes.get(origin.path)
        if there is None:
            if origin.path in made:
                _check_new(where, origin, plan, findings)
        elif origin.content is None and origin.size and there > origin.size:
            findings.problems.append(
                f"{where}: has {there} bytes, declared are {origin.size}; shrinking would lose data:"
                " declare its size, or make a new disk"
            )
        elif not os.path.isfile(origin.path) and origin.size > there:
            findings.problems.append(f"{where}: is a device of {there} bytes and can't be grown to {origin.size}")


def _check_new(where: str, origin: Origin, plan: Plan, findings: Findings) -> None:
    problem = disks.place_problem(origin.path)
    if problem:
        findings.problems.append(f"{where}: {problem}")
        return
    if origin.content is None and _had(plan, origin.path):
        findings.problems.append(
            f"{where}: was a disk of this domain and is gone: is its file system mounted, its volume group active? An empty"
            " one is not put in its place; if the data is lost indeed, create the file yourself"
        )
        return
    if origin.source and not os.path.isfile(origin.source):
        findings.missing.append(f"{where}: its source {origin.source} is not a file on this host")
    elif origin.source:
        problem = disks.source_problem(origin.source)
        if problem:
            findings.problems.append(f"{where}: source {origin.source}: {problem}")
    if _needs_qemu_img(origin) and not shutil.which("qemu-img"):
        findings.missing.append(f"{where}: needs qemu-img on this host: apt-get install qemu-utils")


def _had(plan: Plan, path: str) -> bool:
    """Did it have this disk, by its definition or by what runs?"""
    target = re.escape(path.replace("\\", "\\\\").replace('"', '\\"'))
    defined = re.search(rf'target={target}"', plan.former.definition or "")
    running = plan.former.domain.disks if plan.former.domain else ()
    return bool(defined) or any(disk.path == path for disk in running)


def _needs_qemu_img(origin: Origin) -> bool:
    return origin.format != "raw" or bool(
        origin.source and os.path.isfile(origin.source) and disks.source_format(origin.source) != "raw"
    )


def report(findings: list[Findings], refuse: bool, warn: Callable[[str], None]) -> list[str]:
    """What refuses the run. Without ``refuse`` (check mode) what is missing is a warning: a real run may bring it before."""
    problems = [line for each in findings for line in each.problems]
    missing = [line for each in findings for line in each.missing]
    for line in (line for each in findings for line in each.warnings):
        warn(line)
    if refuse:
        return problems + missing
    for line in missing:
        warn(line + " (in a real run an earlier task may create it)")
    return problems
