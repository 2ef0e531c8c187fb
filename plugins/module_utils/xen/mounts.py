# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Find the file system that a path is on, and a configured one that is not mounted."""

from __future__ import annotations

import glob
import os
import re

MOUNTED, FSTAB, UNITS = "/proc/self/mountinfo", "/etc/fstab", "/etc/systemd/system/*.mount"
# File systems in Dom0's memory: a reboot loses their files.
IN_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs"))
_OCTAL = re.compile(r"\\([0-7]{3})")
_WHERE = re.compile(r"^Where\s*=\s*(/.*?)\s*$", re.MULTILINE)


def mounted() -> dict[str, str]:
    """Map each mount point to the type of its file system."""
    found = {}
    with open(MOUNTED, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _dash, right = line.partition(" - ")
            found[_plain(left.split(" ")[4])] = right.split(" ")[0]
    return found


def _plain(word: str) -> str:
    """Decode the octal numbers that the kernel and fstab(5) use for space, tab, newline and backslash."""
    return _OCTAL.sub(lambda byte: chr(int(byte[1], 8)), word)


def configured() -> set[str]:
    """Return the mount points of fstab(5) and of systemd's units, mounted or not."""
    found = set()
    for line in _text(FSTAB).splitlines():
        fields = line.split()
        # A field that is not a path is swap's "none" or a comment.
        if len(fields) >= 2 and not line.lstrip().startswith("#") and fields[1].startswith("/"):
            found.add(_plain(fields[1]))
    for unit in glob.glob(UNITS):
        where = _WHERE.search(_text(unit))
        if where:
            found.add(where[1])
    return {os.path.normpath(path) for path in found}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def file_system(path: str, mounts: dict[str, str]) -> str:
    """Return the type of the file system that holds ``path``, or would hold it."""
    return mounts.get(_point_above(path, mounts), "")


def _point_above(path: str, mounts: dict[str, str]) -> str:
    folder = os.path.realpath(path)
    while folder not in mounts and folder != "/":
        folder = os.path.dirname(folder)
    return folder


def missing_mount(path: str, mounts: dict[str, str]) -> str:
    """Return the mount point that this host configures for ``path`` but that has nothing mounted; "" if nothing is missing."""
    real, actual = os.path.realpath(path), _point_above(path, mounts)
    expected = [point for point in map(os.path.realpath, configured()) if _below(real, point) and _below(point, actual)]
    return max((point for point in expected if point != actual), key=len, default="")


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
