#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_status
short_description: Show the state of all hosts of a play as a table, JSON and an HTML page
version_added: 0.2.0
description:
  - Summarizes what earlier tasks of the play registered for each host. C(playbooks/status.yml) has these tasks.
  - The HTML page needs no server and loads nothing from elsewhere; it sorts and filters in the browser.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Connects to no host; writes its files in check mode too.
    support: full
  diff_mode:
    description: Not supported.
    support: none
  platform:
    description: Hosts that this works for.
    platforms: all
    support: full
options:
  prefix:
    description: >-
      Prefix of the registered variables' names, which end in C(host) (M(unikernels.xen.xen_host_info)), C(domains)
      (M(unikernels.xen.xen_domain_info)), C(generations) (M(unikernels.xen.xen_generation_info)), C(health)
      (M(unikernels.xen.service_health)) and C(drift) (M(unikernels.xen.xen_rollback) to the newest generation, in check mode).
    type: str
    default: status_
  html:
    description: File on the controller for the page. Readable only by its owner.
    type: path
    default: ""
  json:
    description: File on the controller for the JSON. Readable only by its owner.
    type: path
    default: ""
  journal:
    description: Folder of the rollouts' journals; V(~/.local/state/unikernels.xen/rollouts) if empty.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show it
  unikernels.xen.fleet_status:
    html: /srv/www/fleet.html
  run_once: true
"""

RETURN = r"""
msg:
  description: The table, followed by the current rollout with its waves and the last one that ended.
  returned: always
  type: list
  elements: str
well:
  description: Whether every host was reached and is as declared.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Fail: the action plugin should have run instead. The options are here for checks of the documentation."""
    AnsibleModule(
        argument_spec={
            "prefix": {"type": "str", "default": "status_"},
            "html": {"type": "path", "default": ""},
            "json": {"type": "path", "default": ""},
            "journal": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    ).fail_json(msg="fleet_status runs on the controller; this file only documents it")


if __name__ == "__main__":
    main()
