# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rollouts as the status of a fleet shows them: the current one with its waves, and the results of the last ones. Pure."""

from __future__ import annotations

import html
from typing import Any

from .course import counted
from .journal import BACK, DONE, FAILED, LOST, State

MAX_ROLLOUTS = 10


def entry_of(state: State) -> dict[str, Any]:
    waves = []
    for index, hosts in enumerate(state.waves):
        turns = [state.turns.get(host) for host in hosts]
        failed = sum(turn in (FAILED, LOST) for turn in turns)
        done = turns.count(DONE)
        word = "done" if done == len(hosts) else "under way" if index in state.begun_waves else "not started"
        waves.append({"number": index + 1, "hosts": len(hosts), "done": done, "failed": failed, "state": word})
    return {
        "id": state.id,
        "by": state.by,
        "begun": state.begun,
        "last": state.last,
        "state": f"under way ({state.result})" if state.result and state.under_way else state.result or "under way",
        "under_way": state.under_way,
        "hosts": len(state.order),
        "rolled_back": sum(back == BACK for back in state.backs.values()),
        "waves": waves,
        "lines": list(state.lines),
    }


def lines_of(rollouts: list[dict[str, Any]]) -> list[str]:
    """Return lines for a terminal: all current rollouts, and the last one that ended."""
    lines = []
    for entry in [one for one in rollouts if one["under_way"]] + [one for one in rollouts if not one["under_way"]][:1]:
        back = f", {counted(entry['rolled_back'], 'host')} rolled back" if entry["rolled_back"] else ""
        lines.append(f"rollout {entry['id']} of {entry['begun']} by {entry['by']}: {entry['state']}{back}")
        if entry["under_way"]:
            lines += [f"    {_wave_words(wave)}" for wave in entry["waves"]]
    return lines


def _wave_words(wave: dict[str, Any]) -> str:
    failed = f", {wave['failed']} failed" if wave["failed"] else ""
    return f"wave {wave['number']}: {wave['state']}, {wave['done']} of {counted(wave['hosts'], 'host')} done{failed}"


def page_part(rollouts: list[dict[str, Any]]) -> str:
    """Return the part of the HTML page; "" if there was no rollout."""
    parts = []
    for entry in rollouts:
        words = [f"of {entry['begun']} by {entry['by']}", counted(entry["hosts"], "host")]
        words += [f"{entry['rolled_back']} rolled back"] if entry["rolled_back"] else []
        items = [_wave_words(wave) for wave in entry["waves"]] + entry["lines"]
        listed = "".join(f"<li>{html.escape(item)}</li>" for item in items)
        mark = "▲ " if entry["under_way"] else "✓ " if entry["state"] == "done" else "✕ "
        parts.append(
            f'<details class="{"look" if entry["under_way"] else "well"}"{" open" if entry["under_way"] else ""}><summary>'
            f'<b>{html.escape(entry["id"])}</b><span class="mark">{mark}{html.escape(entry["state"])}</span>'
            f"<span>{html.escape(', '.join(words))}</span></summary><ul>{listed}</ul></details>"
        )
    return f"<h2>Rollouts</h2>{''.join(parts)}" if parts else ""
