#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_bridge
short_description: Put a bridge over the host's uplink without losing the host
version_added: 0.1.0
description:
  - Moves the uplink's addresses in F(/etc/network/interfaces), or in a file that this one reads, to a bridge over it (DHCP or
    static, IPv4 and IPv6, aliases, routes). What belongs to the device (C(bond-*), C(vlan-raw-device), C(mtu)) stays with it.
  - A process on the host makes the switch. It restores the old configuration unless a second call with O(confirm=true) arrives
    in time, which shows that the controller still reaches the host. A host that reboots before the confirmation boots with the
    old one.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Shows the change to F(/etc/network/interfaces), or to the file that configures the uplink.
    support: full
options:
  name:
    description: Name of the bridge.
    type: str
    default: xenbr0
  uplink:
    description: The device to put under the bridge. By default that of the default route.
    type: str
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
- name: Put a bridge over the uplink
  unikernels.xen.xen_bridge:
    name: xenbr0
  register: bridge

- name: Prove that the host is still there, over a new connection
  ansible.builtin.meta: reset_connection

- name: Keep the bridge
  unikernels.xen.xen_bridge:
    name: xenbr0
    confirm: true
"""

RETURN = r"""
addresses:
  description: The host's addresses on the bridge.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.network.names import bridge_refusal, uplink_refusal
from ansible_collections.unikernels.xen.plugins.module_utils.xen import bridge_switch
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": "xenbr0"},
            "uplink": {"type": "str"},
            "confirm": {"type": "bool", "default": False},
            "confirm_within": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    refuse_others(module, "manage bridges")
    name, seconds = module.params["name"], module.params["confirm_within"]
    for option, refusal in (("name", bridge_refusal), ("uplink", uplink_refusal)):
        if module.params[option] and refusal(module.params[option]):
            module.fail_json(msg=f"{option}: {refusal(module.params[option])}")
    if not 10 <= seconds <= 3600:
        module.fail_json(msg=f"confirm_within: is {seconds}, must be 10..3600 seconds")
    result = {}
    try:
        if module.params["confirm"]:
            changed = bridge_switch.confirm(name, module.check_mode)
        else:
            change = bridge_switch.needed(name, module.params["uplink"] or "")
            changed = change is not None
            if change is not None:
                result["diff"] = {"before": change.before, "after": change.after,
                                  "before_header": change.path, "after_header": change.path}  # fmt: skip
                if not module.check_mode:
                    bridge_switch.begin(name, change, seconds)
    except (bridge_switch.SwitchError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, addresses=bridge_switch.addresses(name), **result)


if __name__ == "__main__":
    main()
