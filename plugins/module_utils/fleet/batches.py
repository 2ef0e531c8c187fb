# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many hosts change at once. Pure."""

from __future__ import annotations

import re
from typing import Any

_BATCH = re.compile(r"0*[1-9][0-9]{0,5}|0*(?:[1-9][0-9]?|100)%")


def batches_problem(hosts_at_once: Any) -> str:
    """Return why a value can't be a play's C(serial); "" if it can."""
    for batch in hosts_at_once if isinstance(hosts_at_once, list) and hosts_at_once else [hosts_at_once]:
        if isinstance(batch, bool) or not _BATCH.fullmatch(str(batch)):
            return f"hosts_at_once: is {batch!r}, must be a number of hosts (1), a share of them (25%), or a list of these"
    return ""
