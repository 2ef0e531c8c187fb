# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find certificates of a host's web servers that should have been renewed, while they are still valid."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.service import web
from ansible_collections.unikernels.xen.plugins.module_utils.service.certificates import Chain, problem_of
from ansible_collections.unikernels.xen.plugins.module_utils.service.several import servers


def late_certificates(values: Mapping[str, Any], now: datetime.datetime) -> list[str]:
    """Return a line for each. What is wrong with one is reported where it is compiled. ``now``: in UTC, without a time zone."""
    mine = {key: value for key, value in values.items() if key.startswith("web_")}
    lines: list[str] = []
    for server in servers(web.NAME, web.OPTIONS, mine, lambda _line: None):
        tls = server.values.get("web_tls")
        pairs = tls.get("certificates") if isinstance(tls, dict) else None
        for index, pair in enumerate(pairs if isinstance(pairs, list) else []):
            chain = problem_of(pair.get("certificate"), pair.get("key"), now) if isinstance(pair, dict) else ""
            if isinstance(chain, Chain) and chain.is_late(now):
                days = (chain.ends - now).days
                lines.append(
                    server.in_users_words(
                        f"web_tls: certificates[{index}] ({chain.name}) expires in {days} day{'' if days == 1 else 's'}, on"
                        f" {chain.ends:%Y-%m-%d %H:%M} UTC: renew it",
                        web.OPTIONS,
                    )
                )
    return list(dict.fromkeys(lines))
