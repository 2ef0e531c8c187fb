# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON that every reader understands in the same way, for what is signed or decides what boots. Pure.

Python takes the last of two values of one key, numbers that are none, and UTF-16; another program takes the first, or refuses.
"""

from __future__ import annotations

import json
from typing import Any

_MAX_DIGITS = 20


def loads(data: bytes) -> Any:
    """The content of a text in UTF-8; ValueError for anything that could be read in two ways."""
    try:
        content = json.loads(
            data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole, parse_float=_no_number
        )
        # Half of a surrogate pair is no text: it can't be written again.
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("it has a key twice")
    return content


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("it has a number that is too large")
    return int(text)


def _no_number(text: str) -> Any:
    raise ValueError(f"it has {text[:_MAX_DIGITS]}, which is not a whole number")
