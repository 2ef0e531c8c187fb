# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What a domain writes to its console, as xenconsoled logs it."""

from __future__ import annotations

import os
import re
import subprocess
import time

from ..health.patterns import first_match

CONSOLES = "/var/log/xen/console"
# Shown of a console in a message or a result.
LINES = 10
MAX_BYTES = 65536
# Of one line; a guest may write a gigabyte without an end of line.
MAX_LINE = 4000
# What a terminal or an editor obeys: ANSI's sequences with their ends; then every control character but tab and newline (C0,
# DEL, C1), line and paragraph separators, marks and overrides of the writing direction, and half characters.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]{0,256}(?:\x07|\x1b\\|\x9c)"
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)


def path_of(name: str) -> str:
    return os.path.join(CONSOLES, f"guest-{name}.log")


def mark(name: str) -> int:
    """Where the console's file ends now, in bytes: what comes later belongs to the next start."""
    try:
        return os.path.getsize(path_of(name))
    except OSError:
        return 0


def clean(text: str | bytes) -> list[str]:
    """The lines of what a guest wrote, as they may be shown: nothing in them moves a cursor, changes a title or turns a line."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    plain = _CONTROLS.sub("", _SEQUENCES.sub("", text))
    rows = (line.rstrip() for line in plain.split("\n"))
    return [
        line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ... ({len(line) - MAX_LINE} characters more)"
        for line in rows
        if line
    ]


def lines(name: str, since: int = 0, most: int = LINES) -> list[str]:
    """The last lines of a domain's console since ``since``, without terminal control characters."""
    if most <= 0:
        return []
    try:
        with open(path_of(name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # Rotated since: everything in the file is new.
            file.seek(max(since if since <= size else 0, size - MAX_BYTES))
            # Not more: it may grow while it is read.
            return clean(file.read(MAX_BYTES))[-most:]
    except OSError:
        return []


def find(name: str, pattern: str, since: int = 0) -> str | None:
    """The first line since ``since`` that the regular expression matches somewhere; None also when that takes too long."""
    try:
        return first_match(pattern, lines(name, since, 100_000))
    except OSError:
        return None


def wait(name: str, pattern: str, since: int, seconds: float) -> str | None:
    """`find`, asked again until it has an answer or ``seconds`` have passed."""
    until = time.monotonic() + seconds
    while True:
        line = find(name, pattern, since)
        if line is not None or time.monotonic() >= until:
            return line
        time.sleep(0.1)


def reopen() -> None:
    """xenconsoled names a console's file when it opens it: after a rename it must open it again."""
    try:
        subprocess.run(["pkill", "-HUP", "-x", "xenconsoled"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return  # the log keeps its old name; nothing else depends on it


def forget(name: str) -> None:
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        pass


def tail(console: list[str]) -> str:
    """The end of a message that shows what the domain said last."""
    if not console:
        return "; its console is empty or not logged"
    return "; its console ends: " + " | ".join(console[-4:])
