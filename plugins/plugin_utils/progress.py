# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What an action on the controller does just now, for the callback progress: one line in a file named by its process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

FOLDER = "~/.cache/unikernels.xen/progress"


@contextlib.contextmanager
def stated(line: str) -> Iterator[None]:
    """State ``line`` until the block ends. Nothing depends on it: a folder that can't be written is no failure."""
    path = os.path.join(os.path.expanduser(FOLDER), str(os.getpid()))
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(line + "\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def is_alive(pid: str) -> bool:
    """True if the process that a file is named after still runs; a killed one leaves its file."""
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")
