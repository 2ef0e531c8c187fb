#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: Plan a rollout in waves, keep its journal, and decide between waves whether it continues
version_added: 0.2.0
description:
  - Reads the variable C(rollout) of the play's hosts; see docs/fleet.md for its keys. Run it by
    C(playbooks/rollout.yml), which has the plays around it. Changes no host.
  - Each step reads the rollout's journal on the controller, decides, and records the decision before it is carried out.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Decides on a copy of the journal.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
  platform:
    description: Hosts that this works for.
    platforms: all
    support: full
options:
  step:
    description:
      - V(plan) checks the variable and assigns hosts to waves, V(begin) begins the journal, V(ready) counts who is reserved.
      - V(wave) evaluates the waves before that of the play's batch, V(deployed) records who failed, V(bake) waits and runs
        the checks that are made from the controller, V(watched) records who is done.
      - V(verdict) decides on a rollback, V(returned) records who was rolled back, V(end) records and reports the end of the run.
      - V(result) fails unless every host is done; it makes the task unreachable, for exit code 4, if the rollout can be resumed.
    type: str
    choices: [plan, begin, ready, wave, deployed, bake, watched, verdict, returned, end, result]
    required: true
  resume:
    description: Name of a rollout to resume, with O(step=plan).
    type: str
    default: ""
  abort:
    description: Name of a rollout to roll back, with O(step=plan).
    type: str
    default: ""
  approve:
    description: Number of the wave that is approved, with O(resume).
    type: str
    default: ""
  to:
    description: Generation to deploy instead of the declaration, as O(unikernels.xen.xen_rollback#module:to).
    type: str
    default: ""
  accept_changes:
    description: Resume also if the inventory or the declaration has changed since.
    type: bool
    default: false
  take_over:
    description: Begin, resume or abort although another run or rollout seems to be under way.
    type: bool
    default: false
  asked:
    description: Whether there is a rollout where the variable C(rollout) is not set, with O(step=plan); it has one wave then.
    type: bool
    default: true
  report_to:
    description: Webhooks and mail addresses that get the result, instead of C(rollout.notify).
    type: raw
    default: ""
  journal:
    description: Folder of the journals; V(~/.local/state/unikernels.xen/rollouts) if empty.
    type: str
    default: ""
  until:
    description: How many seconds after the watch began to wait, with O(step=bake).
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Which host is in which wave?
  unikernels.xen.rollout:
    step: plan
  run_once: true
  register: unikernels_xen_rollout
"""

RETURN = r"""
id:
  description: Name of the rollout.
  returned: with O(step=plan)
  type: str
order:
  description: The hosts in the order of their waves.
  returned: with O(step=plan) and O(step=ready)
  type: list
  elements: str
sizes:
  description: How many hosts each wave has.
  returned: with O(step=ready)
  type: list
  elements: int
stop:
  description: Whether this wave does not start.
  returned: with O(step=wave)
  type: bool
back:
  description: Hosts to roll back, those of the last wave first.
  returned: with O(step=verdict)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Fail: the action plugin should have run instead. The options are here for checks of the documentation."""
    AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "choices": [
                    "plan", "begin", "ready", "wave", "deployed", "bake", "watched", "verdict", "returned", "end", "result",
                ],
                "required": True,
            },
            "resume": {"type": "str", "default": ""},
            "abort": {"type": "str", "default": ""},
            "approve": {"type": "str", "default": ""},
            "to": {"type": "str", "default": ""},
            "accept_changes": {"type": "bool", "default": False},
            "take_over": {"type": "bool", "default": False},
            "report_to": {"type": "raw", "default": ""},
            "journal": {"type": "str", "default": ""},
            "until": {"type": "int", "default": 0},
            "asked": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    ).fail_json(msg="rollout runs on the controller; this file only documents it")  # fmt: skip


if __name__ == "__main__":
    main()
