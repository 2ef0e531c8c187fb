# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Run a program with a limit that always holds, also for a process that waits in the kernel and survives SIGKILL."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

# How long, in seconds, a killed process may take to end; then it is left behind.
KILL_SECONDS = 5.0


def run(command: list[str], timeout: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Return what the program printed; raise TimeoutExpired after ``timeout`` seconds.

    subprocess.run waits without a limit for a process that it has killed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **options,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill the process, and wait for its end, but not forever."""
    process.kill()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)
