# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The events of a rollout, as lines of JSON, and the state that follows from them. Pure.

A line that announces something is written before it, a line that reports something after it, so a rollout can be resumed from any
line. A line that was cut off counts as not written: what it would report is done again, which changes nothing if it was done.

event    fields
begin    id, order, waves, max_failed, approve, rollout (the variable), digests (host -> digest of its declaration), by, revision,
         to (the generation to roll back to, or "")
run      mode (begin, resume, abort), by, node, pid, started: a run of Ansible takes the rollout over
accept   digests, waves, rollout, max_failed, approve: what changed meanwhile, with which the rollout is resumed
approve  wave, by
ready    before (host -> generation to roll back to), lost (host -> reason), waves (without those that lost all their hosts):
         nothing is changed yet
wave     wave: its hosts change from here on
turn     host, state (done, failed, lost), msg
judged   wave, msg (why the whole wave failed, or "")
return   reason: the rollback of all touched hosts begins
back     host, state (back, stuck), msg
end      result, lines
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .plain import one_line

DONE, FAILED, LOST, BACK, STUCK = "done", "failed", "lost", "back", "stuck"
# Results of a rollout.
COMPLETE, INCOMPLETE, RETURNED, ABORTED, REFUSED = "done", "incomplete", "rolled back", "aborted", "refused"
# Results of a run that leaves the rollout unfinished.
STOPPED, WAITING = "stopped", "waiting"
RESULTS = (COMPLETE, INCOMPLETE, RETURNED, ABORTED, REFUSED, STOPPED, WAITING)
# The wave number of hosts that refused before any wave.
NO_WAVE = -1
_UNDER_WAY = (STOPPED, WAITING)
ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")


class JournalError(ValueError):
    """One line: why a journal can't be used."""


@dataclass
class State:
    """A rollout's state, computed from its journal."""

    id: str = ""
    begun: str = ""  # the time
    by: str = ""
    revision: str = ""
    to: str = ""  # previous, a number or rollout=ID, if it rolls back to a generation
    rollout: dict[str, Any] = field(default_factory=dict)
    waves: list[list[str]] = field(default_factory=list)
    max_failed: int = 0
    approve: list[int] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    last: str = ""  # the time of the last line
    ready: bool = False
    before: dict[str, int] = field(default_factory=dict)
    ill: dict[str, str] = field(default_factory=dict)  # host -> which domain was not healthy before the host's wave
    turns: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)  # host -> why it failed
    begun_waves: dict[int, str] = field(default_factory=dict)  # wave -> when
    run_waves: dict[int, str] = field(default_factory=dict)  # wave -> when the last run of Ansible began it
    judged: dict[int, str] = field(default_factory=dict)  # wave -> why it failed as a whole, or ""
    approved: list[int] = field(default_factory=list)
    backs: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)  # host -> why it was not rolled back
    settled: set[str] = field(default_factory=set)  # done in an earlier run: others may have changed them since
    aborted: bool = False
    returning: str = ""  # why all touched hosts are rolled back
    result: str = ""
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[str]:
        return [host for wave in self.waves for host in wave]

    @property
    def under_way(self) -> bool:
        return not self.result or self.result in _UNDER_WAY

    @property
    def touched(self) -> list[str]:
        """Hosts that may have been changed, in the order of their waves."""
        return [host for index, wave in enumerate(self.waves) for host in wave
                if host not in self.settled and (self.turns.get(host) != LOST or host in self.before)
                # Also where the line of its wave can't be read.
                and (index in self.begun_waves or self.turns.get(host) in (DONE, FAILED))]  # fmt: skip

    @property
    def remaining(self) -> list[list[str]]:
        """The hosts of each wave that are not done."""
        return [[host for host in wave if self.turns.get(host) != DONE] for wave in self.waves]

    @property
    def to_return(self) -> list[str]:
        """The hosts to roll back, those that changed last first."""
        return [host for host in reversed(self.touched) if self.backs.get(host) != BACK]


def line_of(event: str, at: str, **fields: Any) -> str:
    return json.dumps({"event": event, "at": at, **fields}, sort_keys=True) + "\n"


def read(text: str) -> State:
    """Compute the state. Raise JournalError if the first line is incomplete; other bad lines are listed in ``problems``."""
    state = State()
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        whole = False
        try:
            entry = json.loads(line)
            whole = True
            if not isinstance(entry, dict) or not isinstance(entry.get("event"), str) or not isinstance(entry.get("at"), str):
                raise ValueError
            if not state.id and entry["event"] != "begin":
                raise JournalError(f"its first line is missing: {_ODD}")
            entry["at"] = one_line(entry["at"])
            _TAKE[entry["event"]](state, entry)
            state.last = entry["at"]
        except JournalError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            if not state.id:
                alone = not any(map(str.strip, lines[number:]))
                words = "is incomplete: nothing was changed yet; start a new rollout" if alone else f"can't be read: {_ODD}"
                raise JournalError(f"its first line {words}") from None
            state.problems.append(f"line {number} {_UNKNOWN if whole else 'is incomplete'}")
    if not state.id:
        raise JournalError("is empty: nothing was changed yet; start a new rollout")
    return state


_UNKNOWN = "is none that this version writes"
_ODD = "it was edited; playbooks/status.yml shows what the hosts have, and -e take_over=true begins a new rollout over them"


def warnings(state: State) -> list[str]:
    """What can't be read in a journal that is used all the same."""
    more = f" (and {len(state.problems) - 3} more lines)" if len(state.problems) > 3 else ""
    words = "; ".join(state.problems[:3])
    return [f"warning: journal of {state.id}: {words}{more}; it counts as not written"] if words else []


def has_ended(last_line: str) -> bool:
    """True if the last line of a journal ends the rollout, so that the others need not be read."""
    try:
        entry = json.loads(last_line)
        return bool(entry["event"] == "end" and entry["result"] in RESULTS and entry["result"] not in _UNDER_WAY)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


# Each reads the whole line before it changes the state.


def _begin(state: State, entry: Mapping[str, Any]) -> None:
    if state.id:
        raise ValueError
    waves, rollout, digests = _waves(entry["waves"]), dict(entry["rollout"]), _texts(entry["digests"])
    if not ID.fullmatch(entry["id"]):
        raise ValueError
    max_failed, approve = _number(entry["max_failed"]), [_number(wave, len(waves)) for wave in entry["approve"]]
    state.max_failed, state.approve = max_failed, approve
    state.waves, state.rollout, state.digests = waves, rollout, digests
    state.begun, state.by, state.revision = entry["at"], _words(entry["by"]), _words(entry.get("revision"))
    state.to = _words(entry.get("to"))
    state.id = entry["id"]


def _run(state: State, entry: Mapping[str, Any]) -> None:
    run: dict[str, Any] = {key: _text(entry[key]) for key in ("mode", "by", "node", "started", "at")}
    run["pid"] = _number(entry["pid"])
    if run["mode"] not in ("begin", "resume", "abort"):
        raise ValueError
    state.run = run
    if state.result == INCOMPLETE:
        state.settled = {host for host, turn in state.turns.items() if turn == DONE}
        state.before, state.begun_waves = {}, {}
    state.result, state.lines, state.run_waves = "", [], {}
    state.backs = {host: back for host, back in state.backs.items() if back == BACK}
    if run["mode"] == "abort":
        state.aborted = True
    elif run["mode"] == "resume" and not state.returning:
        # What failed has its turn again; what is done stays done.
        state.turns = {host: turn for host, turn in state.turns.items() if turn == DONE}
        state.words, state.judged = {}, {wave: words for wave, words in state.judged.items() if not words}


def _accept(state: State, entry: Mapping[str, Any]) -> None:
    waves, digests = _waves(entry["waves"]), _texts(entry["digests"])
    rollout, max_failed = dict(entry["rollout"]), _number(entry["max_failed"])
    approve = [_number(wave, len(waves)) for wave in entry.get("approve", state.approve)]
    changed = {host for host, digest in digests.items() if state.digests.get(host) != digest}
    state.turns = {host: turn for host, turn in state.turns.items() if host not in changed}
    # A host that the inventory no longer has keeps its place: what was done to it can be taken back.
    state.waves, state.rollout, state.max_failed, state.approve = waves, rollout, max_failed, approve
    state.digests = {**state.digests, **digests}


def _approve(state: State, entry: Mapping[str, Any]) -> None:
    state.approved.append(_number(entry["wave"], len(state.waves)))


def _ready(state: State, entry: Mapping[str, Any]) -> None:
    waves, lost, ill = _waves(entry.get("waves", state.waves)), _texts(entry["lost"]), _texts(entry.get("ill", {}))
    before = {str(host): _number(number) for host, number in dict(entry["before"]).items()}
    state.ready, state.waves, state.ill = True, waves, ill
    # The first time counts: that is what the host had before this rollout.
    state.before = {**before, **state.before}
    for host, reason in lost.items():
        state.turns[host], state.words[host] = LOST, reason


def _wave(state: State, entry: Mapping[str, Any]) -> None:
    wave = _number(entry["wave"], len(state.waves))
    moment_of(entry["at"])
    state.begun_waves[wave] = state.run_waves[wave] = entry["at"]


def _turn(state: State, entry: Mapping[str, Any]) -> None:
    host, turn = _text(entry["host"]), entry["state"]
    if turn not in (DONE, FAILED, LOST):
        raise ValueError
    state.turns[host], state.words[host] = turn, _words(entry.get("msg"))


def _judged(state: State, entry: Mapping[str, Any]) -> None:
    wave = NO_WAVE if entry["wave"] == NO_WAVE else _number(entry["wave"], len(state.waves))
    state.judged[wave] = _words(entry["msg"])


def _return(state: State, entry: Mapping[str, Any]) -> None:
    state.returning = _words(entry["reason"])


def _back(state: State, entry: Mapping[str, Any]) -> None:
    host, back = _text(entry["host"]), entry["state"]
    if back not in (BACK, STUCK):
        raise ValueError
    state.backs[host], state.stuck[host] = back, _words(entry.get("msg"))


def _end(state: State, entry: Mapping[str, Any]) -> None:
    if entry["result"] not in RESULTS:
        raise ValueError
    lines = [_words(line) for line in entry.get("lines") or []]
    state.result, state.lines = entry["result"], lines


_TAKE = {
    "begin": _begin, "run": _run, "accept": _accept, "approve": _approve, "ready": _ready, "wave": _wave, "turn": _turn,
    "judged": _judged, "return": _return, "back": _back, "end": _end,
}  # fmt: skip


def _waves(value: Any) -> list[list[str]]:
    if not isinstance(value, list) or not all(isinstance(wave, list) for wave in value):
        raise ValueError
    hosts = [_text(host) for wave in value for host in wave]
    if len(hosts) != len(set(hosts)):
        raise ValueError
    return [list(map(one_line, wave)) for wave in value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return one_line(value)


def _words(value: Any) -> str:
    """A text to print: a journal comes from a folder that others may write to."""
    return one_line(str(value or ""))


def _number(value: Any, below: int = 1 << 53) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        raise ValueError
    return value


def moment_of(at: str) -> datetime.datetime:
    return datetime.datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)


def _texts(value: Any) -> dict[str, str]:
    return {one_line(str(key)): one_line(str(text)) for key, text in dict(value).items()}


def changes(state: State, waves: list[list[str]], digests: Mapping[str, str]) -> list[str]:
    """Return how inventory and declaration differ from those with which the rollout began."""
    hosts = {host for wave in waves for host in wave}
    known = set(state.order)
    lines = [f"{names(sorted(known - hosts))}: no longer in this run (removed, or left out by --limit)"] if known - hosts else []
    lines += [f"{names(sorted(hosts - known))}: new"] if hosts - known else []
    other = sorted(host for host in hosts & known if state.digests.get(host) != digests.get(host))
    lines += [f"{names(other)}: another declaration"] if other else []
    return lines


def with_changes(state: State, waves: list[list[str]]) -> list[list[str]]:
    """Return the waves of a rollout resumed with another inventory: new hosts last, removed ones dropped if unchanged."""
    hosts = {host for wave in waves for host in wave}
    known, touched = set(state.order), set(state.touched)
    kept = [[host for host in wave if host in hosts or host in touched] for wave in state.waves]
    new = [host for wave in waves for host in wave if host not in known]
    return [*kept[:-1], [*kept[-1], *new]] if kept else [new]


def approve_with_changes(state: State, approve: list[int], waves: int, same: bool) -> list[int]:
    """Return the waves that wait for an approval after `with_changes`, which keeps the waves as they were planned at first.

    ``same``: the declaration asks for approvals as before. Otherwise ``approve`` are waves of a new plan, which may have more of
    them: an approval is not lost with its wave.
    """
    wanted = state.approve if same else approve
    return sorted({min(wave, waves - 1) for wave in wanted}) if waves else []


def names(hosts: Iterable[str]) -> str:
    every = list(hosts)
    more = f" and {len(every) - 5} more" if len(every) > 5 else ""
    return ", ".join(every[:5]) + more
