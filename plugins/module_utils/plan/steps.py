# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The primitives that every plan consists of. Pure.

Each holds all that is needed to carry it out. `apply.perform` has one function for each, and so has the model of the unit tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..domain.spec import Disk, Health, Interface, Origin


@dataclass(frozen=True)
class Step:
    """One primitive. ``str(step)``: what it does, to what, for people."""

    def __str__(self) -> str:
        words = "".join(" " + letter.lower() if letter.isupper() else letter for letter in type(self).__name__).strip()
        return " ".join(filter(None, (words, *self.objects())))

    def objects(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class OfDomain(Step):
    """A step for the domain ``name``. One that needs nothing else is no dataclass of its own: each costs every call's import."""

    name: str

    def objects(self) -> tuple[str, ...]:
        return (self.name,)


# -- disks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MakeDisk(Step):
    """Make a disk's file that is missing; an existing one is never overwritten."""

    origin: Origin

    def objects(self) -> tuple[str, ...]:
        return (self.origin.path,)


class GrowDisk(MakeDisk):
    """Grow a disk to its declared size; no domain may have it open."""


@dataclass(frozen=True)
class RemoveDisk(Step):
    path: str

    def objects(self) -> tuple[str, ...]:
        return (self.path,)


# -- domains -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build(OfDomain):
    """Create a domain from the text of an xl file and leave it paused. Memory in MiB."""

    text: str = field(repr=False)
    memory: int
    qemu: bool = False  # QEMU in Dom0 serves one of its disks and must have attached it


@dataclass(frozen=True)
class Rename(OfDomain):
    new: str

    def objects(self) -> tuple[str, ...]:
        return (self.name, self.new)


class ReopenConsoles(Step):
    """Make xenconsoled reopen its logs after a rename: it names a log when it opens it."""


class ForgetConsole(OfDomain):
    """Remove its console's log, so that another domain of that name begins a new one."""


class Pause(OfDomain):
    """Stop its vCPUs."""


class Unpause(OfDomain):
    """Let its vCPUs run."""


@dataclass(frozen=True)
class Shutdown(OfDomain):
    """Ask the guest to shut down, wait at most ``within`` seconds, then destroy it."""

    within: int


class Destroy(OfDomain):
    """Destroy at once, and wait until the name is free."""


@dataclass(frozen=True)
class AwaitConsole(OfDomain):
    """Wait until a line of the console matches. ``within``: seconds."""

    pattern: str
    within: int


@dataclass(frozen=True)
class AwaitHealthy(OfDomain):
    """Wait until the health check passes; without one, until the domain has been idle for ``settle`` seconds.

    It fails if the domain stops or restarts meanwhile. Times are seconds.
    """

    health: Health | None
    settle: int
    ready: str = ""  # without a health check: ``settle`` begins at this console line
    ready_within: int = 60  # without a health check: ``settle`` begins after so long in any case


# -- network -------------------------------------------------------------------------------------


class LeaveBridge(OfDomain):
    """Take the domain's vifs off their bridges, which forget its MACs at once."""


class JoinBridge(OfDomain):
    """Put the domain's vifs (back) on the bridges that it was created with."""


class LeadTo(OfDomain):
    """Make the bridges forward to the domain before it has sent anything itself."""


@dataclass(frozen=True)
class Announce(Step):
    """Tell a bridge's neighbours that an address is now at this MAC."""

    bridge: str
    mac: str
    address: str

    def objects(self) -> tuple[str, ...]:
        return (self.address, "on", self.bridge)


# -- files beside Xen ----------------------------------------------------------------------------


@dataclass(frozen=True)
class WriteIntent(OfDomain):
    """Write what a change will make of the domain and what it was, for a run after this one dies. `Define` removes it."""

    text: str = field(repr=False)
    former: str  # its state before the change: running, paused, stopped or absent


class RemoveIntent(OfDomain):
    """Remove what `WriteIntent` wrote."""


@dataclass(frozen=True)
class Define(OfDomain):
    """Write the definition and remove the intent: what is defined has been healthy."""

    text: str = field(repr=False)


class Undefine(OfDomain):
    """Remove the definition."""


class Autostart(OfDomain):
    """Start it when the host boots."""


class NoAutostart(OfDomain):
    """Don't start it when the host boots."""


# -- a running domain ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SetVcpus(OfDomain):
    count: int


@dataclass(frozen=True)
class PinCpus(OfDomain):
    cpus: str  # as xl reads them; "all" for no pinning


@dataclass(frozen=True)
class SetShare(OfDomain):
    """Set the CPU share: ``option`` is cpu_weight or cap."""

    option: str
    value: int

    def objects(self) -> tuple[str, ...]:
        return (self.name, self.option, str(self.value))


@dataclass(frozen=True)
class Attach(OfDomain):
    device: Disk | Interface

    def objects(self) -> tuple[str, ...]:
        return (self.name, label(self.device))


@dataclass(frozen=True)
class Detach(Attach):
    """``force``: detach without the guest's consent, because it never used the device."""

    force: bool = False


def label(device: Disk | Interface) -> str:
    """Return a device's name for users: vdev or MAC."""
    return device.vdev if isinstance(device, Disk) else device.mac
