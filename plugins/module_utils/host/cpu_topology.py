# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CPUs of a machine by core and NUMA node, as Xen or Linux shows them. `topology` and what it calls are pure."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from typing import Any

from ..domain.cpus import cpu_set, cpu_text

# A CPU that is on, what identifies its core, its NUMA node.
Row = tuple[int, Any, int]


def rows_of_linux(system: str = "/sys/devices/system") -> list[Row]:
    """Read what Linux on the bare machine sees. Linux and Xen number CPUs in the order of the firmware's table."""
    nodes = {}
    for path in glob.glob(f"{system}/node/node[0-9]*/cpulist"):
        for cpu in _listed(path):
            nodes[cpu] = int(os.path.basename(os.path.dirname(path))[len("node") :])
    return [
        (cpu, tuple(sorted(_listed(f"{system}/cpu/cpu{cpu}/topology/thread_siblings_list"))) or cpu, nodes.get(cpu, 0))
        for cpu in sorted(_listed(f"{system}/cpu/online"))
    ]


def _listed(path: str) -> set[int]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return cpu_set(file.read().strip()) or set()
    except (OSError, ValueError):
        return set()


def topology(rows: Iterable[Row]) -> dict[str, Any]:
    """Return facts for xen_host_info: which CPUs are on, which stay on without SMT, and which ones each NUMA node has."""
    cores: dict[Any, set[int]] = {}
    nodes: dict[int, set[int]] = {}
    for cpu, core, node in rows:
        cores.setdefault(core, set()).add(cpu)
        nodes.setdefault(node, set()).add(cpu)
    return {
        "cpus_on": cpu_text(set().union(*cores.values())),
        # Xen's smt=off keeps the first thread of a core (xen/arch/x86/smpboot.c).
        "cpus_without_smt": cpu_text({min(threads) for threads in cores.values()}),
        "cpus_of_nodes": {str(node): cpu_text(cpus) for node, cpus in sorted(nodes.items())},
    }
