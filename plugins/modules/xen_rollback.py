#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_rollback
short_description: Roll a host back to a declaration that was applied before
version_added: 0.2.0
description:
  - Restores the domains that an earlier generation declares, with arguments, memory, disks and networks, from what the host has
    kept. A replacement must be healthy before the old domain ends, as with M(unikernels.xen.xen_domains).
  - The ports that its unikernels publish (C(publish)) and what may reach them (C(accept), C(reach)) are restored too. The host's
    networks themselves stay as they are.
  - A second run changes nothing. A rollback is recorded as a new generation that repeats its target.
  - Domains that only later generations declare are removed; their disks with data stay.
  - A disk that is missing is an error, because the earlier domain had it; an empty one does not replace it.
author:
  - unikernels.xen authors (@unikernels)
attributes:
  check_mode:
    description: Can run in check mode and predict what a run would do.
    support: full
  diff_mode:
    description: Shows what differs for every domain.
    support: full
options:
  to:
    description:
      - V(previous) is the generation that was applied before the newest declaration, regardless of rollbacks since.
      - Or the number of a generation, see M(unikernels.xen.xen_generation_info).
      - Or V(rollout=ID), the state of the host after that rollout.
    type: str
    default: previous
  names:
    description: Domains to roll back; all by default.
    type: list
    elements: str
    default: []
  by:
    description: Who rolls back, as in V(alice@controller); by default the user who runs Ansible, and the controller's name.
    type: str
    default: ""
  rollout:
    description: Name of the rollout that is rolled back.
    type: str
    default: ""
  parallel:
    description: How many domains are changed at the same time.
    type: int
    default: 4
  lock_timeout:
    description: Seconds to wait for another run on the same host.
    type: int
    default: 60
  folder:
    description: Where generations are kept.
    type: path
    default: /var/lib/unikernels/generations
seealso:
  - module: unikernels.xen.xen_generation_info
"""

EXAMPLES = r"""
- name: Roll back to the generation before the last deployment
  unikernels.xen.xen_rollback:
    to: previous
"""

RETURN = r"""
generation:
  description: Number of the generation that was rolled back to.
  returned: success
  type: int
domains:
  description: What happened to each domain, as in M(unikernels.xen.xen_domains).
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.apply.converge import Refused, converge
from ansible_collections.unikernels.xen.plugins.module_utils.apply.results import Result, together
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generation_folder import FOLDER, back
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.generations import Generation, GenerationError, plain_words
from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import Guests
from ansible_collections.unikernels.xen.plugins.module_utils.xen.argspec import typed
from ansible_collections.unikernels.xen.plugins.module_utils.xen.as_root import refuse_others
from ansible_collections.unikernels.xen.plugins.module_utils.xen.guests_back import RulesBack
from ansible_collections.unikernels.xen.plugins.module_utils.xen.unlogged import UnloggedModule


def main() -> None:
    module = UnloggedModule(
        argument_spec={
            "to": {"type": "str", "default": "previous"},
            "names": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str", "default": ""},
            "rollout": {"type": "str", "default": ""},
            "parallel": {"type": "int", "default": 4},
            "lock_timeout": {"type": "int", "default": 60},
            "folder": {"type": "path", "default": FOLDER},
        },
        supports_check_mode=True,
    )
    refuse_others(module, "roll back")
    params = module.params
    rules = RulesBack(module.check_mode)

    def apply(domains: list[dict[str, Any]], guests: Guests | None) -> list[Result]:
        declared, secrets = typed(domains)
        module.no_log_values.update(secrets)
        waits, parallel = params["lock_timeout"], params["parallel"]
        return rules.around(guests, lambda check: converge(declared, check, module.warn, False, waits, parallel, returns=True))

    note = Generation(0, by=plain_words(params["by"]), rollout=plain_words(params["rollout"]))
    try:
        target, results, written = back(params["folder"], params["to"], params["names"], apply, note, module.check_mode)
    except (Refused, GenerationError) as refusal:
        module.fail_json(msg=str(refusal))
    except OSError as error:
        module.fail_json(msg=f"{params['folder']}: {error.strerror}")
    outcome = rules.added({**together(results), "generation": target.number})
    outcome["changed"] = outcome["changed"] or written
    if outcome.get("failed"):
        module.fail_json(**outcome)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
