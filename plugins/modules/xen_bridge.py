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
  - Moves the uplink's configuration in F(/etc/network/interfaces) (DHCP or static, IPv4 and IPv6) to a bridge over it.
  - The switch is made by a process of its own on the host. Unless a second call with O(confirm=true), which proves that
    the controller still reaches the host, comes in time, it puts the old configuration back and starts it.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Shows the change to F(/etc/network/interfaces).
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
    description: Confirm the switch that a call before has begun.
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

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import DEVICE
from ansible_collections.unikernels.xen.plugins.module_utils.host.interfaces import InterfacesError, bridged
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import write_whole
from ansible_collections.unikernels.xen.plugins.module_utils.xen.network import bridges, networks_by_device, uplink

INTERFACES = "/etc/network/interfaces"
FOLDER = "/var/lib/unikernels/network"
UNIT = "unikernels-xen-bridge"
SWITCH = r"""#!/bin/sh
# Written by unikernels.xen: put a bridge over the uplink; without a confirmation the old network returns.
uplink=$1 bridge=$2 seconds=$3
cd /var/lib/unikernels/network || exit 1
new=/etc/network/.interfaces.new
put() { cp "$1" "$new" && chmod 0644 "$new" && sync && mv "$new" /etc/network/interfaces; }
sleep 1
ifdown --force "$uplink"
put new
ip address flush dev "$uplink"
if ifup "$uplink" "$bridge"; then
  echo up >state
  while [ "$seconds" -gt 0 ]; do
    [ -e confirmed ] && { echo kept >state; exit 0; }
    seconds=$((seconds - 1))
    sleep 1
  done
fi
ifdown --force "$bridge" "$uplink"
put old
ip link delete "$bridge" 2>/dev/null
ifup "$uplink"
echo "put back" >state
"""


def state() -> str:
    try:
        with open(os.path.join(FOLDER, "state"), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def addresses(name: str) -> list[str]:
    return networks_by_device().get(name, [])


def confirm(module: AnsibleModule) -> None:
    name = module.params["name"]
    if name not in bridges():
        module.fail_json(
            msg=f"bridge {name} is not there; the old network was put back. See: journalctl -u {UNIT}; then run again"
        )
    kept = os.path.join(FOLDER, "confirmed")
    changed = state() == "up" and not os.path.exists(kept)
    if changed and not module.check_mode:
        write_whole(kept, b"", 0o600)
        until = time.monotonic() + 20
        while state() != "kept":
            if time.monotonic() > until:
                module.fail_json(msg=f"bridge {name}: the confirmation came too late; see journalctl -u {UNIT}")
            time.sleep(0.2)
    module.exit_json(changed=False, addresses=addresses(name))


def begin(module: AnsibleModule, text: str, new: str, device: str) -> None:
    name, seconds = module.params["name"], module.params["confirm_within"]
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    for leftover in ("confirmed", "state"):
        if os.path.exists(os.path.join(FOLDER, leftover)):
            os.unlink(os.path.join(FOLDER, leftover))
    write_whole(os.path.join(FOLDER, "old"), text.encode(), 0o600)
    write_whole(os.path.join(FOLDER, "new"), new.encode(), 0o600)
    write_whole(os.path.join(FOLDER, "switch"), SWITCH.encode(), 0o700)
    module.run_command(
        ["systemd-run", "--quiet", "--collect", "--unit", UNIT, os.path.join(FOLDER, "switch"), device, name, str(seconds)],
        check_rc=True,
    )
    until = time.monotonic() + seconds
    while state() != "up" and time.monotonic() < until:
        if state() == "put back":
            break
        time.sleep(0.5)
    if state() != "up":
        module.fail_json(msg=f"bridge {name} did not come up, the old network was put back; see journalctl -u {UNIT}")


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
    name = module.params["name"]
    for option in ("name", "uplink"):
        if module.params[option] and not DEVICE.fullmatch(module.params[option]):
            module.fail_json(msg=f"{option}: {module.params[option]!r} is not the name of a network device")
    if module.params["confirm"]:
        confirm(module)
    if name in bridges():
        module.exit_json(changed=False, addresses=addresses(name))
    device = module.params["uplink"] or uplink()
    if not device:
        module.fail_json(msg="the host has no default route, so its uplink is not known: give uplink")
    try:
        with open(INTERFACES, encoding="utf-8") as file:
            text = file.read()
        new = bridged(text, device, name)
    except (InterfacesError, OSError) as error:
        module.fail_json(msg=f"{INTERFACES}: {error}")
    if not module.check_mode:
        begin(module, text, new, device)
    module.exit_json(
        changed=True,
        addresses=addresses(name),
        diff={"before": text, "after": new, "before_header": INTERFACES, "after_header": INTERFACES},
    )


if __name__ == "__main__":
    main()
