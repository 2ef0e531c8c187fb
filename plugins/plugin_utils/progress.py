# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What an action on the controller does at the moment, for the callback progress: a file named by its process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

FOLDER = "~/.cache/unikernels.xen/progress"
# More than that is not what an action or a build has written.
_MAX_BYTES = 4096
# What a terminal would act on.
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_NO_CONTROLS = dict.fromkeys(_CONTROLS, " ")


@contextlib.contextmanager
def stated(line: str, file: str = "", until: float = 0) -> Iterator[None]:
    """State ``line`` until the block ends. Nothing depends on it: a folder that can't be written is no failure.

    ``file``: what this process, or one that it started, sends meanwhile; how far it is read is shown.
    ``until``: when the work ends at the latest (time.time()); the seconds left are shown.
    """
    path = os.path.join(os.path.expanduser(FOLDER), str(os.getpid()))
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(json.dumps({"line": line, "file": os.path.realpath(file) if file else "", "until": until}) + "\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def newest(paths: list[str], now: float) -> str:
    """What the newest of these files (or of the files in these folders) states, and how many more are at work; "" for none."""
    lines = []
    for path in paths:
        for file, pid in _files(path):
            with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="replace") as stream:
                written = os.fstat(stream.fileno()).st_mtime
                # A build writes its file again and again, and may be killed.
                if pid or now - written <= 10:
                    lines.append((written, pid, stream.readline(_MAX_BYTES)))
    if not lines:
        return ""
    _written, pid, text = max(lines)
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return shown(text, now, pid) + more


def shown(text: str, now: float, pid: str = "") -> str:
    """The words of one file: those of a build as they are, those of an action with how far it is."""
    with contextlib.suppress(ValueError):
        known = json.loads(text)
        if isinstance(known, dict):
            return f"{_plain(str(known.get('line', '')))}{_sent(known.get('file'), pid)}{_left(known.get('until'), now)}"
    return _plain(text)


def _plain(text: str) -> str:
    return text.translate(_NO_CONTROLS).strip()[:200]


def _left(until: Any, now: float) -> str:
    return f", at most {until - now:.0f} s left" if isinstance(until, (int, float)) and until > now else ""


def _sent(file: Any, pid: str) -> str:
    if not isinstance(file, str) or not file:
        return ""
    try:
        size = os.path.getsize(file)
    except OSError:
        return ""
    read = bytes_read(pid, file)
    return f", {size / 1e6:.1f} MB" if read is None else f", {read / 1e6:.1f} of {size / 1e6:.1f} MB sent"


def bytes_read(pid: str, path: str) -> int | None:
    """How far a process, or one below it, has read an open file; None where none of them has it open."""
    for process in [pid, *_below(pid)] if pid.isdigit() else []:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    if os.readlink(f"/proc/{process}/fd/{number}") == path:
                        with open(f"/proc/{process}/fdinfo/{number}", encoding="ascii") as stream:
                            return int(stream.readline().split()[1])
    return None


def _below(pid: str) -> list[str]:
    children: list[str] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as stream:
                children += stream.read().split()
    return children + [process for child in children for process in _below(child)]


def _files(path: str) -> list[tuple[str, str]]:
    """(file, the process that it is named by): the path itself, or what processes that run have in this folder."""
    if not os.path.isdir(path):
        return [(path, "")]
    try:
        return [(os.path.join(path, name), name) for name in os.listdir(path) if is_alive(name)]
    except OSError:
        return []


def is_alive(pid: str) -> bool:
    """True if the process that a file is named after still runs; a killed one leaves its file."""
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")
