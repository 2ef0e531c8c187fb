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
        return (str(getattr(self, "name", "")),)


# -- disks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MakeDisk(Step):
    """Make a disk's file that is missing; an existing one is never overwritten."""

    origin: Origin

    def objects(self) -> tuple[str, ...]:
        return (self.origin.path,)


@dataclass(frozen=True)
class GrowDisk(MakeDisk):
    """Grow a disk to its declared size; no domain may have it open."""


@dataclass(frozen=True)
class RemoveDisk(Step):
    path: str

    def objects(self) -> tuple[str, ...]:
        return (self.path,)


# -- domains -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build(Step):
    """Create a domain from the text of an xl file and leave it paused. Memory in MiB."""

    name: str
    text: str = field(repr=False)
    memory: int
    qemu: bool = False  # QEMU in Dom0 serves one of its disks and must have attached it


@dataclass(frozen=True)
class Rename(Step):
    name: str
    new: str

    def objects(self) -> tuple[str, ...]:
        return (self.name, self.new)


@dataclass(frozen=True)
class ReopenConsoles(Step):
    """Make xenconsoled reopen its logs after a rename: it names a log when it opens it."""


@dataclass(frozen=True)
class ForgetConsole(Step):
    name: str


@dataclass(frozen=True)
class Pause(Step):
    name: str


@dataclass(frozen=True)
class Unpause(Step):
    name: str


@dataclass(frozen=True)
class Shutdown(Step):
    """Ask the guest to shut down, wait at most ``within`` seconds, then destroy it."""

    name: str
    within: int


@dataclass(frozen=True)
class Destroy(Step):
    """Destroy at once, and wait until the name is free."""

    name: str


@dataclass(frozen=True)
class AwaitConsole(Step):
    """Wait until a line of the console matches. ``within``: seconds."""

    name: str
    pattern: str
    within: int


@dataclass(frozen=True)
class AwaitHealthy(Step):
    """Wait until the health check passes; without one, until the domain has been idle for ``settle`` seconds.

    It fails if the domain stops or restarts meanwhile. Times are seconds.
    """

    name: str
    health: Health | None
    settle: int
    ready: str = ""  # without a health check: ``settle`` begins at this console line
    ready_within: int = 60  # without a health check: ``settle`` begins after so long in any case


# -- network -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeaveBridge(Step):
    """Take the domain's vifs off their bridges, which forget its MACs at once."""

    name: str


@dataclass(frozen=True)
class JoinBridge(Step):
    """Put the domain's vifs (back) on the bridges that it was created with."""

    name: str


@dataclass(frozen=True)
class LeadTo(Step):
    """Make the bridges forward to the domain before it has sent anything itself."""

    name: str


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
class WriteIntent(Step):
    """Write what a change will make of the domain and what it was, for a run after this one dies. `Define` removes it."""

    name: str
    text: str = field(repr=False)
    former: str  # its state before the change: running, paused, stopped or absent


@dataclass(frozen=True)
class RemoveIntent(Step):
    name: str


@dataclass(frozen=True)
class Define(Step):
    """Write the definition and remove the intent: what is defined has been healthy."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class Undefine(Step):
    name: str


@dataclass(frozen=True)
class Autostart(Step):
    name: str


@dataclass(frozen=True)
class NoAutostart(Step):
    name: str


# -- a running domain ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SetVcpus(Step):
    name: str
    count: int


@dataclass(frozen=True)
class PinCpus(Step):
    name: str
    cpus: str  # as xl reads them; "all" for no pinning


@dataclass(frozen=True)
class SetShare(Step):
    """Set the CPU share: ``option`` is cpu_weight or cap."""

    name: str
    option: str
    value: int

    def objects(self) -> tuple[str, ...]:
        return (self.name, self.option, str(self.value))


@dataclass(frozen=True)
class Attach(Step):
    name: str
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
