# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ways to replace or change a domain: lists of primitives, ordered so that a failure anywhere can be rolled back. Pure.

standby   create the new domain paused beside the old one, then switch over in one short step
warm      the same, but the new domain boots before the switch, with its vifs off the bridge
recreate  stop the old domain first: no memory for two, or both would write one disk
live      change the running domain
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..domain.compare import options_of
from ..domain.fields import LIVE
from ..domain.observed import Host, Observed
from ..domain.spec import NEXT, OVERHEAD_MIB, PREVIOUS, Declaration, Disk, Domain, Interface, Origin, plain_path
from ..domain.xl_config import xl_config
from .plan import Former, Phase
from .steps import (
    Announce,
    Attach,
    AwaitConsole,
    AwaitHealthy,
    Build,
    Define,
    Destroy,
    Detach,
    ForgetConsole,
    GrowDisk,
    JoinBridge,
    LeadTo,
    LeaveBridge,
    Pause,
    PinCpus,
    Rename,
    ReopenConsoles,
    SetShare,
    SetVcpus,
    Shutdown,
    Step,
    Unpause,
    WriteIntent,
)


def build(domain: Domain, name: str) -> Build:
    return Build(name, xl_config(domain, name), domain.memory, any(disk.format != "raw" for disk in domain.disks))


def healthy(declaration: Declaration) -> AwaitHealthy:
    # With update: warm the ready line was awaited before the switch.
    ready = "" if declaration.update == "warm" else declaration.ready
    return AwaitHealthy(declaration.name, declaration.health, declaration.settle, ready, declaration.ready_within)


def create(declaration: Declaration, wanted: Domain, former: Former) -> Phase:
    """Create the domain; none of its name runs."""
    name, text = declaration.name, xl_config(wanted)
    run: list[Step] = [Unpause(name), healthy(declaration)] if declaration.state == "running" else []
    steps = [WriteIntent(name, text, former.state), build(wanted, name), *run, Define(name, text)]
    return Phase(f"create {name}", tuple(steps))


def replace(
    declaration: Declaration, wanted: Domain, current: Observed, host: Host, growing: tuple[Origin, ...], former: Former
) -> Phase:
    """Replace the domain beside the old one if that is asked for and possible, else recreate it."""
    if _alone(declaration, wanted, current, host, growing):
        return recreate(declaration, wanted, current, growing, former)
    return beside(declaration, wanted, current, former)


def _alone(declaration: Declaration, wanted: Domain, current: Observed, host: Host, growing: tuple[Origin, ...]) -> bool:
    writes = {plain_path(disk.path) for disk in current.domain.disks + wanted.disks if disk.access == "w"}
    paths = {plain_path(disk.path) for disk in current.domain.disks} & {plain_path(disk.path) for disk in wanted.disks}
    devices = {vif.vifname for vif in current.domain.interfaces} & {vif.vifname for vif in wanted.interfaces} - {""}
    return bool(
        declaration.update == "recreate"
        or growing
        or host.free_memory < wanted.memory + OVERHEAD_MIB
        # Two domains must never have one disk open for writing, not even with one of them paused.
        or writes & paths
        # Two network devices of Dom0 can't share a name.
        or devices
    )


def beside(declaration: Declaration, wanted: Domain, current: Observed, former: Former) -> Phase:
    """Plan standby or warm. Until the new domain is defined, a death or a failure anywhere leads back to the old one."""
    name, text = declaration.name, xl_config(wanted)
    warm = declaration.update == "warm" and declaration.state == "running"
    steps: list[Step] = [WriteIntent(name, text, former.state), build(wanted, name + NEXT)]
    if warm:
        steps += [
            LeaveBridge(name + NEXT),
            Unpause(name + NEXT),
            AwaitConsole(name + NEXT, declaration.ready, declaration.ready_within),
        ]
    # While the old domain still serves. From the first rename on there is a NAME~prev, which recovery puts back.
    steps += [Rename(name, name + PREVIOUS), Rename(name + NEXT, name), ReopenConsoles()]
    away, answers = LeaveBridge(name + PREVIOUS), healthy(declaration)
    steps.append(away)
    if warm:
        steps.append(JoinBridge(name))
    elif declaration.state == "running":
        steps += [Unpause(name), LeadTo(name)]
    # Only now: the old domain is already off the bridge, and pausing may take a process.
    steps.append(Pause(name + PREVIOUS))
    if declaration.state == "running":
        steps += [Announce(claim.bridge, claim.mac, claim.address) for claim in declaration.addresses]
        steps.append(answers)
    # Define it before destroying the old one: if the disk is full, the old one comes back.
    steps += [Define(name, text), Destroy(name + PREVIOUS), ForgetConsole(name + NEXT), ForgetConsole(name + PREVIOUS)]
    return Phase(
        f"replace {name} ({'warm' if warm else 'standby'})",
        tuple(steps),
        frees=current.domain.memory + OVERHEAD_MIB,
        downtime=(away, answers) if declaration.state == "running" else None,
    )


def recreate(declaration: Declaration, wanted: Domain, current: Observed, growing: tuple[Origin, ...], former: Former) -> Phase:
    name, text = declaration.name, xl_config(wanted)
    away, answers = Shutdown(name, declaration.shutdown_timeout), healthy(declaration)
    steps: list[Step] = [WriteIntent(name, text, former.state), away]
    steps += [GrowDisk(origin) for origin in growing]
    steps.append(build(wanted, name))
    if declaration.state == "running":
        steps += [Unpause(name), answers]
    steps.append(Define(name, text))
    return Phase(
        f"recreate {name}",
        tuple(steps),
        frees=current.domain.memory + OVERHEAD_MIB,
        downtime=(away, answers) if declaration.state == "running" else None,
    )


def live(name: str, wanted: Domain, current: Observed | None, differs: tuple[str, ...], force: bool = False) -> list[Step]:
    """Return the steps that turn the running domain into ``wanted``; [] if it has to be replaced.

    ``force``: detach disks without the guest's consent, because it never used them.
    """
    if not differs or current is None or current.state != "running" or set(options_of(differs)) - LIVE:
        return []
    steps: list[Step] = []
    for option in options_of(differs):
        if option == "vcpus":
            if wanted.vcpus > (current.max_vcpus or current.domain.vcpus):
                return []
            steps.append(SetVcpus(name, wanted.vcpus))
        elif option == "cpus":
            steps.append(PinCpus(name, wanted.cpus or "all"))
        elif option in ("cpu_weight", "cap"):
            steps.append(SetShare(name, option, getattr(wanted, option)))
        else:
            changes = _device_changes(getattr(current.domain, option), getattr(wanted, option), option)
            if changes is None:
                return []
            steps += [
                Attach(name, device) if action == "attach" else Detach(name, device, force and isinstance(device, Disk))
                for action, device in changes
            ]
    return steps


def _device_changes(old: tuple[Any, ...], new: tuple[Any, ...], option: str) -> list[tuple[str, Disk | Interface]] | None:
    """Return what to detach and attach; None if a device itself or the order would change, which a guest can't follow."""
    key = "vdev" if option == "disks" else "mac"
    leaving = [device for device in old if getattr(device, key) not in _keys(new, key)]
    coming = [device for device in new if getattr(device, key) not in _keys(old, key)]
    if tuple(device for device in old if device not in leaving) + tuple(coming) != new:
        return None
    return [("detach", device) for device in leaving] + [("attach", device) for device in coming]


def _keys(devices: tuple[Any, ...], key: str) -> set[str]:
    return {getattr(device, key) for device in devices}


def live_phases(name: str, steps: list[Step]) -> Iterator[Phase]:
    for step in steps:
        if isinstance(step, Attach):
            yield Phase(f"{'detach' if isinstance(step, Detach) else 'attach'} {' '.join(step.objects())}", (step,))
        else:
            option = {SetVcpus: "vcpus", PinCpus: "cpus"}.get(type(step)) or getattr(step, "option", "")
            yield Phase(f"set_live {name} {option}", (step,))
