# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Does a program on the host end with 0? It and all that it started end with the attempt."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time

from ..domain.spec import Health

_POLL_SECONDS = 0.005
_KILL_SECONDS = 1.0
# What of its output is kept: the end, where a program says why it failed.
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
            # Words as bytes: what the locale makes of text is not what was declared. A session of its own, to end it as a whole.
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
            # Not reaped yet, so the number is still its own. No SIGTERM before: nobody waits for a check to tidy up.
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass  # it was alone, and has ended
        try:
            code = process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return "could not be killed: it waits for a device or a file server"
        output.read(0)
    finally:
        # Not read to its end: a child in a session of its own may hold the other one for ever.
        os.close(read_end)
    if not ended:
        return f"did not end within {time.monotonic() - began:.0f} s"
    return f"ended with {code}: {' | '.join(output.lines()[-2:]) or 'no output'}" if code else None


def _ends(pid: int, output: _Tail, deadline: float) -> bool:
    """Does it end before the deadline? It stays a zombie. Its output is read meanwhile, or it would stand still."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        output.read(_POLL_SECONDS)
    return True


class _Tail:
    """The end of what comes out of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._text, self._open = descriptor, b"", True
        os.set_blocking(descriptor, False)

    def read(self, seconds: float) -> None:
        """What is there now, or comes first within ``seconds``."""
        if not self._open:
            time.sleep(seconds)
        elif select.select([self._descriptor], [], [], seconds)[0]:
            data = os.read(self._descriptor, 1 << 20)
            self._open = bool(data)
            self._text = (self._text + data)[-_MAX_OUTPUT:]

    def lines(self) -> list[str]:
        return [line for line in self._text.decode("utf-8", "replace").strip().splitlines() if line.strip()]
