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
  - A unikernel can't be changed in place. When something differs, the new domain is built beside the old one, takes its
    name and its place on the bridge, and must prove itself (O(health), O(settle)) before the old one is destroyed. If it
    does not, the old one runs again and the task fails with RV(rolled_back) true. See O(update).
  - Every option that is not given has the default that is documented here, in a running domain as well; what was
    declared before and is not any more is taken back.
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
  type:
    description: V(pvh) for unikernels and other PVH kernels, V(pv) for a paravirtualized kernel.
    type: str
    choices: [pvh, pv]
    default: pvh
  uuid:
    description: UUID of the domain. By default derived from host and name, so that it never changes.
    type: str
  kernel:
    description:
      - Path on the host of a kernel that Xen can boot as PVH, for example an image in the store that
        M(unikernels.xen.mirage_image) keeps. Required unless O(state=absent).
    type: path
  memory:
    description: Memory in MiB.
    type: int
    default: 64
  maxmem:
    description: Most memory in MiB that the guest may take later, if it has a balloon driver. By default as O(memory).
    type: int
  vcpus:
    description: Number of virtual CPUs. A unikernel uses one.
    type: int
    default: 1
  cpus:
    description:
      - CPUs that the domain may run on, as in V(0-3,^1,8) or V(all).
      - A host may narrow it for all domains (C(vm.cpumask) in xl.conf).
    type: str
  cpu_weight:
    description: Share of CPU time when CPUs are scarce; a domain with 512 gets twice that of one with 256.
    type: int
    default: 256
  cap:
    description: Most CPU time in percent of one CPU; V(0) for no limit.
    type: int
    default: 0
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
      ip:
        description:
          - Addresses and networks, separated by spaces, that the domain may send from beside O(interfaces[].address) and
            O(interfaces[].address6), which it may in any case. For a router or VPN endpoint the networks behind it, for a domain
            that gets its address by DHCP the addresses that it can get.
          - A network is one whose last bits are zero, as in V(10.8.0.0/24); V(10.8.0.1/24) is the address.
        type: str
      antispoofing:
        description:
          - Whether a host made by the role P(unikernels.xen.xen_host#role) lets the domain send from its own MAC and addresses
            only, whoever starts it. Without any address it sends nothing.
          - V(false) is for domains that bridge, or that route for networks which can't be named. Dom0's ports stay shut to it.
        type: bool
        default: true
      rate:
        description: Most that the domain may send, as in V(10Mb/s) or V(500KB/s@20ms).
        type: str
      script:
        description: Hotplug script, a name in C(/etc/xen/scripts) or a path. By default that of xl.conf.
        type: str
      vifname:
        description: Name of the network device in Dom0. With it a domain can't be replaced beside its former self (O(update)).
        type: str
      mtu:
        description: MTU of the interface. V(1500) is the bridge's.
        type: int
      group:
        description: Mirage's name for the interface when it has several, as in C(--management-ipv4=).
        type: str
  disks:
    description:
      - Virtual disks, in their order.
      - A disk whose file is not there is made, once, when O(disks[].size), O(disks[].source) or O(disks[].content) says how.
        What is there is never overwritten.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: File or block device on the host. Required, except with O(disks[].content).
        type: path
      vdev:
        description: Device inside the domain. By default V(xvda), V(xvdb) and so on.
        type: str
      format:
        description: >-
          V(qcow2) needs QEMU in Dom0 (C(xen_host_qemu)), which gives it for reading and writing only and does not lock it, so
          that it is refused on storage that other hosts have.
        type: str
        choices: [raw, qcow2]
        default: raw
      access:
        description: V(r) read-only, V(w) read and write. A disk that is written belongs to one domain alone.
        type: str
        choices: [r, w]
        default: r
      shared:
        description:
          - Whether other hosts have the file too. Then the host holds a lock (the file with C(.lock) behind its name) as long
            as the domain has the disk, also when it is started by hand or at boot, and refuses a disk that a domain on another
            host writes, or would write.
          - The lock goes when its host dies; how soon is the file server's business (NFSv4, 90 seconds by default).
          - By default true for files on NFS, CIFS, CephFS, GlusterFS, OCFS2 and GFS2.
        type: bool
      size:
        description:
          - Size in MiB. A new file is empty and sparse; one that is smaller is grown, for which its domain is started anew.
          - Shrinking is refused.
        type: int
      source:
        description:
          - File on the host that a new disk is a copy of. What xl can't attach (vmdk, vhd, vdi) and qcow2 for a raw
            disk is converted by C(qemu-img), once.
        type: path
      content:
        description:
          - Text that the unikernel reads from sector 0 of a read-only disk, padded with zeros to whole blocks of 4096 bytes;
            for example the configuration of a VPN endpoint.
          - The file is kept with mode 0600 and named after the content, so other content is another disk, and replaces
            the domain. It goes when no domain uses it any more.
        type: str
  disks_on_absent:
    description:
      - With O(state=absent), V(remove) deletes the files of those O(disks) that this module can make. Files named after
        their content go in any case.
    type: str
    choices: [keep, remove]
    default: keep
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
  service:
    description: A word for what it serves, for listings and the inventory plugin P(unikernels.xen.xen_domains#inventory).
    type: str
  extra_config:
    description:
      - The escape, a mapping of other keys of xl.cfg(5) to numbers, text or lists of text, which are quoted.
      - Xen does not report these, so they are compared with the definition that the running domain was proved with.
    type: dict
  update:
    description:
      - How a domain that differs gets replaced.
      - V(standby) builds the new domain, paused, beside the old one. Then, in one short moment, the old one leaves the bridge
        and the new one runs under the declared name. Without memory for both, or when both would write one disk, this is
        V(recreate).
      - V(warm) is V(standby), but the new domain boots first, with its interfaces off the bridge, until a line on its
        console matches O(ready). The service is away for milliseconds. It is for unikernels that need no network to start.
      - V(recreate) ends the old domain first. If the new one fails the old one is started again.
      - V(never) reports in RV(differs) and changes nothing of the running domain.
    type: str
    choices: [standby, warm, recreate, never]
    default: standby
  ready:
    description: With O(update=warm), a regular expression for the console's line that tells that the domain has booted.
    type: str
  ready_within:
    description: With O(update=warm), seconds to wait for that line before the attempt is given up.
    type: int
    default: 60
  live:
    description:
      - Change the running domain where Xen can, with V(cpus), V(cpu_weight), V(cap), V(vcpus) up to those it was made
        with, and disks and interfaces that come or go.
      - A guest has to take part in the last three; unikernels do not. One that does not is told back and the task fails.
      - By default everything replaces the domain, so that what runs is what a start would bring.
    type: bool
    default: false
  health:
    description:
      - How a started domain proves that it serves, asked from the host in the real protocol.
      - Exactly one of C(http) (a URL, with C(status)), C(tcp) (ADDRESS:PORT), C(dns) (NAME@ADDRESS, with C(answer)),
        C(openvpn) (ADDRESS:PORT), C(console) (a regular expression) or C(command) (a list, a program on the host with its
        arguments, which ends with 0), and C(within), seconds, 30 by default.
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
    description: Seconds to wait for another run on the same host; the start of its domains at boot is waited for in any case.
    type: int
    default: 60
seealso:
  - module: unikernels.xen.xen_domains
  - module: unikernels.xen.xen_domain_info
  - module: unikernels.xen.xen_console
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

- name: Give it more memory, without a gap in its service
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 144
    interfaces:
      - bridge: xenbr0
        address: 10.0.2.101/24
        gateway: 10.0.2.2
        rate: 100Mb/s
    arguments:
      port: 80
    update: warm
    ready: "www: ready|web: ready"
    health:
      http: http://10.0.2.101/
      within: 120

- name: A domain with a disk of its own and a configuration that it reads from another
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 128
    cpu_weight: 512
    disks:
      - path: /var/lib/unikernels/disks/www-data.img
        size: 8
        access: w
      - content: |
          # what the unikernel reads from sector 0
    state: paused

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
differs:
  description: The options in which the running domain was not what is declared.
  returned: always
  type: list
  elements: str
  sample: [kernel]
downtime_ms:
  description: Milliseconds without service, from the switch to the first healthy answer (without O(health), until it ran).
  returned: when a running domain was replaced
  type: int
  sample: 180
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

from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import (
    DISK_FORMATS,
    EVENT_ACTIONS,
    STATES,
    TYPES,
    UPDATES,
)
from ansible_collections.unikernels.xen.plugins.module_utils.xen.declare import Refused, declare
from ansible_collections.unikernels.xen.plugins.module_utils.xen.unlogged import UnloggedModule

INTERFACE = {
    "bridge": {"type": "str", "required": True},
    "mac": {"type": "str"},
    "address": {"type": "str"},
    "gateway": {"type": "str"},
    "address6": {"type": "str"},
    "gateway6": {"type": "str"},
    "ip": {"type": "str"},
    "antispoofing": {"type": "bool", "default": True},
    "rate": {"type": "str"},
    "script": {"type": "str"},
    "vifname": {"type": "str"},
    "mtu": {"type": "int"},
    "group": {"type": "str"},
}
DISK = {
    "path": {"type": "path"},
    "vdev": {"type": "str"},
    "format": {"type": "str", "choices": list(DISK_FORMATS), "default": "raw"},
    "access": {"type": "str", "choices": ["r", "w"], "default": "r"},
    "shared": {"type": "bool"},
    "size": {"type": "int"},
    "source": {"type": "path"},
    # Often keys; in no log.
    "content": {"type": "str", "no_log": True},
}


def main() -> None:
    event = {"type": "str", "choices": list(EVENT_ACTIONS)}
    module = UnloggedModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES), "default": "running"},
            "autostart": {"type": "bool"},
            "type": {"type": "str", "choices": list(TYPES), "default": "pvh"},
            "uuid": {"type": "str"},
            "kernel": {"type": "path"},
            "memory": {"type": "int", "default": 64},
            "maxmem": {"type": "int"},
            "vcpus": {"type": "int", "default": 1},
            "cpus": {"type": "str"},
            "cpu_weight": {"type": "int", "default": 256},
            "cap": {"type": "int", "default": 0},
            "arguments": {"type": "raw"},
            "interfaces": {"type": "list", "elements": "dict", "default": [], "options": INTERFACE},
            "disks": {"type": "list", "elements": "dict", "default": [], "options": DISK},
            "on_poweroff": {**event, "default": "destroy"},
            "on_reboot": {**event, "default": "restart"},
            "on_crash": {**event, "default": "preserve"},
            "disks_on_absent": {"type": "str", "choices": ["keep", "remove"], "default": "keep"},
            "service": {"type": "str"},
            "extra_config": {"type": "dict"},
            "update": {"type": "str", "choices": list(UPDATES), "default": "standby"},
            "ready": {"type": "str"},
            "ready_within": {"type": "int", "default": 60},
            "live": {"type": "bool", "default": False},
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
