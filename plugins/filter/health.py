# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters from declared unikernels to what service_health takes."""

from __future__ import annotations

from typing import Any


def health_checks(unikernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the checks for service_health, without the rest of the declarations."""
    return [{key: one[key] for key in ("name", "state", "health") if one.get(key) is not None} for one in unikernels]


def quick_checks(generations: Any) -> list[dict[str, Any]]:
    """What service_health takes to ask at once whether the domains of the newest generation are healthy.

    It is a host's answer: what is no declaration in it is passed over.
    """
    checks = []
    newest = generations[-1] if isinstance(generations, list) and generations else None
    domains = newest.get("domains") if isinstance(newest, dict) else None
    for one in domains if isinstance(domains, list) else []:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            continue
        health = one.get("health")
        if health and one.get("state", "running") == "running":
            checks.append({"name": one["name"], "health": {**health, "within": 5} if isinstance(health, dict) else health})
    return checks


def watched(unikernels: list[dict[str, Any]], within: int) -> list[dict[str, Any]]:
    """Return checks for service_health that are repeated: no good answer for ``within`` seconds makes a service unhealthy."""
    checks = health_checks(unikernels)
    for one in checks:
        if isinstance(one.get("health"), dict):
            one["health"] = {**one["health"], "within": int(within)}
    return checks


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "health_checks": health_checks,
            "quick_checks": quick_checks,
            "watched": watched,
        }
