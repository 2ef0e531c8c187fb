# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Count, for repeated health checks, how many times in a row each failed. Pure."""

from __future__ import annotations

from collections.abc import Mapping


class Watch:
    """A check is bad when it failed ``failures`` times in a row."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self._rows: dict[str, int] = {}
        self.rounds = 0
        self.bad: dict[str, str] = {}

    @property
    def doubtful(self) -> bool:
        """True if a check failed last time but is not bad yet."""
        return any(row for name, row in self._rows.items() if name not in self.bad)

    def take(self, answers: Mapping[str, str]) -> None:
        """Take the next answers. ``answers``: check -> why it failed, or ""."""
        self.rounds += 1
        for name, words in answers.items():
            self._rows[name] = self._rows.get(name, 0) + 1 if words else 0
            if self._rows[name] >= self._failures:
                self.bad.setdefault(name, words if self._failures == 1 else f"{words} ({self._failures} times in a row)")
