# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: aggregate
short_description: A line every few seconds while a long task runs
version_added: 0.1.0
description:
  - Prints a line on standard error that shows how long a task has been running, and what it does at the moment - the step of a
    build, how much of an image has been sent to a host, how many seconds of a health check or of a wave's bake are left.
  - It reads only what the controller knows, and asks no host. Where a host runs health checks while it deploys, their limit is
    shown.
  - It changes nothing in what other callbacks print, so it can be combined with any of them. Without a terminal it prints
    nothing.
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
      - Files in which a build on the controller states what it does, and folders with such files, each named by the process that
        wrote it. The newest one is shown with the task, and how many others there are.
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
from ansible_collections.unikernels.xen.plugins.plugin_utils.progress import newest


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
                at = ": ".join(filter(None, (self._task, newest(follow, time.time()))))
                line = f"   ... {elapsed} s: {at} (in all {total // 60}:{total % 60:02d})\n"
                # Straight to the terminal: Display's locks belong to the main thread and its forks.
                with contextlib.suppress(OSError):
                    os.write(2, line.encode())
