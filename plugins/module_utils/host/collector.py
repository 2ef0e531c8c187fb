# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Read a Xen host and its domains once, and write their metrics into the file that node_exporter serves.

A part that can't be read is marked as failed (xen_collector_success) and logged to the journal; all others are written.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..domain.spec import Health
from ..fleet.generation_folder import FOLDER as GENERATIONS
from ..fleet.generation_folder import listing
from ..fleet.generations import APPLIED
from ..health.checks import ask, lacking
from ..health.waiting import declared_checks
from ..image.store import write_whole
from ..xen import console, start_times
from ..xen.domain_facts import domain_facts
from ..xen.lock import PATH as LOCK
from ..xen.observation import available, observe
from ..xen.xenstore import Xenstore
from ..xen.xl import must
from . import metrics
from .audit_facts import command_output, waiting_updates
from .boot import read, state
from .facts import os_release, pending_reboot
from .metrics import Sample, sample

FILE = "unikernels_xen.prom"
STATE = "/var/lib/unikernels/metrics.json"
# A change of these changes what apt would install.
_PACKAGES = ("/var/lib/apt/lists", "/var/lib/dpkg/status")
_SECTOR = 512  # the unit of /sys/block/*/stat, whatever the disk's own sector size
# A service that hangs is limited by health.checks.
_CHECKS_AT_ONCE = 16
_VBD = re.compile(r"vbd-([0-9]+)-([0-9]+)")


class Collector:
    """One reading. ``memory``: what the previous reading left."""

    def __init__(self, images: str, memory: dict[str, Any], health: bool = True) -> None:
        self.images, self.health, self.memory = images, health, memory
        self.now = time.time()
        self.kept: dict[str, Any] = {}
        self.samples: list[Sample] = []

    def run(self) -> list[Sample]:
        began = time.monotonic()
        parts: list[tuple[str, Callable[[], list[Sample]]]] = [("host", self._host), ("updates", self._updates)]
        parts += [("generations", self._generations), ("images", self._images)]
        if available():
            parts += [("domains", self._domains), ("filter", lambda: metrics.filter_samples(_drops()))]
        parts += [("health", self._health)] if self.health else []
        for name, part in parts:
            with self._failing(name):
                self.samples += part()
        self.samples.append(sample("xen_collector_duration_seconds", round(time.monotonic() - began, 3)))
        self.samples.append(sample("xen_collector_timestamp_seconds", int(self.now)))
        return self.samples

    @contextlib.contextmanager
    def _failing(self, part: str) -> Iterator[None]:
        try:
            yield
            problem = ""
        except Exception as error:  # one part that fails must not take others with it
            # systemd reads the number as the line's priority (sd-daemon(3)).
            problem = " ".join(str(error).split())[:500] or type(error).__name__
            print(f"<4>unikernels-metrics: {part}: {problem}", file=sys.stderr, flush=True)
        self.samples.append(sample("xen_collector_success", not problem, part=part))

    # -- the parts -----------------------------------------------------------------------------------

    def _host(self) -> list[Sample]:
        under_xen = available()
        xen = dict(re.findall(r"^(\w+)\s*: (.*)$", must("info"), re.MULTILINE)) if under_xen else {}
        boot = state()
        info: dict[str, Any] = {
            "xen": xen.get("xen_version", ""),
            "kernel": platform.release(),
            "debian": os_release()[1],
            "under_xen": under_xen,
            "reboot_pending": pending_reboot(xen.get("xen_commandline", ""), read("/proc/cmdline").strip()),
            "boot_unconfirmed": boot["unconfirmed"],
            "boot_returned": bool(boot["returned"]),
            "lists_read": _lists_read(),
            "lock_held": self._lock_held(),
        }
        if xen:
            info.update(cpus=int(xen["nr_cpus"]), memory=int(xen["total_memory"]), free_memory=int(xen["free_memory"]))
        return metrics.host_samples(info)

    def _lock_held(self) -> float:
        try:
            inode = os.stat(LOCK).st_ino
        except OSError:
            return 0
        holder = metrics.lock_holder(read("/proc/locks"), inode)
        before = self.memory.get("lock")
        if not holder:
            return 0
        since = before[1] if isinstance(before, list) and len(before) == 2 and before[0] == holder else self.now
        self.kept["lock"] = [holder, since]
        return round(max(0.0, self.now - float(since)), 1)

    def _updates(self) -> list[Sample]:
        """Return the pending updates. apt takes seconds of CPU, so it runs only if its lists or installed packages changed."""
        stamp = [os.stat(path).st_mtime_ns for path in _PACKAGES if os.path.exists(path)]
        before = self.memory.get("updates")
        if isinstance(before, dict) and before.get("stamp") == stamp:
            security, every = int(before["security"]), int(before["all"])
        else:
            waiting = waiting_updates()
            security, every = sum(waiting.values()), len(waiting)
        self.kept["updates"] = {"stamp": stamp, "security": security, "all": every}
        return metrics.update_samples(security, every)

    def _generations(self) -> list[Sample]:
        kept, _problems = listing(GENERATIONS)
        rows = [
            {
                "number": one.number,
                "applied": one.result == APPLIED,
                "domains": {str(domain.get("name")): domain for domain in one.domains},
            }
            for one in kept
        ]
        return metrics.generation_samples(rows)

    def _images(self) -> list[Sample]:
        count, size = 0, 0
        for folder, _folders, names in os.walk(self.images):
            count += sum(name.endswith(".xen") for name in names)
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a run may have removed it just now
                    size += os.lstat(os.path.join(folder, name)).st_blocks * _SECTOR
        return [sample("xen_host_images", count), sample("xen_host_image_store_bytes", size)]

    def _domains(self) -> list[Sample]:
        facts = domain_facts(observe(), [], 0)
        disks, drops, printed = _disks(), _drops(), self._printed([one["name"] for one in facts])
        started = start_times.of([one["domid"] for one in facts if one.get("domid") is not None])
        for one in facts:
            one["printed"] = printed.get(one["name"])
            if one.get("domid") is not None:
                one["started"] = started.get(one["domid"])
                one["disks_used"] = disks.get(one["domid"], [])
                for vif in one["traffic"]:
                    vif["spoofed"] = drops.get(f"vif_{vif['device']}")
        return metrics.domain_samples(facts)

    def _printed(self, names: list[str]) -> dict[str, int]:
        """Map each domain to the bytes that its console's log has grown since it was first read."""
        consoles = self.memory.get("consoles")
        before: dict[str, Any] = consoles if isinstance(consoles, dict) else {}
        found: dict[str, int] = {}
        self.kept["consoles"] = {}
        for name in names:
            try:
                size = os.stat(console.path_of(name)).st_size
            except OSError:
                continue
            last, total = before.get(name) or (None, 0)
            found[name] = int(total) + metrics.grown(last, size)
            self.kept["consoles"][name] = [size, found[name]]
        return found

    def _health(self) -> list[Sample]:
        kept, _problems = listing(GENERATIONS)
        checks = declared_checks(kept[-1].domains) if kept else []
        with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
            answers = dict(pool.map(lambda check: (check[0], _asked(check[1])), checks))
        return metrics.health_samples(answers)


def _asked(health: Health) -> tuple[bool, float]:
    # First, because it loads what the check needs; that must not count as the service's time.
    absent = lacking(health)
    began = time.monotonic()
    problem = absent or ask(health)
    return problem is None, round(time.monotonic() - began, 4)


def _lists_read() -> float | None:
    times = [os.stat(path).st_mtime for path in glob.glob("/var/lib/apt/lists/*Release")]
    # A list keeps the mirror's timestamp, but apt touches the folder.
    return int(max([*times, os.stat("/var/lib/apt/lists").st_mtime])) if times else None


def _disks() -> dict[int, list[dict[str, Any]]]:
    """Map each domain id to what each of its disks has read and written, if Linux's own backend serves it."""
    rows: list[tuple[int, str, int, int]] = []
    for path in sorted(glob.glob("/sys/bus/xen-backend/devices/vbd-*")):
        match = _VBD.fullmatch(os.path.basename(path))
        sectors = [read(f"{path}/statistics/{kind}_sect").strip() for kind in ("rd", "wr")]
        if match and all(count.isdigit() for count in sectors):
            rows.append((int(match[1]), match[2], int(sectors[0]) * _SECTOR, int(sectors[1]) * _SECTOR))
    with Xenstore() as store:
        names = store.read([f"/libxl/{domid}/device/vbd/{device}/dev" for domid, device, _read, _written in rows])
    found: dict[int, list[dict[str, Any]]] = {}
    for (domid, device, amount, written), name in zip(rows, names):
        found.setdefault(domid, []).append({"disk": name or device, "read": amount, "written": written})
    return found


def _drops() -> dict[str, int]:
    text = command_output("nft", "-j", "list", "table", "bridge", "unikernels")
    return metrics.dropped(json.loads(text)) if text else {}


def _remembered(path: str) -> dict[str, Any]:
    try:
        found = json.loads(read(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def main(folder: str, images: str, health: bool, memory_path: str = STATE) -> int:
    """Write the file in ``folder``. Return 1, with a line on stderr, if that fails."""
    collector = Collector(images, _remembered(memory_path), health)
    text = metrics.text_of(collector.run())
    try:
        write_whole(os.path.join(folder, FILE), text.encode(), 0o644)
        write_whole(memory_path, json.dumps(collector.kept).encode(), 0o600)
    except OSError as error:
        print(f"<3>unikernels-metrics: {folder}: {error.strerror}", file=sys.stderr, flush=True)
        return 1
    return 0
