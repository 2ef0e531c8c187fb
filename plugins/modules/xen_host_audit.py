#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_host_audit
short_description: Check which hardening controls hold on a Xen host
version_added: 0.2.0
description:
  - Checks the current state of each control that the role P(unikernels.xen.xen_host#role) sets, no matter what has set it.
  - Changes nothing, and does not fail when a control does.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  host:
    description: Name of the host in RV(lines).
    type: str
    default: host
seealso:
  - module: unikernels.xen.xen_host_info
"""

EXAMPLES = r"""
- name: Look at each control
  unikernels.xen.xen_host_audit:
    host: "{{ inventory_hostname }}"
  register: audit
"""

RETURN = r"""
controls:
  description: Each control.
  returned: success
  type: list
  elements: dict
  contains:
    control:
      description: Its name, as in docs/hardening.md.
      type: str
    passed:
      description: Whether it holds.
      type: bool
    seen:
      description: What was seen.
      type: str
    needed:
      description: What is required.
      type: str
lines:
  description: The controls that do not hold, and how many do, for a reader.
  returned: success
  type: list
  elements: str
failed_controls:
  description: Names of the default controls that do not hold.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.host.audit_facts import audit_facts
from ansible_collections.unikernels.xen.plugins.module_utils.host.facts import gather
from ansible_collections.unikernels.xen.plugins.module_utils.host.hardening import OPTIONAL, audit, summary
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError


def main() -> None:
    module = AnsibleModule(argument_spec={"host": {"type": "str", "default": "host"}}, supports_check_mode=True)
    refuse_others(module, "audit")
    try:
        controls = audit({**gather([], with_updates=True), **audit_facts()})
    except ToolstackError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        controls=[control.as_dict() for control in controls],
        lines=summary(module.params["host"], controls),
        failed_controls=[control.name for control in controls if not control.passed and control.name not in OPTIONAL],
    )


if __name__ == "__main__":
    main()
