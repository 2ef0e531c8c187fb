# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The primitives of which every plan consists. Pure.

Each is complete: it can be carried out without anything beside it. `apply.perform` has one function for each; the model of
the unit tests has the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..domain.spec import Disk, Health, Interface, Origin


@dataclass(frozen=True)
class Step:
    """``str(step)`` names it for a person: what is done, to what."""

    def __str__(self) -> str:
        words = "".join(" " + letter.lower() if letter.isupper() else letter for letter in type(self).__name__).strip()
        return " ".join(filter(None, (words, *self.objects())))

    def objects(self) -> tuple[str, ...]:
        return (str(getattr(self, "name", "")),)


# -- disks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MakeDisk(Step):
    """A file that is not there; what is there is never overwritten."""

    origin: Origin

    def objects(self) -> tuple[str, ...]:
        return (self.origin.path,)


@dataclass(frozen=True)
class GrowDisk(MakeDisk):
    """To its declared size; no domain has it open."""


@dataclass(frozen=True)
class RemoveDisk(Step):
    path: str

    def objects(self) -> tuple[str, ...]:
        return (self.path,)


# -- domains -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build(Step):
    """Create a domain from the text of an xl file, and leave it paused. Memory in MiB."""

    name: str
    text: str = field(repr=False)
    memory: int
    qemu: bool = False  # QEMU in Dom0 serves one of its disks, and must have attached it


@dataclass(frozen=True)
class Rename(Step):
    name: str
    new: str

    def objects(self) -> tuple[str, ...]:
        return (self.name, self.new)


@dataclass(frozen=True)
class ReopenConsoles(Step):
    """After a rename: xenconsoled names a console's log when it opens it."""


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
    """Ask the guest to end, wait at most ``within`` seconds, then destroy it."""

    name: str
    within: int


@dataclass(frozen=True)
class Destroy(Step):
    """At once, and until its name is free."""

    name: str


@dataclass(frozen=True)
class AwaitConsole(Step):
    """Until a line on its console matches. Seconds."""

    name: str
    pattern: str
    within: int


@dataclass(frozen=True)
class AwaitHealthy(Step):
    """Until the health check passes; without one until it has run idle for ``settle`` seconds. Seconds.

    A domain that ends, or asks to be started again, meanwhile is a failure.
    """

    name: str
    health: Health | None
    settle: int
    ready: str = ""  # without a health check: the line on its console after which ``settle`` begins
    ready_within: int = 60  # without a health check: ``settle`` begins after so long in any case


# -- network -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeaveBridge(Step):
    """Its vifs leave their bridges, which forget at once that its MACs were there."""

    name: str


@dataclass(frozen=True)
class JoinBridge(Step):
    """Its vifs are (again) on the bridges that it was made with."""

    name: str


@dataclass(frozen=True)
class LeadTo(Step):
    """The bridges send to it what is for it before it has sent anything itself."""

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
    """What a change is about to make of the domain, and what it was: for the run after a death. Gone when it is defined."""

    name: str
    text: str = field(repr=False)
    former: str  # its state before the change: running, paused, stopped or absent


@dataclass(frozen=True)
class RemoveIntent(Step):
    name: str


@dataclass(frozen=True)
class Define(Step):
    """Write its definition, and remove the intent: what is defined has been healthy."""

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
    cpus: str  # as xl reads them; "all" for none


@dataclass(frozen=True)
class SetShare(Step):
    """Of the CPU: option cpu_weight or cap."""

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
    """``force``: without the guest's consent, for it never took the device."""

    force: bool = False


def label(device: Disk | Interface) -> str:
    """A device in a user's words."""
    return device.vdev if isinstance(device, Disk) else device.mac
