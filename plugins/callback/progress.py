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
  - Prints a line on standard error that shows that a long task is still at work, for how long, and what it does just now on the
    controller, such as the step of a build or the image that is shipped.
  - Changes nothing of what other callbacks print, so it goes with any of them. Without a terminal it prints nothing.
author:
  - unikernels.xen authors (@unikernels)
options:
  every:
    description: Seconds between two lines.
    type: int
    default: 15
    ini: [{section: callback_progress, key: every}]
    env: [{name: UNIKERNELS_PROGRESS_EVERY}]
  always:
    description: Print the lines also where standard error is no terminal, as in a CI system that ends a job without output.
    type: bool
    default: false
    ini: [{section: callback_progress, key: always}]
    env: [{name: UNIKERNELS_PROGRESS_ALWAYS}]
    version_added: 0.2.0
  follow:
    description:
      - Files with a line on what a build on the controller does just now, and folders with such files, each named by the process
        that wrote it. The newest line is shown with the task.
    type: pathlist
    default: ["~/.cache/unikernels.xen/builds/progress", /opt/unikernels/toolchain/progress, "~/.cache/unikernels.xen/progress"]
    ini: [{section: callback_progress, key: follow}]
    env: [{name: UNIKERNELS_PROGRESS_FOLLOW}]
"""

import contextlib
import os
import threading
import time
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.unikernels.xen.plugins.plugin_utils.progress import is_alive


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
        if not (self.get_option("always") or os.isatty(2)):
            return
        threading.Thread(target=self._report, args=(self.get_option("every"), self.get_option("follow")), daemon=True).start()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task, self._task_began = task.get_name().rsplit(" : ", 1)[-1], time.monotonic()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._ended.set()

    def _report(self, every: int, follow: list[str]) -> None:
        reported = 0
        while not self._ended.wait(0.5):
            elapsed = int(time.monotonic() - self._task_began)
            if elapsed < every:
                reported = 0
            elif elapsed // every != reported:
                reported = elapsed // every
                total = int(time.monotonic() - self._began)
                line = f"   ... {elapsed} s: {self._task}{_stated(follow)} (in all {total // 60}:{total % 60:02d})\n"
                # Straight to the terminal: Display's locks belong to the main thread and its forks.
                with contextlib.suppress(OSError):
                    os.write(2, line.encode())


def _stated(follow: list[str]) -> str:
    """What a build or an action states that it does, if it stated that recently or still runs."""
    lines = []
    for path in follow:
        for file, alive in _files(path):
            with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="replace") as stream:
                written = os.fstat(stream.fileno()).st_mtime
                if alive or time.time() - written <= 10:
                    lines.append((written, stream.readline(200).strip()))
    return f": {max(lines)[1]}" if lines else ""


def _files(path: str) -> list[tuple[str, bool]]:
    """(file, whether its process runs): the path itself, or what is in the folder."""
    if not os.path.isdir(path):
        return [(path, False)]
    try:
        return [(os.path.join(path, name), True) for name in os.listdir(path) if is_alive(name)]
    except OSError:
        return []
