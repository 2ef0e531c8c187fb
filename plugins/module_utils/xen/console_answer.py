# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The result of the module xen_console."""

from __future__ import annotations

import os
from typing import Any

from ..domain.declaration import NAME
from ..domain.options import pattern_problem
from .console import lines, mark, path_of, wait
from .xl import ToolstackError


def answer(name: str, count: int, pattern: str, within: int, since: int) -> dict[str, Any]:
    """Return the result of the module `xen_console`. Raise ToolstackError, with the last lines, if the pattern is not seen."""
    if not NAME.fullmatch(name):
        raise ToolstackError(f"name: {name!r} is not the name of a domain")
    for option, value, low, high in (("lines", count, 0, 10000), ("within", within, 0, 3600), ("since", since, 0, 1 << 62)):
        if not low <= value <= high:
            raise ToolstackError(f"{option}: is {value}, must be {low}..{high}")
    problem = pattern_problem(pattern)
    if problem:
        raise ToolstackError(f"pattern: {problem}")
    try:
        open(path_of(name), "rb").close()
    except PermissionError:
        raise ToolstackError("only root can read the consoles of this host: set become: true") from None
    except OSError:
        pass  # nothing printed yet
    result: dict[str, Any] = {}
    if pattern:
        match = wait(name, pattern, since, within)
        if match is None:
            where = "" if os.path.exists(path_of(name)) else f" ({path_of(name)} does not exist)"
            raise ToolstackError(
                f"domain {name}: no line on its console matched {pattern!r} within {within} s{where}", lines(name, since, count)
            )
        result["match"] = match
    position = mark(name)
    return {**result, "console": lines(name, since, count), "position": position}
