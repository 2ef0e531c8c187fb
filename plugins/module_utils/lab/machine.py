# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Start, save and stop one machine of the virtual lab."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

from . import qemu
from .qemu import Machine

NEEDED_BYTES = 4 << 30
# Seconds for QEMU to exit after each signal.
PATIENCE = 20.0


class MachineError(Exception):
    """One line for whoever runs the lab, followed by the end of the machine's console if there is one."""


def _text_of(path: str, most: int = 8000) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - most))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def nested_acceleration() -> bool:
    """True if a guest can be a hypervisor. /dev/kvm alone doesn't show that: it takes the CPU's flags, and nesting enabled."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    modules = ("kvm_intel", "kvm_amd")
    return qemu.can_nest(flags, {module: _text_of(f"/sys/module/{module}/parameters/nested") for module in modules})


def process_of(folder: str) -> int:
    """Return the process id of the QEMU that runs this machine; 0 if none does."""
    try:
        with open(os.path.join(folder, qemu.PID), encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid if qemu.is_machine(file.read(), folder) else 0
    except (OSError, ValueError):
        return 0


def sshd_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as sock:
            sock.settimeout(30)  # for sshd of an emulated machine on a busy host
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False


def port_is_free(protocol: str, port: int) -> bool:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _run(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        words,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise MachineError(f"{os.path.basename(words[0])}: {lines[-1]}")
    return done.stdout


def version(folder: str | None) -> str:
    words, environment = qemu.program(folder, "qemu-system-x86_64")
    return qemu.version_of(_run([*words, "--version"], environment))


def _check_programs(machine: Machine) -> None:
    for name in ("qemu-system-x86_64", "qemu-img"):
        words, _environment = qemu.program(machine.qemu, name)
        if not shutil.which(words[0]):
            if machine.qemu:
                raise MachineError(
                    f"qemu: {machine.qemu} has no {words[0][len(machine.qemu) :]}: is it a Debian tree with QEMU in it?"
                )
            raise MachineError(f"{name} is missing on the controller: apt-get install qemu-system-x86 qemu-utils")


def _check(machine: Machine) -> None:
    """Raise MachineError, with one line for each reason, if the start would fail."""
    _check_programs(machine)
    for protocol, port in machine.ports():
        if not port_is_free(protocol, port):
            raise MachineError(
                f"port {port}/{protocol} on 127.0.0.1 is in use by another program; end it or choose other ports"
                " (LAB_SSH_PORT, LAB_HTTP_PORT, LAB_DNS_PORT, LAB_VPN_PORT)"
            )


def _make_overlay(machine: Machine) -> None:
    """Make a copy-on-write overlay. Copy a disk with a saved state, since QEMU looks for that only in the topmost file."""
    overlay = machine.path(qemu.OVERLAY)
    if os.path.exists(overlay):
        return
    if not machine.disk or not os.path.exists(machine.disk):
        raise MachineError(f"disk: {machine.disk} does not exist")
    draft = overlay + ".new"
    if machine.snapshot:
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", machine.disk, draft], check=True)
        os.chmod(draft, 0o600)
    else:
        words, environment = qemu.program(machine.qemu, "qemu-img")
        _run([*words, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", machine.disk, draft], environment)
    os.rename(draft, overlay)


def _make_disks(machine: Machine) -> None:
    """Make the further disks, empty, and the folder that cloud-init reads."""
    words, environment = qemu.program(machine.qemu, "qemu-img")
    for index, size in enumerate(machine.disks):
        path = machine.disk_path(index)
        if not os.path.exists(path):
            _run([*words, "create", "-q", "-f", "qcow2", path + ".new", size], environment)
            os.rename(path + ".new", path)
    files = qemu.seed_files(machine)
    if files:
        os.makedirs(machine.path(qemu.SEED), mode=0o700, exist_ok=True)
    for name, text in files.items():
        with open(os.path.join(machine.path(qemu.SEED), name), "w", encoding="utf-8") as file:
            file.write(text)


def _boot(machine: Machine, accelerated: bool, wanted: str) -> None:
    os.makedirs(machine.folder, mode=0o700, exist_ok=True)
    free = shutil.disk_usage(machine.folder).free
    if free < NEEDED_BYTES:
        raise MachineError(f"{machine.folder}: {free >> 20} MiB of disk space left, the lab needs {NEEDED_BYTES >> 20} MiB")
    _make_overlay(machine)
    _make_disks(machine)
    with open(machine.path("settings"), "w", encoding="ascii") as file:
        file.write(wanted)
    words, environment = qemu.program(machine.qemu, "qemu-system-x86_64")
    try:
        _run([*words, *qemu.command_line(machine, accelerated)], environment)
    except MachineError as error:
        raise MachineError(f"QEMU did not start: {error}") from error


def _wait_for_sshd(machine: Machine, qemu_version: str) -> None:
    def console() -> str:
        path = machine.path(qemu.CONSOLE)
        return f"({path}) ends:\n{qemu.last_lines(_text_of(path))}"

    which = f"machine {machine.name} (QEMU {qemu_version})"
    if not _until(lambda: sshd_answers(machine.ssh_port) or not process_of(machine.folder), machine.boot_timeout):
        raise MachineError(f"{which}: no sshd after {machine.boot_timeout} s; its console {console()}")
    if not process_of(machine.folder):
        raise MachineError(f"{which} ended while it booted; its console {console()}")


def _refuse_bad(machine: Machine) -> None:
    if machine.problem():
        raise MachineError(machine.problem())


def start(machine: Machine, check_mode: bool = False) -> dict[str, Any]:
    """Start the machine and wait for its sshd. Return the module's result."""
    _refuse_bad(machine)
    accelerated = nested_acceleration()
    wanted = qemu.digest_of(machine, accelerated)
    running = process_of(machine.folder)
    if running:
        with open(machine.path("settings"), encoding="ascii") as file:
            if file.read() != wanted:
                raise MachineError(
                    f"machine {machine.name} runs with other settings (such as memory or ports); end it first: run the playbook"
                    " lab_down"
                )
    else:
        _check(machine)
    qemu_version = version(machine.qemu)
    if not check_mode:
        if not running:
            _boot(machine, accelerated, wanted)
        _wait_for_sshd(machine, qemu_version)
    accelerator = "kvm" if accelerated else "tcg"
    console = machine.path(qemu.CONSOLE)
    return {
        "changed": not running,
        "accelerator": accelerator,
        "console": console,
        "qemu_version": qemu_version,
        "hangs_unikernels": qemu.hangs_unikernels(qemu_version, accelerated),
    }


def monitor(folder: str, command: str, seconds: float = 120) -> str:
    """Return the answer of QEMU's monitor to a command. Raise MachineError if it refuses or doesn't answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(seconds)
        here = os.open(folder, os.O_RDONLY)  # a socket's path is limited to 108 bytes
        try:
            sock.connect(f"/proc/self/fd/{here}/{qemu.MONITOR}")
            answer = b""
            for text in ("", command + "\n"):
                sock.sendall(text.encode())
                prompts = answer.count(b"(qemu) ")
                while answer.count(b"(qemu) ") == prompts:
                    data = sock.recv(65536)
                    if not data:
                        break
                    answer += data
        except OSError as error:
            raise MachineError(f"QEMU's monitor in {folder} did not answer to '{command}': {error}") from error
        finally:
            os.close(here)
    text = answer.decode("utf-8", "replace")
    problem = qemu.monitor_problem(text)
    if problem:
        raise MachineError(f"QEMU's monitor refused '{command}': {problem}")
    return text


def save(machine: Machine, check_mode: bool = False) -> dict[str, Any]:
    """Save the running machine's state, stop it, and make its disk the base of others. Return the module's result."""
    _refuse_bad(machine)
    disk = machine.disk or ""
    changed = not os.path.exists(disk)
    if changed and not check_mode:
        if not process_of(machine.folder):
            raise MachineError(f"machine {machine.name} does not run: there is no state to save")
        monitor(machine.folder, f"savevm {machine.snapshot}")
        end_process(machine.folder)
        os.makedirs(os.path.dirname(disk), exist_ok=True)
        os.chmod(machine.path(qemu.OVERLAY), 0o400)
        shutil.move(machine.path(qemu.OVERLAY), disk)
        shutil.rmtree(machine.folder)
    return {"changed": changed}


def end_process(folder: str, patience: float | None = None) -> None:
    patience = PATIENCE if patience is None else patience
    pid = process_of(folder)
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        if not pid or _gone_after(folder, pid, signal_number, patience):
            return
    raise MachineError(f"process {pid} of the machine in {folder} survived SIGKILL for {patience:.0f} s: check it by hand")


def _gone_after(folder: str, pid: int, signal_number: int, patience: float) -> bool:
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return True
    return _until(lambda: process_of(folder) != pid, patience)


def remove(machine: Machine, check_mode: bool = False) -> dict[str, Any]:
    """Stop the machine and remove its folder. Return the module's result."""
    folder = machine.folder
    changed = os.path.isdir(folder)
    if changed and not check_mode:
        end_process(folder)
        shutil.rmtree(folder)
    return {"changed": changed, "console": os.path.join(folder, qemu.CONSOLE)}
