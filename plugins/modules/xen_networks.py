#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_networks
short_description: Offer networks to the domains of a host without losing the host
version_added: 0.2.0
description:
  - Creates a bridge for each network, through the program that configures the host's network (ifupdown, systemd-networkd,
    netplan or NetworkManager), and the rules for what Dom0 forwards between them (its own nftables table, C(inet
    unikernels_networks)).
  - If devices change, a process on the host makes the switch. It restores the old configuration unless a second call with
    O(confirm=true) arrives in time. A host that reboots before the confirmation boots with the old one.
  - Rules alone are replaced at once, in one transaction.
  - What may reach unikernels and what they may reach (C(accept), C(reach)) are tables of nftables too
    (C(bridge unikernels_reach), C(inet unikernels_reach)). A change of them cuts no connection that is still allowed.
  - Networks that are no longer in O(networks) are removed, and the files are as they were before.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Shows the files that are written; of those with a password only the name.
    support: full
options:
  networks:
    description:
      - Network to its options, as C(xen_host_networks) of the role P(unikernels.xen.xen_host#role).
    type: dict
    default: {}
  guests:
    description:
      - What P(unikernels.xen.declared#module) returns as C(guests) of a host, with the ports that unikernels publish and the
        addresses that Dom0 answers for, and what may reach unikernels and what they may reach. Without it those of the last call
        stay.
    type: dict
  rules_only:
    description: Refuse to change devices; for a run that must not touch the host's network.
    type: bool
    default: false
  limits_only:
    description:
      - Only put C(accept) and C(reach) of the unikernels in O(guests) into force, and leave networks and published ports alone.
        Without O(guests) nothing is limited any more.
    type: bool
    default: false
  confirm:
    description: Confirm the switch that an earlier call started.
    type: bool
    default: false
  confirm_within:
    description: Seconds until the old configuration returns without confirmation.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Offer a private network whose packets leave with the host's address
  unikernels.xen.xen_networks:
    networks:
      inside: {mode: nat, addresses: [10.77.0.1/24, "fd77::1/64"]}
  register: networks

- name: Close the connection over the old network
  ansible.builtin.meta: reset_connection

- name: Keep the new network
  unikernels.xen.xen_networks:
    confirm: true
  when: networks.waits
"""

RETURN = r"""
manager:
  description: The program that configures the host's network.
  returned: success, without O(confirm) and O(limits_only)
  type: str
  sample: netplan
networks:
  description: Bridge to Dom0's addresses on it, before the change.
  returned: success, without O(confirm) and O(limits_only)
  type: dict
devices:
  description: Bridges that are created, changed or removed.
  returned: success, without O(confirm)
  type: list
  elements: str
waits:
  description: Whether the old network returns unless the change is confirmed.
  returned: success, without O(confirm)
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.network.reading import NetworkError
from ansible_collections.unikernels.xen.plugins.module_utils.xen import networks as edge
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others
from ansible_collections.unikernels.xen.plugins.module_utils.xen.bridge_switch import SwitchError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "networks": {"type": "dict", "default": {}},
            "guests": {"type": "dict"},
            "rules_only": {"type": "bool", "default": False},
            "limits_only": {"type": "bool", "default": False},
            "confirm": {"type": "bool", "default": False},
            "confirm_within": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    refuse_others(module, "manage networks")
    if not 10 <= module.params["confirm_within"] <= 3600:
        module.fail_json(msg=f"confirm_within: is {module.params['confirm_within']}, must be 10..3600 seconds")
    try:
        if module.params["confirm"]:
            result = {"changed": edge.confirm(module.check_mode)}
        else:
            result = edge.offer(module.params, module.check_mode)
    except NetworkError as error:
        module.fail_json(msg="; and ".join(error.lines), problems=error.lines)
    except (SwitchError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
