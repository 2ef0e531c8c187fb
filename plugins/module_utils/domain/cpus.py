# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets of CPUs as Xen's tools write them: 0-3,^1,8 or all. Pure."""

from __future__ import annotations

import re

# Above any real machine; bounds the work for a range such as 0-9999.
MOST = 4096


def cpu_set(text: str) -> set[int] | None:
    """Parse CPUs; None means all. Raise ValueError, in one line, for anything else."""
    if text.strip() in ("", "all"):
        return None
    chosen: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\^?)([0-9]{1,4})(?:-([0-9]{1,4}))?\s*", part)
        low, high = (int(found[2]), int(found[3] or found[2])) if found else (1, 0)
        if not found or low > high or high >= MOST:
            raise ValueError(f"{text!r} is not a set of CPUs, as in 0-3,^1,8, or all")
        numbers = set(range(low, high + 1))
        chosen = chosen - numbers if found[1] else chosen | numbers
    return chosen


def cpu_text(cpus: set[int]) -> str:
    """Format CPUs: {0, 1, 2, 8} as 0-2,8."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
