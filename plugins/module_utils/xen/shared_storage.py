# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Disks on storage shared by several hosts: recognize them, and find who has one open.

The block script of the role xen_host holds the lock from attach to detach, whoever starts the domain. It is only tested here, so
that a refusal is one line and comes before anything changes.
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
    """Set ``shared: true`` for each disk whose file is on shared storage, unless the user says otherwise."""
    disks = options.get("disks") if isinstance(options, dict) else None
    if not isinstance(disks, list) or not disks:
        return options
    for disk in disks:  # touch it first: an automount shows its file system only after first use
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
    """Return who has the disk open and so keeps it from domain ``name`` of this host; "" for nobody or the domain itself."""
    try:
        with open(disk.path + ".lock", "r+", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if disk.access == "w" else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                words, _newline, boot = file.read(400).partition("\n")
                # The domain to be replaced holds the lock itself, under any of its names.
                own = [f"domain {one} on host {platform.node()}" for one in (name, f"{name}~next", f"{name}~prev")]
                if words in own and boot.strip() == _boot():
                    return ""
                return words or "a host that has not sent its name"
    except OSError:
        return ""
    return ""


def _boot() -> str:
    """Return this host's boot id, because two hosts may have the same name."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
