# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: aggregate
short_description: A line now and then while a long task runs
version_added: 0.1.0
description:
  - Shows that a long task is still at work, and for how long.
author:
  - unikernels.xen authors (@unikernels)
options:
  every:
    description: Seconds between two lines.
    type: int
    default: 15
    ini: [{section: callback_progress, key: every}]
    env: [{name: UNIKERNELS_PROGRESS_EVERY}]
  follow:
    description: Files with a line on what a build on the controller does just now; the newest is shown with the task.
    type: pathlist
    default: ["~/.cache/unikernels.xen/builds/progress", /opt/unikernels/toolchain/progress]
    ini: [{section: callback_progress, key: follow}]
    env: [{name: UNIKERNELS_PROGRESS_FOLLOW}]
"""

import contextlib
import os
import threading
import time
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "unikernels.xen.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._task_began = self._began
        self._task = ""
        self._ended = threading.Event()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        threading.Thread(target=self._tell, args=(self.get_option("every"), self.get_option("follow")), daemon=True).start()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task, self._task_began = task.get_name().rsplit(" : ", 1)[-1], time.monotonic()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._ended.set()

    def _tell(self, every: int, follow: list[str]) -> None:
        told = 0
        while not self._ended.wait(0.5):
            elapsed = int(time.monotonic() - self._task_began)
            if elapsed < every:
                told = 0
            elif elapsed // every != told:
                told = elapsed // every
                total = int(time.monotonic() - self._began)
                line = f"   ... {elapsed} s: {self._task}{_build_line(follow)} (in all {total // 60}:{total % 60:02d})\n"
                # Straight to the terminal: Display's locks belong to the main thread and its forks.
                os.write(2, line.encode())


def _build_line(follow: list[str]) -> str:
    """What a build states that it does, if it stated that recently."""
    lines = []
    for path in follow:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            lines.append((os.fstat(file.fileno()).st_mtime, file.readline().strip()))
    said, line = max(lines, default=(0.0, ""))
    return f": {line}" if time.time() - said <= 10 else ""
