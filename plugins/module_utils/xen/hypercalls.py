# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Xen's own Python bindings, if the host has them for the running Xen: milliseconds, without a process.

Debian 12's xen-utils contain ``xen.lowlevel.xc``. Without it, ``xl`` answers the same questions.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

from .xl import ToolstackError

# XEN_SCHEDULER_CREDIT and _CREDIT2 in xen/include/public/domctl.h, and xl's command for each.
SCHEDULERS = {5: "sched-credit", 6: "sched-credit2"}
# SHUTDOWN_* in xen/include/public/sched.h.
REASONS = {0: "poweroff", 1: "reboot", 2: "suspend", 3: "crash", 4: "watchdog", 5: "soft_reset"}


def bindings() -> Hypercalls | None:
    """Return the bindings; None if there are none that fit the running Xen."""
    try:
        version = []
        for part in ("major", "minor"):
            with open(f"/sys/hypervisor/version/{part}", encoding="ascii") as file:
                version.append(file.read().strip())
        folder = f"/usr/lib/xen-{'.'.join(version)}/lib/python"
        if folder not in sys.path:
            sys.path.append(folder)
        return Hypercalls(importlib.import_module("xen.lowlevel.xc").xc())
    except Exception:  # whatever is wrong with them: xl works
        return None


class Hypercalls:
    def __init__(self, xc: Any) -> None:
        self._xc = xc
        # A handle has only one buffer.
        self._lock = threading.Lock()

    def domains(self) -> list[dict[str, Any]]:
        """Return all domains but Domain-0 with the keys of pyxc_domain_getinfo; ``uuid`` and ``state`` in our words."""
        with self._lock:
            # Ask from Domain-0 on: from 1 on, Xen returns an error instead of an empty list.
            found = [one for one in self._xc.domain_getinfo(0, 4096) if one["domid"]]
        for one in found:
            text = bytes(one["handle"]).hex()
            one["uuid"] = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
            # libxc (xc_domain_getinfo) clears "shutdown" when it sets "crashed".
            ended = one["shutdown"] or one.get("crashed")
            one["state"] = "dying" if one["dying"] else "shutdown" if ended else "paused" if one["paused"] else "running"
            one["reason"] = "crash" if one.get("crashed") else REASONS.get(one["shutdown_reason"], "") if ended else ""
        return found

    def free_memory(self) -> int:
        """Return Xen's free memory in MiB, including what is still being scrubbed, as xl does."""
        with self._lock:
            found = self._xc.physinfo()
        return int(found["free_memory"]) // 1024

    def cpu_nodes(self) -> dict[int, int]:
        """Map each CPU that is on to its NUMA node; without SMT there are gaps between the numbers."""
        with self._lock:
            found = self._xc.topologyinfo()
        pairs = enumerate(zip(found["cpu_to_core"], found["cpu_to_node"]))
        return {cpu: node or 0 for cpu, (core, node) in pairs if core is not None}

    def affinity(self, domid: int, vcpus: int) -> set[int]:
        """Return the CPUs that any of the domain's vCPUs may run on."""
        found: set[int] = set()
        with self._lock:
            for vcpu in range(vcpus):
                found |= set(self._xc.vcpu_getinfo(domid, vcpu)["cpumap"])
        return found

    def scheduler(self) -> str:
        """Return xl's command for the scheduler; "" for one without weights."""
        with self._lock:
            return SCHEDULERS.get(self._xc.sched_id_get(), "")

    def pause(self, domid: int) -> None:
        """Pause a domain. Xen counts: a domain that was paused twice needs two calls of `unpause`."""
        self._change("pause", domid)

    def unpause(self, domid: int) -> None:
        """Unpause a domain; an error if it is not paused."""
        self._change("unpause", domid)

    def _change(self, what: str, domid: int) -> None:
        try:
            with self._lock:
                getattr(self._xc, "domain_" + what)(domid)
        except Exception as error:  # the bindings' own type
            raise ToolstackError(f"Xen did not {what} domain {domid}: {error}") from error
