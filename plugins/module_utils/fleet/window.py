# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hours of a week in which waves may start. Pure: the caller states the time."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..domain.options import kind_of, shown

try:
    import zoneinfo
except ImportError:  # Python before 3.9, where no controller runs
    zoneinfo = None  # type: ignore[assignment]

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WHOLE = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
KEYS = ("days", "from", "to", "zone")
_TIME = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_DAY_MINUTES = 24 * 60
_MAX_DAYS = 15


@dataclass(frozen=True)
class Window:
    """Minutes of a day. If ``end`` is not after ``begin``, the window ends on the next day."""

    days: tuple[int, ...] = tuple(range(7))
    begin: int = 0
    end: int = _DAY_MINUTES
    zone: str = "UTC"

    def open_at(self, moment: datetime.datetime) -> bool:
        local = moment.astimezone(zoneinfo.ZoneInfo(self.zone))
        minute = local.hour * 60 + local.minute
        if self.begin < self.end:
            return local.weekday() in self.days and self.begin <= minute < self.end
        yesterday = (local.weekday() - 1) % 7
        return (local.weekday() in self.days and minute >= self.begin) or (yesterday in self.days and minute < self.end)

    def opens(self, moment: datetime.datetime) -> datetime.datetime | None:
        """Return when it opens next, to the minute.

        A week may miss a window within the hour that a clock skips, two weeks in a row don't.
        """
        if self.open_at(moment):
            return moment
        later = moment.replace(second=0, microsecond=0)
        for _minute in range(_MAX_DAYS * _DAY_MINUTES):
            later += datetime.timedelta(minutes=1)
            if self.open_at(later):
                return later
        return None

    def text(self) -> str:
        days = ", ".join(DAYS[day] for day in self.days)
        return f"{days} {_clock(self.begin)}-{_clock(self.end)} {self.zone}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def window_of(value: Any, problems: list[str]) -> Window | None:
    """Return the window, or None and a line for each mistake. Lines begin with ``rollout: window``."""
    if not isinstance(value, Mapping):
        problems.append(
            f"rollout: window: must be a mapping, as in {{days: Mon-Fri, from: '08:00', to: '16:00', zone: Europe/Berlin}},"
            f" not {kind_of(value)}"
        )
        return None
    before = len(problems)
    unknown = sorted(str(key) for key in value if key not in KEYS)
    if unknown:
        problems.append(f"rollout: window: unknown key {', '.join(map(shown, unknown))}; known are {', '.join(KEYS)}")
    days = _days(value.get("days", "Mon-Sun"), problems)
    begin = _minute("from", value.get("from", "00:00"), problems)
    end = _minute("to", value.get("to", "24:00"), problems)
    zone = _zone(value.get("zone", "UTC"), problems)
    if len(problems) == before and begin == end:
        problems.append(f"rollout: window: never opens: from and to are both {_clock(begin)}")
    return Window(days, begin, end, zone) if len(problems) == before else None


def _days(value: Any, problems: list[str]) -> tuple[int, ...]:
    """Read days: Mon-Fri, or Mon,Wed-Fri, or a list of these."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [None]
    chosen: set[int] = set()
    for part in parts:
        ends = [_day(word) for word in part.split("-")] if isinstance(part, str) else []
        if not 1 <= len(ends) <= 2 or "" in ends:
            problems.append(f"rollout: window: days: is {shown(value)}, must be days of the week, as in Mon-Fri or Mon,Wed,Fri")
            return ()
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        chosen.update(day % 7 for day in range(first, last + 1 if last >= first else last + 8))
    if not chosen:
        problems.append("rollout: window: never opens: days is empty")
    return tuple(sorted(chosen))


def _day(word: str) -> str:
    """Mon for mon, Mon and Monday; "" for what is no day."""
    name = word.strip().lower()
    return next((day for day, whole in zip(DAYS, _WHOLE) if name in (day.lower(), whole)), "")


def _minute(key: str, value: Any, problems: list[str]) -> int:
    # YAML 1.1 reads an unquoted 16:30 as a number in base 60.
    if isinstance(value, int) and not isinstance(value, bool) and 60 <= value <= _DAY_MINUTES:
        value = _clock(value)
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    minute = int(match.group(1)) * 60 + int(match.group(2)) if match else -1
    # A window that would begin at the end of a day begins on the next one.
    if not 0 <= minute <= (_DAY_MINUTES if key == "to" else _DAY_MINUTES - 1):
        problems.append(f"rollout: window: {key}: is {shown(value)}, must be a time of the day in quotes, as in '08:00'")
        return 0
    return minute


def _zone(value: Any, problems: list[str]) -> str:
    try:
        if isinstance(value, str) and value:
            zoneinfo.ZoneInfo(value)
            return value
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    problems.append(
        f"rollout: window: zone: is {shown(value)}, must be a time zone that the controller knows, as in Europe/Berlin"
    )
    return "UTC"
