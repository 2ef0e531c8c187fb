# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The controller's steps of a rollout: each reads the journal, decides, and records; see modules/rollout.py."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import course, journal
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import JournalError, State
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import RolloutError, rollout_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.waves import Plan, filled
from ansible_collections.unikernels.xen.plugins.plugin_utils import journal_folder, outside, rollout_steps
from ansible_collections.unikernels.xen.plugins.plugin_utils.progress import stated
from ansible_collections.unikernels.xen.plugins.plugin_utils.rollout_bake import bake
from ansible_collections.unikernels.xen.plugins.plugin_utils.rollout_steps import FLEET, PLAN
from ansible_collections.unikernels.xen.plugins.plugin_utils.run_note import who

_TEXTS = ("resume", "abort", "approve", "to", "journal")
_FLAGS = ("accept_changes", "take_over")
# Of site.yml, where the variable decides whether there is a rollout at all.
_NOT_PLANNED = {"mode": "none", "order": [], "msg": []}


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("step", "until", "report_to", "asked", *_TEXTS, *_FLAGS))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        steps: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
            "plan": self._plan, "begin": self._begin, "ready": self._ready, "wave": self._wave, "deployed": self._deployed,
            "bake": self._bake, "watched": self._watched, "verdict": self._verdict, "returned": self._returned,
            "end": self._end, "result": self._result,
        }  # fmt: skip
        _checked, options = self.validate_argument_spec(
            argument_spec={
                "step": {"type": "str", "choices": list(steps), "required": True},
                "until": {"type": "int", "default": 0},
                "report_to": {"type": "raw", "default": ""},
                "asked": {"type": "bool", "default": True},
                **{text: {"type": "str", "default": ""} for text in _TEXTS},
                **{flag: {"type": "bool", "default": False} for flag in _FLAGS},
            }
        )
        try:
            outcome = {**result, "changed": False, **steps[options["step"]](variables, options)}
        except (JournalError, RolloutError) as error:
            return {**result, "failed": True, "msg": str(error)}
        # Print these lines directly: in the task's result they would be hidden among what the plays need.
        for line in outcome["msg"] if isinstance(outcome["msg"], list) else []:
            Display().display(str(line))
        return outcome

    # Before anything is changed.

    def _plan(self, variables: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        hosts = [str(host) for host in variables["ansible_play_hosts_all"]]
        rollout_steps.check(self._loader, variables, hosts, options)
        folder = os.path.abspath(os.path.expanduser(options["journal"] or journal_folder.default_folder()))
        notify, wave = rollout_steps.given(options)
        if not options["asked"]:
            if options["abort"] or options["to"]:
                raise RolloutError("abort, to: site.yml does not take them: ansible-playbook playbooks/rollout.yml")
            if not rollout_steps.is_declared(self._loader, variables, hosts):
                if options["resume"]:
                    raise RolloutError("resume: the variable rollout is not set; playbooks/rollout.yml resumes without it too")
                return _NOT_PLANNED
        known = {
            "folder": folder,
            "by": who(),
            "notify": list(notify),
            "approve": wave,
            "to": options["to"],
            "_ansible_no_log": True,  # -v would show the URLs of webhooks
            "hosts": hosts,
            "order": [],
            "temporary": "",
            "timeout": 0,
            **{flag: options[flag] for flag in _FLAGS},
        }
        if options["abort"]:
            known["notify"] = list(notify) or self._declared_notify(variables, hosts[0])
            return self._plan_abort(known, options["abort"])
        rollout, made = rollout_steps.declared(self._loader, variables, hosts)
        known.update(timeout=rollout.deadline, notify=list(notify or rollout.notify))
        if options["resume"]:
            return self._plan_resume(known, options["resume"])
        unread: list[str] = []
        others = rollout_steps.under_way_over(folder, hosts, unread)
        if others and not options["take_over"]:
            raise RolloutError(rollout_steps.refusal_of(others))
        closed = rollout.window and not rollout.window.open_at(rollout_steps.moment())
        if rollout.window and closed:
            opens = course.opens_at(rollout.window, rollout_steps.moment())
            raise RolloutError(f"rollout: window: is closed until {opens} ({rollout.window.text()})")
        if self._task.check_mode:
            known["folder"] = known["temporary"] = tempfile.mkdtemp(prefix="unikernels-rollout-")
        shown = [f"wave {index + 1}: {', '.join(wave[:8])}{' ...' if len(wave) > 8 else ''} ({len(wave)})"
                 for index, wave in enumerate(made.waves)] + made.notes  # fmt: skip
        shown += [f"warning: {line}: only its hosts know whether that rollout is under way" for line in unread]
        return {**known, "mode": "begin", "id": journal_folder.new_id(), "order": made.order, "msg": shown}

    def _declared_notify(self, variables: dict[str, Any], host: str) -> list[str]:
        """Return whom to notify of an abort; an abort must work even with a broken variable."""
        try:
            value = rollout_steps.rendered(self._loader, variables, [host], ["rollout"])[host].get("rollout")
        except RolloutError:
            return []
        return list(rollout_of(value)[0].notify)

    def _plan_resume(self, known: dict[str, Any], rollout: str) -> dict[str, Any]:
        state = journal_folder.load(known["folder"], rollout)
        rollout_steps.resumable(state, known, known["approve"])
        self._nobody_else(state, known)
        left = sum(map(len, state.remaining))
        lines = [f"resumes rollout {state.id} of {state.begun} by {state.by}: {left} of {len(state.order)} hosts are not done"]
        lines += journal.warnings(state)
        if self._task.check_mode:
            known = self._copied(known, state)
        return {**known, "mode": "resume", "id": state.id, "to": state.to, "order": known["hosts"], "msg": lines}

    def _plan_abort(self, known: dict[str, Any], rollout: str) -> dict[str, Any]:
        state = journal_folder.load(known["folder"], rollout)
        if not state.under_way and not (state.returning and state.to_return):
            if state.result == journal.ABORTED:
                return {**known, "mode": "none", "id": state.id, "msg": [f"rollout {state.id} is aborted already"]}
            way = "ansible-playbook playbooks/rollback.yml -e to=previous"
            raise RolloutError(f"rollout {state.id} has ended ({state.result}); to roll back: {way}")
        self._nobody_else(state, known)
        order = [host for host in known["hosts"] if host in state.order]
        if not order:
            raise RolloutError(
                f"abort: none of the hosts of this run takes part in rollout {state.id}: it has {journal.names(state.order)}"
            )
        if self._task.check_mode:
            known = self._copied(known, state)
        with journal_folder.locked(known["folder"]):
            self._nobody_else(journal_folder.load(known["folder"], state.id), known)
            journal_folder.append(known["folder"], state.id, "run", mode="abort", by=known["by"], **journal_folder.this_run())
            journal_folder.append(known["folder"], state.id, "return", reason=f"{known['by']} aborted it")
        back = course.counted(len(state.to_return), "host")
        lines = [f"aborts rollout {state.id} of {state.begun} by {state.by}: {back} to roll back", *journal.warnings(state)]
        return {**known, "mode": "abort", "id": state.id, "order": order, "msg": lines}

    def _copied(self, known: dict[str, Any], state: State) -> dict[str, Any]:
        """Copy the journal: check mode decides on a copy."""
        temporary = tempfile.mkdtemp(prefix="unikernels-rollout-")
        shutil.copy(journal_folder.path_of(known["folder"], state.id), temporary)
        return {**known, "folder": temporary, "temporary": temporary}

    def _nobody_else(self, state: State, known: dict[str, Any]) -> None:
        other = journal_folder.other_run(state)
        if other and not known["take_over"]:
            raise RolloutError(f"rollout {state.id} is run by {other}; if that run has died, add -e take_over=true")

    def _begin(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        known = self._known(variables)
        left = {str(host) for host in variables["ansible_play_hosts"]}
        dropped = [host for host in known["order"] if host not in left]
        common = {"ended": self._ended(known), "dropped": dropped, "order": [], "msg": []}
        if known["mode"] == "abort":
            return common
        folder, run = known["folder"], {"by": known["by"], **journal_folder.this_run()}
        _rollout, made = rollout_steps.declared(self._loader, variables, known["hosts"])
        # Rolling back to a generation, the hosts themselves keep the declaration, so it can't change.
        declares = {} if known["to"] else variables.get(FLEET)
        digests = rollout_steps.digests_of(declares, known["id"], known["hosts"])
        declared = rollout_steps.raw_rollout(self._loader, variables, known["hosts"][0])
        with journal_folder.locked(folder):
            others = rollout_steps.under_way_over(folder, known["hosts"], [], known["id"])
            if others and not known["take_over"]:
                raise RolloutError(rollout_steps.refusal_of(others))
            for other in others:
                journal_folder.append(folder, other.id, "end", result=journal.ABORTED, lines=[f"taken over by {known['id']}"])
            if known["mode"] == "resume":
                return {**common, **self._begin_again(known, made, declared, digests, run)}
            revision = (variables.get(FLEET) or {}).get("run", {}).get("revision", "")
            begin = {"id": known["id"], "order": made.order, "waves": made.waves, "max_failed": made.max_failed,
                     "approve": made.approve, "rollout": declared, "digests": digests, "by": known["by"],
                     "revision": revision, "to": known["to"]}  # fmt: skip
            journal_folder.append_all(folder, known["id"], [("begin", begin), ("run", {"mode": "begin", **run})], new=True)
        path = journal_folder.path_of(folder, known["id"])
        lines = [
            f"rollout {known['id']}: {course.counted(len(made.order), 'host')} in {course.counted(len(made.waves), 'wave')}",
            f"journal: {path}",
        ]
        return {**common, "order": made.order, "msg": lines}

    def _begin_again(
        self, known: dict[str, Any], made: Plan, declared: dict[str, Any], digests: dict[str, str], run: dict[str, Any]
    ) -> dict[str, Any]:
        state = journal_folder.load(known["folder"], known["id"])
        self._nobody_else(state, known)
        changed = [] if state.returning else journal.changes(state, made.waves, digests)
        changed += ["the variable rollout"] if not state.returning and declared != state.rollout else []
        if changed and not known["accept_changes"]:
            raise RolloutError(
                "\n".join(
                    [
                        f"rollout {state.id} can't be resumed unchanged; these have changed since it started:",
                        *changed,
                        f"-e resume={state.id} -e accept_changes=true resumes it with the current declaration, hosts with another"
                        f" declaration once more; -e abort={state.id} rolls back the changed hosts",
                    ]
                )
            )
        events: list[tuple[str, dict[str, Any]]] = [("run", {"mode": "resume", **run})]
        if changed:
            waves = journal.with_changes(state, made.waves)
            same = declared.get("approve") == state.rollout.get("approve") and declared.get("waves") == state.rollout.get("waves")
            approve = journal.approve_with_changes(state, made.approve, len(waves), same)
            accepted = {
                "digests": digests,
                "waves": waves,
                "rollout": declared,
                "max_failed": made.max_failed,
                "approve": approve,
            }
            events.append(("accept", {**accepted, "by": known["by"]}))
        if known["approve"]:
            events.append(("approve", {"wave": known["approve"] - 1, "by": known["by"]}))
        journal_folder.append_all(known["folder"], known["id"], events)
        state = journal_folder.load(known["folder"], known["id"])
        order = [host for wave in state.remaining for host in wave if host in known["hosts"]]
        return {"order": [] if state.returning else order, "msg": changed}

    def _ended(self, known: dict[str, Any]) -> list[str]:
        return [rollout for rollout in journal_folder.ended(known["folder"]) if rollout != known["id"]]

    def _ready(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        """Record which hosts answered. Return those that take part in the waves."""
        known, state = self._state(variables)
        before, lost, refused = self._answers(variables, known)
        wanted = {host for wave in state.remaining for host in wave}
        lost = {host: words for host, words in lost.items() if host in wanted}
        events: list[tuple[str, dict[str, Any]]] = []
        if state.returning:
            away = {**lost, **refused}
            events = [
                ("back", {"host": host, "state": journal.STUCK, "msg": away[host]}) for host in state.to_return if host in away
            ]
        else:
            done = [host for host, turn in state.turns.items() if turn == journal.DONE]
            ill = {host: words for host, words in rollout_steps.unhealthy(variables, before).items() if host not in lost}
            events.append(("ready", {"before": before, "lost": lost, "waves": filled(state.waves, lost, done), "ill": ill}))
        lines = [f"{host}: {words}" for host, words in refused.items()]
        if refused and not state.returning:
            events.append(("judged", {"wave": journal.NO_WAVE, "msg": "; ".join(lines[:5])}))
        journal_folder.append_all(known["folder"], known["id"], events)
        state = journal_folder.load(known["folder"], known["id"])
        stop = state.returning or course.stop_reason(state)
        waves = [] if stop else [[host for host in wave if host in before and host not in lost] for wave in state.remaining]
        waves = [wave for wave in waves if wave]
        lines += [f"{host} counts as failed: {words}" for host, words in lost.items()]
        lines += [f"{host} counts as failed until its wave: {state.ill[host]}" for host in course.unwell(state)]
        lines += [f"no wave starts: {stop}"] if stop else []
        return {"order": [host for wave in waves for host in wave], "sizes": [len(wave) for wave in waves],
                "msg": lines or [f"{course.counted(len(before), 'host')} ready"]}  # fmt: skip

    def _answers(self, variables: dict[str, Any], known: dict[str, Any]) -> tuple[dict[str, int], dict[str, str], dict[str, str]]:
        """Return (host -> its generation before, host -> why it can't be reached, host -> why it refuses)."""
        before, lost, refused = {}, {}, {}
        for host, values in rollout_steps.known_of(variables, known["order"]).items():
            reserved = values.get("unikernels_xen_reserved")
            reserved = reserved if isinstance(reserved, dict) else {}
            unready = values.get("unikernels_xen_unready")
            words = rollout_steps.words(unready) if unready else rollout_steps.failure_of(reserved)
            if isinstance(reserved.get("before"), int) and reserved["before"] >= 0:
                before[host] = int(reserved["before"])
            if reserved.get("failed") and not reserved.get("unreachable"):
                refused[host] = words
            elif words or host not in before:
                lost[host] = rollout_steps.words(words or "failed or could not be reached before the first wave")
        return before, lost, refused

    # A wave.

    def _wave(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        known, state = self._state(variables)
        wave = self._wave_of(variables, state)
        judged = course.before_wave(state, rollout_steps.rollout_in(state), wave, rollout_steps.moment())
        go = not judged.stop and not judged.hold
        if go:
            journal_folder.append(known["folder"], known["id"], "wave", wave=wave)
        return {"stop": not go, "msg": judged.lines}

    def _deployed(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        """Record which of the wave's hosts failed. Return those to watch."""
        known, state = self._state(variables)
        rollout, batch, wave = rollout_steps.rollout_in(state), self._batch(variables), self._wave_of(variables, state)
        events, good = [], []
        for host, values in rollout_steps.known_of(variables, batch).items():
            outcome = values.get("unikernel_domains")
            words = str(values.get("unikernels_xen_failed") or "") or rollout_steps.failure_of(outcome)
            if words or not isinstance(outcome, dict) or "domains" not in outcome:
                gone = rollout_steps.unreachable(outcome) or not words
                events.append(rollout_steps.turn_event(host, journal.LOST if gone else journal.FAILED,
                                                       rollout_steps.words(words or "can't be reached any more")))  # fmt: skip
            else:
                good.append(host)
        spent = (rollout_steps.moment() - journal.moment_of(state.begun_waves[wave])).total_seconds()
        if rollout.deadline and spent > rollout.deadline:
            events.append(("judged", {"wave": wave, "msg": f"was not healthy within {rollout.deadline} s"}))
            good = []
        journal_folder.append_all(known["folder"], known["id"], events)
        failed = [f"{fields['host']}: {fields['msg']}" for event, fields in events if event == "turn"]
        words = f"wave {wave + 1}: {len(good)} of {len(batch)} hosts deployed in {course.minutes(int(spent))}"
        words += f", watched for {course.minutes(rollout.bake)}" if good and rollout.bake else ""
        return {
            "watched": good, "rounds": course.rounds(rollout.bake) if good else [], "bake": rollout.bake, "every": rollout.every,
            "failures": rollout.failures, "began": rollout_steps.moment().timestamp(), "msg": [words, *failed],
        }  # fmt: skip

    def _bake(self, variables: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Wait for the bake time, and meanwhile run the checks that are made from the controller."""
        _known, state = self._state(variables)
        wave = self._wave_of(variables, state)
        seen = rollout_steps.known_of(variables, self._batch(variables))
        ill = {host for host, values in seen.items() if rollout_steps.failure_of(values.get("unikernels_xen_watched"))}
        ill.update(course.failures(state, wave), course.unwell(state))
        rollout = rollout_steps.rollout_in(state)
        end = float(variables["unikernels_xen_deployed"]["began"]) + rollout.bake
        with stated(f"watching wave {wave + 1} of {len(state.waves)}", until=end):
            return bake(state, rollout, wave, variables, options["until"], ill)

    def _watched(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        known, state = self._state(variables)
        batch, wave = self._batch(variables), self._wave_of(variables, state)
        events: list[tuple[str, dict[str, Any]]] = []
        whole, seen = "", rollout_steps.known_of(variables, batch)
        for host, values in seen.items():
            deployed, asked = values.get("unikernels_xen_deployed") or {}, values.get("unikernels_xen_bake") or {}
            whole = whole or str(asked.get("bad") or "")
            if host in (deployed.get("watched") or []):
                reply = values.get("unikernels_xen_watched")
                words = rollout_steps.failure_of(reply) or str((asked.get("ill") or {}).get(host) or "")
                finished = isinstance(reply, dict) and reply.get("finished")
                if not words and not finished and not self._task.check_mode:
                    if asked.get("over"):
                        continue  # nobody waited for it
                    words = "its health checks did not end in time"
                gone = rollout_steps.unreachable(reply)
                if words:
                    events.append(rollout_steps.turn_event(host, journal.LOST if gone else journal.FAILED, words))
                elif not whole:
                    events.append(rollout_steps.turn_event(host, journal.DONE))
        if whole or wave not in state.judged:
            events.append(("judged", {"wave": wave, "msg": whole}))
        journal_folder.append_all(known["folder"], known["id"], events)
        lines = [f"{fields['host']}: {fields['msg']}" for event, fields in events if event == "turn" and fields["msg"]]
        state = journal_folder.load(known["folder"], known["id"])
        return {"msg": [course.progress(state, wave, rollout_steps.moment(), 0), *lines, *([whole] if whole else [])]}

    # The end.

    def _verdict(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        known, state = self._state(variables)
        reason = course.stop_reason(state)
        rollout = rollout_steps.rollout_in(state)
        if (
            reason
            and not state.returning
            and rollout.on_failure == "rollback"
            and state.begun_waves
            and journal.NO_WAVE not in state.judged
        ):
            journal_folder.append(known["folder"], known["id"], "return", reason=reason)
            state = journal_folder.load(known["folder"], known["id"])
        new = (
            [host for host in state.to_return if not state.before.get(host) and host not in state.backs]
            if state.returning
            else []
        )
        events = [("back", {"host": host, "state": journal.STUCK, "msg": course.NEW_HOST}) for host in new]
        journal_folder.append_all(known["folder"], known["id"], events)
        state = journal_folder.load(known["folder"], known["id"])
        # Hosts that could not be reached a moment ago are listed at the end.
        back = [host for host in state.to_return if host in known["hosts"] and host not in state.backs]
        waves = [[host for host in back if host in wave] for wave in reversed(state.waves)] if state.returning else []
        waves, back = [wave for wave in waves if wave], [host for wave in waves for host in wave]
        lines = [f"rolls back {course.counted(len(back), 'host')}: {state.returning}"] if back else []
        before = {host: state.before.get(host, 0) for host in back}
        return {"back": back, "sizes": list(map(len, waves)), "before": before, "msg": lines}

    def _returned(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        known, _state = self._state(variables)
        events = []
        for host, values in rollout_steps.known_of(variables, self._batch(variables)).items():
            outcome, health = values.get("unikernels_xen_returned"), values.get("unikernels_xen_returned_health")
            words = str(values.get("unikernels_xen_stuck") or "")
            words = words or rollout_steps.failure_of(outcome) or rollout_steps.failure_of(health)
            if not words and (not isinstance(outcome, dict) or "domains" not in outcome):
                words = "can't be reached"
            state_word = journal.STUCK if words else journal.BACK
            events.append(("back", {"host": host, "state": state_word, "msg": rollout_steps.words(words)}))
        journal_folder.append_all(known["folder"], known["id"], events)
        return {"msg": [f"{fields['host']}: {fields['msg'] or 'rolled back'}" for _event, fields in events]}

    def _end(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        known, state = self._state(variables)
        rollout = rollout_steps.rollout_in(state)
        ending = course.ending(state, rollout, rollout_steps.moment())
        journal_folder.append(known["folder"], known["id"], "end", result=ending.result, lines=ending.lines)
        lines = list(ending.lines)
        if not self._task.check_mode:
            summary = rollout_steps.summary_of(state, ending.result, ending.lines)
            lines += filter(None, (outside.notify(target, summary) for target in known["notify"]))
        if known["temporary"]:
            shutil.rmtree(known["temporary"], ignore_errors=True)
        return {"result": ending.result, "code": ending.code, "release": ending.ends, "lines": lines, "msg": []}

    def _result(self, variables: dict[str, Any], _options: dict[str, Any]) -> dict[str, Any]:
        # Hosts that were lost earlier are in the play again, without any results.
        known = rollout_steps.known_of(variables, [str(host) for host in variables["ansible_play_hosts_all"]])
        ended = next(values["unikernels_xen_ended"] for values in known.values() if "unikernels_xen_ended" in values)
        lines = [str(line) for line in ended["lines"]]
        if ended["code"] == 0:
            return {"msg": lines}
        return {"failed" if ended["code"] == 2 else "unreachable": True, "msg": "\n".join(lines)}

    def _known(self, variables: dict[str, Any]) -> dict[str, Any]:
        return dict(variables[PLAN])

    def _state(self, variables: dict[str, Any]) -> tuple[dict[str, Any], State]:
        known = self._known(variables)
        return known, rollout_steps.state_of(known)

    def _batch(self, variables: dict[str, Any]) -> list[str]:
        return [str(host) for host in variables["ansible_play_batch"]]

    def _wave_of(self, variables: dict[str, Any], state: State) -> int:
        batch = set(self._batch(variables))
        return next(index for index, hosts in enumerate(state.waves) if batch & set(hosts))
