# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Show what hosts answered earlier, as a table and as files on the controller; see modules/fleet_status.py."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import JournalError
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import RolloutError
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout_status import MAX_ROLLOUTS, entry_of, lines_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.status import PARTS, as_json, page, status_of, table
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import write_whole
from ansible_collections.unikernels.xen.plugins.plugin_utils import journal_folder, rollout_steps


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("prefix", "html", "json", "journal"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _checked, options = self.validate_argument_spec(
            argument_spec={
                "prefix": {"type": "str", "default": "status_"},
                "html": {"type": "path", "default": ""},
                "json": {"type": "path", "default": ""},
                "journal": {"type": "str", "default": ""},
            }
        )
        try:
            rollout_steps.rendered(self._loader, variables, variables["ansible_play_hosts_all"][:1], ["rollout_journal"])
        except RolloutError as error:
            return {**result, "failed": True, "msg": str(error)}
        manager, inventory = variables["hostvars"]._variable_manager, variables["hostvars"]._inventory
        hosts = []
        for name in variables["ansible_play_hosts_all"]:
            known: Mapping[str, Any] = manager.get_vars(host=inventory.get_host(name), include_hostvars=False)
            hosts.append(status_of(name, {part: known.get(options["prefix"] + part) for part in PARTS}))
        rollouts, unread = self._rollouts(options["journal"])
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        try:
            for option, text in (("html", page(hosts, at, rollouts)), ("json", as_json(hosts, at, rollouts))):
                if options[option]:
                    path = os.path.abspath(options[option])
                    write_whole(path, text.encode("utf-8", "replace"), 0o600)
        except OSError as error:
            return {**result, "failed": True, "msg": f"{option}: {options[option]}: {error.strerror}"}
        return {
            **result,
            "changed": False,
            "msg": table(hosts) + lines_of(rollouts) + unread,
            "well": all(host.well for host in hosts),
            "_ansible_verbose_always": True,
        }

    def _rollouts(self, journal: str) -> tuple[list[dict[str, Any]], list[str]]:
        """The last ones that this controller knows, the newest first; a line for each journal that can't be read."""
        folder = os.path.abspath(os.path.expanduser(journal or journal_folder.default_folder()))
        rollouts, unread = [], []
        try:
            for rollout in journal_folder.ids(folder)[:MAX_ROLLOUTS]:
                try:
                    rollouts.append(entry_of(journal_folder.load(folder, rollout)))
                except JournalError as error:
                    unread.append(f"journal {error}")
        except JournalError as error:
            unread.append(str(error))
        return rollouts, unread
