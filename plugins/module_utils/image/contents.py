# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. A host's folder of archives that disks are made from: ``<sha256>.tar``. A file that is there was verified when it came.

An archive is kept while a generation of the host names it, so that the host can be rolled back to it.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterable
from typing import Any

from ..service.content_disk import ARCHIVE, SUFFIX
from .store import DIGEST, FRESH_SECONDS, INCOMING, LOCK_SECONDS, StoreError, hold, take

_LOCK = ".lock"
# The generations that a host can roll back to, from `fleet.generation_folder`.
GENERATIONS = "/var/lib/unikernels/generations/*"


def receive(store: str, wanted: list[str], arrived: str, check: bool, generations: str = GENERATIONS) -> dict[str, Any]:
    """Take in what arrived, and remove what no generation names any more. StoreError: one line."""
    for digest in wanted:
        if not DIGEST.fullmatch(digest):
            raise StoreError(f"wanted: {digest!r} is not 64 hexadecimal digits")
    if check or not arrived:
        return {"changed": False, "missing": _missing(store, wanted), "taken": [], "removed": []}
    os.makedirs(store, mode=0o700, exist_ok=True)
    late = StoreError(f"{store}: another run has been working on it for {LOCK_SECONDS} s")
    with hold(os.path.join(store, _LOCK), LOCK_SECONDS, late):
        taken = _missing(store, wanted)
        for digest in taken:
            path = os.path.join(arrived, digest + SUFFIX)
            if not os.path.exists(path):
                raise StoreError(f"{store}: {digest[:12]} has not arrived: run again")
            take(store, digest + SUFFIX, path, digest)
        removed = _unused(store, {*wanted, *_named(generations)}, time.time())
        for path in removed:
            os.unlink(path)
    return {"changed": bool(taken or removed), "missing": [], "taken": taken, "removed": removed}


def _missing(store: str, wanted: Iterable[str]) -> list[str]:
    return [digest for digest in sorted(set(wanted)) if not os.path.isfile(os.path.join(store, digest + SUFFIX))]


def _named(generations: str) -> set[str]:
    named: set[str] = set()
    for path in glob.glob(generations):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                named.update(match[1] for match in ARCHIVE.finditer(file.read()))
        except FileNotFoundError:
            continue
    return named


def _unused(store: str, used: set[str], now: float) -> list[str]:
    """Return what a run leaves behind when it is killed, and archives; what came within the last hour is about to be used."""
    found = []
    for entry in os.scandir(store):
        archive = ARCHIVE.fullmatch(entry.name)
        needless = (archive and archive[1] not in used) or entry.name.startswith(INCOMING)
        if needless and now - entry.stat(follow_symlinks=False).st_mtime > FRESH_SECONDS:
            found.append(entry.path)
    return sorted(found)
