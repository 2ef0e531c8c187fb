# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The folder of journals, which several controllers can share: one file per rollout, to which lines are only appended."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ansible_collections.unikernels.xen.plugins.module_utils.fleet import journal
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import JournalError, State

SUFFIX = ".jsonl"
# How many of the newest journals are searched for current rollouts.
MAX_JOURNALS = 200
# The last line has some words for each failed host.
MAX_TAIL = 256 << 10
_LOCK = ".lock"


class UnreadableError(JournalError):
    """One line: the file or folder that can't be read."""


def default_folder() -> str:
    return os.path.join(os.path.expanduser("~"), ".local/state/unikernels.xen/rollouts")


def now_text() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def new_id() -> str:
    """Return an id that begins with the time, so that ids sort; two controllers in the same second get different ones."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"


def path_of(folder: str, rollout: str) -> str:
    """Return the journal's path. Raise JournalError for an invalid id, which could be a path."""
    if not journal.ID.fullmatch(rollout):
        raise JournalError(f"{rollout!r} is not the name of a rollout, as in 20261127T080000Z-1a2b3c")
    return os.path.join(folder, rollout + SUFFIX)


def load(folder: str, rollout: str) -> State:
    """Load a rollout's state. Raise JournalError with the file's name."""
    path = path_of(folder, rollout)
    try:
        with _opened(path) as file:
            state = journal.read(file.read().decode("utf-8", "replace"))
    except FileNotFoundError:
        known = ", ".join(ids(folder)[:5]) or "none"
        raise JournalError(f"there is no rollout {rollout} in {folder} (the last ones: {known})") from None
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from None
    except JournalError as error:
        raise JournalError(f"{path}: {error}") from None
    if state.id != rollout:
        raise JournalError(f"{path}: is a copy of the journal of {state.id}; resume or abort that one, and remove the copy")
    return state


def _opened(path: str) -> BinaryIO:
    """Open a file to read. Raise OSError for anything else: opening a pipe would wait until somebody writes to it."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "Is not a file", path)
    return open(handle, "rb")


def ids(folder: str) -> list[str]:
    """The newest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnreadableError(f"rollout_journal: {folder}: {error.strerror}") from None
    found = [name[: -len(SUFFIX)] for name in names if name.endswith(SUFFIX)]
    return sorted(filter(journal.ID.fullmatch, found), reverse=True)


def ended(folder: str) -> list[str]:
    """Return the newest rollouts that have ended."""
    return [rollout for rollout in ids(folder)[:MAX_JOURNALS] if journal.has_ended(_last_line(folder, rollout))]


def under_way(folder: str, unread: list[str]) -> list[State]:
    """Rollouts that have begun and are not over; one without a whole first line never began.

    ``unread`` gets a line for each file that can't be read, which may be one under way: its hosts know.
    """
    found = []
    for rollout in ids(folder)[:MAX_JOURNALS]:
        try:
            state = State() if journal.has_ended(_last_line(folder, rollout)) else load(folder, rollout)
        except UnreadableError as error:
            unread.append(str(error))
            continue
        except JournalError:
            continue
        found += [state] if state.id and state.under_way else []
    return found


def _last_line(folder: str, rollout: str) -> str:
    try:
        with _opened(path_of(folder, rollout)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_TAIL))
            return file.read().rstrip(b"\n").rpartition(b"\n")[2].decode("utf-8", "replace")
    except OSError:
        return ""


def append(folder: str, rollout: str, event: str, new: bool = False, **fields: Any) -> None:
    append_all(folder, rollout, [(event, fields)], new)


def append_all(folder: str, rollout: str, events: list[tuple[str, dict[str, Any]]], new: bool = False) -> None:
    """Append lines to the journal and sync them to disk. Raise JournalError."""
    if not events:
        return
    path, at = path_of(folder, rollout), now_text()
    text = "".join(journal.line_of(event, at, **fields) for event, fields in events)
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            # End a line that was cut off, so that it doesn't run into ours.
            cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = (("\n" if cut else "") + text).encode("utf-8", "replace")
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            _sync(folder)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None


def _sync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the folder's lock while a run decides whether it may start. The kernel drops it when its holder dies."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"{error.filename or folder}: {error.strerror}") from None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def this_run() -> dict[str, Any]:
    """Return the process of ansible-playbook, of which a task's process is a child."""
    pid = os.getppid()
    return {"node": platform.node(), "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str:
    """Return when a process began, in the kernel's clock ticks; "" if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def other_run(state: State) -> str:
    """Return who else runs this rollout now, as far as this machine can tell; "" if nobody."""
    run, here = state.run, this_run()
    if not run or not state.under_way or state.result:
        return ""
    if (run["node"], run["pid"], run["started"]) == (here["node"], here["pid"], here["started"]):
        return ""
    if run["node"] == here["node"] and (not run["started"] or _started(int(run["pid"])) != run["started"]):
        return ""
    return f"process {run['pid']} on {run['node']}, by {run['by']} since {run['at']}, last heard of at {state.last}"
