# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prometheus queries that a rollout depends on: their declaration, their URL, and the meaning of an answer. Pure."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..domain.options import kind_of, shown

KEYS = ("prometheus", "query", "below", "above", "nothing")
NOTHING = ("fail", "pass")
MAX_QUERIES = 20
# How many series of an answer are named.
_SHOWN = 3


class QueryError(ValueError):
    """One line: why an answer can't be read."""


@dataclass(frozen=True)
class Query:
    prometheus: str
    query: str
    below: float | None = None
    above: float | None = None
    nothing: str = "fail"

    @property
    def url(self) -> str:
        return f"{self.prometheus.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': self.query})}"


def queries_of(value: Any, problems: list[str]) -> tuple[Query, ...]:
    """Read the queries and add a line to ``problems`` for each mistake, beginning with ``rollout: queries``."""
    if not isinstance(value, list) or len(value) > MAX_QUERIES:
        problems.append(
            f"rollout: queries: must be a list of at most {MAX_QUERIES}, as in"
            " [{prometheus: 'http://127.0.0.1:9090', query: 'up', above: 0}]"
        )
        return ()
    read = [_query(f"rollout: queries[{index}]", entry, problems) for index, entry in enumerate(value)]
    return tuple(query for query in read if query)


def _query(where: str, value: Any, problems: list[str]) -> Query | None:
    if not isinstance(value, Mapping):
        problems.append(f"{where}: must be a mapping with {', '.join(KEYS[:4])}, not {kind_of(value)}")
        return None
    before = len(problems)
    unknown = sorted(str(key) for key in value if key not in KEYS)
    if unknown:
        problems.append(f"{where}: unknown key {', '.join(map(shown, unknown))}; known are {', '.join(KEYS)}")
    address = value.get("prometheus")
    if not is_url(address):
        problems.append(f"{where}: prometheus: must be the address of a server, as in http://127.0.0.1:9090")
    text = value.get("query")
    if not isinstance(text, str) or not text.strip() or len(text) > 4000:
        problems.append(f"{where}: query: must be a query as Prometheus takes it")
    below, above = (_bound(where, key, value.get(key), problems) for key in ("below", "above"))
    if value.get("below") is None and value.get("above") is None:
        problems.append(f"{where}: must have below or above, the bound for each value")
    if below is not None and above is not None and above >= below:
        problems.append(f"{where}: no value is above {above:g} and below {below:g}: every wave would fail")
    nothing = value.get("nothing", "fail")
    if nothing not in NOTHING:
        problems.append(f"{where}: nothing: is {shown(nothing)}, must be fail or pass: what follows when the query has no result")
    if len(problems) > before:
        return None
    return Query(str(address), str(text), below, above, str(nothing))


def is_url(value: Any) -> bool:
    """True if a value is an http or https URL that can be requested as it is."""
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-~]+", value) or "#" in value:
        return False
    try:
        parts = urllib.parse.urlsplit(value)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _bound(where: str, key: str, value: Any, problems: list[str]) -> float | None:
    if value is None:
        return None
    try:
        if not isinstance(value, bool) and isinstance(value, (int, float, str)) and math.isfinite(float(value)):
            return float(value)
    except (ValueError, OverflowError):
        pass
    problems.append(f"{where}: {key}: is {shown(value)}, must be a number")
    return None


def judge(query: Query, answer: bytes) -> str:
    """Return why the answer is bad, in one line; "" if every value is within bounds. Raise QueryError if it is no answer."""
    values = _values(answer)
    if not values:
        return "" if query.nothing == "pass" else "has no result"
    bad = []
    for labels, value in values:
        if math.isnan(value) or (query.below is not None and not value < query.below):
            bad.append(f"{value:g}{labels}, must be below {query.below:g}" if query.below is not None else f"{value:g}{labels}")
        elif query.above is not None and not value > query.above:
            bad.append(f"{value:g}{labels}, must be above {query.above:g}")
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return "; ".join(bad[:_SHOWN]) + more if bad else ""


def _values(answer: bytes) -> list[tuple[str, float]]:
    try:
        document = json.loads(answer)
        if not isinstance(document, dict):
            raise QueryError("the answer is not from Prometheus")
        if document.get("status") != "success":
            raise QueryError(f"Prometheus refused it: {_word(document.get('error') or 'no reason')}")
        data = document["data"]
        if data["resultType"] in ("scalar", "string"):
            return [("", float(data["result"][1]))]
        if data["resultType"] != "vector":
            raise QueryError(f"is a {_word(data['resultType'])}, must be one value a series (an instant vector)")
        if not isinstance(data["result"], list):
            raise ValueError
        return [(_labels(entry["metric"]), float(entry["value"][1])) for entry in data["result"]]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError) as error:
        raise QueryError(str(error) if isinstance(error, QueryError) else "the answer is not from Prometheus") from None


def _labels(metric: Any) -> str:
    labels = [f"{key}={value}" for key, value in sorted(metric.items()) if key != "__name__"]
    return f" ({_word(', '.join(labels))})" if labels else ""


def _word(text: Any) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))[:120]
