#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_watch
short_description: Check the health of services repeatedly for a number of seconds
version_added: 0.2.0
description:
  - Runs the health checks of M(unikernels.xen.service_health) every O(every) seconds for O(seconds) seconds, and ends at once
    when one of them fails O(failures) times in a row. Changes nothing. Meant to run in the background, with C(async).
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  domains:
    description: As O(unikernels.xen.service_health#module:domains).
    type: list
    elements: dict
    required: true
  seconds:
    description: Duration. With V(0) each check is run once, and again only while it fails.
    type: int
    required: true
  every:
    description: Seconds from one check to the next, and the time in which each must answer.
    type: int
    default: 5
  failures:
    description: Number of failures in a row after which a service is unhealthy.
    type: int
    default: 2
seealso:
  - module: unikernels.xen.service_health
"""

EXAMPLES = r"""
- name: Does the web server answer for five minutes?
  unikernels.xen.service_watch:
    domains:
      - name: www
        health: {http: "http://10.0.2.101/"}
    seconds: 300
  async: 900
  poll: 0
"""

RETURN = r"""
rounds:
  description: How many times all checks were run.
  returned: when the declarations are valid
  type: int
ill:
  description: Name of each unhealthy service, and the reason.
  returned: when the declarations are valid
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.health.service_watch import watch

MAX_SECONDS = 86_400


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "domains": {"type": "list", "elements": "dict", "required": True},
            "seconds": {"type": "int", "required": True},
            "every": {"type": "int", "default": 5},
            "failures": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    params = module.params
    for option, low, high in (("seconds", 0, MAX_SECONDS), ("every", 1, 3600), ("failures", 1, 100)):
        if not low <= params[option] <= high:
            module.fail_json(msg=f"{option}: is {params[option]}, must be {low}..{high}")
    result = watch(params["domains"], params["seconds"], params["every"], params["failures"])
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
