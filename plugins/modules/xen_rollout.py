#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_rollout
short_description: Reserve a host for a rollout, and release it
version_added: 0.2.0
description:
  - The host keeps the name of the rollout under way, and the generation to roll back to, in a file beside O(folder). A second
    rollout is refused with the name of the first, also when it is run from another controller.
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
  id:
    description: Name of the rollout, as M(unikernels.xen.rollout) returns it.
    type: str
    required: true
  state:
    description:
      - V(reserved) refuses the task if another rollout is under way. The generation to roll back to is kept from the first time.
      - V(released) records the end of this rollout; a host that another one reserved is left as it is.
    type: str
    choices: [reserved, released]
    required: true
  by:
    description: Who runs the rollout, as in V(alice@controller).
    type: str
    default: ""
  result:
    description: How it ended, with O(state=released).
    type: str
    default: ""
  ended:
    description: Rollouts that have ended; a host that was not reached at their end is reserved anyway.
    type: list
    elements: str
    default: []
  take_over:
    description: Reserve the host even if another rollout is under way.
    type: bool
    default: false
  folder:
    description: Where generations are kept.
    type: path
    default: /var/lib/unikernels/generations
seealso:
  - module: unikernels.xen.rollout
"""

EXAMPLES = r"""
- name: Reserve the host
  unikernels.xen.xen_rollout:
    id: 20261127T080000Z-1a2b3c
    state: reserved
    by: alice@controller
"""

RETURN = r"""
before:
  description: The generation that the host had before this rollout; 0 if it had none.
  returned: with O(state=reserved)
  type: int
domains:
  description:
    - The domains with a health check in the newest generation that was applied, as M(unikernels.xen.service_health) takes them.
  returned: with O(state=reserved)
  type: list
  elements: dict
  contains:
    name:
      description: The domain's name.
      type: str
    state:
      description: As it was declared.
      type: str
    health:
      description: Its health check.
      type: raw
  sample: [{name: www, state: running, health: {tcp: "10.0.2.101:80"}}]
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generation_folder import FOLDER, listing
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generations import APPLIED, health_checks, plain_words
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.host_note import Entry, NoteError, released, reserved
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.note_file import change_note
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["reserved", "released"], "required": True},
            "by": {"type": "str", "default": ""},
            "result": {"type": "str", "default": ""},
            "ended": {"type": "list", "elements": "str", "default": []},
            "take_over": {"type": "bool", "default": False},
            "folder": {"type": "path", "default": FOLDER},
        },
        supports_check_mode=True,
    )
    refuse_others(module, "change the note of rollouts")
    params = module.params
    try:
        kept, _problems = listing(params["folder"])
        newest = max((one.number for one in kept if one.result == APPLIED), default=0)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        new = Entry(params["id"], plain_words(params["by"]), at, newest)
        if params["state"] == "reserved":
            note, changed = change_note(
                params["folder"], lambda old: reserved(old, new, params["ended"], params["take_over"]), module.check_mode
            )
            before = note.under_way.before if note.under_way else newest
            module.exit_json(changed=changed, before=before, domains=health_checks(kept))
        note, changed = change_note(
            params["folder"], lambda old: released(old, params["id"], plain_words(params["result"]), newest), module.check_mode
        )
        module.exit_json(changed=changed)
    except NoteError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or params['folder']}: {error.strerror}")


if __name__ == "__main__":
    main()
