#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_generation
short_description: Record the declaration that was applied to a host, to roll back to it
version_added: 0.2.0
description:
  - Records the declaration that M(unikernels.xen.xen_domains) applied as a numbered generation, with its images' digests, who
    applied it, when, and the result. The last 20 are kept, readable by root alone. A repeated declaration is recorded once.
  - Disks' content that holds private keys is kept only for the last 2 generations.
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
  domains:
    description: As O(unikernels.xen.xen_domains#module:domains).
    type: list
    elements: dict
    required: true
  images:
    description: Name of a domain to the name of its image.
    type: dict
    default: {}
  whole:
    description: >-
      Whether O(domains) has all domains of this collection on the host. If not, other domains of the newest generation are kept
      in this one.
    type: bool
    default: false
  guests:
    description: >-
      The ports that the domains publish, and what may reach them, as P(unikernels.xen.declared#module) returns them (C(guests));
      without them a rollback to this generation leaves these as they are then.
    version_added: 0.3.0
    type: dict
    default: {}
  by:
    description: Who applied it, as in V(alice@controller).
    type: str
    default: ""
  revision:
    description: Which revision of the inventory it is.
    type: str
    default: ""
  rollout:
    description: Name of the rollout that it is part of.
    type: str
    default: ""
  result:
    description: Whether it was applied or failed.
    type: str
    choices: [applied, failed]
    default: applied
  folder:
    description: Where generations are kept.
    type: path
    default: /var/lib/unikernels/generations
seealso:
  - module: unikernels.xen.xen_generation_info
  - module: unikernels.xen.xen_rollback
"""

EXAMPLES = r"""
- name: Keep what runs now
  unikernels.xen.xen_generation:
    domains: "{{ domains }}"
    by: "{{ lookup('ansible.builtin.env', 'USER') }}"
"""

RETURN = r"""
number:
  description: Number of the generation that the host has now.
  returned: success
  type: int
"""

from ansible_collections.unikernels.xen.plugins.module_utils.fleet import generation_guests
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generation_folder import FOLDER, record
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generations import Generation, plain_words
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others
from ansible_collections.unikernels.xen.plugins.module_utils.xen.unlogged import UnloggedModule


def main() -> None:
    module = UnloggedModule(
        argument_spec={
            "domains": {"type": "list", "elements": "dict", "required": True},
            "images": {"type": "dict", "default": {}},
            "guests": {"type": "dict", "default": {}},
            "whole": {"type": "bool", "default": False},
            "by": {"type": "str", "default": ""},
            "revision": {"type": "str", "default": ""},
            "rollout": {"type": "str", "default": ""},
            "result": {"type": "str", "choices": ["applied", "failed"], "default": "applied"},
            "folder": {"type": "path", "default": FOLDER},
        },
        supports_check_mode=True,
    )
    params = module.params
    # -vvv shows a module's arguments, and the declaration may contain secrets.
    shown = {"module_args": {**params, "domains": [str(one.get("name")) for one in params["domains"]]}}
    refuse_others(module, "record a generation", invocation=shown)
    try:
        guests = generation_guests.read(params["guests"] or None)
    except ValueError:
        module.fail_json(msg="guests: must be what unikernels.xen.declared returns as guests of a host", invocation=shown)
    new = Generation(
        0, params["domains"], {str(key): str(value) for key, value in params["images"].items()},
        by=plain_words(params["by"]), revision=plain_words(params["revision"]), rollout=plain_words(params["rollout"]),
        result=params["result"], guests=guests,
    )  # fmt: skip
    try:
        number, changed = record(params["folder"], new, module.check_mode, params["whole"])
    except OSError as error:
        module.fail_json(msg=f"{params['folder']}: {error.strerror}", invocation=shown)
    module.exit_json(changed=changed, number=number, invocation=shown)


if __name__ == "__main__":
    main()
