# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PURE. QEMU's command line for a machine of the virtual lab, and the parsing of what it prints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from typing import Any

# Other CPU models crash Xen under emulation; "-monitor" spares it an instruction that TCG lacks. The rest is for speed: no
# waiting for randomness, and digests and ciphers by QEMU's own code.
EMULATED = (
    "-accel",
    "tcg,thread=multi,tb-size=512",
    "-cpu",
    "qemu64,+svm,+npt,+nx,-monitor,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq",
)
ACCELERATED = ("-accel", "kvm", "-cpu", "host")
OVERLAY, CONSOLE, MONITOR, SERIAL, PID = "overlay.qcow2", "console.log", "monitor", "serial", "pid"
# The folder that cloud-init reads as a disk (its data source NoCloud).
SEED = "seed"

# It becomes a word of a command to QEMU's monitor.
SNAPSHOT = re.compile(r"[a-z][a-z0-9-]{0,30}")
SIZE = re.compile(r"[1-9][0-9]{0,5}[MG]")
# Slots on the PCI bus: network cards from 6 on (Debian calls them ens6, ens7, ...), disks from 16 on, cloud-init's at the end.
FIRST_CARD, FIRST_DISK, SEED_PLACE, MAX_MORE = 6, 16, 31, 8


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine as it is declared."""

    name: str
    folder: str
    disk: str | None = None
    memory: int = 2560
    cpus: int = 2
    ssh_port: int = 2201
    forwards: tuple[dict[str, Any], ...] = ()
    boot_timeout: int = 300
    snapshot: str | None = None
    qemu: str | None = None
    disks: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    user_data: str | None = None
    network_config: str | None = None
    public_key: str | None = None

    def problem(self) -> str:
        if self.snapshot is not None and not SNAPSHOT.fullmatch(self.snapshot):
            return f"snapshot: is '{self.snapshot}', must be lower case letters, digits and hyphens, such as provisioned"
        for name, items in (("disks", self.disks), ("networks", self.networks)):
            if len(items) > MAX_MORE:
                return f"{name}: has {len(items)} entries, at most {MAX_MORE} are possible"
        for index, size in enumerate(self.disks):
            if not SIZE.fullmatch(size):
                return f"disks[{index}]: is '{size}', must be a size such as 4G or 512M"
        for index, network in enumerate(self.networks):
            if not SNAPSHOT.fullmatch(network) or network in self.networks[:index]:
                return f"networks[{index}]: is '{network}', must be a name such as storage, each once"
        if self.disks and self.snapshot is not None:
            return "disks: a machine with more disks can't be saved, and can't start from a saved state"
        if self.network_config and not self.user_data:
            return "network_config: is for cloud-init, which needs user_data"
        return ""

    def disk_path(self, index: int) -> str:
        return self.path(f"disk{index + 1}.qcow2")

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def ports(self) -> list[tuple[str, int]]:
        return [("tcp", self.ssh_port), *((str(row["protocol"]), int(row["port"])) for row in self.forwards)]


def program(folder: str | None, name: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs QEMU's program ``name``, and the environment that it needs.

    ``folder``: the root of a Debian tree with QEMU, whose own loader, libraries and firmware are used; None: the controller's own
    QEMU.
    """
    if not folder:
        return [name], {}
    libraries = [f"{folder}/usr/lib/x86_64-linux-gnu", f"{folder}/lib/x86_64-linux-gnu", f"{folder}/usr/lib"]
    words = [f"{folder}/usr/lib64/ld-linux-x86-64.so.2", "--library-path", ":".join(libraries), f"{folder}/usr/bin/{name}"]
    if name.startswith("qemu-system"):
        words += ["-L", f"{folder}/usr/share/qemu", "-L", f"{folder}/usr/share/seabios"]
    return words, {"QEMU_MODULE_DIR": f"{folder}/usr/lib/x86_64-linux-gnu/qemu"}


def command_line(machine: Machine, accelerated: bool) -> list[str]:
    """Return QEMU's arguments, without the program."""
    forwards = [f"hostfwd=tcp:127.0.0.1:{machine.ssh_port}-10.0.2.15:22"]
    forwards += [
        f"hostfwd={row['protocol']}:127.0.0.1:{row['port']}-{row['to_address']}:{row['to_port']}" for row in machine.forwards
    ]
    path = {name: machine.path(name).replace(",", ",,") for name in (OVERLAY, CONSOLE, SERIAL, MONITOR)}
    return [
        "-name", machine.name, "-machine", "pc", *(ACCELERATED if accelerated else EMULATED),
        "-smp", str(machine.cpus), "-m", str(machine.memory),
        "-display", "none", "-vga", "none", "-daemonize", "-pidfile", machine.path(PID),
        "-monitor", f"unix:{path[MONITOR]},server=on,wait=off",
        "-chardev", f"socket,id=serial,path={path[SERIAL]},server=on,wait=off,logfile={path[CONSOLE]},logappend=on",
        "-serial", "chardev:serial",
        "-drive", f"file={path[OVERLAY]},if=virtio,cache=unsafe,discard=unmap,format=qcow2",
        "-netdev", "user,id=net,ipv6=off," + ",".join(forwards),
        # The DHCP server gives the disk's system its host name.
        "-smbios", "type=3,asset=" + machine.name.replace(",", ",,"),
        # A fixed slot on the bus: Debian calls the card ens3.
        "-device", f"virtio-net-pci,netdev=net,bus=pci.0,addr=0x3,mac={_mac(machine.name)}",
        "-object", "rng-random,filename=/dev/urandom,id=random", "-device", "virtio-rng-pci,rng=random,bus=pci.0,addr=0x5",
        *_more_disks(machine), *_more_networks(machine), *_seed(machine),
        *(["-loadvm", machine.snapshot] if machine.snapshot else []),
    ]  # fmt: skip


def _mac(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return "52:54:00:" + ":".join(digest[at : at + 2] for at in (0, 2, 4))


def _more_disks(machine: Machine) -> list[str]:
    words = []
    for index in range(len(machine.disks)):
        path = machine.disk_path(index).replace(",", ",,")
        words += ["-drive", f"file={path},if=none,id=disk{index},cache=unsafe,discard=unmap,format=qcow2"]
        words += ["-device", f"virtio-blk-pci,drive=disk{index},bus=pci.0,addr={FIRST_DISK + index:#x}"]
    return words


def _more_networks(machine: Machine) -> list[str]:
    """Return the further networks. Each connects the machines that name it, by a multicast group that stays on 127.0.0.1."""
    words = []
    lab = machine.folder.rsplit("/", 1)[0]
    for index, network in enumerate(machine.networks):
        digest = hashlib.sha256(f"{lab}\n{network}".encode()).digest()
        group = f"239.192.{digest[0]}.{digest[1]}:{20000 + int.from_bytes(digest[2:4], 'big') % 10000}"
        words += ["-netdev", f"socket,id=network{index},mcast={group},localaddr=127.0.0.1"]
        mac = _mac(f"{machine.name}\n{network}")
        words += ["-device", f"virtio-net-pci,netdev=network{index},bus=pci.0,addr={FIRST_CARD + index:#x},mac={mac}"]
    return words


def _seed(machine: Machine) -> list[str]:
    if not machine.user_data:
        return []
    path = machine.path(SEED).replace(",", ",,")
    return [
        "-blockdev", f"driver=vvfat,node-name=seed,dir={path},label=CIDATA,read-only=on",
        "-device", f"virtio-blk-pci,drive=seed,bus=pci.0,addr={SEED_PLACE:#x}",
    ]  # fmt: skip


def seed_files(machine: Machine) -> dict[str, str]:
    """Return what cloud-init reads at the first boot: the user's own text, then the machine's name and ssh key."""
    if not machine.user_data:
        return {}
    about = {"instance-id": machine.name, "local-hostname": machine.name}
    keys = {"public-keys": [machine.public_key]} if machine.public_key else {}
    files = {"user-data": machine.user_data, "meta-data": json.dumps({**about, **keys}) + "\n"}
    return {**files, "network-config": machine.network_config} if machine.network_config else files


def digest_of(machine: Machine, accelerated: bool) -> str:
    """Return a digest of what makes it another machine: memory, ports, disks, CPU and QEMU; not how it was started."""
    machine = dataclasses.replace(machine, snapshot=None)
    words = [machine.qemu, *command_line(machine, accelerated), *seed_files(machine).values()]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def is_machine(process_arguments: bytes, folder: str) -> bool:
    """True if a process's arguments (/proc/PID/cmdline) are those of the QEMU that runs the machine in ``folder``."""
    words = process_arguments.split(b"\0")
    return (b"-pidfile", os.path.join(folder, PID).encode()) in zip(words, words[1:])


def version_of(text: str) -> str:
    """Return QEMU's version from ``--version``, without Debian's own number."""
    found = re.search(r"version (\d+(?:\.\d+)+)", text)
    return found.group(1) if found else "of an unknown version"


def hangs_unikernels(version: str, accelerated: bool) -> bool:
    """Whether an idle unikernel may hang in it: emulated VMRUN lost the interrupt shadow of ``sti; hlt``.

    Read in QEMU's sources: 10.0 (Debian 13) loads it from the VMCB, 7.2 (Debian 12) doesn't. Versions between count as the older.
    """
    major = re.match(r"\d+", version)
    return not accelerated and (major is None or int(major.group()) < 10)


def can_nest(cpu_flags: list[str], nested: dict[str, str]) -> bool:
    """True if a guest can be a hypervisor: by the CPU's flag and the kernel module's ``nested`` (module -> its text)."""
    return any(
        flag in cpu_flags and nested.get(module, "").strip() in ("Y", "1")
        for flag, module in (("vmx", "kvm_intel"), ("svm", "kvm_amd"))
    )


def last_lines(text: str, most: int = 15) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-most:]) or "(nothing was written to the console)"


def monitor_problem(answer: str) -> str:
    """Return why a command to QEMU's monitor failed; "" if it didn't."""
    problems = [line.strip() for line in answer.replace("\r", "\n").splitlines() if line.startswith(("Error", "unknown command"))]
    return problems[0] if problems else ""
