# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long the health checks of declared domains may take, for the callback progress."""

from __future__ import annotations

import contextlib
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.health.waiting import declared_checks


def longest_check(domains: Any) -> int:
    """Seconds of the health check that may take longest; 0 where none is declared. Mistakes are the module's to report."""
    limits = [0]
    for options in domains if isinstance(domains, list) else []:
        with contextlib.suppress(SpecError):
            if isinstance(options, dict):
                limits += [health.within for _name, health in declared_checks([options])]
    return max(limits)
