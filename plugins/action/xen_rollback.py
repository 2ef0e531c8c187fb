# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The module as it is; who rolls back is the user of this controller, unless the task names somebody."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action.normal import ActionModule as Normal
from ansible_collections.unikernels.xen.plugins.plugin_utils.run_note import who


class ActionModule(Normal):  # type: ignore[misc]
    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        if not self._task.args.get("by"):
            self._task.args = {**self._task.args, "by": who()}
        result: dict[str, Any] = super().run(tmp, task_vars)
        return result
