# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Ask a service, in its own protocol, whether it serves.

Each check makes one attempt, with one deadline for all of it, whatever the service sends and however slowly. It returns None when
the service answered as declared, else one line that says what came instead. Waiting and repeating are left to the caller.
"""

from __future__ import annotations

import time
from typing import Protocol

from ..domain.spec import Health

# Seconds for one attempt: longer than a slow answer takes, short enough to try again soon.
ATTEMPT_SECONDS = 5.0
# Longer for an operator's program, which may check several things.
COMMAND_SECONDS = 30.0
# An attempt that begins just before the end of `within` still gets this long for an answer.
MIN_SECONDS = 1.0
MAX_LINE = 500


def ask(health: Health, deadline: float | None = None) -> str | None:
    """Return None if the service answers as declared, else one line. Never raises. Not for kind ``console``.

    ``deadline``: when the caller stops waiting, in the time of `time.monotonic`. The attempt ends then, or after ATTEMPT_SECONDS
    (COMMAND_SECONDS), whichever comes first, but gets at least MIN_SECONDS.
    """
    began = time.monotonic()
    seconds = COMMAND_SECONDS if health.kind == "command" else ATTEMPT_SECONDS
    if deadline is not None:
        seconds = max(MIN_SECONDS, min(seconds, deadline - began))
    try:
        answer = _module_of(health.kind).check(health, began + seconds)
    except Exception as error:
        # Catch everything: a check that raised during a replacement would leave it half done.
        answer = reason(error)
    return None if answer is None else one_line(f"{health.target}: {answer}")


def lacking(health: Health) -> str | None:
    """Return what the machine that makes a check lacks for it, in one line; called before anything is changed."""
    if health.kind == "console":
        return None
    try:
        _module_of(health.kind).prepare(health)
    except Exception as error:
        return one_line(f"{health.kind}: {reason(error)}")
    return None


class Check(Protocol):
    """A module that implements one kind of check."""

    def prepare(self, health: Health, /) -> object:
        """Raise if this machine lacks a library or a file for the check."""

    def check(self, health: Health, deadline: float, /) -> str | None:
        """Make one attempt, until ``deadline``. Return None, or what came instead. May raise."""


def _module_of(kind: str) -> Check:
    """Import the module on first use: ssl and dnspython load slowly, and most runs check nothing."""
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
    """Return what went wrong, as the error's own text if it has any."""
    text = str(error)
    if isinstance(error, OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """Make one short line, free of control characters, of text that a service sent."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 3] + "..."
