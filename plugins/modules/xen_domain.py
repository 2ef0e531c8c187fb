#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_domain
short_description: Manage one Xen domain (DomU) that runs a unikernel or another PVH kernel
version_added: 0.1.0
description:
  - Makes one PVH domain what is declared, whatever runs now.
  - What is declared is compared with what Xen reports of the running domain (kernel, boot arguments, memory, devices),
    never with a file.
  - A unikernel can't be changed in place. When something differs, the new domain is built and paused beside the old one,
    takes its name, and must prove itself (O(health), O(settle)) before the old one is destroyed. If it does not, the old
    one runs again and the task fails with O(ignore:rolled_back) true. Without memory for two domains the old one is ended first.
  - Domain-0 and domains that this collection did not make are never touched, unless O(adopt=true).
author:
  - unikernels.xen authors (@unikernels)
requirements:
  - A Debian host that runs as Dom0 (role P(unikernels.xen.xen_host#role)), root.
attributes:
  check_mode:
    description: Can run in check mode and predict exactly what a run would do.
    support: full
  diff_mode:
    description: Shows what differs, in the words of the options.
    support: full
options:
  name:
    description:
      - Name of the domain; 1 to 63 letters, digits, V(_), V(.), V(-).
    type: str
    required: true
  state:
    description:
      - V(running), V(paused), V(stopped) (defined, not running) or V(absent) (neither).
      - Stopping asks the guest first and destroys it after O(shutdown_timeout).
    type: str
    choices: [running, paused, stopped, absent]
    default: running
  autostart:
    description:
      - Whether the domain is started when the host boots.
      - By default true for O(state=running) and O(state=paused).
    type: bool
  kernel:
    description:
      - Path on the host of a kernel that Xen can boot as PVH, for example an image in the store that
        M(unikernels.xen.mirage_image) keeps. Required unless O(state=absent).
    type: path
  memory:
    description: Memory in MiB.
    type: int
    default: 64
  vcpus:
    description: Number of virtual CPUs. A unikernel uses one.
    type: int
    default: 1
  arguments:
    description:
      - Boot arguments, as a list of words or a mapping, in which C(port 80) becomes C(--port=80), true gives the bare
        option, false leaves it out and a list repeats it.
      - Words are quoted as MirageOS reads them. The whole line may have 8191 bytes, what Solo5 keeps.
      - The arguments of a domain are readable by everyone on the host. Secrets belong on a disk.
    type: raw
  interfaces:
    description: Virtual network interfaces (vifs), in their order.
    type: list
    elements: dict
    default: []
    suboptions:
      bridge:
        description: Bridge of the host.
        type: str
        required: true
      mac:
        description: MAC address. By default derived from host, domain and position, so that it never changes.
        type: str
      address:
        description: ADDRESS/PREFIX, given to the unikernel as C(--ipv4=) or C(--ipv6=).
        type: str
      gateway:
        description: Gateway inside that network, given as C(--ipv4-gateway=) or C(--ipv6-gateway=).
        type: str
      address6:
        description: IPv6 ADDRESS/PREFIX beside an IPv4 O(interfaces[].address).
        type: str
      gateway6:
        description: IPv6 gateway beside O(interfaces[].address6).
        type: str
      group:
        description: Mirage's name for the interface when it has several, as in C(--management-ipv4=).
        type: str
  disks:
    description: Virtual disks, in their order.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: File or block device on the host.
        type: path
        required: true
      vdev:
        description: Device inside the domain. By default V(xvda), V(xvdb) and so on.
        type: str
      format:
        description: V(qcow2) and V(vmdk) need QEMU in Dom0.
        type: str
        choices: [raw, qcow2, vmdk]
        default: raw
      access:
        description: V(r) read-only, V(w) read and write. A disk that is written belongs to one domain alone.
        type: str
        choices: [r, w]
        default: r
  on_poweroff:
    description: What Xen does when the domain ends by itself.
    type: str
    choices: [destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart]
    default: destroy
  on_reboot:
    description: What Xen does when the domain asks for a reboot.
    type: str
    choices: [destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart]
    default: restart
  on_crash:
    description: What Xen does when the domain crashes. V(preserve) keeps it for a look.
    type: str
    choices: [destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart]
    default: preserve
  health:
    description:
      - How a started domain proves that it serves, asked from the host in the real protocol.
      - Exactly one of C(http) (a URL, with C(status)), C(tcp) (ADDRESS:PORT), C(dns) (NAME@ADDRESS, with C(answer)),
        C(openvpn) (ADDRESS:PORT) or C(console) (a regular expression), and C(within), seconds, 30 by default.
    type: dict
  settle:
    description: Without O(health), for how many seconds a started domain is watched. One that ends in this time has failed.
    type: int
    default: 2
  shutdown_timeout:
    description: Seconds to wait for a guest that was asked to end, before it is destroyed. 0 does not ask.
    type: int
    default: 10
  adopt:
    description: Take over a running domain of this name that this collection did not make.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for another run on the same host.
    type: int
    default: 60
seealso:
  - module: unikernels.xen.xen_domains
  - module: unikernels.xen.xen_host_info
"""

EXAMPLES = r"""
- name: Run a web server
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 128
    interfaces:
      - bridge: xenbr0
        address: 10.0.2.101/24
        gateway: 10.0.2.2
    arguments:
      port: 80
    health:
      http: http://10.0.2.101/
      within: 120

- name: Keep its definition, but stop it and don't start it at boot
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 128
    state: stopped

- name: Remove it
  unikernels.xen.xen_domain:
    name: www
    state: absent
"""

RETURN = r"""
name:
  description: The domain.
  returned: always
  type: str
  sample: www
state:
  description: The state that was declared.
  returned: always
  type: str
  sample: running
steps:
  description: What was done (in check mode, what would be done), in order.
  returned: always
  type: list
  elements: str
  sample: [replace www, define www]
rolled_back:
  description: Whether the former domain was put back after a failure.
  returned: failure
  type: bool
console:
  description: The last lines of the failed domain's console.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import DISK_FORMATS, EVENT_ACTIONS, STATES
from ansible_collections.unikernels.xen.plugins.module_utils.xen.declare import Refused, declare

INTERFACE = {
    "bridge": {"type": "str", "required": True},
    "mac": {"type": "str"},
    "address": {"type": "str"},
    "gateway": {"type": "str"},
    "address6": {"type": "str"},
    "gateway6": {"type": "str"},
    "group": {"type": "str"},
}
DISK = {
    "path": {"type": "path", "required": True},
    "vdev": {"type": "str"},
    "format": {"type": "str", "choices": list(DISK_FORMATS), "default": "raw"},
    "access": {"type": "str", "choices": ["r", "w"], "default": "r"},
}


def main() -> None:
    event = {"type": "str", "choices": list(EVENT_ACTIONS)}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES), "default": "running"},
            "autostart": {"type": "bool"},
            "kernel": {"type": "path"},
            "memory": {"type": "int", "default": 64},
            "vcpus": {"type": "int", "default": 1},
            "arguments": {"type": "raw"},
            "interfaces": {"type": "list", "elements": "dict", "default": [], "options": INTERFACE},
            "disks": {"type": "list", "elements": "dict", "default": [], "options": DISK},
            "on_poweroff": {**event, "default": "destroy"},
            "on_reboot": {**event, "default": "restart"},
            "on_crash": {**event, "default": "preserve"},
            "health": {"type": "dict"},
            "settle": {"type": "int", "default": 2},
            "shutdown_timeout": {"type": "int", "default": 10},
            "adopt": {"type": "bool", "default": False},
            "lock_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    lock_timeout = options.pop("lock_timeout")
    try:
        result = declare([options], module.check_mode, module.warn, lock_timeout=lock_timeout)[0]
    except Refused as refusal:
        module.fail_json(msg=str(refusal))
    if result["failed"]:
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
