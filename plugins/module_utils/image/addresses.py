# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What nobody may see of the addresses that a module gets: in its result, and in the log of the machine that it runs on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule

# Shorter ones are words of every message.
_MIN_SECRET = 4
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"']+")
_WEB = ("http", "https", "git+http", "git+https")


def secrets_of(url: str) -> set[str]:
    """Return the parts of a URL that must not be shown."""
    try:
        parts = urlsplit(url)
        words = {parts.password or "", unquote(parts.password or ""), parts.query}
        if parts.scheme in _WEB:
            words |= {parts.username or "", unquote(parts.username or "")}
    except ValueError:  # not one that can be read: all before the host
        words = set(re.split("[:/]+", url.rpartition("@")[0])[1:])
    return {word for word in words if len(word) >= _MIN_SECRET}


def secrets_in(value: Any) -> Iterator[str]:
    """The secrets of each URL in an option: text, a list, or a mapping."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from secrets_in(inner)
    for url in _URL.findall(value) if isinstance(value, str) else ():
        yield from secrets_of(url)


class AddressModule(AnsibleModule):  # type: ignore[misc]
    """A module with addresses among its options. Ansible logs the options before the module's own code runs."""

    def _log_invocation(self) -> None:
        self.no_log_values.update(secrets_in(self.params))
        super()._log_invocation()
