# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which inventories deploy to a host, so that none removes what another one declares. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

MAX_OWNERS = 20


class OwnerError(ValueError):
    """One line: who else deploys to the host, and what to do."""


def text_of(owners: Sequence[str]) -> str:
    return json.dumps({"format": 1, "owners": list(owners)}) + "\n"


def read(text: str) -> list[str]:
    try:
        values = json.loads(text)
        if values["format"] == 1 and isinstance(values["owners"], list):
            return [str(owner) for owner in values["owners"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise OwnerError("is not whole")


def claimed(owners: Sequence[str], owner: str, purge: bool, take_over: bool) -> list[str]:
    """Return the owners once ``owner`` deploys. Raise OwnerError if it would remove domains that another may have declared."""
    others = [entry for entry in owners if entry != owner]
    if take_over:
        return [owner]
    if others and purge:
        raise OwnerError(
            f"the host belongs to {', '.join(others)} too, and unikernel_purge would remove its domains: deploy from {owner}"
            " without unikernel_purge, or make this inventory the only owner with -e take_ownership=true"
        )
    return list(owners) if owner in owners else [*owners, owner][-MAX_OWNERS:]


def owner_name(remote: str, inside: str, node: str, path: str) -> str:
    """Return an inventory's name: its repository and path inside, equal in all clones; else controller and path."""
    match = re.fullmatch(r"(?:[a-z+]+://)?(?:[^@/]*@)?([^/:]+(?::[0-9]+(?=/))?)[:/]+(.+?)(?:\.git)?/?", remote.strip())
    if match and not remote.startswith(("/", ".", "file:")):
        return f"{match.group(1)}/{match.group(2)}:{inside or '.'}"
    return f"{node}:{path}"
