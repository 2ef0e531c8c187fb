#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_domains
short_description: Manage all Xen domains of a host in one call
version_added: 0.1.0
description:
  - Like M(unikernels.xen.xen_domain), for any number of domains at the cost of one task.
  - The whole list is checked first. A wrong entry, a name, MAC or address used twice, an address outside the network of its
    bridge, or too little memory on the host refuses the whole list before anything changes.
  - Domains are worked on in parallel; one that fails does not stop the others unless O(stop_at_failure=true), and the task
    fails at the end.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode and predict exactly what a run would do.
    support: full
  diff_mode:
    description: Shows what differs for every domain.
    support: full
options:
  domains:
    description: A list of mappings, each with the options of M(unikernels.xen.xen_domain) except its C(lock_timeout).
    type: list
    elements: dict
    required: true
  contents:
    description:
      - What disks of O(domains) are made from and only the controller has. SHA-256 of a tar archive to the folder that it is made
        of, as M(unikernels.xen.declared) reads them; those that the host lacks are copied into C(/var/lib/unikernels/content)
        first. See C(web_content_disk) of P(unikernels.xen.web#role).
    type: dict
    default: {}
    version_added: 0.2.0
  purge:
    description: Remove domains that this collection created and that are not in O(domains). Others are never touched.
    type: bool
    default: false
  parallel:
    description: How many domains are worked on at once. Most of the time is spent waiting for guests to boot.
    type: int
    default: 4
  owner:
    description:
      - Which inventory these domains are from. The host keeps the names of all that deploy to it, and refuses O(purge) while
        there is more than one, for it would remove what the others declare. Not checked if empty.
    type: str
    default: ""
    version_added: 0.2.0
  owner_file:
    description: Where the host keeps them.
    type: path
    default: /var/lib/unikernels/owners.json
    version_added: 0.2.0
  take_over:
    description: Make O(owner) the only one.
    type: bool
    default: false
    version_added: 0.2.0
  stop_at_failure:
    description: Start with no other domain after a failure; the rest are listed as C(skipped).
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for another run on the same host. The start of its domains at boot is always waited for.
    type: int
    default: 60
seealso:
  - module: unikernels.xen.xen_domain
"""

EXAMPLES = r"""
- name: Run two domains and nothing else of ours
  unikernels.xen.xen_domains:
    domains:
      - name: www
        kernel: "{{ web_kernel }}"
        memory: 128
        interfaces: [{bridge: xenbr0, address: 10.0.2.101/24, gateway: 10.0.2.2}]
        health: {http: "http://10.0.2.101/", within: 120}
      - name: www2
        kernel: "{{ web_kernel }}"
        memory: 128
        interfaces: [{bridge: xenbr0, address: 10.0.2.104/24, gateway: 10.0.2.2}]
        arguments: {port: 8080}
    purge: true
"""

RETURN = r"""
domains:
  description: What happened to each domain, in the order of the declaration; removed ones last.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The domain.
      type: str
    state:
      description: The state that was observed at the end, as in M(unikernels.xen.xen_domain).
      type: str
    changed:
      description: Whether something changed.
      type: bool
    failed:
      description: Whether it is not as declared.
      type: bool
    steps:
      description: The phases that were completed, or would be carried out.
      type: list
      elements: str
    differs:
      description: The options in which the running domain differed from the declaration, as in M(unikernels.xen.xen_domain).
      type: list
      elements: str
    downtime_ms:
      description: Milliseconds without service, when it was replaced.
      type: int
    skipped:
      description: True if it was not started because another domain failed.
      type: bool
    msg:
      description: Why it failed.
      type: str
    console:
      description: The last lines of its console, if it failed.
      type: list
      elements: str
    rolled_back:
      description: Whether, after a failure, the old domain runs again.
      type: bool
limits:
  description: Whether the host has rules of what may reach domains, and what they may reach (C(accept), C(reach)).
  returned: always
  type: bool
"""

import os

from ansible_collections.unikernels.xen.plugins.module_utils.apply.converge import Refused, converge
from ansible_collections.unikernels.xen.plugins.module_utils.apply.results import together
from ansible_collections.unikernels.xen.plugins.module_utils.domain.fields import LOCK, argument_spec
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.owner_file import FILE, claim
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.owners import OwnerError
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach_rules import RULES
from ansible_collections.unikernels.xen.plugins.module_utils.xen.argspec import typed
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others
from ansible_collections.unikernels.xen.plugins.module_utils.xen.unlogged import UnloggedModule


def main() -> None:
    module = UnloggedModule(
        argument_spec={
            "domains": {"type": "list", "elements": "dict", "required": True},
            "contents": {"type": "dict", "default": {}},  # for the action, which runs before this
            "purge": {"type": "bool", "default": False},
            "parallel": {"type": "int", "default": 4},
            "stop_at_failure": {"type": "bool", "default": False},
            "owner": {"type": "str", "default": ""},
            "owner_file": {"type": "path", "default": FILE},
            "take_over": {"type": "bool", "default": False},
            **argument_spec([LOCK]),
        },
        supports_check_mode=True,
    )
    params = module.params
    domains, secrets = typed(params["domains"])
    module.no_log_values.update(secrets)
    refuse_others(module, "manage domains")
    try:
        if params["owner"]:
            claim(params["owner_file"], params["owner"], params["purge"], params["take_over"], module.check_mode)
        results = converge(
            domains,
            module.check_mode,
            module.warn,
            params["purge"],
            params["lock_timeout"],
            params["parallel"],
            params["stop_at_failure"],
            module._verbosity > 0,
        )
    except (Refused, OwnerError) as refusal:
        module.fail_json(msg=str(refusal))
    # -vvv shows a module's arguments: only the names here, since the rest would be most of the answer.
    shown = {**params, "domains": [one.get("name") for one in params["domains"]]}
    outcome = {**together(results), "limits": os.path.exists(RULES), "invocation": {"module_args": shown}}
    if outcome.get("failed"):
        module.fail_json(**outcome)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
