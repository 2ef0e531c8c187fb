#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_machine
short_description: Run one machine of the virtual lab in QEMU
version_added: 0.1.0
description:
  - Virtual bare metal. The machine boots through firmware and its own boot loader from its own disk, a copy-on-write
    overlay over O(disk), and outlives the shell that started it. It listens on 127.0.0.1 only.
  - Hardware acceleration is used only where the CPU's flags and the kernel say that a guest can be a hypervisor itself;
    else QEMU emulates a CPU that Xen boots on.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  name:
    description: Name of the machine.
    type: str
    required: true
  state:
    description: V(started) runs it and waits for sshd; V(absent) ends it and removes its folder.
    type: str
    choices: [started, absent]
    default: started
  folder:
    description: Folder of this machine alone (overlay, process id, serial console).
    type: path
    required: true
  disk:
    description: The base disk (qcow2). Required for O(state=started).
    type: path
  memory:
    description: Memory in MiB.
    type: int
    default: 2560
  cpus:
    description: Number of CPUs.
    type: int
    default: 2
  ssh_port:
    description: Port on 127.0.0.1 that leads to the machine's sshd.
    type: int
    default: 2201
  forwards:
    description: More ports on 127.0.0.1, each a mapping of C(protocol), C(port), C(to_address), C(to_port).
    type: list
    elements: dict
    default: []
  boot_timeout:
    description: Seconds until sshd must answer.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Start a machine of the lab
  unikernels.xen.qemu_machine:
    name: xen1
    folder: "{{ lab_folder }}/machines/xen1"
    disk: "{{ lab_folder }}/disks/bookworm.qcow2"
    ssh_port: "{{ lab_ssh_port }}"

- name: Remove it
  unikernels.xen.qemu_machine:
    name: xen1
    folder: "{{ lab_folder }}/machines/xen1"
    state: absent
"""

RETURN = r"""
accelerator:
  description: V(kvm) or V(tcg).
  returned: state=started
  type: str
console:
  description: File with everything that the machine wrote to its serial console.
  returned: always
  type: str
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

NEEDED_BYTES = 4 << 30


def nested_acceleration() -> bool:
    """/dev/kvm alone proves nothing: the flags must be there, and nesting switched on."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    for flag, kernel_module in (("vmx", "kvm_intel"), ("svm", "kvm_amd")):
        nested = f"/sys/module/{kernel_module}/parameters/nested"
        if flag in flags and os.path.exists(nested):
            with open(nested, encoding="ascii") as file:
                return file.read().strip() in ("Y", "1")
    return False


def process_of(folder: str) -> int:
    """The process id of the QEMU that runs this machine; 0 when none does."""
    try:
        with open(os.path.join(folder, "pid"), encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid if folder.encode() in file.read() else 0
    except (OSError, ValueError):
        return 0


def tail(path: str, most: int = 15) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in file.read()[-8000:].splitlines() if line.strip()]
    except OSError:
        return "(nothing was written to the console)"
    return "\n".join(lines[-most:])


def sshd_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as sock:
            sock.settimeout(5)
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


def command_line(params: dict[str, Any], accelerated: bool) -> list[str]:
    folder = params["folder"]
    forwards = [f"hostfwd=tcp:127.0.0.1:{params['ssh_port']}-10.0.2.15:22"]
    forwards += [
        f"hostfwd={one['protocol']}:127.0.0.1:{one['port']}-{one['to_address']}:{one['to_port']}" for one in params["forwards"]
    ]
    mac = "52:54:00:" + ":".join(hashlib.sha256(params["name"].encode()).hexdigest()[at : at + 2] for at in (0, 2, 4))
    # Other CPU models crash Xen under emulation; "-monitor" spares it an instruction that TCG lacks.
    # The rest is for speed: no waiting for randomness, and digests and ciphers by QEMU's own code.
    cpu = (
        ["-accel", "kvm", "-cpu", "host"]
        if accelerated
        else [
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-cpu",
            "qemu64,+svm,+npt,+nx,-monitor,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq",
        ]
    )
    path = {name: os.path.join(folder, name).replace(",", ",,") for name in ("overlay.qcow2", "console.log", "serial", "monitor")}
    return [
        "qemu-system-x86_64", "-name", params["name"], "-machine", "pc", *cpu,
        "-smp", str(params["cpus"]), "-m", str(params["memory"]),
        "-display", "none", "-vga", "none", "-daemonize", "-pidfile", os.path.join(folder, "pid"),
        "-monitor", f"unix:{path['monitor']},server=on,wait=off",
        "-chardev", f"socket,id=serial,path={path['serial']},server=on,wait=off,logfile={path['console.log']},logappend=on",
        "-serial", "chardev:serial",
        "-drive", f"file={path['overlay.qcow2']},if=virtio,cache=unsafe,discard=unmap,format=qcow2",
        "-netdev", "user,id=net,ipv6=off," + ",".join(forwards),
        # The disk takes its host name from there.
        "-smbios", "type=3,asset=" + params["name"].replace(",", ",,"),
        # A fixed place on the bus: Debian calls the card ens3.
        "-device", f"virtio-net-pci,netdev=net,bus=pci.0,addr=0x3,mac={mac}",
        "-object", "rng-random,filename=/dev/urandom,id=random", "-device", "virtio-rng-pci,rng=random,bus=pci.0,addr=0x5",
    ]  # fmt: skip


def start(module: AnsibleModule) -> None:
    params = module.params
    folder, console = params["folder"], os.path.join(params["folder"], "console.log")
    accelerated = nested_acceleration()
    result = {"accelerator": "kvm" if accelerated else "tcg", "console": console}
    command = command_line(params, accelerated)
    wanted = hashlib.sha256(json.dumps(command).encode()).hexdigest()
    settings = os.path.join(folder, "settings")
    running = process_of(folder)
    if running:
        with open(settings, encoding="ascii") as file:
            if file.read() != wanted:
                module.fail_json(
                    msg=f"machine {params['name']} runs with other settings (memory, ports); end it first: make lab-down"
                )
        changed = False
    else:
        for program in ("qemu-system-x86_64", "qemu-img"):
            if not shutil.which(program):
                module.fail_json(msg=f"{program} is missing on the controller: apt-get install qemu-system-x86 qemu-utils")
        ports = [("tcp", params["ssh_port"])] + [(one["protocol"], int(one["port"])) for one in params["forwards"]]
        for protocol, port in ports:
            if not port_is_free(protocol, port):
                module.fail_json(
                    msg=f"port {port}/{protocol} on 127.0.0.1 is in use by another program; end it or choose other ports"
                    " (LAB_SSH_PORT, LAB_HTTP_PORT, LAB_DNS_PORT, LAB_VPN_PORT)"
                )
        changed = True
    if module.check_mode:
        module.exit_json(changed=changed, **result)
    if not running:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < NEEDED_BYTES:
            module.fail_json(msg=f"{folder}: {free >> 20} MiB of disk space left, the lab needs {NEEDED_BYTES >> 20} MiB")
        overlay = os.path.join(folder, "overlay.qcow2")
        if not os.path.exists(overlay):
            if not params["disk"] or not os.path.exists(params["disk"]):
                module.fail_json(msg=f"disk: {params['disk']} does not exist")
            draft = overlay + ".new"
            module.run_command(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", params["disk"], draft], check_rc=True
            )
            os.rename(draft, overlay)
        with open(settings, "w", encoding="ascii") as file:
            file.write(wanted)
        code, out, err = module.run_command(command)
        if code:
            module.fail_json(msg=f"QEMU did not start: {(err or out).strip()}")
    until = time.monotonic() + params["boot_timeout"]
    while not sshd_answers(params["ssh_port"]):
        if not process_of(folder):
            module.fail_json(msg=f"machine {params['name']} ended while it booted; its console ({console}):\n{tail(console)}")
        if time.monotonic() > until:
            module.fail_json(
                msg=f"machine {params['name']}: no sshd after {params['boot_timeout']} s;"
                f" its console ({console}) ends:\n{tail(console)}"
            )
        time.sleep(0.5)
    module.exit_json(changed=changed, **result)


def remove(module: AnsibleModule) -> None:
    folder = module.params["folder"]
    changed = os.path.isdir(folder)
    if changed and not module.check_mode:
        pid = process_of(folder)
        if pid:
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + 20
            while process_of(folder):
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                    until = time.monotonic() + 20
                time.sleep(0.1)
        shutil.rmtree(folder)
    module.exit_json(changed=changed, console=os.path.join(folder, "console.log"))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
            "folder": {"type": "path", "required": True},
            "disk": {"type": "path"},
            "memory": {"type": "int", "default": 2560},
            "cpus": {"type": "int", "default": 2},
            "ssh_port": {"type": "int", "default": 2201},
            "forwards": {"type": "list", "elements": "dict", "default": []},
            "boot_timeout": {"type": "int", "default": 300},
        },
        required_if=[("state", "started", ["disk"])],
        supports_check_mode=True,
    )
    try:
        if module.params["state"] == "started":
            start(module)
        remove(module)
    except (OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"machine {module.params['name']}: {error}")


if __name__ == "__main__":
    main()
