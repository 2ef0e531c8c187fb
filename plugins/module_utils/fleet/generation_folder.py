# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The folder of a host's generations, and rolling back to one of them."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ..image.store import write_whole
from ..network.guests import Guests, guests_of
from . import generations
from .generations import Generation, GenerationError
from .host_note import NoteError
from .note_file import read_note

FOLDER = "/var/lib/unikernels/generations"
# What happened to one domain, as the apply room reports it.
Outcome = TypeVar("Outcome", bound=Mapping[str, Any])
_FILE = re.compile(r"([0-9]{6,9})\.json")


def listing(folder: str) -> tuple[list[Generation], list[str]]:
    """Return all readable generations, oldest first, and a line for each file that can't be read."""
    kept, problems = [], []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        match = _FILE.fullmatch(name)
        if not match:
            continue
        try:
            generation = _read(os.path.join(folder, name))
            if generation.number != int(match.group(1)):
                raise GenerationError(f"is a copy of generation {generation.number}; remove it")
            kept.append(generation)
        except (GenerationError, OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}: {getattr(error, 'strerror', None) or error}")
    return kept, problems


def _read(path: str) -> Generation:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise GenerationError("is not a file")  # opening a pipe would wait for a writer
    with open(path, encoding="utf-8") as file:
        return generations.read(file.read())


def record(folder: str, new: Generation, check: bool, whole: bool = True) -> tuple[int, bool]:
    """Save a generation. Return its number and whether something was written. Raise OSError.

    Without ``whole``, domains of the newest generation that ``new`` doesn't mention are kept in it.
    """

    def complete(kept: list[Generation]) -> Generation:
        return generations.present(new if whole else generations.merged(kept, new))

    if check:
        kept, _problems = listing(folder)
        written = generations.next_of(kept, complete(kept))
        return (written.number, True) if written else (max(one.number for one in kept), False)
    with _locked(folder):
        kept, _problems = listing(folder)
        numbers = [int(match.group(1)) for match in map(_FILE.fullmatch, os.listdir(folder)) if match]
        written = generations.next_of(kept, dataclasses.replace(complete(kept), time=_now()))
        if written is None:
            return max(one.number for one in kept), False
        if written.number not in (one.number for one in kept):
            # The number of an unreadable file is taken too.
            written = dataclasses.replace(written, number=max([*numbers, 0]) + 1)
        _write(folder, written)
        kept = [one for one in kept if one.number != written.number] + [written]
        for lean in generations.without_keys(kept):
            _write(folder, lean)
        for number in generations.too_old([*{*numbers, written.number}]):
            os.unlink(_path(folder, number))
        return written.number, True


def rollouts_of(folder: str) -> dict[str, int]:
    """Map each rollout to the generation that it left; {} if the note can't be read."""
    try:
        return read_note(folder).generations
    except NoteError:
        return {}


def back(
    folder: str,
    to: Any,
    names: list[str],
    apply: Callable[[list[dict[str, Any]], Guests | None], list[Outcome]],
    note: Generation,
    check: bool,
) -> tuple[Generation, list[Outcome], bool]:
    """Roll back with ``apply``. Return the generation, what happened to each domain, and whether a generation was written.

    ``apply`` gets the domains and the rules of their networks, None where these are not known and stay.
    """
    kept, problems = listing(folder)
    if not kept:
        raise GenerationError("; ".join(problems) or "to: the host has no generation: nothing was deployed yet")
    target = generations.target_of(kept, to, rollouts_of(folder))
    domains = generations.to_apply(kept, target, names)
    newest = max(kept, key=lambda one: one.number)
    new = generations.after(newest, target, domains, names)
    results = apply(domains, None if target.guests is None or new.guests is None else guests_of(new.guests))
    result = generations.FAILED if any(one.get("failed") for one in results) else generations.APPLIED
    new = dataclasses.replace(new, by=note.by, revision="", rollout=note.rollout, time="", result=result)
    _number, written = record(folder, new, check)
    return target, results, written


def overview(folder: str, to: Any, names: list[str]) -> dict[str, Any]:
    """Return all generations and, with ``to``, what rolling back to that one would take. Raise GenerationError if it can't be."""
    kept, problems = listing(folder)
    result: dict[str, Any] = {"generations": [generations.summary_of(one) for one in kept], "problems": problems, "rollouts": {}}
    try:
        result["rollouts"] = dataclasses.asdict(read_note(folder))
    except NoteError as error:
        problems.append(str(error))
    if to is None:
        return result
    target = generations.target_of(kept, to, rollouts_of(folder))
    generations.to_apply(kept, target, names)
    summary = generations.summary_of(target)
    chosen = [one for one in summary["domains"] if one["image"] and one["name"] in (names or target.names)]
    result["target"] = summary
    result["images"] = {one["image"]: one["sha256"] for one in chosen}
    result["differences"] = generations.differences(target, kept[-1])
    return result


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _path(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:06}.json")


def _write(folder: str, generation: Generation) -> None:
    write_whole(_path(folder, generation.number), generations.text_of(generation).encode("utf-8"), 0o600)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chmod(folder, 0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
