#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: Plan a rollout in waves, and decide between waves whether it continues
version_added: 0.2.0
description:
  - Reads the variable C(rollout) of the play's hosts, a mapping of C(waves), C(spread), C(bake), C(watch), C(max_failed) and
    C(on_failure); see docs/fleet.md. C(playbooks/rollout.yml) has the plays around it. Changes nothing.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Changes nothing.
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
      - V(plan) checks the variable and assigns hosts to waves.
      - V(wave) evaluates the waves before that of the play's batch, V(verdict) all that have started.
      - V(end) fails unless every host is done, and reports hosts that failed, were rolled back, or could not be rolled back.
    type: str
    choices: [plan, wave, verdict, end]
    required: true
"""

EXAMPLES = r"""
- name: Which host is in which wave?
  unikernels.xen.rollout:
    step: plan
  run_once: true
  register: unikernels_xen_rollout
"""

RETURN = r"""
order:
  description: The hosts in the order of their waves.
  returned: with O(step=plan)
  type: list
  elements: str
sizes:
  description: How many hosts each wave has.
  returned: with O(step=plan)
  type: list
  elements: int
stop:
  description: Whether no other wave may start.
  returned: with O(step=wave) and O(step=verdict)
  type: bool
back:
  description: Whether hosts of this rollout are to be rolled back.
  returned: with O(step=wave) and O(step=verdict)
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Only where no action plugin came first; the options are here for those who check the documentation against them."""
    AnsibleModule(
        argument_spec={"step": {"type": "str", "choices": ["plan", "wave", "verdict", "end"], "required": True}},
        supports_check_mode=True,
    ).fail_json(msg="rollout runs on the controller; this file only documents it")


if __name__ == "__main__":
    main()
