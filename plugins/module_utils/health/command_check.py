# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check that a program on the host exits with 0. It and all that it started are killed when the attempt ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time

from ..domain.spec import Health

_POLL_SECONDS = 0.005
_KILL_SECONDS = 1.0
# How much of the output is kept: the end, where a program says why it failed.
_MAX_OUTPUT = 8192


def prepare(health: Health) -> None:
    program = health.command[0].encode("utf-8")
    if not os.path.isfile(program) or not os.access(program, os.X_OK):
        raise OSError(f"{health.command[0]} is not a program on this host")


def check(health: Health, deadline: float) -> str | None:
    began = time.monotonic()
    read_end, write_end = os.pipe()
    try:
        try:
            # Encode the words here, so that the locale changes nothing. A session of its own, so that the whole group can be
            # killed.
            process = subprocess.Popen(
                [word.encode("utf-8") for word in health.command],
                stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return str(error.strerror)
        finally:
            os.close(write_end)
        output = _Tail(read_end)
        ended = _ends(process.pid, output, deadline)
        try:
            # The process is not reaped yet, so its id is still its own. No SIGTERM first: nobody waits for a check to clean up.
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass  # nothing else was running
        try:
            code = process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return "could not be killed: it waits for a device or a file server"
        output.read(0)
    finally:
        # Don't read to the end: a child in a session of its own may hold the other end open forever.
        os.close(read_end)
    if not ended:
        return f"did not end within {time.monotonic() - began:.0f} s"
    return f"ended with {code}: {' | '.join(output.lines()[-2:]) or 'no output'}" if code else None


def _ends(pid: int, output: _Tail, deadline: float) -> bool:
    """True if the process exits before the deadline; it stays a zombie. Its output is read meanwhile so that it never blocks."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        output.read(_POLL_SECONDS)
    return True


class _Tail:
    """The end of what a pipe delivers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._text, self._open = descriptor, b"", True
        os.set_blocking(descriptor, False)

    def read(self, seconds: float) -> None:
        """Read what is there, or what comes first within ``seconds``."""
        if not self._open:
            time.sleep(seconds)
        elif select.select([self._descriptor], [], [], seconds)[0]:
            data = os.read(self._descriptor, 1 << 20)
            self._open = bool(data)
            self._text = (self._text + data)[-_MAX_OUTPUT:]

    def lines(self) -> list[str]:
        return [line for line in self._text.decode("utf-8", "replace").strip().splitlines() if line.strip()]
