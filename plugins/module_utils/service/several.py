# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any number of one service on a host: the server of the host's own variables, and each item of the service's list. Pure.

An item is a mapping of the service's options without their prefix. What it does not give is as in the host's variables, but for
what a server has for itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..domain.options import kind_of
from .variables import asks_one

# Service -> the option with its list: web_sites, dns_servers, vpn_endpoints.
LISTS = {"web": "sites", "dns": "servers", "vpn": "endpoints"}
PUBLISH = "publish"
# Options of a unikernel that its networks take; a service has each of them as a variable.
OF_NETWORKS = (PUBLISH, "accept", "reach")
_ALWAYS_OWN = ("interfaces", "name", PUBLISH)
_OWN = {"vpn": ("remote", "remote_port", "pki")}
_REQUIRED = ("name", "interfaces")


@dataclass(frozen=True)
class Server:
    """One server's variables by their full names. ``place``: the item that declares it, "" for the host's own variables."""

    service: str
    values: Mapping[str, Any]
    place: str = ""
    inherited: frozenset[str] = frozenset()  # options that are as in the host's variables

    def variable(self, option: str) -> str:
        """What a user wrote, or would write, to set the option."""
        return f"{self.service}_{option}" if not self.place or option in self.inherited else f"{self.place}.{option}"

    def in_users_words(self, line: str, options: Iterable[str]) -> str:
        """A refusal names the item's keys where it names the service's variables."""
        names = "|".join(sorted((*options, *OF_NETWORKS), key=len, reverse=True))
        return re.sub(rf"(?<![\w./-]){self.service}_({names})\b", lambda match: self.variable(match[1]), line)


def list_of(service: str) -> str:
    """The variable with the service's list."""
    return f"{service}_{LISTS[service]}"


def is_declared(service: str, values: Mapping[str, Any]) -> bool:
    return f"{service}_interfaces" in values or list_of(service) in values


def servers(service: str, options: Iterable[str], values: Mapping[str, Any], problem: Callable[[str], None]) -> list[Server]:
    """Those of a host, by its ``values``; what can't be one is reported and left out. ``options``: the service's."""
    variable, known = list_of(service), (*options, *OF_NETWORKS)
    base = {key: value for key, value in values.items() if key != variable}
    alone = base.get(f"{service}_interfaces")
    every = [Server(service, base)] if alone is not None else []
    if f"{service}_interfaces" in base and alone is None:
        problem(f"{service}_interfaces: is set to nothing; give the service's interfaces, or remove the variable")
    if variable not in values:
        return every
    if alone is None:
        for option in _left_over(service, base):
            problem(f"{service}_{option}: is for the server of {service}_interfaces; give it to an item of {variable}")
    example = f"{{name: {service}-b, interfaces: [...]}}"
    listed = values[variable]
    if not isinstance(listed, list) or not listed:
        what = "is set to nothing" if listed is None else "is empty" if listed == [] else "must be a list"
        problem(f"{variable}: {what}; give a list of mappings, as in [{example}], or remove the variable")
        return every
    own = (*_ALWAYS_OWN, *_OWN.get(service, ()))
    shared = {key: value for key, value in base.items() if key.removeprefix(f"{service}_") not in own}
    for index, item in enumerate(listed):
        place = f"{variable}[{index}]"
        wrong = _refusal(item, known, example)
        if wrong:
            problem(f"{place}: {wrong}")
        else:
            every.append(_item(service, item, shared, place))
    return every


def _refusal(item: Any, known: Iterable[str], example: str) -> str:
    if not isinstance(item, dict):
        return f"must be a mapping, as in {example}, not {kind_of(item)}"
    unknown = sorted(map(repr, set(item) - set(known)))
    if unknown:
        return f"unknown key {', '.join(unknown)}; known are {', '.join(known)}"
    missing = [key for key in _REQUIRED if item.get(key) is None]
    return f"{' and '.join(missing)} missing: each has its own name and interfaces, as in {example}" if missing else ""


def _item(service: str, item: Mapping[str, Any], shared: Mapping[str, Any], place: str) -> Server:
    given = {f"{service}_{key}": value for key, value in item.items() if value is not None}
    inherited = {key: value for key, value in shared.items() if key not in given}
    if f"{service}_health" in inherited:
        inherited[f"{service}_health"] = _for_any(inherited[f"{service}_health"])
    return Server(service, {**inherited, **given}, place, frozenset(key.removeprefix(f"{service}_") for key in inherited))


def _for_any(health: Any) -> Any:
    """What of a server's health check counts for each."""
    return {key: value for key, value in health.items() if key == "within"} if asks_one(health) else health


def _left_over(service: str, base: Mapping[str, Any]) -> list[str]:
    """Options that no item takes, where the host's variables declare no server."""
    publish = [PUBLISH] if base.get(f"{service}_{PUBLISH}") is not None else []
    return publish + (["health"] if asks_one(base.get(f"{service}_health")) else [])
