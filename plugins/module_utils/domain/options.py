# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Takes typed options out of what a user wrote; every refusal is one line that names the place and the option. Pure."""

from __future__ import annotations

import re
from typing import Any

from .spec import CONTROL


class SpecError(ValueError):
    """One line: which domain, which option, what is allowed."""


class Reader:
    """Takes options out of a mapping one by one; every refusal names the domain and the option."""

    def __init__(self, where: str, options: dict[str, Any]) -> None:
        self.where = where
        self.options = {key: value for key, value in options.items() if value is not None}
        self.known: list[str] = []

    def fail(self, option: str, problem: str) -> SpecError:
        return SpecError(f"{self.where}: {option}: {problem}")

    def text(self, option: str, default: str | None = None) -> str:
        self.known.append(option)
        value = self.options.get(option, default)
        if value is None:
            raise self.fail(option, "is required")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.fail(option, f"must be text, not {type(value).__name__}")
        value = str(value)
        if CONTROL.search(value):
            raise self.fail(option, "must not contain a newline or another control character")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.fail(option, "is not valid text (UTF-8)") from None
        return value

    def number(self, option: str, default: int, low: int, high: int, unit: str) -> int:
        self.known.append(option)
        value = self.options.get(option, default)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(option, f"must be a whole number of {unit}, not {value!r}")
        if not low <= value <= high:
            raise self.fail(option, f"is {value}, must be {low}..{high} {unit}")
        return value

    def flag(self, option: str, default: bool) -> bool:
        self.known.append(option)
        value = self.options.get(option, default)
        if not isinstance(value, bool):
            raise self.fail(option, f"must be true or false, not {value!r}")
        return value

    def choice(self, option: str, default: str | None, choices: tuple[str, ...]) -> str:
        value = self.text(option, default)
        if value not in choices:
            raise self.fail(option, f"is {value!r}, must be one of {', '.join(choices)}")
        return value

    def items(self, option: str) -> list[Reader]:
        self.known.append(option)
        value = self.options.get(option, [])
        if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
            raise self.fail(option, "must be a list of mappings")
        return [Reader(f"{self.where}: {option}[{index}]", item) for index, item in enumerate(value)]

    def finish(self, *ignored: str) -> None:
        unknown = sorted(str(key) for key in self.options if key not in self.known and key not in ignored)
        if unknown:
            raise SpecError(
                f"{self.where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(sorted(self.known))}"
            )
