# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The host's note of rollouts, beside the folder of its generations."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..image.store import LOCK_SECONDS, hold, write_whole
from . import host_note
from .host_note import Note, NoteError

NAME = "rollout.json"


def path_of(generations: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(generations)), NAME)


def read_note(generations: str) -> Note:
    """Read the note. Raise NoteError if it can't be read."""
    path = path_of(generations)
    try:
        with open(path, encoding="utf-8") as file:
            return host_note.read(file.read())
    except FileNotFoundError:
        return Note()
    except OSError as error:
        raise NoteError(f"{path}: {error.strerror}") from None
    except (NoteError, UnicodeDecodeError) as error:
        words = error if isinstance(error, NoteError) else "is not text"
        raise NoteError(f"{path}: {words}; remove it where no rollout of this host is under way") from None


def change_note(generations: str, change: Callable[[Note], Note], check: bool) -> tuple[Note, bool]:
    """Return the note after ``change``, and whether it differs. Raise NoteError or OSError."""
    if check:
        before = read_note(generations)
        after = change(before)
        return after, after != before
    path = path_of(generations)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    late = NoteError(f"{path}: another run has been changing it for {LOCK_SECONDS} s")
    # A file that only root can open: whoever can open one can hold its lock.
    with hold(f"{path}.lock", LOCK_SECONDS, late):
        before = read_note(generations)
        after = change(before)
        if after != before:
            write_whole(path, host_note.text_of(after).encode("utf-8"), 0o600)
        return after, after != before
