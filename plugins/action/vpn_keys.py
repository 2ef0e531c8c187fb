# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Create keys of VPN endpoints in folders on the controller; see modules/vpn_keys.py."""

from __future__ import annotations

import datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Keys
from ansible_collections.unikernels.xen.plugins.plugin_utils.pki import PkiError, ends_of
from ansible_collections.unikernels.xen.plugins.plugin_utils.pki_writer import bring_up_to_date

_SPEC = {
    "host": {"type": "str", "required": True},
    "name": {"type": "str", "default": "vpn"},
    "folder": {"type": "path", "required": True},
    "remote": {"type": "str", "required": True},
    "port": {"type": "int", "default": 1194},
    "clients": {"type": "list", "elements": "str", "required": True},
    "new_ca": {"type": "bool", "default": False},
    "days": {"type": "int", "default": 1825},
    "ca_days": {"type": "int", "default": 3650},
    "renew_days": {"type": "int", "default": 90},
    "ca": {"type": "str", "default": ""},
    "health": {"type": "str", "default": "", "no_log": True},
    "ends": {"type": "dict", "default": {}},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("endpoints",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        spec = {"endpoints": {"type": "list", "elements": "dict", "required": True, "options": _SPEC}}
        _checked, options = self.validate_argument_spec(argument_spec=spec)
        now = datetime.datetime.now(datetime.timezone.utc)
        done: list[str] = []
        ends: dict[str, dict[str, dict[str, str]]] = {}
        for given in options["endpoints"]:
            wanted = Keys(
                **{key: given[key] for key in Keys.__dataclass_fields__ if key != "clients"}, clients=tuple(given["clients"])
            )
            try:
                lines, found = bring_up_to_date(wanted, now, write=not self._task.check_mode)
            except PkiError as error:
                return {**result, "failed": True, "msg": f"{given['host']}: {wanted.name}: {error}", "done": done}
            except OSError as error:
                line = f"{given['host']}: {wanted.name}: {error.filename or wanted.folder}: {error.strerror}"
                return {**result, "failed": True, "msg": line, "done": done}
            done += [f"{given['host']}: {wanted.name}: {line}" for line in lines]
            ends.setdefault(given["host"], {})[wanted.name] = ends_of(found)
        shown = {"msg": done, "_ansible_verbose_always": True} if done else {"msg": []}
        return {**result, "changed": bool(done), "ends": ends, **shown}
