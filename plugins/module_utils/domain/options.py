# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read typed options from what a user wrote; every refusal is one line that names the place and the option. Pure.

Numbers and booleans given as text are read as Ansible's argument specs read them, so that modules and roles agree.
"""

from __future__ import annotations

import datetime
import decimal
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from .fields import Field
from .spec import CONTROL

T = TypeVar("T")

# As ansible.module_utils.parsing.convert_bool reads them.
_TRUE = {"y", "yes", "on", "1", "true", "t"}
_FALSE = {"n", "no", "off", "0", "false", "f"}
_MAX_SHOWN = 80
# Far above every bound; converting 1e999999999 to an integer would take all memory.
MAX_DIGITS = 18


class SpecError(ValueError):
    """The problems of a declaration, one line each: which domain, which option, what is allowed."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; and ".join(problems))
        self.problems = list(problems)


def shown(value: Any) -> str:
    """Return any value as one short line for a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits; lists nested without end
        return "too large to print"
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def kind_of(value: Any) -> str:
    """Return what a value is, for a message."""
    return "nothing" if value is None else type(value).__name__


def not_text(value: Any) -> str:
    """Return what is wrong with a value that should be text, and what to write instead."""
    if isinstance(value, bool):
        return f"is {value}: YAML reads an unquoted yes, no, on or off as true or false; write it in quotes"
    if isinstance(value, (int, float)):
        return f"is {shown(value)}, which YAML read as a number; write it in quotes"
    if isinstance(value, datetime.date):  # with a time too
        return f"is {value}, which YAML read as a date; write it in quotes"
    return f"must be text, not {kind_of(value)}"


def text_problem(value: str) -> str:
    """Return why text can't be in an xl file or a boot line; "" if it can."""
    if CONTROL.search(value):
        return "must not contain a newline or another control character"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid text (UTF-8)"
    return ""


def whole_number(text: str) -> int | str:
    """Return the whole number that Ansible reads in a text (64, 64.0, 6.4e1, digits of any script); the text if it is none."""
    try:
        number = decimal.Decimal(text.strip())
        whole = number.is_finite() and number.adjusted() < MAX_DIGITS and number == number.to_integral_value()
    except decimal.DecimalException:
        return text
    return int(number) if whole else text


def pattern_problem(text: str) -> str:
    """Return why a text is not a regular expression; "" if it is one."""
    try:
        with warnings.catch_warnings():  # about what a later Python may read differently
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{shown(text)} is not a regular expression: {error}"
    return ""


class Reader:
    """Reads options from a mapping one by one; every refusal names the domain and the option."""

    def __init__(self, where: str, options: dict[Any, Any], fields: tuple[Field, ...] = ()) -> None:
        self.where = where
        self.options = {key: value for key, value in options.items() if value is not None}
        self.fields = {field.name: field for field in fields}
        self.known: list[str] = list(self.fields)
        self.problems: list[str] = []
        self.failed: set[str] = set()

    def fail(self, option: str, problem: str) -> SpecError:
        return SpecError(f"{self.where}: {option}: {problem}")

    def attempt(self, option: str, read: Callable[[], T], fallback: T) -> T:
        """Return what ``read`` returns. If it refuses, keep the problem in ``problems`` and return the fallback."""
        try:
            return read()
        except SpecError as refusal:
            self.problems += refusal.problems
            self.failed.add(option)
            return fallback

    def value(self, option: str) -> Any:
        """Read an option by its row in the table. If it is wrong, keep the problem and return its default."""
        field = self.fields[option]
        if field.type == "int":
            default = field.low if field.default is None else field.default
            return self.attempt(option, lambda: self.number(option, default, field.low, field.high, field.unit), default)
        if field.type == "bool":
            flag = bool(field.default)
            return self.attempt(option, lambda: self.flag(option, flag), flag)
        if field.choices:
            return self.attempt(option, lambda: self.choice(option, field.default, field.choices), field.default)
        return self.attempt(option, lambda: self.text(option, field.default or ""), field.default or "")

    def raise_problems(self) -> None:
        if self.problems:
            raise SpecError(*self.problems)

    def text(self, option: str, default: str | None = None, numbers: bool = False) -> str:
        """Read text. ``numbers``: accept a whole number too (a status, for example)."""
        self.known.append(option)
        value = self.options.get(option, default)
        if value is None:
            raise self.fail(option, "is required")
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            value = shown(value)
        if not isinstance(value, str):
            raise self.fail(option, not_text(value))
        problem = text_problem(value)
        if problem:
            raise self.fail(option, problem)
        return str(value)

    def number(self, option: str, default: int, low: int, high: int, unit: str) -> int:
        self.known.append(option)
        value = self.options.get(option, default)
        if isinstance(value, str):
            value = whole_number(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(option, f"must be a whole number of {unit}, not {shown(value)}")
        if not low <= value <= high:
            raise self.fail(option, f"is {shown(value)}, must be {low}..{high} {unit}")
        return value

    def flag(self, option: str, default: bool) -> bool:
        self.known.append(option)
        value = self.options.get(option, default)
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in _TRUE or value is True or value == 1:
            return True
        if word in _FALSE or value is False or value == 0:
            return False
        raise self.fail(option, f"must be true or false, not {shown(value)}")

    def choice(self, option: str, default: str | None, choices: tuple[str, ...]) -> str:
        value = self.text(option, default)
        if value not in choices:
            raise self.fail(option, f"is {shown(value)}, must be one of {', '.join(choices)}")
        return value

    def items(self, option: str) -> list[Reader]:
        self.known.append(option)
        value = self.options.get(option, [])
        if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
            raise self.fail(option, "must be a list of mappings")
        fields = self.fields[option].options if option in self.fields else ()
        return [Reader(f"{self.where}: {option}[{index}]", item, fields) for index, item in enumerate(value)]

    def finish(self, *ignored: str) -> None:
        unknown = sorted(shown(key) for key in self.options if key not in self.known and key not in ignored)
        if unknown:
            quote = "" if all(key.startswith(("'", '"')) for key in unknown) else " (a key is text: write it in quotes)"
            known = ", ".join(sorted(set(self.known)))
            raise SpecError(f"{self.where}: unknown key {', '.join(unknown)}{quote}; known are {known}")
