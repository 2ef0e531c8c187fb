# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The record of each domain that was restarted: a small file owned by root, written atomically."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ..plan.keep import Past

FOLDER = "/var/lib/unikernels/restarts"
# Bounds of a record: a domain that fails for years fills no disk.
MAX_HISTORY, MAX_LINES, MAX_LINE = 20, 20, 500
MAX_STARTS = 100


def path_of(name: str) -> str:
    return os.path.join(FOLDER, name + ".json")


def read(name: str) -> dict[str, Any]:
    """Return a domain's record; {} if it never failed, or if the record can't be read."""
    try:
        with open(path_of(name), encoding="utf-8", errors="replace") as file:
            record = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def past_of(record: dict[str, Any]) -> Past:
    starts = record.get("starts")
    times = [float(start) for start in starts if _is_time(start)] if isinstance(starts, list) else []
    return Past(tuple(times), record.get("gave_up") is True, record.get("pending") is True)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1 << 62


def summary(name: str) -> dict[str, Any]:
    """Return what is shown of the record beside the domain."""
    record = read(name)
    return {
        "count": record["count"] if isinstance(record.get("count"), int) else 0,
        "last": str(record.get("last", "")),
        "reason": str(record.get("reason", "")),
        "gave_up": record.get("gave_up") is True,
    }


def with_event(
    record: dict[str, Any], reason: str, now: float, starts: int, console: list[str], exit_code: int | None, gave_up: bool
) -> dict[str, Any]:
    """Return the record with one more end. ``starts``: how often the domain is, or was, restarted because of it."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(now))
    count, history = record.get("count"), record.get("history")
    former = history if isinstance(history, list) else []
    return {
        "count": (count if isinstance(count, int) else 0) + starts,
        "starts": [*past_of(record).starts, *[now] * starts][-MAX_STARTS:],
        "last": when,
        "reason": reason,
        "exit_code": exit_code,
        "console": [line[:MAX_LINE] for line in console[-MAX_LINES:]],
        "gave_up": gave_up,
        "pending": False,
        "history": [*former, {"time": when, "reason": reason}][-MAX_HISTORY:],
    }


def write(name: str, record: dict[str, Any]) -> None:
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    temporary = os.path.join(FOLDER, f".{name}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(handle)
    os.rename(temporary, path_of(name))


def forget(name: str) -> None:
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        pass
