# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: lab
short_description: The machines of the virtual lab
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
    description: How many machines.
    type: int
    default: 1
    env: [{name: LAB_HOSTS}]
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
  saved:
    description: Name of a saved machine to start from, in seconds, instead of booting plain Debian (C(make lab-save)).
    type: str
    default: ""
    env: [{name: LAB_SAVED}]
  qemu:
    description: Debian release whose QEMU runs the machines; that of the controller when empty.
    type: str
    default: ""
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
plugin: unikernels.xen.lab
hosts: 2
"""

import os
import shlex
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

try:
    from ansible.template import trust_as_template
except ImportError:  # ansible-core before 2.19 trusts what an inventory says

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
        # Where the lab's declarations find their files, whoever links to this inventory.
        inventory.set_variable("lab", "lab_inventory", os.path.dirname(os.path.realpath(path)))
        inventory.set_variable("lab", "lab_folder", folder)
        inventory.set_variable("lab", "lab_memory", self.get_option("memory"))
        inventory.set_variable("lab", "lab_suite", self.get_option("suite"))
        inventory.set_variable("lab", "lab_saved", self.get_option("saved"))
        inventory.set_variable("lab", "lab_qemu", self.get_option("qemu"))
        for index in range(count):
            self._add_machine(f"xen{index + 1}", index * PORT_STEP, folder, cache_folder)

    def _add_machine(self, name: str, shift: int, folder: str, cache_folder: str) -> None:
        ports = {kind: self.get_option(f"{kind}_port") + shift for kind in ("ssh", "http", "dns", "vpn")}
        known_hosts = os.path.join(folder, "machines", name, "known_hosts")
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": ports["ssh"],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": os.path.join(cache_folder, "key"),
            # A machine of the lab is made here and now; its key is learnt at the first connection and kept.
            # QEMU's user network does not tell ssh that a machine has rebooted: ssh must ask.
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
            # Untrusted text is exported as a mapping, which readers such as testinfra don't expect.
            self.inventory.set_variable(name, key, trust_as_template(value) if isinstance(value, str) else value)
