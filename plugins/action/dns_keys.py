# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Create, add and remove keys that zones are signed with, in folders on the controller; see modules/dns_keys.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import holds_unresolved
from ansible_collections.unikernels.xen.plugins.module_utils.service import dns, dns_signing
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import list_of, servers
from ansible_collections.unikernels.xen.plugins.module_utils.service.variables import Variables
from ansible_collections.unikernels.xen.plugins.module_utils.service.zones import ZoneError
from ansible_collections.unikernels.xen.plugins.plugin_utils import dns_key_folders as folders
from ansible_collections.unikernels.xen.plugins.plugin_utils.resolve import Renderer, Resolver

_NAMES = [*(f"{dns.NAME}_{option}" for option in dns.OPTIONS), list_of(dns.NAME)]


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("algorithm", "new", "remove"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _checked, options = self.validate_argument_spec(
            argument_spec={
                "algorithm": {"type": "str", "choices": list(dns_signing.ALGORITHMS), "default": dns_signing.ALGORITHMS[0]},
                "new": {"type": "str", "default": ""},
                "remove": {"type": "str", "default": ""},
            }
        )
        problems: list[str] = []
        signed = self._signed(task_vars or {}, problems)
        new, remove = (options[key].rstrip(".").lower() for key in ("new", "remove"))
        for variable, zone in (("dns_new_key", new), ("dns_remove_key", remove)):
            if zone and not any(zone in zones for zones in signed.values()):
                problems.append(f"{variable}: {zone} is not a zone that dns_sign of these hosts signs")
        if new and new == remove:
            problems.append(f"dns_remove_key: {remove} is to get a new key too; its old one is removed when the parent has both")
        if problems:
            return {**result, "failed": True, "msg": "\n".join(dict.fromkeys(problems))}
        done: list[str] = []
        records: dict[str, list[str]] = {}
        try:
            for folder, zones in signed.items():
                wanted = folders.Wanted(zones, options["algorithm"], new, remove)
                done += folders.bring_up_to_date(folder, wanted, write=not self._task.check_mode)
                found = folders.read(folder)
                records.update({zone: dns_signing.ds_records(zone, found[zone]) for zone in zones if zone in found})
        except (folders.KeyFolderError, ZoneError) as error:
            return {**result, "failed": True, "msg": f"dns_sign: {error}"}
        except OSError as error:
            return {**result, "failed": True, "msg": f"dns_sign: keys: {error.filename or 'the folder'}: {error.strerror}"}
        except ImportError:
            return {**result, "failed": True, "msg": f"dns_sign: {dns_signing.MISSING}"}
        lines = [*done, *(line for each in records.values() for line in each)]
        if not signed:
            lines = ["no host of this play signs a zone: set dns_sign"]
        return {**result, "changed": bool(done), "msg": lines, "ds": records, "_ansible_verbose_always": bool(lines)}

    def _signed(self, variables: Mapping[str, Any], problems: list[str]) -> dict[str, tuple[str, ...]]:
        """Map each folder with keys to the zones of all hosts of the play that it has keys for."""
        found: dict[str, dict[str, None]] = {}
        renderer = Renderer(self._loader)
        manager, inventory = variables["hostvars"]._variable_manager, variables["hostvars"]._inventory
        for host in variables.get("ansible_play_hosts_all", []):
            lines: list[str] = []
            mine = manager.get_vars(
                play=self._task.get_play(), host=inventory.get_host(host), task=self._task, include_hostvars=True
            )
            values = Resolver(renderer, mine, lines.append).values(_NAMES)
            if not any(map(holds_unresolved, values.values())):
                for server in servers(dns.NAME, dns.OPTIONS, values, lambda _line: None):
                    given = Variables(dns.NAME, server.values)
                    signing = dns_signing.read(given)
                    lines += [server.in_users_words(line, dns.OPTIONS) for line in given.problems]
                    if signing:
                        found.setdefault(folders.absolute(signing.folder), {}).update(dict.fromkeys(signing.zones))
            problems += [f"{host}: {line}" for line in lines]
        return {folder: tuple(zones) for folder, zones in found.items()}
