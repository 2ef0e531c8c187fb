#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_generation_info
short_description: List the declarations that were applied to a host, and how they differ
version_added: 0.2.0
description:
  - Lists the generations that a host keeps, without arguments and disks' content. Changes nothing.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  to:
    description: As O(unikernels.xen.xen_rollback#module:to); adds RV(target).
    type: str
  names:
    description: Domains to roll back; all by default.
    type: list
    elements: str
    default: []
  folder:
    description: Where generations are kept.
    type: path
    default: /var/lib/unikernels/generations
seealso:
  - module: unikernels.xen.xen_rollback
"""

EXAMPLES = r"""
- name: What would a rollback bring back?
  unikernels.xen.xen_generation_info:
    to: previous
  register: generations
"""

RETURN = r"""
generations:
  description: >-
    The oldest first, each with C(number), C(time), C(by), C(revision), C(rollout), C(result), C(repeats) (the generation that
    was rolled back to) and C(domains) with C(name), C(image), C(sha256), C(state), C(memory) and C(health) (not those of kind
    C(command)).
  returned: always
  type: list
  elements: dict
rollouts:
  description: >-
    The rollout C(under_way) or null, and the C(past) ones, each with C(id), C(by), C(at), C(result), and the generations
    C(before) and C(after) it.
  returned: always
  type: dict
target:
  description: The generation of O(to).
  returned: with O(to)
  type: dict
images:
  description: Image name to digest in RV(target), of O(names).
  returned: with O(to)
  type: dict
differences:
  description: >-
    A line for each domain whose declaration differs between the newest generation and RV(target), with the options that
    differ, as in C(www - other image, interfaces[0].address); no values, which may be secret.
  returned: with O(to)
  type: list
  elements: str
problems:
  description: A line for each file that is not a generation.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generation_folder import FOLDER, overview
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generations import GenerationError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "to": {"type": "str"},
            "names": {"type": "list", "elements": "str", "default": []},
            "folder": {"type": "path", "default": FOLDER},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = overview(params["folder"], params["to"], params["names"])
    except GenerationError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{params['folder']}: {error.strerror}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
