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
# How many lines a message or a result shows.
LINES = 10
MAX_BYTES = 65536
# Longest line shown, in characters; a guest may write a gigabyte without a newline.
MAX_LINE = 4000
# Whatever a terminal or an editor obeys: ANSI sequences with their ends; every control character but tab and newline (C0, DEL,
# C1), line and paragraph separators, direction marks and overrides, and surrogates.
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
    """Return the size of the console's log now, in bytes: what comes later belongs to the next start."""
    try:
        return os.path.getsize(path_of(name))
    except OSError:
        return 0


def clean(text: str | bytes) -> list[str]:
    """Return the lines of a guest's output, safe to show: nothing moves a cursor, changes a title or reverses text."""
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
    """Return the last lines of a domain's console after ``since``, without terminal control characters."""
    if most <= 0:
        return []
    try:
        with open(path_of(name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A file shorter than ``since`` was rotated, and is all new.
            file.seek(max(since if since <= size else 0, size - MAX_BYTES))
            # Bounded: it may grow while it is read.
            return clean(file.read(MAX_BYTES))[-most:]
    except OSError:
        return []


def find(name: str, pattern: str, since: int = 0) -> str | None:
    """Return the first line after ``since`` that matches a regular expression; None if none does or matching takes too long."""
    try:
        return first_match(pattern, lines(name, since, 100_000))
    except OSError:
        return None


def wait(name: str, pattern: str, since: int, seconds: float) -> str | None:
    """Repeat `find` until a line matches or ``seconds`` have passed."""
    until = time.monotonic() + seconds
    while True:
        line = find(name, pattern, since)
        if line is not None or time.monotonic() >= until:
            return line
        time.sleep(0.1)


def reopen() -> None:
    """Make xenconsoled reopen its logs: it names a log when it opens it, so this is needed after a rename."""
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
    """Return the end of a message, with the domain's last console lines."""
    if not console:
        return "; its console is empty or not logged"
    return "; its console ends: " + " | ".join(console[-4:])
