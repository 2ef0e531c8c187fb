#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_host_info
short_description: Gather facts about a Xen host, or about a machine that will become one
version_added: 0.1.0
description:
  - Read-only, in one round trip, on a plain Debian machine as well as on a Dom0.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  packages:
    description: Debian packages to look for.
    type: list
    elements: str
    default: []
  updates:
    description: Whether to ask apt for pending security updates, which takes seconds. It reads the existing package lists.
    version_added: 0.2.0
    type: bool
    default: false
  bridge:
    description: The bridge that domains are to have, where O(networks) is empty; for RV(host.cut_off).
    version_added: 0.2.0
    type: str
    default: ""
  networks:
    description: The networks that the host is to offer, as C(xen_host_networks); for RV(host.cut_off).
    version_added: 0.2.0
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Inspect the machine
  unikernels.xen.xen_host_info:
  register: host
"""

RETURN = r"""
host:
  description: The machine.
  returned: always
  type: dict
  contains:
    name:
      description: Its host name, from which MACs and UUIDs of its domains are derived where none are declared.
      type: str
      sample: xen1
    distribution:
      description: ID of os-release.
      type: str
      sample: debian
    release:
      description: VERSION_ID of os-release.
      type: str
      sample: "12"
    machine:
      description: CPU architecture.
      type: str
      sample: x86_64
    hardware_virtualization:
      description: Whether the CPU has VT-x or AMD-V.
      type: bool
    under_xen:
      description: Whether this is the Dom0 of a running Xen.
      type: bool
    pvh_capable:
      description: Whether the running Xen can start PVH domains.
      type: bool
    xen_version:
      description: Version of the running Xen, empty without.
      type: str
      sample: 4.17.7
    dom0_kernel:
      description: Release of Dom0's kernel.
      type: str
      sample: 6.1.0-31-amd64
    capabilities:
      description: Capabilities of the running Xen on this machine (C(virt_caps) of C(xl info)).
      type: list
      elements: str
      sample: [pv, hvm, hap]
    topology:
      description: NUMA nodes, and cores and threads of each.
      type: dict
      sample: {nodes: 1, cores_per_socket: 4, threads_per_core: 2}
    pending_reboot:
      description:
        - Whether the next boot would differ from this one. The Xen or the kernel is newer than this boot, or GRUB's menu gives
          them other arguments than those that they run with.
      type: bool
    boot_menu_stale:
      description: Whether the collection's part of GRUB's configuration is newer than GRUB's menu, so that C(update-grub) is due.
      type: bool
    boot:
      description: Which entry this boot came from, and which one comes next.
      type: dict
      contains:
        entry:
          description: V(try) or V(good) when it came from one of the collection's entries in GRUB's menu, otherwise empty.
          type: str
        unconfirmed:
          description: Whether the machine will return to the entry that worked, because this boot is not confirmed yet.
          type: bool
        default:
          description: What GRUB boots by default (C(saved_entry)).
          type: str
        next:
          description: What GRUB boots once (C(next_entry)).
          type: str
        kept:
          description: Whether the boot that worked last is kept as an entry of its own, and is GRUB's default.
          type: bool
        cannot_try:
          description: Why GRUB can't boot an entry once on this machine; empty when it can.
          type: str
        returned:
          description: Why the last trial boot failed; empty if it was confirmed, or if there was none.
          type: str
    machine_arguments:
      description: Kernel arguments that GRUB's configuration has without the collection's part of it.
      type: list
      elements: str
    machine_xen_arguments:
      description: Arguments for Xen that GRUB's configuration has without the collection's part of it.
      type: list
      elements: str
      version_added: 0.3.0
    boot_overrides:
      description: Variables of GRUB's configuration that a file sets after the collection's part of it, which then has no effect.
      type: list
      elements: str
      version_added: 0.3.0
    microcode:
      description:
        - The C(package) with microcode for this CPU, whether it is C(installed) and C(available).
        - Whether the machine is C(virtual).
      type: dict
      sample: {package: amd64-microcode, installed: true, available: true, virtual: false}
    running:
      description: Versions that run of C(xen), C(kernel) and C(microcode).
      type: dict
      sample: {xen: 4.20.4, kernel: 6.12.57-1, microcode: "0xa0011d1"}
    installed:
      description: Versions of the packages of C(xen), C(kernel) and C(microcode) that are installed.
      type: dict
      sample: {xen: 4.20.4+63-g1-1, kernel: 6.12.57-1, microcode: 3.20251202.1}
    package_lists_age:
      description: Days since apt last read its lists; -1 when it never did.
      type: int
    security_updates:
      description: Packages with a newer version in a security archive, by the existing package lists; with O(updates=true).
      type: list
      elements: str
    updates:
      description: All packages with a newer version, by the existing package lists; with O(updates=true).
      type: list
      elements: str
      version_added: 0.3.0
    held_updates:
      description: Those of RV(host.updates) that are held (C(apt-mark hold)), which apt leaves as they are; with O(updates=true).
      type: list
      elements: str
      version_added: 0.3.0
    updates_problem:
      description: Why apt can't list the pending updates, for example half-installed packages; empty if it can.
      type: str
      version_added: 0.3.0
    updates_remove:
      description: Packages that installing all updates would remove; with O(updates=true).
      type: list
      elements: str
      version_added: 0.3.0
    updates_space:
      description: Free MiB of C(boot) and C(root), and what another kernel with its initrd and Xen takes; with O(updates=true).
      type: dict
      sample: {boot: 310, root: 5100, boot_needs: 90}
      version_added: 0.3.0
    ssh:
      description:
        - Whether there is an C(sshd), on which C(port), which C(user) logs in from which C(client), and whether it has a C(key).
      type: dict
      sample: {sshd: true, port: 22, user: root, key: true, client: 192.0.2.7}
    management:
      description: Whether the packet filter of C(xen_host_management_networks) is confirmed, so that each boot loads it.
      type: bool
    management_loaded:
      description: Whether that filter is in force now; C(nft flush ruleset) removes it.
      type: bool
    needs_router_advertisements:
      description: Whether the host is reached only by a route that a router advertises.
      type: bool
    foreign_domains:
      description: Names of the running domains that this collection has no definition for.
      type: list
      elements: str
    written_arguments:
      description: Arguments that the collection's part of GRUB's configuration has for Xen and its Dom0.
      type: list
      elements: str
    xen_arguments:
      description: Command line of the running Xen.
      type: str
    linux_arguments:
      description: Command line of the running kernel.
      type: str
    secure_boot:
      description: Whether the firmware enforces Secure Boot.
      type: bool
    grub:
      description: Whether GRUB is installed (C(update-grub)).
      type: bool
      version_added: 0.3.0
    memory:
      description: Memory of the whole machine in MiB.
      type: int
    free_memory:
      description: Memory that Xen can give to new domains, in MiB; 0 without Xen.
      type: int
    dom0_memory:
      description: Dom0's memory in MiB; 0 without Xen.
      type: int
    cpus:
      description: Number of CPUs of the machine.
      type: int
    cpu_numbers:
      description: One more than the highest number of a CPU; 0 without Xen. Where SMT is off there are gaps between the numbers.
      type: int
      version_added: 0.3.0
    cpus_on:
      description: CPUs that are on, as xl writes them.
      type: str
      sample: 0-7
      version_added: 0.3.0
    cpus_without_smt:
      description: CPUs that stay on if SMT is turned off, the first of each core.
      type: str
      sample: 0,2,4,6
      version_added: 0.3.0
    cpus_of_nodes:
      description: CPUs of each NUMA node.
      type: dict
      sample: {"0": 0-7}
      version_added: 0.3.0
    free_disk:
      description: Free space on the root file system in MiB.
      type: int
    uplink:
      description: Network device of the default route.
      type: str
      sample: ens3
    networks:
      description: Global addresses by network device.
      type: dict
    bridges:
      description: The host's own addresses by bridge.
      type: dict
      sample: {xenbr0: [10.0.2.15/24]}
    offered:
      description: Networks that M(unikernels.xen.xen_networks) has made, with the subnets that are declared for each.
      type: dict
      sample: {inside: [], routed: [203.0.113.77/32]}
    cut_off:
      description:
        - A line for each network whose domains another's packet filter (Docker, firewalld, ufw) cuts off, or would, and what to
          type. Dom0's own checks of domains don't meet it.
      type: list
      elements: str
    network_style:
      description: Which program configures the network.
      type: str
      sample: ifupdown
    toolstack:
      description: Whether xl is installed.
      type: bool
    missing_packages:
      description: Those of O(packages) that are not installed.
      type: list
      elements: str
    needless_packages:
      description: Installed packages with services that no host needs, which C(xen_host_remove_needless) removes.
      type: list
      elements: str
      version_added: 0.3.0
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.host.facts import gather
from ansible_collections.unikernels.xen.plugins.module_utils.xen.network import cut_off
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError


def main() -> None:
    argument_spec = {
        "packages": {"type": "list", "elements": "str", "default": []},
        "updates": {"type": "bool", "default": False},
        "bridge": {"type": "str", "default": ""},
        "networks": {"type": "dict", "default": {}},
    }
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    try:
        wanted = module.params
        host = {**gather(wanted["packages"], wanted["updates"]), "cut_off": cut_off(wanted["bridge"], wanted["networks"])}
        module.exit_json(changed=False, host=host)
    except ToolstackError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
