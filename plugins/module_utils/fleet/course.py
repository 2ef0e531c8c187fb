# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decide what follows from the state of a rollout: the next wave, a rollback, or the end. Pure."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from . import journal
from .journal import BACK, DONE, FAILED, LOST, State, moment_of
from .rollout import Rollout
from .window import Window

NEW_HOST = "it had no generation before this rollout"


@dataclass(frozen=True)
class Verdict:
    stop: str = ""  # why no other wave starts
    hold: str = ""  # why the next wave waits
    lines: list[str] = field(default_factory=list)


def failures(state: State, before_wave: int | None = None) -> list[str]:
    """Return the failed hosts: in a finished wave (where each must be done), or lost before their wave."""
    last = len(state.waves) if before_wave is None else before_wave
    over = {host for index in state.run_waves if index < last for host in state.waves[index]}
    return [host for host in state.order if state.turns.get(host) in (FAILED, LOST) or (host in over and host not in state.turns)]


def unwell(state: State) -> list[str]:
    """Return the hosts with a domain that was not healthy before their wave, until that wave begins and may heal them."""
    waiting = {host for index, wave in enumerate(state.waves) if index not in state.begun_waves for host in wave}
    return [host for host in state.order if host in state.ill and host in waiting and host not in state.turns]


def stop_reason(state: State, before_wave: int | None = None) -> str:
    failed, ill = failures(state, before_wave), unwell(state)
    whole = [
        words if wave == journal.NO_WAVE else f"wave {wave + 1} {words}" for wave, words in sorted(state.judged.items()) if words
    ]
    if whole:
        return "; ".join(whole)
    if len(failed) + len(ill) > state.max_failed:
        words = "unhealthy before the wave" if not failed else "failed or unhealthy before the wave" if ill else "failed"
        return f"{counted(len(failed) + len(ill), 'host')} {words}, at most {state.max_failed} may"
    return ""


def hold_reason(state: State, rollout: Rollout, wave: int, now: datetime.datetime) -> str:
    """Return why wave number ``wave`` (from 0) must wait, with the command to continue; "" if it need not."""
    resume = f"ansible-playbook playbooks/rollout.yml -e resume={state.id}"
    for earlier in range(wave):
        waits = [host for host in state.remaining[earlier] if state.turns.get(host) != LOST]
        if waits and earlier not in state.begun_waves:
            return f"wave {earlier + 1} has not started"
    if rollout.window and not rollout.window.open_at(now):
        when = opens_at(rollout.window, now)
        return f"wave {wave + 1} waits for the window ({rollout.window.text()}), which opens at {when}: {resume}"
    if wave in state.approve and wave not in state.approved and wave not in state.begun_waves:
        return f"wave {wave + 1} waits for an approval: {resume} -e approve={wave + 1}"
    return ""


def opens_at(window: Window, now: datetime.datetime) -> str:
    opens = window.opens(now)
    return f"{opens.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC" if opens else "a time that is not known"


def before_wave(state: State, rollout: Rollout, wave: int, now: datetime.datetime) -> Verdict:
    stop = state.returning or stop_reason(state, wave)
    hold = "" if stop else hold_reason(state, rollout, wave, now)
    lines = [progress(state, wave, now, rollout.bake)]
    failed = failures(state, wave)
    if failed:
        lines.append(f"failed: {_listed(state, failed)}")
    lines += _unwell_line(state)
    if stop or hold:
        lines.append(hold or f"no other wave starts: {stop}")
    return Verdict(stop, hold, lines)


def progress(state: State, wave: int, now: datetime.datetime, bake: int = 0) -> str:
    done = sum(turn == DONE for turn in state.turns.values())
    left = seconds_left(state, wave, now, bake)
    words = f", about {minutes(left)} left" if left else ""
    return (
        f"rollout {state.id}, wave {wave + 1} of {len(state.waves)}: {done} of {len(state.order)} hosts done,"
        f" {len(failures(state, wave))} failed (at most {state.max_failed} may){words}"
    )


def seconds_left(state: State, wave: int, now: datetime.datetime, bake: int) -> int:
    """Estimate the time left from the finished waves; each wave takes at least its bake time."""
    over = [begun for index, begun in state.run_waves.items() if index < wave]
    ahead = sum(1 for hosts in state.remaining[wave:] if hosts)
    if not over:
        return ahead * bake
    until = moment_of(state.run_waves[wave]) if wave in state.run_waves else now
    spent = (until - moment_of(min(over))).total_seconds() / len(over)
    return int(ahead * max(spent, bake))


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def minutes(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Ending:
    result: str
    code: int  # 0 all done, 2 failed, 4 not finished
    lines: list[str]
    ends: bool  # whether hosts are released


def ending(state: State, rollout: Rollout, now: datetime.datetime) -> Ending:
    """Return how this run of the rollout ends."""
    done = [host for host in state.order if state.turns.get(host) == DONE and state.backs.get(host) != BACK]
    failed = failures(state)
    lines = [f"rollout {state.id}: {len(done)} of {len(state.order)} hosts done, {len(failed)} failed"]
    if failed:
        lines.append(f"failed: {_listed(state, failed)}")
    lines += _unwell_line(state)
    if state.returning:
        return _returned(state, lines)
    reason = stop_reason(state)
    rest = [host for wave in state.remaining for host in wave if host not in failed]
    ways = (
        f"ansible-playbook playbooks/rollout.yml -e resume={state.id} resumes it,"
        f" ansible-playbook playbooks/rollout.yml -e abort={state.id} rolls it back"
    )
    if reason and not state.begun_waves:
        return Ending(journal.REFUSED, 2, [*lines, f"no host was changed: {reason}"], True)
    if reason:
        lines.append(f"no other wave starts: {reason}; {counted(len(rest), 'host')} unchanged")
        return Ending(journal.STOPPED, 2, [*lines, ways], False)
    if rest:
        wave = next(index for index, hosts in enumerate(state.remaining) if any(host in rest for host in hosts))
        hold = hold_reason(state, rollout, wave, now) or ways
        return Ending(journal.WAITING, 4, [*lines, hold], False)
    if failed:
        again = f"retry these hosts: ansible-playbook playbooks/rollout.yml -e resume={state.id}"
        return Ending(journal.INCOMPLETE, 4, [*lines, again], True)
    return Ending(journal.COMPLETE, 0, lines, True)


def _returned(state: State, lines: list[str]) -> Ending:
    back = [host for host in state.order if state.backs.get(host) == BACK]
    stuck = state.to_return
    untouched = len(state.order) - len(state.touched)
    lines = [*lines, f"rollback: {state.returning}; {counted(untouched, 'host')} unchanged"]
    if back:
        lines.append(f"rolled back: {', '.join(back)}")
    for host in stuck:
        words, way = state.stuck.get(host, ""), way_back(state, host)
        lines.append(f"{host} was not rolled back{f' ({words})' if words else ''}{f'; try: {way}' if way else ''}")
    if state.aborted:
        return Ending(journal.ABORTED, 2 if stuck else 0, lines, True)
    return Ending(journal.RETURNED, 2, lines, True)


def way_back(state: State, host: str) -> str:
    """Return the command that rolls one host back to its state before this rollout; "" if it had none."""
    number = state.before.get(host, 0)
    return f"ansible-playbook playbooks/rollback.yml -e to={number} --limit {host}" if number else ""


def _unwell_line(state: State) -> list[str]:
    ill = unwell(state)
    return [f"unhealthy before the wave: {_listed(state, ill)}"] if ill else []


def _listed(state: State, hosts: list[str]) -> str:
    reasons = {host: state.words.get(host) or state.ill.get(host) for host in hosts[:10]}
    named = [f"{host} ({reason})" if reason else host for host, reason in reasons.items()]
    return ", ".join(named) + (f" and {len(hosts) - 10} more" if len(hosts) > 10 else "")


def rounds(bake: int) -> list[int]:
    """Return when to ask the hosts for their health, in seconds after the bake began: rarely, and finally at its end."""
    step = max(30, bake // 10)
    return [*range(step, bake, step), bake]
