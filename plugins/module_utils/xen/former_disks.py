# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The disks that domains of this host had before, and which of them a declaration removed.

A missing disk with data is replaced with an empty one only if it was removed as declared. The definitions show what domains have
now. A note, changed whenever a definition changes, shows what they had earlier, and the applied generations show what was there
before the note, or before somebody removed a definition by hand.
"""

from __future__ import annotations

import glob
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

from ..domain.observed import defined_paths
from ..domain.spec import CONTENT_PATH, plain_path
from ..image.store import write_json
from .xl import ToolstackError

NOTE = "/var/lib/unikernels/former-disks.json"
GENERATIONS = "/var/lib/unikernels/generations"
# In place of a domain's name: the disk was removed as declared.
_REMOVED = ""
# Domains of one run are worked on in parallel; the host's lock keeps other runs away.
_writing = threading.Lock()


def read() -> dict[str, str]:
    """Map the plain path of each disk that a domain had, and that was not removed as declared, to that domain."""
    found = {**_of_generations(), **_noted()}
    return {path: name for path, name in found.items() if name != _REMOVED}


def redefined(name: str, before: str, after: str) -> None:
    """Note that a domain's definition changes; "" for none. What it has from now on, its definition shows."""
    kept = defined_paths(after)
    lost = {path: name for path in defined_paths(before) - kept if not CONTENT_PATH.fullmatch(path)}
    if not lost and not (kept and os.path.exists(NOTE)):
        return
    with _writing:
        noted = _noted()
        _write(noted, {**{path: whose for path, whose in noted.items() if path not in kept}, **lost})


def removed(path: str) -> None:
    """Note that a disk was removed as declared."""
    if CONTENT_PATH.fullmatch(path):
        return
    with _writing:
        noted = _noted()
        _write(noted, {**noted, plain_path(path): _REMOVED})


def _write(before: dict[str, str], after: dict[str, str]) -> None:
    if after != before:
        os.makedirs(os.path.dirname(NOTE), mode=0o755, exist_ok=True)
        write_json(NOTE, after, 0o600)


def _noted() -> dict[str, str]:
    try:
        if os.path.exists(NOTE) and not os.path.isfile(NOTE):  # opening a pipe would block forever
            raise ValueError
        with open(NOTE, encoding="utf-8") as file:
            noted = json.load(file)
        if not isinstance(noted, dict) or not all(isinstance(name, str) for name in noted.values()):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise ToolstackError(f"{NOTE}: is not what this collection wrote there; restore it, or remove it by hand") from None
    return noted


def _of_generations() -> dict[str, str]:
    found = {}
    for path in sorted(glob.glob(f"{GENERATIONS}/[0-9]*.json")):
        for domain in _domains_of(path):
            for disk in _mappings(domain.get("disks")):
                where = disk.get("path")
                if isinstance(where, str) and where:
                    found[plain_path(where)] = str(domain.get("name"))
    return found


def _domains_of(path: str) -> list[dict[str, Any]]:
    """Return the domains of an applied generation. Of a file that can't be read: none; the modules for generations report it."""
    try:
        if not os.path.isfile(path):
            return []
        with open(path, encoding="utf-8") as file:
            generation = json.load(file)
    except (OSError, ValueError, RecursionError):
        return []
    applied = isinstance(generation, dict) and generation.get("result") == "applied"
    return list(_mappings(generation.get("domains"))) if applied else []


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    yield from (item for item in (value if isinstance(value, list) else []) if isinstance(item, dict))
