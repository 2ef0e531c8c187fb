# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Ask a service, in its own protocol, whether it serves.

Each check makes one attempt, which has a deadline as a whole, whatever the service sends and however slowly. It returns
None when the service answered as declared, else one line that says what came instead. Waiting and repeating is the caller's.
"""

from __future__ import annotations

import time
from typing import Protocol

from ..domain.spec import Health

# One attempt: longer than a slow answer, short enough to try again soon.
ATTEMPT_SECONDS = 5.0
# A program that an operator wrote may have to look at more than one thing.
COMMAND_SECONDS = 30.0
# An attempt that begins just before the end of `within` still has time for an answer.
MIN_SECONDS = 1.0
MAX_LINE = 500


def ask(health: Health, deadline: float | None = None) -> str | None:
    """None when the service answers as declared, else one line; never an exception. Not for kind ``console``.

    ``deadline``: when the caller's patience ends, in the time of `time.monotonic`. The attempt ends then, or after
    ATTEMPT_SECONDS (COMMAND_SECONDS), whichever comes first, but is given MIN_SECONDS.
    """
    began = time.monotonic()
    seconds = COMMAND_SECONDS if health.kind == "command" else ATTEMPT_SECONDS
    if deadline is not None:
        seconds = max(MIN_SECONDS, min(seconds, deadline - began))
    try:
        answer = _module_of(health.kind).check(health, began + seconds)
    except Exception as error:
        # All of them: a check that raises in the middle of a replacement would leave it half done.
        answer = reason(error)
    return None if answer is None else one_line(f"{health.target}: {answer}")


def lacking(health: Health) -> str | None:
    """What a check needs of the machine where it is made and is not there, in one line: asked before anything is changed."""
    if health.kind == "console":
        return None
    try:
        _module_of(health.kind).prepare(health)
    except Exception as error:
        return one_line(f"{health.kind}: {reason(error)}")
    return None


class Check(Protocol):
    """A module with the check of one kind."""

    def prepare(self, health: Health, /) -> object:
        """Raise when this machine lacks a library or a file for it."""

    def check(self, health: Health, deadline: float, /) -> str | None:
        """One attempt, until ``deadline``; None, or what came instead. May raise."""


def _module_of(kind: str) -> Check:
    """Loaded when it is used: ssl and dnspython take long, and most runs ask nothing."""
    if kind == "http":
        from . import http_check

        return http_check
    if kind == "dns":
        from . import dns_check

        return dns_check
    if kind == "openvpn":
        from . import openvpn_check

        return openvpn_check
    if kind == "command":
        from . import command_check

        return command_check
    if kind == "tcp":
        from . import tcp_check

        return tcp_check
    raise ValueError(f"kind {kind} is not asked, its lines are looked for")


def reason(error: Exception) -> str:
    """What went wrong, in words where the error has some."""
    text = str(error)
    if isinstance(error, OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """What a service sent may stand in it: nothing that moves a cursor, nothing that fills a screen."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 3] + "..."
