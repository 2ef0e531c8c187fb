# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Read and compile the declaration of all hosts of a play at once, on the controller; see modules/declared.py."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import (
    SERVICES,
    Asked,
    Fleet,
    Problem,
    Resolved,
    compile_fleet,
    report,
)
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.run_variables import RUN_VARIABLES, run_refusals
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.same_images import SETTINGS, needed, same_images
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import is_declared
from ansible_collections.unikernels.xen.plugins.plugin_utils.dns_key_folders import with_zone_keys
from ansible_collections.unikernels.xen.plugins.plugin_utils.resolve import Renderer, Resolver
from ansible_collections.unikernels.xen.plugins.plugin_utils.run_note import owner_of, revision_of, who
from ansible_collections.unikernels.xen.plugins.plugin_utils.vpn_folders import served, with_keys
from ansible_collections.unikernels.xen.plugins.plugin_utils.web_certificates import late_certificates
from ansible_collections.unikernels.xen.plugins.plugin_utils.web_folders import Found, content_of

_RETURNED = ("hosts", "pkis", "services", "run", "same_images")
# What the services run, by the variable `images`.
_SOURCES = {
    "build": "our unikernels, built from source",
    "prebuilt": "the images that are declared for them",
    "standin": "stand-ins, not unikernels (-e images=build builds those)",
}
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def source_of(service: str) -> str:
    return os.path.join(_ROOT, "unikernels", service)


def _known(variables: Mapping[str, Any], variable: str) -> dict[str, Any]:
    """Return what an earlier task of the run registered in that variable, if it covers all hosts of the play."""
    known = variables.get(variable)
    if not isinstance(known, Mapping) or not isinstance(known.get("hosts"), Mapping):
        return {}
    every = all(host in known["hosts"] for host in variables["ansible_play_hosts_all"])
    return {key: known[key] for key in _RETURNED} if every and all(key in known for key in _RETURNED) else {}


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in SETTINGS if name in values}


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("scope", "services", "unikernels", "images", "known", "refresh"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _checked, options = self.validate_argument_spec(
            argument_spec={
                "scope": {"type": "str", "choices": ["play", "host"], "default": "play"},
                "services": {"type": "list", "elements": "str", "choices": list(SERVICES), "default": list(SERVICES)},
                "unikernels": {"type": "str", "default": "unikernels"},
                "images": {"type": "str", "default": "unikernel_images"},
                "known": {"type": "str", "default": ""},
                "refresh": {"type": "bool", "default": False},
            }
        )
        asked = Asked(tuple(options["services"]), options["unikernels"], options["images"])
        here = str(variables["inventory_hostname"])
        if options["scope"] == "host":
            hosts, reported = {here: variables}, None
        else:
            known = _known(variables, options["known"])
            if known and not (options["refresh"] and known["pkis"]):
                return {**result, "changed": False, "_ansible_no_log": True, **known}
            hosts, reported = self._variables_of_play(variables)
        resolved, fleet = self._compile(hosts, asked, reported)
        if options["scope"] == "play":
            # Of each host by itself: whether their rollouts differ counts only where a rollout of these hosts begins.
            fleet.problems += [
                Problem(host, line)
                for host in resolved
                if host in (reported or ())
                for line in run_refusals(resolved[host].values)
            ]
        if fleet.problems:
            count = len({problem.line for problem in fleet.problems})
            lines = report(fleet.problems)
            return {**result, "failed": True, "msg": lines if count == 1 else f"{count} mistakes in the declaration:\n{lines}"}
        # Not for a single host: there are many such tasks, and git takes longer than all else.
        sources = list(variables.get("ansible_inventory_sources") or []) if options["scope"] == "play" else []
        run = {"by": who(), "revision": "", "owner": ""}
        if sources:
            run.update(revision=revision_of(str(sources[0])), owner=owner_of(str(sources[0])))
        found = self._result(fleet, resolved, reported)
        if sources and found["services"] and not options["refresh"]:
            Display().display(f"The services are {_SOURCES.get(str(resolved[here].values.get('images', 'build')), '')}.")
        # A declaration may hold secrets, so nothing of it is shown.
        return {**result, "changed": False, "_ansible_no_log": True, **found, "run": run}

    def _variables_of_play(self, variables: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], frozenset[str]]:
        """Return the variables of every host in the play's pattern, even those excluded by --limit: their addresses count."""
        hostvars, play = variables["hostvars"], self._task.get_play()
        manager, inventory = hostvars._variable_manager, hostvars._inventory
        chosen = list(variables["ansible_play_hosts_all"])
        pattern = self._templar.template(play.hosts)
        hosts = inventory.get_hosts(pattern=pattern, ignore_limits=True, ignore_restrictions=True)
        everything = {
            host.name: manager.get_vars(play=play, host=host, task=self._task, include_hostvars=True,
                                        _hosts=chosen, _hosts_all=chosen)
            for host in hosts
        }  # fmt: skip
        return everything, frozenset(chosen)

    def _compile(
        self, hosts: dict[str, dict[str, Any]], asked: Asked, reported: frozenset[str] | None
    ) -> tuple[dict[str, Resolved], Fleet]:
        problems: list[Problem] = []
        renderer = Renderer(self._loader)
        names = [*asked.names(), *SETTINGS, *(RUN_VARIABLES if reported is not None else ())]
        resolved = {
            host: self._resolved(host, variables, names, problems if reported is None or host in reported else [], renderer)
            for host, variables in hosts.items()
        }
        looked: dict[str, Found] = {}
        for host in list(resolved) if "web" in asked.services else ():
            if reported is None or host in reported:
                lines, contents = content_of(resolved[host].values, looked)
                problems += [Problem(host, line) for line in lines]
                resolved[host] = dataclasses.replace(resolved[host], contents=contents)
                self._warn_of_certificates(host, resolved[host].values)
        fleet = compile_fleet(resolved, asked, source_of, reported)
        fleet.problems = problems + fleet.problems
        return resolved, fleet

    def _warn_of_certificates(self, host: str, values: Mapping[str, Any]) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        for line in late_certificates(values, now):
            Display().warning(f"{host}: {line}")

    def _resolved(
        self, host: str, variables: dict[str, Any], names: list[str], problems: list[Problem], renderer: Renderer
    ) -> Resolved:
        lines: list[str] = []
        values = Resolver(renderer, variables, lines.append).values(names)
        resolved = Resolved(values)
        if "vpn_pki" in names and is_declared("vpn", values):
            resolved = with_keys(host, values, lines)
        if "dns_sign" in names and is_declared("dns", values):
            resolved = with_zone_keys(resolved, lines)
        problems += [Problem(host, line) for line in lines]
        return resolved

    def _result(self, fleet: Fleet, resolved: dict[str, Resolved], reported: frozenset[str] | None) -> dict[str, Any]:
        """Return one JSON text for each host: a mapping of thousands of values would slow down each later template using it."""
        return {
            "hosts": {
                host: json.dumps(
                    {
                        "unikernels": declared.unikernels,
                        "images": declared.images,
                        "guests": declared.guests.plain(),
                        "contents": {digest: folder for folder, digest in resolved[host].contents.items()},
                    }
                )
                for host, declared in fleet.hosts.items()
            },
            "pkis": [
                {"host": host, **dataclasses.asdict(keys), "clients": list(keys.clients), **served(keys.folder)}
                for host, declared in fleet.hosts.items()
                for keys in declared.keys
            ],
            # A host excluded by --limit gets no images.
            "same_images": same_images(
                {
                    host: (needed(declared.unikernels, declared.images), _settings(resolved[host].values))
                    for host, declared in fleet.hosts.items()
                    if reported is None or host in reported
                }
            ),
            "services": any("service" in one for declared in fleet.hosts.values() for one in declared.unikernels),
        }
