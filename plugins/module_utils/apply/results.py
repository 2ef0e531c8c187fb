# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run returns, for one domain and for several together. Pure."""

from __future__ import annotations

from typing import Any, TypedDict


class Diff(TypedDict):
    before: dict[str, Any]
    after: dict[str, Any]


class Result(TypedDict, total=False):
    """What happened to one domain. ``state``: as last seen; in check mode as declared.

    ``steps``: titles of the phases that were completed; in check mode, of those that would be. ``primitives``: in check mode,
    what these consist of.
    """

    name: str
    state: str
    changed: bool
    failed: bool
    steps: list[str]
    primitives: list[str]
    differs: list[str]
    diff: Diff
    downtime_ms: int
    skipped: bool
    msg: str
    console: list[str]
    rolled_back: bool


class Results(TypedDict, total=False):
    """What a module returns for several domains; with ``failed``, the arguments of fail_json."""

    changed: bool
    domains: list[dict[str, Any]]
    diff: dict[str, dict[str, Any]]
    failed: bool
    msg: str


def together(results: list[Result]) -> Results:
    changed = [each for each in results if each["changed"]]
    whole: Results = {
        "changed": bool(changed),
        "domains": [{key: value for key, value in each.items() if key != "diff"} for each in results],
        "diff": {
            "before": {each["name"]: each["diff"]["before"] for each in changed},
            "after": {each["name"]: each["diff"]["after"] for each in changed},
        },
    }
    failures = [each["msg"] for each in results if each["failed"]]
    if failures:
        whole["failed"], whole["msg"] = True, " // ".join(failures)
    return whole
