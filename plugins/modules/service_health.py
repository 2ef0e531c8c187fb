#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_health
short_description: Check the health of services in their own protocols
version_added: 0.1.0
description:
  - Runs the health checks of M(unikernels.xen.xen_domain), from wherever the task runs. Changes nothing.
  - All services are asked at once, each for its own C(within) seconds, and at most one attempt longer (a second, or less).
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  domains:
    description:
      - A list of mappings as M(unikernels.xen.xen_domains) takes it, of which C(name), C(state) and C(health) are read.
      - Skipped are those without C(health), those that are not declared running, and console checks, which apply only to the
        start of a domain.
      - A check of kind C(dns) needs dnspython where the task runs (Debian's python3-dnspython), one of kind C(openvpn)
        cryptography (python3-cryptography). Files that a check names, and the program of kind C(command), are looked for there.
    type: list
    elements: dict
    required: true
seealso:
  - module: unikernels.xen.xen_domain
"""

EXAMPLES = r"""
- name: Does the web server answer?
  unikernels.xen.service_health:
    domains:
      - name: www
        health: {http: "http://10.0.2.101/", within: 60}
"""

RETURN = r"""
healthy:
  description: Names of the domains that answered as declared.
  returned: when the declarations are valid
  type: list
  elements: str
answers:
  description: The result of each check, also when the task fails.
  returned: when the declarations are valid
  type: list
  elements: dict
  contains:
    name:
      description: The domain's name.
      type: str
    healthy:
      description: Whether it answered as declared.
      type: bool
    msg:
      description: Empty, or the problem in one line.
      type: str
    seconds:
      description: Seconds until the result was known.
      type: float
  sample: [{name: www, healthy: true, msg: "", seconds: 0.004}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.health.waiting import service_health


def main() -> None:
    module = AnsibleModule(
        argument_spec={"domains": {"type": "list", "elements": "dict", "required": True}}, supports_check_mode=True
    )
    result = service_health(module.params["domains"])
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
