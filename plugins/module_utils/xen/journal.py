# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. One run at a time on a host, and what it is doing, for the one that has to wait.

The kernel drops the lock when its holder dies, however it dies. What a dead run left behind is
read from Xen itself (names that end in ~next and ~prev), not from this file.
"""

from __future__ import annotations

import fcntl
import os
import time
from types import TracebackType

PATH = "/run/unikernels-xen.lock"
# How the role xen_host has xendomains begin what it writes into the lock, and the seconds for which its start of a host's
# domains is waited for, whatever a run's own limit.
BOOT, BOOT_SECONDS = "xendomains:", 900.0


class LockError(Exception):
    """Another run holds the lock; the text says which and what it does."""


class Lock:
    """``with Lock(seconds):`` waits at most that long for the host's other runs, and longer for its boot to end."""

    def __init__(self, wait: float = 60, path: str = PATH) -> None:
        self.path = path
        self.wait = wait
        self._handle = -1

    def __enter__(self) -> Lock:
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(self._handle, 400, 0).decode("utf-8", "replace").strip()
                limit = max(self.wait, BOOT_SECONDS) if holder.startswith(BOOT) else self.wait
                if time.monotonic() - began >= limit:
                    os.close(self._handle)
                    raise LockError(
                        f"another run works on this host ({holder or 'it has not said what it does'});"
                        f" waited {limit:.0f} s; run again when it has ended"
                    ) from None
                time.sleep(0.2)
        self.note("started")
        return self

    def note(self, what: str) -> None:
        text = f"process {os.getpid()}, {time.strftime('%H:%M:%S')}: {what}\n".encode()
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text, 0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.ftruncate(self._handle, 0)
        os.close(self._handle)
