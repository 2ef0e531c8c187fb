# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: lab
short_description: Lists the machines of the virtual lab
version_added: 0.1.0
description:
  - One host entry (xen1, xen2, ...) in the groups C(lab) and C(xen_hosts) for every machine of the lab, running or not.
  - The second machine's ports are 100 higher than the first one's, and so on.
author:
  - unikernels.xen authors (@unikernels)
options:
  plugin:
    description: Must be V(unikernels.xen.lab).
    required: true
    choices: [unikernels.xen.lab]
  hosts:
    description: How many machines. O(machines) goes before it.
    type: int
    default: 1
    env: [{name: LAB_HOSTS}]
  machines:
    description:
      - The machines one by one, a mapping of names to options. What is left out is as the role P(unikernels.xen.lab#role) has it.
      - C(suite), C(memory), C(cpus) and C(disk_size) as in that role.
      - C(packages) has more packages of Debian for the disk; C(recipe) is a script that makes it in place of the role's own;
        C(base) is a finished disk (qcow2), such as a cloud image. Paths are relative to the inventory file.
      - C(disks) has sizes of more disks, C(networks) names of more networks between the machines.
      - C(user_data) and C(network_config) are read by cloud-init, C(user) is whom to log in as (by default root).
      - C(forwards) has more ports, each C(port) on 127.0.0.1 and C(to_port), with C(protocol) and C(to_address) where they are
        not tcp and the machine itself. The ports of the three services are not forwarded then.
      - C(groups) has more groups of the machine.
    type: dict
    default: {}
    version_added: 0.2.0
  folder:
    description: Where the machines are kept.
    type: str
    default: ~/.cache/unikernels.xen/lab
    env: [{name: LAB_DIR}]
  cache_folder:
    description: Where the ssh key, the disks and the images are kept that several labs share.
    type: str
    default: ~/.cache/unikernels.xen
    env: [{name: LAB_CACHE}]
  memory:
    description: Memory of a machine in MiB.
    type: int
    default: 2560
    env: [{name: LAB_MEMORY}]
  suite:
    description: Debian release of the machines.
    type: str
    default: bookworm
    env: [{name: LAB_SUITE}]
  packages:
    description: More packages of Debian for the disks of the machines (in the environment with commas between them).
    type: list
    elements: str
    default: []
    env: [{name: LAB_PACKAGES}]
    version_added: 0.2.0
  saved:
    description: Name of a saved machine to start from, in seconds, instead of booting plain Debian (C(make lab-save)).
    type: str
    default: ""
    env: [{name: LAB_SAVED}]
  qemu:
    description:
      - Debian release whose QEMU runs the machines (V(bookworm)); V(own) for that of the controller.
      - V(auto) takes the controller's own where Linux domains run under it, else that of V(bookworm).
    type: str
    default: auto
    env: [{name: LAB_QEMU}]
  ssh_port:
    description: Port on 127.0.0.1 for the first machine's sshd.
    type: int
    default: 2201
    env: [{name: LAB_SSH_PORT}]
  http_port:
    description: Port on 127.0.0.1 for the first machine's web server.
    type: int
    default: 8080
    env: [{name: LAB_HTTP_PORT}]
  dns_port:
    description: Port on 127.0.0.1, UDP and TCP, for the first machine's DNS resolver.
    type: int
    default: 5353
    env: [{name: LAB_DNS_PORT}]
  vpn_port:
    description: Port on 127.0.0.1 for the first machine's VPN endpoint.
    type: int
    default: 1194
    env: [{name: LAB_VPN_PORT}]
"""

EXAMPLES = r"""
# Two machines of the collection's own lab: plugin and "hosts: 2" are all that it takes. Or machines of your own, one by one:
plugin: unikernels.xen.lab
machines:
  # two releases side by side, with a disk and a network of their own
  old: {suite: bookworm, disks: [4G], networks: [storage]}
  new: {suite: trixie, memory: 3072, networks: [storage], packages: [lvm2]}
  # a cloud image of yours, set up by cloud-init
  cloud:
    base: debian-12-genericcloud-amd64.qcow2
    user: debian
    user_data: |
      #cloud-config
      packages: [python3-apt]
    forwards: [{port: 8443, to_port: 443}]
"""

import os
import shlex
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible_collections.unikernels.xen.plugins.module_utils.lab import machines as declared

try:
    from ansible.template import trust_as_template
except ImportError:  # ansible-core before 2.19 trusts an inventory's values

    def trust_as_template(value: Any) -> Any:
        return value


PORT_STEP = 100
# In QEMU's user network 10.0.2.0/24: 2 is the gateway, 3 the DNS forwarder, 15 the machine itself.
WEB = "10.0.2.101"
DNS = "10.0.2.102"
VPN = "10.0.2.103"


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]
    NAME = "unikernels.xen.lab"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith(("lab.yml", "lab.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        count = self.get_option("hosts")
        if not 1 <= count <= 9:
            raise AnsibleParserError(f"LAB_HOSTS is {count}, must be 1..9")
        folder = os.path.abspath(os.path.expanduser(self.get_option("folder")))
        cache_folder = os.path.abspath(os.path.expanduser(self.get_option("cache_folder")))
        for group in ("lab", "xen_hosts"):
            inventory.add_group(group)
        inventory.set_variable("lab", "lab_cache", cache_folder)
        # The folder in which the lab's declarations find their files, even through a link to this inventory.
        inventory.set_variable("lab", "lab_inventory", os.path.dirname(os.path.realpath(path)))
        inventory.set_variable("lab", "lab_folder", folder)
        inventory.set_variable("lab", "lab_memory", self.get_option("memory"))
        inventory.set_variable("lab", "lab_suite", self.get_option("suite"))
        inventory.set_variable("lab", "lab_packages", _trusted(self.get_option("packages")))
        inventory.set_variable("lab", "lab_saved", self.get_option("saved"))
        inventory.set_variable("lab", "lab_qemu", self.get_option("qemu"))
        for index, (name, options) in enumerate(self._machines(path, count).items()):
            self._add_machine(name, index * PORT_STEP, folder, cache_folder)
            for key, value in options.items():
                if key == "groups":
                    for group in value:
                        inventory.add_host(name, group=inventory.add_group(group))
                elif key == "user":
                    inventory.set_variable(name, "ansible_user", _trusted(value))
                    inventory.set_variable(name, "ansible_become", value != "root")
                else:
                    inventory.set_variable(name, f"lab_{key}", _trusted(value))

    def _machines(self, path: str, count: int) -> dict[str, dict[str, Any]]:
        """Return name -> what is declared for that machine alone."""
        if not self.get_option("machines"):
            return {f"xen{index + 1}": {} for index in range(count)}
        try:
            machines = declared.read(self.get_option("machines"), os.path.dirname(os.path.abspath(path)))
        except ValueError as error:
            raise AnsibleParserError(f"{path}: {error}") from error
        return {name: {"forwards": [], **options} for name, options in machines.items()}

    def _add_machine(self, name: str, shift: int, folder: str, cache_folder: str) -> None:
        ports = {kind: self.get_option(f"{kind}_port") + shift for kind in ("ssh", "http", "dns", "vpn")}
        known_hosts = os.path.join(folder, "machines", name, "known_hosts")
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": ports["ssh"],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": os.path.join(cache_folder, "key"),
            # The machine is new, so its key is accepted at the first connection and then kept. ssh must send keepalives: QEMU's
            # user network doesn't report that a machine has rebooted.
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=accept-new -o "
            + shlex.quote(f'UserKnownHostsFile="{known_hosts}"')
            + " -o ServerAliveInterval=15 -o ServerAliveCountMax=4",
            "lab_ssh_port": ports["ssh"],
            "lab_http_port": ports["http"],
            "lab_dns_port": ports["dns"],
            "lab_vpn_port": ports["vpn"],
            "lab_forwards": [
                {"protocol": "tcp", "port": ports["http"], "to_address": WEB, "to_port": 80},
                {"protocol": "tcp", "port": ports["dns"], "to_address": DNS, "to_port": 53},
                {"protocol": "udp", "port": ports["dns"], "to_address": DNS, "to_port": 53},
                {"protocol": "tcp", "port": ports["vpn"], "to_address": VPN, "to_port": 1194},
            ],
        }
        for group in ("lab", "xen_hosts"):
            self.inventory.add_host(name, group=group)
        for key, value in variables.items():
            self.inventory.set_variable(name, key, _trusted(value))


def _trusted(value: Any) -> Any:
    """Mark text as trusted: untrusted text is exported as a mapping, which readers such as testinfra don't expect."""
    if isinstance(value, list):
        return [_trusted(item) for item in value]
    if isinstance(value, dict):
        return {key: _trusted(item) for key, item in value.items()}
    return trust_as_template(value) if isinstance(value, str) else value
