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
  - Hardware acceleration is used only where the CPU's flags and the kernel allow nested virtualization; else QEMU emulates a
    CPU that Xen boots on.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes]
options:
  name:
    description: Name of the machine.
    type: str
    required: true
  state:
    description:
      - V(started) runs it and waits for sshd; V(absent) stops it and removes its folder.
      - V(saved) writes the state of the running machine as O(snapshot) into its disk, ends it, makes that disk the file
        O(disk), and removes the folder. Machines start from it in seconds. Where O(disk) exists already nothing is done.
    type: str
    choices: [started, absent, saved]
    default: started
  folder:
    description: Folder of this machine alone (overlay, process id, serial console).
    type: path
    required: true
  disk:
    description:
      - The base disk (qcow2). Required for O(state=started) and O(state=saved).
      - A disk that was saved needs the disk below it (the one with plain Debian) where it was.
    type: path
  snapshot:
    description:
      - The name of a saved state in O(disk) that the machine resumes, instead of booting. It must have been saved by a
        machine of the same O(name), O(memory), O(cpus) and QEMU. Its ports may be others; its clock is that of the moment
        when it was saved.
      - For O(state=saved) the name to save under.
    type: str
    version_added: 0.2.0
  qemu:
    description:
      - Folder with a Debian tree that has QEMU in it, used instead of the controller's QEMU. By default the controller's.
    type: path
    version_added: 0.2.0
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
    description: Additional ports on 127.0.0.1, each a mapping of C(protocol), C(port), C(to_address), C(to_port).
    type: list
    elements: dict
    default: []
  disks:
    description:
      - Sizes of more disks, such as V(4G) or V(512M). They are empty, and are called C(/dev/vdb), C(/dev/vdc) and so on. A
        machine that has some can't be saved.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  networks:
    description:
      - Names of networks between machines whose O(folder) has the same parent. Each is one more network card without addresses,
        C(ens6), C(ens7) and so on in the order of the list. They never leave the controller.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  user_data:
    description:
      - What cloud-init in the disk reads as user-data at the first boot. The machine's name and O(public_key) come with it.
    type: str
    version_added: 0.2.0
  network_config:
    description: What cloud-init reads as network-config.
    type: str
    version_added: 0.2.0
  public_key:
    description: The ssh key that cloud-init gives to the disk's default user.
    type: str
    version_added: 0.2.0
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

- name: Save it, for machines that start in seconds
  unikernels.xen.qemu_machine:
    name: xen1
    folder: "{{ lab_folder }}/machines/xen1"
    disk: "{{ lab_folder }}/disks/saved.qcow2"
    snapshot: provisioned
    ssh_port: "{{ lab_ssh_port }}"
    state: saved

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
  returned: state=started or state=absent
  type: str
qemu_version:
  description: Version of the QEMU that runs it.
  returned: state=started
  type: str
hangs_unikernels:
  description:
    - Whether a unikernel that waits for an interrupt may hang in it, as in an emulated machine of a QEMU older than 10.
    - Solo5's guests are meant, not Linux stand-ins. C(docs/lab.md) has the cause.
  returned: state=started
  type: bool
"""

import dataclasses
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.lab import machine as lab
from ansible_collections.unikernels.xen.plugins.module_utils.lab.qemu import Machine


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "absent", "saved"], "default": "started"},
            "folder": {"type": "path", "required": True},
            "disk": {"type": "path"},
            "snapshot": {"type": "str"},
            "qemu": {"type": "path"},
            "memory": {"type": "int", "default": 2560},
            "cpus": {"type": "int", "default": 2},
            "ssh_port": {"type": "int", "default": 2201},
            "forwards": {"type": "list", "elements": "dict", "default": []},
            "boot_timeout": {"type": "int", "default": 300},
            "disks": {"type": "list", "elements": "str", "default": []},
            "networks": {"type": "list", "elements": "str", "default": []},
            "user_data": {"type": "str"},
            "network_config": {"type": "str"},
            "public_key": {"type": "str", "no_log": False},
        },
        required_if=[("state", "started", ["disk"]), ("state", "saved", ["disk", "snapshot"])],
        supports_check_mode=True,
    )
    fields: dict[str, Any] = {field.name: module.params[field.name] for field in dataclasses.fields(Machine)}
    fields.update({name: tuple(value) for name, value in fields.items() if isinstance(value, list)})
    machine = Machine(**fields)
    steps = {"started": lab.start, "absent": lab.remove, "saved": lab.save}
    try:
        module.exit_json(**steps[module.params["state"]](machine, module.check_mode))
    except lab.MachineError as error:
        module.fail_json(msg=str(error))
    except (OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"machine {machine.name}: {error}")


if __name__ == "__main__":
    main()
