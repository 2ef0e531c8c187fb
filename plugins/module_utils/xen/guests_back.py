# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Put the rules for a host's domains (publish, accept, reach) back as an earlier generation has them.

The host's networks stay as they are: it knows itself how they were declared.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..network import reach_rules
from ..network.guests import Guests
from ..network.offered import STATE
from ..network.plan import make_plan
from ..network.reading import NetworkError
from . import networks

Outcome = TypeVar("Outcome", bound=Mapping[str, Any])


def limits_back(guests: Guests, check: bool) -> bool:
    """Put accept and reach into force. Return whether something changed. Before the domains, so that none runs without them."""
    if not guests.limits and not os.path.exists(reach_rules.RULES):
        return False
    return bool(networks.limit(guests.limits, check)["changed"])


def published_back(guests: Guests, check: bool) -> bool:
    """Publish these ports. Return whether something changed. After the domains, so that no port leads to a missing one."""
    if not os.path.exists(STATE):
        if guests.published or guests.proxied:
            raise NetworkError(f"publish: {STATE} is gone: run the role xen_host (playbooks/provision.yml)")
        return False
    reading = networks.observe()
    wanted = dataclasses.replace(guests, limits=[])
    if reading.state.guests.plain() == wanted.plain():
        return False
    plan = make_plan(reading.state.networks, wanted, reading)
    if plan.devices:
        raise NetworkError(
            f"network {', '.join(plan.devices)}: is not on the host as it was declared: run the role xen_host"
            " (playbooks/provision.yml)"
        )
    if not check:
        networks.carry_out(plan, networks.SECONDS)
    return True


class RulesBack:
    """The rules of one rollback, around the change of its domains."""

    def __init__(self, check: bool) -> None:
        self._check = check
        self._changed = False
        self._problems: list[str] = []

    def around(self, guests: Guests | None, change: Callable[[bool], list[Outcome]]) -> list[Outcome]:
        """Return the result of ``change(check)``. ``guests``: None leaves the rules as they are."""
        if guests is None:
            return change(self._check)
        if not self._check and self._would_change(guests):
            # Where the domains are refused the limits have not changed either.
            change(True)
        self._put(limits_back, guests)
        results = change(self._check)
        if not any(result.get("failed") for result in results):
            self._put(published_back, guests)
        return results

    def added(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Return a module's result with what happened to the rules. A problem with them is a failure, whatever the domains."""
        whole = {**outcome, "changed": bool(outcome.get("changed")) or self._changed}
        if self._problems:
            whole["failed"], whole["msg"] = True, " // ".join([*filter(None, [outcome.get("msg")]), *self._problems])
        return whole

    def _would_change(self, guests: Guests) -> bool:
        try:
            return limits_back(guests, True)
        except (NetworkError, OSError):
            return False  # _put reports it

    def _put(self, what: Callable[[Guests, bool], bool], guests: Guests) -> None:
        try:
            self._changed = what(guests, self._check) or self._changed
        except (NetworkError, OSError) as error:
            self._problems.append(str(error))
