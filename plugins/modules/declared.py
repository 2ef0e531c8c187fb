#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: declared
short_description: Read and check the declaration of all hosts of a play in one task
version_added: 0.2.0
description:
  - Reads C(unikernels), C(unikernel_images) and the variables of the services (roles P(unikernels.xen.web#role),
    P(unikernels.xen.dns#role), P(unikernels.xen.vpn#role)) of every host, and returns what each host is to run. Connects to no
    host, and changes nothing.
  - Fails with all mistakes of all hosts, one line each, that names host and variable. A variable that can't be rendered, however
    deep in a list, is such a mistake, with the file where it stands. Values of templates that fail are not shown.
  - Reads the play's C(rollout), C(rollout_copy_at_once) and C(hosts_at_once) too, so that one that can't be rendered never passes
    for one that is not set.
  - "Looks between hosts too: one address or MAC on two hosts of one network, one disk on shared storage that two hosts would
    have while one writes it. Hosts share bridges of one name unless C(xen_host_site) differs, or C(xen_host_networks) makes
    the network C(nat) or C(isolated). Hosts that a limit excludes are compared too. An address that each host has as a subnet of
    its own on a C(routed) network is anycast, and may be on several."
  - "Mistakes are also DNS servers that forward to each other in a circle, and folders of web servers that can't become part of an
    image."
  - Of two interfaces whose derived MACs are the same, the one of the host whose name sorts later gets another, always the same.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Changes nothing.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
  platform:
    description: Hosts that this works for.
    platforms: all
    support: full
options:
  scope:
    description:
      - V(play) reads all hosts of the play, so give the task C(run_once).
      - V(host) reads only the host of the task, with the variables that its role or block sets.
    type: str
    choices: [play, host]
    default: play
  services:
    description: Services to read.
    type: list
    elements: str
    choices: [web, dns, vpn]
    default: [web, dns, vpn]
  unikernels:
    description: Name of the variable with a host's own list; empty for none.
    type: str
    default: unikernels
  images:
    description: Name of the variable with the images; empty for none.
    type: str
    default: unikernel_images
  known:
    description:
      - Name of a variable that an earlier task of this kind with O(scope=play) may have registered in this run. If it has
        all hosts of the play, it is returned and nothing is read again.
    type: str
    default: ""
  refresh:
    description: Read again in spite of O(known) if there are VPN endpoints, whose keys may have been created since.
    type: bool
    default: false
seealso:
  - module: unikernels.xen.xen_domains
"""

EXAMPLES = r"""
- name: Refuse mistakes before any host is asked
  unikernels.xen.declared:
  run_once: true
  register: fleet

- name: Show what this host is to run
  ansible.builtin.debug:
    msg: "{{ (fleet.hosts[inventory_hostname] | from_json).unikernels | map(attribute='name') }}"
"""

RETURN = r"""
hosts:
  description: >-
    Host to a JSON text with C(unikernels) (a list), C(images) (a mapping), C(guests), what M(unikernels.xen.xen_networks) needs
    to know of them, and C(contents) for M(unikernels.xen.xen_domains). Not shown, it may hold secrets.
  returned: success
  type: dict
pkis:
  description: >-
    What M(unikernels.xen.vpn_keys) and M(unikernels.xen.vpn_ca) need of each VPN endpoint: C(host), C(name), C(folder),
    C(remote), C(port), C(clients), C(new_ca), C(days), C(ca_days), C(renew_days), C(ca), C(health), C(ends).
  returned: success
  type: list
  elements: dict
run:
  description: C(by), who runs this, and C(revision), the commit of the inventory's folder where it is in git.
  returned: success
  type: dict
same_images:
  description: Host to the first host of the play that needs the same images, so that the controller gets them once.
  returned: success
  type: dict
  version_added: 0.2.0
services:
  description: Whether a host has a service.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Fail: the action plugin should have run instead. The options are here for checks of the documentation."""
    AnsibleModule(
        argument_spec={
            "scope": {"type": "str", "choices": ["play", "host"], "default": "play"},
            "services": {
                "type": "list",
                "elements": "str",
                "choices": ["web", "dns", "vpn"],
                "default": ["web", "dns", "vpn"],
            },
            "unikernels": {"type": "str", "default": "unikernels"},
            "images": {"type": "str", "default": "unikernel_images"},
            "known": {"type": "str", "default": ""},
            "refresh": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    ).fail_json(msg="declared runs on the controller; this file only documents it")


if __name__ == "__main__":
    main()
