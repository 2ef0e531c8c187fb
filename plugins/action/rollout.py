# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Plans a rollout over the play's hosts, and judges between its waves how it goes; see modules/rollout.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import waves
from ansible_collections.unikernels.xen.plugins.plugin_utils.resolve import Renderer, Resolver

# Where the plays keep the plan and a host's turn.
PLAN, TURN, BACK = "unikernels_xen_rollout", "unikernels_xen_turn", "unikernels_xen_back"
_SHOWN = {"_ansible_verbose_always": True}


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("step",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _checked, options = self.validate_argument_spec(
            argument_spec={"step": {"type": "str", "choices": ["plan", "wave", "verdict", "end"], "required": True}}
        )
        if options["step"] == "plan":
            return {**result, **self._plan(variables)}
        return {**result, **self._judge(variables, options["step"])}

    def _values(self, variables: Mapping[str, Any], hosts: list[str], names: list[str]) -> dict[str, dict[str, Any]]:
        manager, inventory = variables["hostvars"]._variable_manager, variables["hostvars"]._inventory
        renderer, problems = Renderer(self._loader), list[str]()
        values = {}
        for host in hosts:
            known = manager.get_vars(host=inventory.get_host(host), include_hostvars=False)
            lines: list[str] = []
            values[host] = Resolver(renderer, known, lines.append).values(names)
            problems += [f"{host}: {line}" for line in lines]
        if problems:
            raise waves.RolloutError("\n".join(problems))
        return values

    def _plan(self, variables: dict[str, Any]) -> dict[str, Any]:
        hosts = [str(host) for host in variables["ansible_play_hosts_all"]]
        try:
            declared = self._values(variables, hosts, ["rollout"])
            wrong = [host for host in hosts if declared[host].get("rollout") != declared[hosts[0]].get("rollout")]
            rollout, problems = waves.rollout_of(declared[hosts[0]].get("rollout", {"waves": ["100%"]}))
            if wrong:
                problems.append(f"rollout: is another one for {wrong[0]} than for {hosts[0]}; it must be the same for all hosts")
            spread = self._values(variables, hosts, [rollout.spread]) if rollout.spread else {host: {} for host in hosts}
        except waves.RolloutError as error:
            return {"failed": True, "msg": str(error)}
        plan, more = waves.plan(rollout, {host: spread[host].get(rollout.spread) for host in hosts})
        if problems + more:
            return {"failed": True, "msg": "\n".join(problems + more)}
        shown = [f"wave {index + 1}: {', '.join(wave[:8])}{' ...' if len(wave) > 8 else ''} ({len(wave)})"
                 for index, wave in enumerate(plan.waves())]  # fmt: skip
        return {
            "changed": False,
            "id": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "order": plan.order,
            "sizes": plan.sizes,
            "max_failed": plan.max_failed,
            "rollout": {**rollout.__dict__, "waves": list(rollout.waves)},
            "msg": shown,
            **_SHOWN,
        }

    def _judge(self, variables: dict[str, Any], step: str) -> dict[str, Any]:
        known = variables[PLAN]
        rollout = waves.Rollout(**{**known["rollout"], "waves": tuple(known["rollout"]["waves"])})
        plan = waves.Plan(list(known["order"]), list(known["sizes"]), known["max_failed"])
        values = self._values(variables, plan.order, [TURN, BACK])
        turns = {host: str(value.get(TURN) or "") for host, value in values.items()}
        if step == "end":
            backs = {host: str(value.get(BACK) or "") for host, value in values.items()}
            well, lines = waves.ending(rollout, plan, turns, backs)
            return {"changed": False, "failed": not well, "msg": lines if well else "\n".join(lines), **_SHOWN}
        if step == "wave":
            batch = {str(host) for host in variables["ansible_play_batch"]}
            wave = next(index for index, hosts in enumerate(plan.waves()) if batch <= set(hosts))
            judged = waves.verdict(rollout, plan, turns, wave)
        else:
            judged = waves.last_verdict(rollout, plan, turns)
        return {"changed": False, "stop": judged.stop, "back": judged.back, "msg": judged.lines, **_SHOWN}
