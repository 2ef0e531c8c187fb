# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check what a plan needs: files, kernels, disks and bridges. Xen would find out only half-way through."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable

from ..domain.observed import Host
from ..domain.spec import BLOCK, CONTENT_PATH, Disk, Domain, Origin
from ..health.checks import lacking
from ..image.kernels import bootable
from ..image.policy import FOLDER, Policy, PolicyError, check_bootable, check_ramdisk, held_by
from ..plan.plan import Plan
from ..plan.steps import Attach, AwaitHealthy, Build, MakeDisk, RemoveDisk
from ..service.serials import has_zones, lost_keys, not_raised
from ..xen import disks
from ..xen.mounts import IN_MEMORY, file_system, missing_mount, mounted
from ..xen.observation import disk_size, kind_is_disk
from ..xen.shared_storage import holder

# Where Debian's libxl looks for the QEMU that serves qcow2 disks.
QEMU = "/usr/libexec/xen-qemu-system-i386"
# Placeholder for the domain's name in a kernel's refusal, which several domains may share.
_ANY = "%DOMAIN%"


class Findings:
    """Reasons against a plan. ``problems`` refuse it; so does ``missing``, but in check mode an earlier task may still make it.

    ``warnings`` don't.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.missing: list[str] = []
        self.warnings: list[str] = []


class Kernels:
    """Check that kernels can boot, and may boot by the host's image policy. Each file is read once per run."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}
        self._policy: Policy | None = None

    def refusal(self, path: str) -> str | None:
        if not self._known:
            self._policy = held_by(FOLDER)
        if path not in self._known:
            self._known[path] = check_bootable(path, _ANY, self._policy)
        return self._known[path]

    def ramdisk_refusal(self, path: str) -> str | None:
        return check_ramdisk(path, _ANY, held_by(FOLDER))


def check(plan: Plan, host: Host, kernels: Kernels, returns: bool = False) -> Findings:
    """Return what stands in the way of ``plan``. ``returns``: it restores a previous generation, whose disks were made then."""
    findings = Findings()
    _check_removals(plan, findings)
    if plan.declaration.state == "absent":
        return findings
    _check_origins(plan, host, findings, returns)
    if any(isinstance(step, (Build, Attach)) for step in plan.steps):
        where, domain = f"domain {plan.name}", plan.wanted
        _check_kernel(where, domain, findings, kernels)
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
    asked = any(isinstance(step, AwaitHealthy) and step.health for step in plan.steps)
    absent = lacking(plan.declaration.health) if asked and plan.declaration.health else None
    if absent:
        findings.missing.append(f"domain {plan.name}: health: {absent}")
    return findings


def _check_removals(plan: Plan, findings: Findings) -> None:
    for path in [step.path for step in plan.steps if isinstance(step, RemoveDisk)]:
        problem = disks.removal_problem(path)
        missing = "" if os.path.lexists(path) else missing_mount(path, mounted())
        if missing and not problem:
            problem = f"can't be removed, because {_unmounted(missing)}"
        if problem:
            findings.problems.append(f"domain {plan.name}: disks: {path} {problem} (disks_on_absent: keep leaves it)")


def _check_kernel(where: str, domain: Domain, findings: Findings, kernels: Kernels) -> None:
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
        try:
            refusal = kernels.refusal(kernel) if image.ok else None
            if domain.ramdisk and os.path.isfile(domain.ramdisk):
                refusal = refusal or kernels.ramdisk_refusal(domain.ramdisk)
        except PolicyError as error:
            refusal = str(error)
        if refusal:
            findings.problems.append(refusal.replace(_ANY, domain.name, 1))
    if domain.ramdisk and not os.path.isfile(domain.ramdisk):
        findings.missing.append(f"{where}: ramdisk: {domain.ramdisk} is not a file on this host")


def _check_disk(where: str, disk: Disk, plan: Plan, findings: Findings) -> None:
    if not os.path.exists(disk.path):
        if not any(origin.path == disk.path for origin in plan.declaration.origins):
            findings.missing.append(f"{where}: disks: {disk.path} does not exist on this host")
        return
    status = os.stat(disk.path)
    problem = disks.no_disk(disk.path) or ("" if kind_is_disk(status.st_mode) else "is neither a file nor a block device")
    if problem:
        findings.problems.append(f"{where}: disks: {disk.path} {problem}")
        return
    if disk.format == "qcow2" and not disk_size(disk.path, "qcow2"):
        findings.problems.append(f"{where}: disks: {disk.path} is not a qcow2 image: declare format: raw, or convert it")
        return
    _check_names(f"{where}: disks: {disk.path}", disk.path, disk.format, findings)
    if stat.S_ISREG(status.st_mode) and disk.format == "raw" and status.st_size % BLOCK:
        seen = status.st_size // BLOCK * BLOCK
        findings.warnings.append(
            f"{where}: disks: {disk.path} has {status.st_size} bytes, which is not a multiple of {BLOCK}: a MirageOS unikernel"
            f" sees only the first {seen} (truncate -s %{BLOCK} {disk.path})"
        )
    if disk.shared:
        user = holder(disk, plan.name)
        if user:
            findings.problems.append(
                f"{where}: disks: {disk.path} is in use, by {user}; only one domain may open a disk for writing"
            )


def _check_names(where: str, path: str, form: str, findings: Findings) -> None:
    problem = disks.names_another(path, form)
    if problem:
        findings.problems.append(f"{where}: {problem}")


def _check_origins(plan: Plan, host: Host, findings: Findings, returns: bool) -> None:
    """Check the disks to be made or grown."""
    made = {step.origin.path for step in plan.steps if type(step) is MakeDisk}
    for origin in plan.declaration.origins:
        where = f"domain {plan.name}: disks: {origin.path}"
        there = host.disk_sizes.get(origin.path)
        if there is None:
            if origin.path in made:
                _check_new(where, origin, plan, host, findings, returns)
        elif origin.content is None and origin.size and there > origin.size:
            findings.problems.append(
                f"{where}: has {there} bytes, declared are {origin.size}; shrinking would lose data:"
                " declare its size, or create a new disk"
            )
        elif not os.path.isfile(origin.path) and origin.size > there:
            findings.problems.append(f"{where}: is a device of {there} bytes and can't be grown to {origin.size}")
        elif origin.size > there:
            _check_names(where, origin.path, origin.format, findings)


def _check_new(where: str, origin: Origin, plan: Plan, host: Host, findings: Findings, returns: bool) -> None:
    problem = disks.place_problem(origin.path) or _in_the_way(origin.path) or _lost(origin, plan, host, returns)
    if problem:
        findings.problems.append(f"{where}: {problem}")
        return
    problems, warnings = _zones(origin, plan, host)
    findings.problems += [f"domain {plan.name}: {line}" for line in problems]
    findings.warnings += [f"domain {plan.name}: {line}" for line in warnings]
    kind = file_system(origin.path, mounted())
    if kind in IN_MEMORY and origin.content is None:
        findings.warnings.append(f"{where}: is created on {kind}, in Dom0's memory, so it is lost when the host reboots")
    if origin.source and not os.path.isfile(origin.source):
        findings.missing.append(f"{where}: its source {origin.source} is not a file on this host")
    elif origin.source:
        problem = disks.source_problem(origin.source)
        if problem:
            findings.problems.append(f"{where}: source {origin.source}: {problem}")
    if _needs_qemu_img(origin) and not shutil.which("qemu-img"):
        findings.missing.append(f"{where}: needs qemu-img on this host: apt-get install qemu-utils")


def _zones(origin: Origin, plan: Plan, host: Host) -> tuple[list[str], list[str]]:
    """Problems and warnings of zones that others would not follow, from the disk that the domain has to the new one."""
    if origin.content is None or not has_zones(origin.content):
        return [], []
    paths, observed = host.contents_of(plan.name), host.find(plan.name)
    if observed:
        used = {disk.path for disk in observed.domain.disks}
        paths = [path for path in paths if path in used]
    problems: dict[str, None] = {}
    warnings: dict[str, None] = {}
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                served = file.read().rstrip("\0")
        except OSError:  # it has just gone: then there is nothing to compare with
            continue
        lost, unsigned = lost_keys(served, origin.content)
        problems.update(dict.fromkeys(lost))
        warnings.update(dict.fromkeys([*not_raised(served, origin.content), *unsigned]))
    return list(problems), list(warnings)


def _lost(origin: Origin, plan: Plan, host: Host, returns: bool) -> str | None:
    """Return why making an empty disk would hide lost data; None if it would not."""
    # What a disk of a service's content is made from is kept on the host.
    if origin.content is not None or (origin.source and CONTENT_PATH.fullmatch(origin.path)):
        return None
    whose = _whose(plan, origin.path, host) or ("this domain" if returns else "")
    if whose:
        return (
            f"was a disk of {whose} and is gone: is its file system mounted, its volume group active? It is not replaced with"
            " an empty one; if the data is lost, create the file yourself, or declare the domain once with state: absent and"
            " disks_on_absent: remove"
        )
    missing = missing_mount(origin.path, mounted())
    return _unmounted(missing) if missing else None


def _unmounted(point: str) -> str:
    return f"nothing is mounted at {point}, which this host's fstab or a unit of systemd names: mount it"


def _in_the_way(path: str) -> str | None:
    """Return what is at the path if it is not a disk; a new one would never replace it."""
    if not os.path.lexists(path):
        return None
    kind = "a link whose target does not exist" if not os.path.exists(path) else "a folder" if os.path.isdir(path) else "a pipe"
    return f"is {kind}; a disk is a file or a block device"


def _whose(plan: Plan, path: str, host: Host) -> str:
    """Return whose disk this was, even under another domain name; "" for nobody's."""
    names = host.users(path)
    if not names:
        return ""
    return "this domain" if plan.name in names else f"domain {names[0]}"


def _needs_qemu_img(origin: Origin) -> bool:
    return origin.format != "raw" or bool(
        origin.source and os.path.isfile(origin.source) and disks.source_format(origin.source) != "raw"
    )


def report(findings: list[Findings], refuse: bool, warn: Callable[[str], None]) -> list[str]:
    """Return what refuses the run. Without ``refuse`` (check mode) ``missing`` is a warning: a real run may create it first."""
    problems = [line for each in findings for line in each.problems]
    missing = [line for each in findings for line in each.missing]
    for line in (line for each in findings for line in each.warnings):
        warn(line)
    if refuse:
        return problems + missing
    for line in missing:
        warn(line + " (in a real run an earlier task may create it)")
    return problems
