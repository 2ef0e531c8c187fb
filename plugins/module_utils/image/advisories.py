# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find vulnerable packages in an image, by an offline copy of advisories in OSV's schema.

Versions are compared as opam does, which is Debian's order (opam's manual, "version ordering"). No file access, no network.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .elf import printable

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")


class AdvisoriesError(ValueError):
    """One line: why a text is not a list of advisories."""


@dataclass(frozen=True)
class Advisory:
    """A vulnerability of a package: it affects ``versions``, and every version from ``introduced`` until before ``fixed``."""

    id: str
    package: str
    versions: tuple[str, ...]
    ranges: tuple[tuple[str, str, str], ...]  # (introduced, fixed, last affected); "" for none


def _order(character: str) -> int:
    """Sort key of a character: a tilde comes before the end, letters before everything else."""
    return -1 if character == "~" else ord(character) if character.isalpha() else ord(character) + 256


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1 if ``left`` is older than, equal to or newer than ``right``."""
    for (words, number), (other_words, other_number) in _pairs(left, right):
        for index in range(max(len(words), len(other_words))):
            mine = _order(words[index]) if index < len(words) else 0
            others = _order(other_words[index]) if index < len(other_words) else 0
            if mine != others:
                return -1 if mine < others else 1
        if int(number or 0) != int(other_number or 0):
            return -1 if int(number or 0) < int(other_number or 0) else 1
    return 0


def _pairs(left: str, right: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    rows, others = _PARTS.findall(left[:200]), _PARTS.findall(right[:200])
    longest = max(len(rows), len(others))
    filled = [list(parts) + [("", "")] * (longest - len(parts)) for parts in (rows, others)]
    return list(zip(*filled))


def read(text: str | bytes) -> list[Advisory]:
    """Return the advisories for opam packages in a file: one JSON object, a list of them, or one on each line."""
    try:
        text = (text.decode() if isinstance(text, bytes) else text).removeprefix("\ufeff")
        try:
            content = json.loads(text)
        except ValueError:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        entries = content if isinstance(content, list) else [content]
        if not text.strip():
            raise ValueError("empty")
        return [advisory for entry in entries for advisory in _advisories(entry)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdvisoriesError("not a list of advisories in OSV's form (JSON, or one JSON object in each line)") from error


def _advisories(entry: dict[str, Any]) -> list[Advisory]:
    rows = []
    for affected in entry.get("affected", []) if not entry.get("withdrawn") else []:
        package = affected["package"]
        if str(package["ecosystem"]).lower() != "opam":
            continue
        ranges = []
        for span in affected.get("ranges", []):
            if span.get("type") != "GIT":
                ranges += _ranges(span["events"])
        versions = tuple(str(version) for version in affected.get("versions", []))
        rows.append(Advisory(printable(str(entry["id"])), str(package["name"]), versions, tuple(ranges)))
    return rows


def _ranges(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the version ranges: ``introduced`` begins one, the next ``fixed`` or ``last_affected`` ends it."""
    ranges, introduced = [], None
    for event in events:
        if "introduced" in event:
            introduced = str(event["introduced"])
        elif introduced is not None and ("fixed" in event or "last_affected" in event):
            ranges.append((introduced, str(event.get("fixed", "")), str(event.get("last_affected", ""))))
            introduced = None
    return [*ranges, (introduced, "", "")] if introduced is not None else ranges


def affects(advisory: Advisory, name: str, version: str) -> bool:
    if name != advisory.package:
        return False
    if version in advisory.versions:
        return True
    return any(
        (introduced == "0" or compare(version, introduced) >= 0)
        and (not fixed or compare(version, fixed) < 0)
        and (not last or compare(version, last) <= 0)
        for introduced, fixed, last in advisory.ranges
    )


def vulnerable(packages: list[dict[str, str]], advisories: list[Advisory]) -> list[dict[str, str]]:
    """Return name, version and advisory of each affected package."""
    return [
        {**package, "advisory": advisory.id}
        for package in packages
        for advisory in advisories
        if affects(advisory, package["name"], package["version"])
    ]
