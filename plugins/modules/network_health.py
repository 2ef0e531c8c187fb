#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: network_health
short_description: Check the health of services from where their clients are
version_added: 0.2.0
description:
  - Runs the health checks of M(unikernels.xen.xen_domain) from outside Dom0. What Dom0 sends itself meets no filter between
    domains, so its own checks can pass where clients get no answer.
  - A neighbour asks from a port of the domain's bridge, which is filtered like a domain's interface and exists only while it
    asks. On a network whose addresses Dom0 knows (routed, nat, isolated, or bridged over nothing) it takes a free one. On a
    bridge over an uplink O(places) must name one, because many providers lock a port at which they see a foreign MAC.
  - The controller asks the domain's own address, or the published port of O(host).
  - A check that passed in Dom0 gets at most 10 seconds. Changes nothing.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  domains:
    description:
      - What M(unikernels.xen.declared) returns as C(unikernels) of a host. Read are C(name), C(state), C(health) and
        C(interfaces).
      - Checks of kind C(command) and C(console) are not asked, nor those of an address that no interface has.
    type: list
    elements: dict
    required: true
  networks:
    description: As C(xen_host_networks) of the role P(unikernels.xen.xen_host#role).
    type: dict
    default: {}
  guests:
    description: What M(unikernels.xen.declared) returns as C(guests) of a host; published ports, and what may reach the domains.
    type: dict
  seen_from:
    description: Where the questions come from. V(controller) is for a task that is delegated to it.
    type: str
    choices: [neighbour, controller]
    default: neighbour
  places:
    description: Network to addresses to ask from, as ADDRESS/PREFIX, at most one of each family, which nobody has.
    type: dict
    default: {}
  host:
    description: Name or address of the host, for published ports. Required with O(seen_from=controller).
    type: str
seealso:
  - module: unikernels.xen.service_health
"""

EXAMPLES = r"""
- name: Do neighbours of the web server get its page?
  unikernels.xen.network_health:
    domains:
      - name: www
        interfaces: [{bridge: xenbr0, address: 10.0.2.101/24}]
        health: {http: "http://10.0.2.101/"}
    places:
      xenbr0: [10.0.2.199/24]  # which nobody has
"""

RETURN = r"""
healthy:
  description: Names of the domains that answered as declared.
  returned: when the declarations are valid
  type: list
  elements: str
answers:
  description: The result of each check, also when the task fails, as M(unikernels.xen.service_health) returns it.
  returned: when the declarations are valid
  type: list
  elements: dict
not_asked:
  description: One line for each check that was not asked, with the reason.
  returned: when the declarations are valid
  type: list
  elements: str
  sample: ["domain www: network xenbr0 has no address to ask from: name one that nobody has in verify_neighbours"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.xen.neighbour import network_health


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "domains": {"type": "list", "elements": "dict", "required": True},
            "networks": {"type": "dict", "default": {}},
            "guests": {"type": "dict"},
            "seen_from": {"type": "str", "choices": ["neighbour", "controller"], "default": "neighbour"},
            "places": {"type": "dict", "default": {}},
            "host": {"type": "str"},
        },
        required_if=[("seen_from", "controller", ("host",))],
        supports_check_mode=True,
    )
    result = network_health(module.params)
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
