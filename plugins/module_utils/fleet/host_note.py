# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host itself records of rollouts: the current one with the generation to roll back to, and the last ones. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

KEEP = 20
# Results of a rollout that was not rolled back.
DONE = ("done", "incomplete")


class NoteError(ValueError):
    """One line: why the host can't take part in a rollout, or why its note can't be read."""


@dataclass(frozen=True)
class Entry:
    id: str
    by: str = ""
    at: str = ""
    before: int = 0  # the host's generation before; 0: none
    after: int = 0  # the host's generation at the end
    result: str = ""


@dataclass(frozen=True)
class Note:
    under_way: Entry | None = None
    past: list[Entry] = field(default_factory=list)

    @property
    def generations(self) -> dict[str, int]:
        """Map each rollout to the host's generation at its end."""
        return {entry.id: entry.after for entry in self.past if entry.result in DONE and entry.after}


def text_of(note: Note) -> str:
    return json.dumps({"format": 1, **dataclasses.asdict(note)}, sort_keys=True) + "\n"


def read(text: str) -> Note:
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format") != 1:
            raise NoteError("is of another format")
        under_way = _entry(values["under_way"]) if values["under_way"] is not None else None
        return Note(under_way, [_entry(entry) for entry in values["past"]])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NoteError(str(error) if isinstance(error, NoteError) else "is not whole") from None


def _entry(values: Any) -> Entry:
    entry = Entry(**values)
    texts = (entry.id, entry.by, entry.at, entry.result)
    numbers = (entry.before, entry.after)
    if not all(isinstance(text, str) for text in texts) or not entry.id:
        raise ValueError
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise ValueError
    return entry


def reserved(note: Note, new: Entry, ended: Collection[str], take_over: bool) -> Note:
    """Return ``note`` with ``new`` as current rollout. Raise NoteError if there is another current rollout.

    ``ended``: rollouts that the controller knows to be over; a host that could not be reached then doesn't know it.
    """
    current = note.under_way
    if current and current.id == new.id:
        return note
    if current and current.id not in ended and not take_over:
        raise NoteError(
            f"rollout {current.id} by {current.by or 'somebody'} has been under way since {current.at}:"
            f" -e resume={current.id} resumes it, -e abort={current.id} rolls it back;"
            " if its journal is lost, -e take_over=true ends it on this host"
        )
    # A rollout that is aborted a second time returns to its original generation; the host may have changed since the first time.
    earlier = next((entry for entry in note.past if entry.id == new.id and entry.result not in DONE), None)
    return dataclasses.replace(note, under_way=dataclasses.replace(new, before=earlier.before) if earlier else new)


def released(note: Note, rollout: str, result: str, newest: int) -> Note:
    """Return ``note`` with that rollout ended; any other rollout is left as it is."""
    current = note.under_way
    if current is None or current.id != rollout:
        return note
    ended = dataclasses.replace(current, result=result, after=newest)
    past = [entry for entry in note.past if entry.id != rollout]
    return Note(None, [*past, ended][-KEEP:])
