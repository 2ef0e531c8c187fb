# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets of CPUs as Xen's tools write them: 0-3,^1,8 or all. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def cpu_mask(text: str, every: set[int], nodes: Mapping[int, set[int]] | None = None) -> set[int]:
    """Parse vm.cpumask of xl.conf by xl's rules (tools/xl/xl_parse.c, Xen 4.17 to 4.20): also all,^0 and nodes:0-1,^nodes:1.

    ``every``: the CPUs that "all" means. ``nodes``: NUMA node -> its CPUs; None if they are not known, which allows every one.
    Raise ValueError, in one line, for what xl refuses.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"(\^?)(nodes?:)?(?:([0-9]{1,4})(?:-([0-9]{1,4}))?|(all))", part, re.ASCII)
        if not found or (found[1] and found[5]):
            raise ValueError(f"{text!r} is not a set of CPUs, as in 0-3,^1,8, all,^0 or nodes:0")
        low = int(found[3] or 0)
        high = int(found[4] or low)
        if low > high or high >= MOST:
            raise ValueError(f"{text!r} is not a set of CPUs, as in 0-3,^1,8, all,^0 or nodes:0")
        numbers = set(every) if found[5] else set(range(low, high + 1))
        if found[2] and not found[5]:
            if nodes is not None and not numbers <= set(nodes):
                raise ValueError(f"{text!r}: the host has no NUMA node {min(numbers - set(nodes))}, only {cpu_text(set(nodes))}")
            numbers = set(every) if nodes is None else {cpu for node in numbers for cpu in nodes[node]}
            if nodes is None and found[1]:
                continue  # what it takes away is not known here
        chosen = chosen - numbers if found[1] else chosen | numbers
    return chosen


def xl_topology(text: str) -> list[tuple[int, tuple[int, int], int]]:
    """Return (CPU, its core and socket, its NUMA node) from ``xl info -n``, which leaves out CPUs that are off."""
    part = re.search(r"^cpu_topology\s*:\n.*\n((?:\s*\d+:.*\n)*)", text, re.MULTILINE)
    found = re.findall(r"^\s*(\d+):\s+(\d+)\s+(\d+)\s+(\d+)\s*$", part[1] if part else "", re.MULTILINE)
    return [(int(cpu), (int(core), int(socket)), int(node)) for cpu, core, socket, node in found]


def cpu_text(cpus: set[int]) -> str:
    """Format CPUs: {0, 1, 2, 8} as 0-2,8."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
