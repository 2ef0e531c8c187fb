#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_console
short_description: Read a domain's console, or wait for a line on it
version_added: 0.1.0
description:
  - Returns the last lines that a domain wrote to its console; with O(pattern) waits until one matches. Changes nothing.
  - Reads the log that xenconsoled keeps (role P(unikernels.xen.xen_host#role)), so it also has the output of a domain that has
    ended.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  name:
    description: Name of the domain.
    type: str
    required: true
  lines:
    description: How many lines to return.
    type: int
    default: 50
  pattern:
    description: Regular expression to wait for.
    type: str
  within:
    description: Seconds to wait for O(pattern), after which the task fails and shows the last lines.
    type: int
    default: 30
  since:
    description: Look only at what comes after this position, the RV(position) of an earlier call.
    type: int
    default: 0
seealso:
  - module: unikernels.xen.xen_domain
"""

EXAMPLES = r"""
- name: Wait until the web server prints that it is ready
  unikernels.xen.xen_console:
    name: www
    pattern: ready
    within: 60
  register: console

- name: Read what it prints after that
  unikernels.xen.xen_console:
    name: www
    since: "{{ console.position }}"
    lines: 20
"""

RETURN = r"""
console:
  description: The last lines, without terminal control characters.
  returned: always
  type: list
  elements: str
match:
  description: The line that matched.
  returned: with O(pattern)
  type: str
position:
  description: Where the console's log ended, for O(since) of a later call.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.xen.console_answer import answer
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "lines": {"type": "int", "default": 50},
            "pattern": {"type": "str"},
            "within": {"type": "int", "default": 30},
            "since": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = answer(params["name"], params["lines"], params["pattern"] or "", params["within"], params["since"])
    except ToolstackError as error:
        module.fail_json(msg=str(error), console=error.console)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
