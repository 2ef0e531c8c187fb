#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_boot
short_description: Try a new boot of a host once, and keep it if it works
version_added: 0.2.0
description:
  - A boot that is new (Xen for the first time, other arguments, another kernel or Xen) may not come up. With this module GRUB
    boots it a single time. What worked before stays GRUB's default, with its files under names of their own, until a run
    confirms the new one from outside.
  - If the new boot ends before that, for any reason, the machine boots the entry that worked. Dom0's kernel is given
    C(panic=30), and a unit of the role P(unikernels.xen.xen_host#role) reboots the machine if no run confirms it in time.
  - GRUB must be able to write its environment, which it can't on LVM, software RAID, encrypted volumes or btrfs.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Not supported.
    support: none
options:
  state:
    description:
      - V(tried) lets the next boot be Xen's first entry of GRUB's menu, once. It does not reboot.
      - V(confirmed) makes the boot on trial the default. It fails if the machine has returned to another entry.
      - V(kept) makes what runs now GRUB's default, with its files.
    type: str
    required: true
    choices: [tried, confirmed, kept]
seealso:
  - module: unikernels.xen.xen_host_info
"""

EXAMPLES = r"""
- name: Let the next boot be the new one
  unikernels.xen.xen_boot:
    state: tried

- name: Boot it
  ansible.builtin.reboot:

- name: It came up, and can be reached
  unikernels.xen.xen_boot:
    state: confirmed
"""

RETURN = r"""
boot:
  description: What M(unikernels.xen.xen_host_info) has as C(boot), after the change.
  returned: success
  type: dict
"""

import platform
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.host import boot
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others
from ansible_collections.unikernels.xen.plugins.module_utils.xen.observation import available
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError, must

CHANGES = {"tried": boot.prepare, "confirmed": boot.confirm, "kept": boot.keep}


def main() -> None:
    argument_spec = {"state": {"type": "str", "required": True, "choices": list(CHANGES)}}
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    refuse_others(module, "change what boots")
    if module.check_mode:
        module.exit_json(changed=True, boot=boot.state())
    try:
        info = must("info") if available() else ""
        xen_line = "".join(re.findall(r"^xen_commandline\s*: (.*)$", info, re.MULTILINE))
        CHANGES[module.params["state"]](xen_line, boot.read("/proc/cmdline").strip(), platform.release())
    except (boot.BootError, ToolstackError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(changed=True, boot=boot.state())


if __name__ == "__main__":
    main()
