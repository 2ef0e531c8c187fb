# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a generation keeps of the rules between a host's networks and its domains: publish, accept and reach. Pure.

As `Guests.plain` has them; None in a generation of which nobody knows them (a role that ran alone, or an older version).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from ..network.guests import guests_of

Plain = Optional[dict[str, Any]]
_OF_DOMAINS = ("published", "limits")


def read(value: Any) -> Plain:
    """Return guests in their one form. Raise ValueError for anything else."""
    if value is None:
        return None
    try:
        return guests_of(value).plain()
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(str(error)) from None


def agree(one: Plain, other: Plain) -> bool:
    """Whether both have the same rules, in whatever order, as far as both are known."""
    return None in (one, other) or _sorted(one) == _sorted(other)


def _sorted(guests: Plain) -> list[list[str]]:
    known = guests or {}
    kinds = [
        *(known.get(kind, []) for kind in _OF_DOMAINS),
        [[name, sorted(one)] for name, one in known.get("proxied", {}).items()],
    ]
    return [sorted(json.dumps(one, sort_keys=True) for one in kind) for kind in kinds]


def after(newest: Plain, target: Plain, names: list[str]) -> Plain:
    """Return what counts once the domains ``names`` (all, if empty) are as in ``target``."""
    if target is None or (names and newest is None):
        return newest
    if not names or newest is None:
        return target
    mixed = dict(newest)
    for kind in _OF_DOMAINS:
        kept = [one for one in newest.get(kind, []) if one["name"] not in names]
        mixed[kind] = kept + [one for one in target.get(kind, []) if one["name"] in names]
    return read(mixed)


def options_of(guests: Plain) -> dict[str, dict[str, Any]]:
    """Map each domain to its options that are rules of its host."""
    options: dict[str, dict[str, Any]] = {}
    known: Mapping[str, Any] = guests or {}
    for one in known.get("published", []):
        options.setdefault(str(one["name"]), {}).setdefault("publish", []).append(one)
    for one in known.get("limits", []):
        options.setdefault(str(one["name"]), {}).update(accept=one["accept"], reach=one["reach"])
    return options
