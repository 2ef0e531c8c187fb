# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check that a service accepts a TCP connection."""

from __future__ import annotations

from ..domain.spec import Health
from .connection import connect


def prepare(_health: Health) -> None:
    """Nothing is needed for this check."""


def check(health: Health, deadline: float) -> str | None:
    connect(health.address, health.port, deadline).close()
    return None
