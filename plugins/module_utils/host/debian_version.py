# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare two Debian versions (deb-version(7)) without dpkg. Pure."""

from __future__ import annotations

import re

_PART = re.compile(r"([^0-9]*)([0-9]*)")
_END = 0


def is_older(version: str, than: str) -> bool:
    """True if ``version`` sorts before ``than``."""
    return _key(version) < _key(than)


def _key(version: str) -> tuple[int, list[tuple[list[int], int]], list[tuple[list[int], int]]]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _dash, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch) if epoch.isdigit() else 0, _parts(upstream), _parts(revision)


def _parts(text: str) -> list[tuple[list[int], int]]:
    """Return letters and numbers in turn. Each run of letters has an end mark, which sorts after a tilde and before all else."""
    found = [([*map(_order, letters), _END], int(digits or "0")) for letters, digits in _PART.findall(text)]
    while found and found[-1] == ([_END], 0):
        found.pop()
    return [*found, ([_END], 0)]


def _order(letter: str) -> int:
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 256
