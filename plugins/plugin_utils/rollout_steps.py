# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What the steps of a rollout share: its variables, its journal, and the results of tasks on the play's hosts."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import shown
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import journal
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Problem, report
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import JournalError, State
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.notices import targets_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import number, one_line
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import (
    MAX_WAVES,
    Rollout,
    RolloutError,
    between_hosts,
    rollout_of,
)
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.run_variables import run_refusals
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.waves import Plan, plan
from ansible_collections.unikernels.xen.plugins.plugin_utils import journal_folder
from ansible_collections.unikernels.xen.plugins.plugin_utils.resolve import Renderer, Resolver

# Variables in which the plays keep the plan and the declaration of all hosts.
PLAN, FLEET = "unikernels_xen_rollout", "unikernels_xen_fleet"
# Where they keep what they know: in another folder nothing would be known of what is under way.
FOLDERS = ("rollout_journal", "unikernel_generations_folder")
MAX_WORDS = 400
# As hosts take it (fleet/generations.py).
TARGET = re.compile(rf"previous|[1-9][0-9]{{0,8}}|rollout={journal.ID.pattern}")


def moment() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def rendered(loader: Any, variables: Mapping[str, Any], hosts: Iterable[str], names: list[str]) -> dict[str, dict[str, Any]]:
    """The variables of that name of each host. RolloutError with a line for each that can't be rendered."""
    renderer, problems = Renderer(loader), list[Problem]()
    values = {}
    for host, known in known_of(variables, hosts).items():
        lines: list[str] = []
        values[host] = Resolver(renderer, known, lines.append).values(names)
        problems += [Problem(host, line) for line in lines]
    if problems:
        raise RolloutError(report(problems))
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


def given(options: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Who gets the result, and the wave that a person agrees to; from the command line. RolloutError with every mistake."""
    problems: list[str] = []
    notify = targets_of("rollout_notify", options["report_to"], problems) if options["report_to"] else ()
    wave = number(options["approve"]) if options["approve"] else 0
    if wave is None or (options["approve"] and not 1 <= wave <= MAX_WAVES):
        problems.append(f"approve: is {shown(options['approve'])}, must be the number of a wave, from 1")
    elif wave and not options["resume"]:
        problems.append("approve: needs the rollout that waits for it: -e resume=ID")
    if options["resume"] and options["abort"]:
        problems.append("resume and abort: only one of them can be given")
    if options["to"] and options["abort"]:
        problems.append("to: can't be given with abort, which brings back what each host had before that rollout")
    elif options["to"] and not TARGET.fullmatch(options["to"]):
        problems.append(f"to: is {shown(options['to'])}, must be previous, the number of a generation, or rollout=ID")
    if problems:
        raise RolloutError("\n".join(problems))
    return notify, wave or 0


def check(loader: Any, variables: Mapping[str, Any], hosts: list[str], options: Mapping[str, Any]) -> None:
    """RolloutError with what is wrong with the variables of the plays besides the rollout: `default` in them hides it.

    An abort does without anybody to notify, but not without the folders.
    """
    names = [*FOLDERS, "unikernel_parallel"] + ([] if options["abort"] else ["rollout_notify", "notify"])
    values = rendered(loader, variables, hosts, names)
    problems = [Problem(host, line) for host, known in values.items() for line in run_refusals({**known, "rollout_notify": ""})]
    if problems:
        raise RolloutError(report(problems))


def is_declared(loader: Any, variables: Mapping[str, Any], hosts: list[str]) -> bool:
    """Whether a host has the variable rollout. RolloutError where it can't be rendered: that passes for not defined elsewhere."""
    return any("rollout" in values for values in rendered(loader, variables, hosts, ["rollout"]).values())


def declared(loader: Any, variables: Mapping[str, Any], hosts: list[str]) -> tuple[Rollout, Plan]:
    """Return the declared rollout of these hosts and its waves. Raise RolloutError with every mistake."""
    values = rendered(loader, variables, hosts, ["rollout"])
    rollouts = {host: values[host]["rollout"] for host in hosts if "rollout" in values[host]}
    rollout, problems = rollout_of(next(iter(rollouts.values()), {"waves": ["100%"]}))
    problems += filter(None, [report([Problem(host, line) for host, line in between_hosts(hosts, rollouts)])])
    spread: dict[str, dict[str, Any]] = {}
    if rollout.spread:
        spread = rendered(loader, variables, hosts, [rollout.spread])
    made, more = plan(rollout, {host: spread.get(host, {}).get(rollout.spread) for host in hosts})
    if problems + more:
        raise RolloutError("\n".join(problems + more))
    return rollout, made


def resumable(state: State, options: Mapping[str, Any], wave: int) -> None:
    """RolloutError where this rollout can't be resumed so. ``wave``: that a person agrees to, or 0."""
    if state.aborted:
        raise RolloutError(f"rollout {state.id} was aborted and can't be resumed: start a new one, or -e abort={state.id} again")
    if not state.under_way and state.result != journal.INCOMPLETE:
        raise RolloutError(f"rollout {state.id} has ended ({state.result}): start a new one")
    if options["to"] and options["to"] != state.to:
        brings = f"brings {state.to} back" if state.to else "deploys the declaration"
        raise RolloutError(f"to: rollout {state.id} {brings}: resume it without -e to={options['to']}, or start a new one")
    if wave > len(state.waves) or (wave and wave - 1 not in state.approve and not options["accept_changes"]):
        waiting = ", ".join(str(index + 1) for index in state.approve) or "none"
        raise RolloutError(
            f"approve: is {wave}, but of the {len(state.waves)} waves of rollout {state.id} these wait for a person: {waiting}"
        )


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


def under_way_over(folder: str, hosts: Iterable[str], unread: list[str], but: str = "") -> list[State]:
    """Other rollouts under way that have a host in common with these; ``unread`` gets a line for each that can't be read."""
    wanted = set(hosts)
    return [state for state in journal_folder.under_way(folder, unread) if state.id != but and wanted & set(state.order)]


def refusal_of(states: list[State]) -> str:
    lines = []
    for state in states:
        lines.append(
            f"rollout {state.id} by {state.by} has been under way on the same hosts since {state.begun}:"
            f" -e resume={state.id} resumes it, -e abort={state.id} rolls it back"
        )
    return "\n".join(lines)


def failure_of(result: Any) -> str:
    """Return why a registered result is not a success; "" if it is one, or if there is none."""
    if not isinstance(result, Mapping):
        return ""
    if result.get("unreachable"):
        return "can't be reached: " + words(result.get("msg"))
    return words(result.get("msg") or "failed") if result.get("failed") else ""


def unhealthy(variables: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, str]:
    """Return why a domain of a host was not healthy before the first wave, for each host where one was not."""
    found = {}
    for host, values in known_of(variables, hosts).items():
        result = values.get("unikernels_xen_well")
        # Without answers no domain was asked.
        if isinstance(result, Mapping) and result.get("answers") and failure_of(result):
            found[host] = failure_of(result)
    return found


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
