# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Disks on storage that several hosts have: which are they, and who has one open?

The lock itself is held by the block script of the role xen_host, from attach to detach, by whomever the
domain is started. Here it is only asked for, so that a refusal is one line and comes before anything changes.
"""

from __future__ import annotations

import fcntl
import os
import platform
from typing import Any

from ..domain.options import text_problem
from ..domain.spec import Disk
from .mounts import file_system, mounted

# Names of file systems in /proc/self/mountinfo (Linux: Documentation/filesystems/proc.rst, 3.5).
_SHARED = {"nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.ceph", "fuse.glusterfs", "ocfs2", "gfs2"}


def with_shared(options: Any) -> Any:
    """The options with ``shared: true`` at each disk of which nothing is said and whose file several hosts have."""
    disks = options.get("disks") if isinstance(options, dict) else None
    if not isinstance(disks, list) or not disks:
        return options
    for disk in disks:  # what is mounted at its first use has its own kind of file system only after that
        if isinstance(disk, dict) and isinstance(disk.get("path"), str) and not text_problem(disk["path"]):
            os.path.exists(disk["path"])
    mounts = mounted()
    return {**options, "disks": [_judged(disk, mounts) for disk in disks]}


def _judged(disk: Any, mounts: dict[str, str]) -> Any:
    if not isinstance(disk, dict) or disk.get("shared") is not None or not isinstance(disk.get("path"), str):
        return disk
    if text_problem(disk["path"]):  # refused later, in the user's words
        return disk
    return {**disk, "shared": True} if file_system(disk["path"], mounts) in _SHARED else disk


def holder(disk: Disk, name: str) -> str:
    """Who has the disk so that domain ``name`` of this host can't, in words; "" for nobody, or for that domain itself."""
    try:
        with open(disk.path + ".lock", "r+", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if disk.access == "w" else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                words, _newline, boot = file.read(400).partition("\n")
                # A domain that is to be replaced holds it itself, under any of its names.
                own = [f"domain {one} on host {platform.node()}" for one in (name, f"{name}~next", f"{name}~prev")]
                if words in own and boot.strip() == _boot():
                    return ""
                return words or "a host that has not sent its name"
    except OSError:
        return ""
    return ""


def _boot() -> str:
    """The number of this host's boot: two hosts may have one name."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
