#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_health
short_description: Ask services in their own protocols whether they serve
version_added: 0.1.0
description:
  - Makes the health checks of M(unikernels.xen.xen_domain) apart from it, from wherever the task runs. Changes nothing.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  domains:
    description: A list of mappings, as M(unikernels.xen.xen_domains) takes it; those without C(health) are passed over.
    type: list
    elements: dict
    required: true
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
  returned: success
  type: list
  elements: str
"""

import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Declaration
from ansible_collections.unikernels.xen.plugins.module_utils.health.checks import ask


def wait_for(declaration: Declaration) -> str | None:
    """None when the service answered in time, else one line."""
    health = declaration.health
    if health is None:
        return None
    until = time.monotonic() + health.within
    while True:
        answer = ask(health)
        if answer is None:
            return None
        if time.monotonic() >= until:
            return f"domain {declaration.name}: not healthy after {health.within} s: {answer}"
        time.sleep(0.3)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"domains": {"type": "list", "elements": "dict", "required": True}}, supports_check_mode=True
    )
    try:
        declarations = [declaration_of({"kernel": "/", **one}, "") for one in module.params["domains"]]
    except SpecError as error:
        module.fail_json(msg=str(error))
    asked = [one for one in declarations if one.health and one.health.kind != "console" and one.state == "running"]
    with ThreadPoolExecutor(8) as pool:
        problems = [line for line in pool.map(wait_for, asked) if line]
    if problems:
        module.fail_json(msg=" // ".join(problems))
    module.exit_json(changed=False, healthy=[one.name for one in asked])


if __name__ == "__main__":
    main()
