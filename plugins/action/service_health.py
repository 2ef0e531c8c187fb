# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The module as it is; its time limit is stated on the controller for the callback progress."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action.normal import ActionModule as Normal
from ansible_collections.unikernels.xen.plugins.plugin_utils.health_limit import longest_check
from ansible_collections.unikernels.xen.plugins.plugin_utils.progress import stated


class ActionModule(Normal):  # type: ignore[misc]
    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables, seconds = task_vars or {}, longest_check(self._task.args.get("domains"))
        with stated(f"{variables.get('inventory_hostname')}: health checks", until=time.time() + seconds):
            result: dict[str, Any] = super().run(tmp, variables)
        return result
