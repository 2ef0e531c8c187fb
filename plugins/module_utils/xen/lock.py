# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The lock that allows one run at a time on a host; its file says what the holder is doing.

The kernel drops the lock when its holder dies, however it dies. What a dead run left behind is read from Xen itself (names that
end in ~next and ~prev), not from this file.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from types import TracebackType

# In a folder that only root can enter: whoever can open a file for reading can hold its lock.
FOLDER = "/run/unikernels-xen"
PATH = FOLDER + "/lock"
# How the note begins that xendomains writes into the lock (role xen_host), and how many seconds a run waits for xendomains to
# start a host's domains, whatever the run's own limit.
BOOT, BOOT_SECONDS = "xendomains:", 900.0
# Longest note, in bytes: written at once, so that a reader never sees half of it.
_NOTE_BYTES = 400


class LockError(Exception):
    """Another run holds the lock; the text says which and what it is doing."""


class Lock:
    """``with Lock(seconds):`` wait at most that long for other runs on the host, and longer while it boots."""

    def __init__(self, wait: float = 60, path: str = PATH) -> None:
        self.path = path
        self.wait = wait
        self._handle = -1
        self._noting = threading.Lock()

    def __enter__(self) -> Lock:
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise LockError(f"the lock of this host can't be opened ({self.path}: {error.strerror})") from error
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(self._handle, _NOTE_BYTES, 0).decode("utf-8", "replace").strip()
                limit = max(self.wait, BOOT_SECONDS) if holder.startswith(BOOT) else self.wait
                if time.monotonic() - began >= limit:
                    os.close(self._handle)
                    raise LockError(
                        f"another run works on this host ({holder or 'it has not stated what it does'});"
                        f" waited {limit:.0f} s; run again when it has ended"
                    ) from None
                time.sleep(0.2)
        self.note("started")
        return self

    def note(self, what: str) -> None:
        """Write what this run is doing, for those who wait. Never fails: with a full /run the note is lost, not the run."""
        line = f"process {os.getpid()}, {time.strftime('%H:%M:%S')}: {what}"
        text = (line[: _NOTE_BYTES - 1] + "\n").encode("utf-8", "replace")[:_NOTE_BYTES]
        with self._noting:
            try:
                os.pwrite(self._handle, text.ljust(_NOTE_BYTES), 0)
            except OSError:
                return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.ftruncate(self._handle, 0)
        os.close(self._handle)
