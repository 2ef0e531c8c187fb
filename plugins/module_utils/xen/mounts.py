# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. On which file system a path is, and is one that should be there missing?"""

from __future__ import annotations

import glob
import os
import re

MOUNTED, FSTAB, UNITS = "/proc/self/mountinfo", "/etc/fstab", "/etc/systemd/system/*.mount"
# Their files are Dom0's memory: a reboot takes them.
IN_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs"))
_OCTAL = re.compile(r"\\([0-7]{3})")
_WHERE = re.compile(r"^Where\s*=\s*(/.*?)\s*$", re.MULTILINE)


def mounted() -> dict[str, str]:
    """Mount point -> file system."""
    found = {}
    with open(MOUNTED, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _dash, right = line.partition(" - ")
            found[_plain(left.split(" ")[4])] = right.split(" ")[0]
    return found


def _plain(word: str) -> str:
    """The kernel, and fstab(5), write a space, a tab, a newline and a backslash as octal numbers, every other byte as it is."""
    return _OCTAL.sub(lambda byte: chr(int(byte[1], 8)), word)


def configured() -> set[str]:
    """Mount points that fstab(5) and units of systemd name, mounted or not."""
    found = set()
    for line in _text(FSTAB).splitlines():
        fields = line.split()
        # What is no path is swap; "none" and a comment are no path either.
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
    """The kind of file system that holds ``path``, or would hold it."""
    return mounts.get(_point_above(path, mounts), "")


def _point_above(path: str, mounts: dict[str, str]) -> str:
    folder = os.path.realpath(path)
    while folder not in mounts and folder != "/":
        folder = os.path.dirname(folder)
    return folder


def missing_mount(path: str, mounts: dict[str, str]) -> str:
    """Where this host is configured to mount what holds ``path``, and has nothing mounted; "" when nothing is missing."""
    real, actual = os.path.realpath(path), _point_above(path, mounts)
    expected = [point for point in map(os.path.realpath, configured()) if _below(real, point) and _below(point, actual)]
    return max((point for point in expected if point != actual), key=len, default="")


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
