# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Convert a user's values to plain text, numbers, lists and mappings; every refusal is one line that names the place. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

from ..domain.options import shown

MAX_DEPTH = 30
# How many values one variable of one host may have: YAML aliases can expand to a billion in ten lines.
MAX_VALUES = 100_000
# Python prints no number of thousands of digits. A digest that YAML read as a number has 64 of them.
_MAX_BITS = 1024
# As Ansible's own filter bool reads them.
_TRUE, _FALSE = ("yes", "on", "true", "y", "t", "1"), ("no", "off", "false", "n", "f", "0")
_SIMPLE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class _Unresolved:
    """The value of a variable that could not be resolved; the reason was reported already."""

    def __repr__(self) -> str:
        return "(not resolved)"

    def __deepcopy__(self, _memo: object) -> _Unresolved:
        return self


UNRESOLVED = _Unresolved()


def one_line(text: str) -> str:
    """Return ``text`` on one line, without control characters and characters that can't be encoded."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def inside(where: str, key: Any) -> str:
    """Return the place of an item, such as unikernels[0].arguments."""
    if isinstance(key, str) and _SIMPLE_KEY.fullmatch(key):
        return f"{where}.{key}"
    return f"{where}[{key!r}]"


def holds_unresolved(value: Any) -> bool:
    if isinstance(value, dict):
        return any(holds_unresolved(item) for item in value.values())
    if isinstance(value, list):
        return any(holds_unresolved(item) for item in value)
    return value is UNRESOLVED


def plain(value: Any, where: str, problem: Callable[[str], None]) -> Any:
    """Return ``value`` in builtin types only. A part without such a form is reported and becomes `UNRESOLVED`."""
    budget = [MAX_VALUES]

    def walk(item: Any, place: str, depth: int) -> Any:
        budget[0] -= 1
        if budget[0] < 0 or depth > MAX_DEPTH:
            return refuse(place, f"is nested deeper than {MAX_DEPTH} levels" if budget[0] >= 0 else "")
        if item is None or item is UNRESOLVED or isinstance(item, bool):
            return item
        if isinstance(item, str):
            return str.__str__(item) if _encodable(item) else refuse(place, "is not valid text (UTF-8)")
        if _huge(item):
            return refuse(place, "is a number that is too large: put it in quotes if it is text")
        if isinstance(item, (int, float)):
            return int(item) if isinstance(item, int) else float(item)
        if isinstance(item, dict):
            return mapping(item, place, depth)
        if isinstance(item, (list, tuple)):
            return [walk(entry, f"{place}[{index}]", depth + 1) for index, entry in enumerate(item)]
        return refuse(place, f"is {_kind(item)}, must be text, a number, a list or a mapping: put it in quotes")

    def mapping(item: dict[Any, Any], place: str, depth: int) -> dict[str, Any] | _Unresolved:
        entries: dict[str, Any] = {}
        for key, entry in item.items():
            if _key_problem(key):
                refuse(place, f"its key {shown(key)} {_key_problem(key)}")
                continue
            entries[str.__str__(key) if isinstance(key, str) else str(key)] = walk(entry, inside(place, str(key)), depth + 1)
        return entries if len(entries) == len(item) else UNRESOLVED

    def refuse(place: str, words: str) -> _Unresolved:
        if words:
            problem(f"{place}: {words}")
        return UNRESOLVED

    result = walk(value, where, 0)
    if budget[0] < 0:
        problem(f"{where}: holds more than {MAX_VALUES} values")
        return UNRESOLVED
    return result


def _key_problem(key: Any) -> str:
    # YAML 1.1 reads `on:` and `no:` as true and false.
    if isinstance(key, bool) or not isinstance(key, (str, int)) or _huge(key):
        return "is not text: put it in quotes"
    return "" if _encodable(str(key)) else "is not valid text (UTF-8)"


def _huge(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > _MAX_BITS


def _kind(value: Any) -> str:
    if isinstance(value, datetime.date):
        return "a date"
    return "binary" if isinstance(value, (bytes, bytearray)) else type(value).__name__


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def flag(value: Any) -> bool | None:
    """Read a boolean as Ansible's users write it; None if it is none."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return {0: False, 1: True}.get(value)  # not by its text: Python refuses to convert thousands of digits
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in _TRUE else False if word in _FALSE else None


def number(value: Any) -> int | None:
    """Read a whole number, also from text; None if it is none."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,12}\s*", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
