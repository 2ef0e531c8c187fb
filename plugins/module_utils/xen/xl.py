# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Run ``xl`` with a time limit, and put its errors into one line."""

from __future__ import annotations

import os
import subprocess

from ..process import run

# Far above the slowest call measured under emulation (5.7 s for a create with a vif); after this long xl is stuck.
XL_SECONDS = 180


class ToolstackError(Exception):
    """One line: what was tried, and what Xen printed. ``console``: the domain's last lines."""

    def __init__(self, message: str, console: list[str] | None = None) -> None:
        super().__init__(message)
        self.console = console or []


def xl(*arguments: str, timeout: float = XL_SECONDS) -> tuple[int, str, str]:
    """Return (exit code, output, error output). Raise ToolstackError if xl is missing or runs for over ``timeout`` seconds."""
    command = ["xl", *arguments]
    try:
        done = run(command, timeout, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        raise ToolstackError("xl is not installed on this host: run the role xen_host first") from None
    except subprocess.TimeoutExpired:
        raise ToolstackError(
            f"'{' '.join(command)}' did not end within {timeout:.0f} s; is xenstored alive? See /var/log/xen"
        ) from None
    return done.returncode, done.stdout, done.stderr


def must(*arguments: str) -> str:
    """Run xl and return its output; raise ToolstackError if it fails."""
    code, out, err = xl(*arguments)
    if code:
        raise ToolstackError(f"'xl {' '.join(arguments)}' failed ({code}): {last_words(err + out)}")
    return out


def last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Parsing config")]
    # xl prints the cause first and the consequences after it.
    return "; ".join(lines[:3])
