# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The module as it is, after what disks are made from was copied to the host.

The limits of its health checks are stated on the controller for the callback progress.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action.normal import ActionModule as Normal
from ansible_collections.unikernels.xen.plugins.plugin_utils.content_shipping import ship
from ansible_collections.unikernels.xen.plugins.plugin_utils.health_limit import longest_check
from ansible_collections.unikernels.xen.plugins.plugin_utils.progress import stated


class ActionModule(Normal):  # type: ignore[misc]
    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables, domains = task_vars or {}, self._task.args.get("domains")
        contents = self._task.args.get("contents") or {}
        reason = "" if isinstance(contents, dict) else "contents: must be a mapping of digest to folder"
        if contents and not reason:
            reason = ship(self, contents, variables)
        if reason:
            return {"failed": True, "msg": reason}
        # The host decides which domains it replaces, and when: how much is left can't be known here.
        seconds = 0 if self._task.check_mode else longest_check(domains)
        limit = f", each health check may take up to {seconds} s" if seconds else ""
        count = len(domains) if isinstance(domains, list) else 0
        with stated(f"{variables.get('inventory_hostname')}: {count} domain{'' if count == 1 else 's'}{limit}"):
            result: dict[str, Any] = super().run(tmp, variables)
        return result
