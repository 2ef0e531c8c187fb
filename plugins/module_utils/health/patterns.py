# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Find the first console line that a regular expression matches, in bounded time.

The guest writes the lines, so it decides how much a pattern has to try: ``(a+)+$`` takes years for forty characters, and Python
can't interrupt matching within a process. So a pattern that repeats anything is matched in a separate process. Lines are matched
up to MAX_LINE characters (the rest is ignored), for at most MATCH_SECONDS.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

MAX_LINE = 1000
MATCH_SECONDS = 5.0
# Whatever can make the number of ways to match grow faster than the line.
_REPEATS = re.compile(r"[*+?{]|(?:\|[^|]*){9}", re.DOTALL)
# Prints the number of the first line that matches. -I and -S: load only the standard library, nothing else of the host's Python.
_PROGRAM = (
    "import json,re,sys\n"
    "pattern, lines = json.load(sys.stdin)\n"
    "compiled = re.compile(pattern)\n"
    "print(next((number for number, line in enumerate(lines) if compiled.search(line)), -1))\n"
)


def first_match(pattern: str, lines: list[str], seconds: float = MATCH_SECONDS) -> str | None:
    """Return the first line that matches, uncut, or None. Raise TimeoutError if the time did not suffice."""
    heads = [line[:MAX_LINE] for line in lines]
    if not heads:
        return None
    number = _apart(pattern, heads, seconds) if _REPEATS.search(pattern) else _here(pattern, heads)
    return None if number < 0 else lines[number]


def problem_of(pattern: str, lines: list[str]) -> str | None:
    """Return None if a line matches, else one line that says that none does, or why that is unknown."""
    try:
        return None if first_match(pattern, lines) is not None else f"no line on its console matches {pattern!r}"
    except OSError as error:
        return str(error)


def _here(pattern: str, lines: list[str]) -> int:
    compiled = re.compile(pattern)
    return next((number for number, line in enumerate(lines) if compiled.search(line)), -1)


def _apart(pattern: str, lines: list[str], seconds: float) -> int:
    try:
        done = subprocess.run(
            [sys.executable or "/usr/bin/python3", "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([pattern, lines]).encode("ascii"), capture_output=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"matching {pattern!r} takes more than {seconds:.0f} s; write it with fewer repetitions") from None
    if done.returncode:
        raise OSError(f"matching {pattern!r} failed: {done.stderr.decode('utf-8', 'replace').strip().splitlines()[-1:]}")
    return int(done.stdout)
