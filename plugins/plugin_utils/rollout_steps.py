# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What the steps of a rollout share: its variables, its journal, and the results of tasks on the play's hosts."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet import journal
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import JournalError, State
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import one_line
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import Rollout, RolloutError, rollout_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.waves import Plan, plan
from ansible_collections.unikernels.xen.plugins.plugin_utils import journal_folder
from ansible_collections.unikernels.xen.plugins.plugin_utils.resolve import Renderer, Resolver

# Variables in which the plays keep the plan and the declaration of all hosts.
PLAN, FLEET = "unikernels_xen_rollout", "unikernels_xen_fleet"
MAX_WORDS = 400


def moment() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def rendered(loader: Any, variables: Mapping[str, Any], hosts: Iterable[str], names: list[str]) -> dict[str, dict[str, Any]]:
    """The variables of that name of each host. RolloutError with a line for each that can't be rendered."""
    renderer, problems = Renderer(loader), list[str]()
    values = {}
    for host, known in known_of(variables, hosts).items():
        lines: list[str] = []
        values[host] = Resolver(renderer, known, lines.append).values(names)
        problems += [f"{host}: {line}" for line in lines]
    if problems:
        raise RolloutError("\n".join(problems))
    return values


def known_of(variables: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return all variables of each host of the inventory, including those that tasks registered."""
    manager, inventory = variables["hostvars"]._variable_manager, variables["hostvars"]._inventory
    known = {}
    for host in hosts:
        entry = inventory.get_host(host)
        if entry is not None:
            known[host] = manager.get_vars(host=entry, include_hostvars=False)
    return known


def declared(loader: Any, variables: Mapping[str, Any], hosts: list[str]) -> tuple[Rollout, Plan]:
    """Return the declared rollout of these hosts and its waves. Raise RolloutError with every mistake."""
    values = rendered(loader, variables, hosts, ["rollout"])
    given = values[hosts[0]].get("rollout", {"waves": ["100%"]})
    wrong = [host for host in hosts if values[host].get("rollout") != values[hosts[0]].get("rollout")]
    rollout, problems = rollout_of(given)
    if wrong:
        problems.append(f"rollout: is another one for {wrong[0]} than for {hosts[0]}; it must be the same for all hosts")
    spread: dict[str, dict[str, Any]] = {}
    if rollout.spread:
        spread = rendered(loader, variables, hosts, [rollout.spread])
    made, more = plan(rollout, {host: spread.get(host, {}).get(rollout.spread) for host in hosts})
    if problems + more:
        raise RolloutError("\n".join(problems + more))
    return dataclasses.replace(rollout), made


def raw_rollout(loader: Any, variables: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return the rollout for the journal: without `notify`, since a webhook's URL is a secret."""
    value = rendered(loader, variables, [host], ["rollout"])[host].get("rollout", {"waves": ["100%"]})
    return {key: entry for key, entry in dict(value).items() if key != "notify"}


def digests_of(fleet: Any, rollout: str, hosts: Iterable[str]) -> dict[str, str]:
    """Return a digest of each host's declaration, salted: a declaration may contain a secret that could be guessed."""
    texts = fleet.get("hosts", {}) if isinstance(fleet, Mapping) else {}
    key = rollout.encode("utf-8")
    return {
        host: hmac.new(key, str(texts.get(host, "")).encode("utf-8", "replace"), hashlib.sha256).hexdigest() for host in hosts
    }


def state_of(known: Mapping[str, Any]) -> State:
    """Return the rollout's state from its journal. Raise JournalError, also if another run has taken it over."""
    state = journal_folder.load(known["folder"], known["id"])
    run, here = state.run, journal_folder.this_run()
    if run and (run["node"], run["pid"]) != (here["node"], here["pid"]):
        raise JournalError(
            f"rollout {state.id} was taken over by {run['by']} (process {run['pid']} on {run['node']}) at {run['at']}"
        )
    return state


def rollout_in(state: State) -> Rollout:
    return rollout_of(state.rollout)[0]


def under_way_over(folder: str, hosts: Iterable[str], but: str = "") -> list[State]:
    """Other rollouts under way that have a host in common with these."""
    wanted = set(hosts)
    return [state for state in journal_folder.under_way(folder) if state.id != but and wanted & set(state.order)]


def refusal_of(states: list[State]) -> str:
    lines = []
    for state in states:
        lines.append(
            f"rollout {state.id} by {state.by} is under way over the same hosts since {state.begun}:"
            f" -e resume={state.id} resumes it, -e abort={state.id} takes it back"
        )
    return "\n".join(lines)


def failure_of(result: Any) -> str:
    """Return why a registered result is not a success; "" if it is one, or if there is none."""
    if not isinstance(result, Mapping):
        return ""
    if result.get("unreachable"):
        return "can't be reached: " + words(result.get("msg"))
    return words(result.get("msg") or "failed") if result.get("failed") else ""


def unreachable(result: Any) -> bool:
    return isinstance(result, Mapping) and result.get("unreachable") is True


def words(text: Any) -> str:
    line = one_line(" ".join(str(text if text is not None else "").split()))
    return line if len(line) <= MAX_WORDS else line[:MAX_WORDS] + " ..."


def turn_event(host: str, state: str, msg: str = "") -> tuple[str, dict[str, Any]]:
    return ("turn", {"host": host, "state": state, "msg": msg})


def summary_of(state: State, result: str, lines: list[str]) -> dict[str, Any]:
    """Return the summary for webhooks and mail."""
    failed = [host for host in state.order if state.turns.get(host) in (journal.FAILED, journal.LOST)]
    back = [host for host in state.order if state.backs.get(host) == journal.BACK]
    return {
        "id": state.id,
        "result": result,
        "by": state.run.get("by") or state.by,
        "begun": state.begun,
        "revision": state.revision,
        "hosts": len(state.order),
        "waves": [len(wave) for wave in state.waves],
        "done": [host for host in state.order if state.turns.get(host) == journal.DONE and host not in back],
        "failed": {host: state.words.get(host, "") for host in failed},
        "rolled_back": back,
        "stuck": [host for host in state.order if state.backs.get(host) == journal.STUCK],
        "lines": lines,
    }
