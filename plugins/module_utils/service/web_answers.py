# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a web server says beside its files: headers of paths, and the folders of other names -> boot arguments. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..fleet.plain import holds_unresolved
from .variables import Variables

_PATH = re.compile(r"/[A-Za-z0-9/._~-]*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
# What a boot line, nginx's configuration and a header can all hold as it is.
_VALUE = re.compile(r'(?=\S)[^\x00-\x1f\x7f-\U0010ffff"\\$]{1,1000}(?<=\S)')
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_FOLDER = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
# The server sets these by what it sends.
_OWN = frozenset((
    "accept-ranges", "connection", "content-encoding", "content-length", "content-range", "content-type", "date", "etag",
    "location", "server", "transfer-encoding", "vary",
))  # fmt: skip
_HSTS = "strict-transport-security"
_EXAMPLE = '{"/assets/": {cache-control: "max-age=31536000, immutable"}}'


def arguments(given: Variables) -> dict[str, Any]:
    headers, hosts = _headers(given), [f"{name}={folder}" for name, folder in hosts_of(given).items()]
    return {**({"header": headers} if headers else {}), **({"host": hosts} if hosts else {})}


def _headers(given: Variables) -> list[str]:
    """A deeper path comes later, so that its header counts."""
    paths = given.mapping("headers", f"a path to its headers, as in {_EXAMPLE}")
    lines: list[str] = []
    for path in sorted({} if holds_unresolved(paths) else paths, key=lambda path: (len(str(path)), str(path))):
        headers = paths[path]
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            given.wrong("headers", f"{path!r} is not a path: it begins with / and has letters, digits, '/', '.', '_', '~', '-'")
        elif not isinstance(headers, dict):
            given.wrong("headers", f"{path}: must be a mapping of headers to values, as in {_EXAMPLE}")
        else:
            lines += _of_path(given, path, headers)
    return lines


def _of_path(given: Variables, path: str, headers: dict[Any, Any]) -> Iterator[str]:
    seen: set[str] = set()
    for name, value in headers.items():
        lower = str(name).lower()
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            given.wrong("headers", f"{path}: {name!r} is not the name of a header: letters, digits and '-'")
        elif lower == _HSTS:
            given.wrong("headers", f"{path}: {name}: is set with hsts of web_tls, for HTTPS alone")
        elif lower in _OWN:
            given.wrong("headers", f"{path}: {name}: is set by the server, from what it sends")
        elif lower in seen:
            given.wrong("headers", f"{path}: {name}: is listed twice (upper and lower case count as the same)")
        elif isinstance(value, bool) or not isinstance(value, (str, int)) or not _VALUE.fullmatch(str(value)):
            given.wrong("headers", f"{path}: {name}: must be text of at most 1000 ASCII characters without '\"', '\\' and '$'")
        else:
            seen.add(lower)
            yield f"{path}={lower}: {value}"


def hosts_of(given: Variables) -> dict[str, str]:
    """Map the names that have a folder of their own to it."""
    declared = given.mapping("hosts", "a name to a folder of web_content, as in {blog.example.org: blog}")
    hosts: dict[str, str] = {}
    for name, folder in {} if holds_unresolved(declared) else declared.items():
        lower = str(name).lower().rstrip(".")
        if not isinstance(name, str) or not _HOST.fullmatch(lower):
            given.wrong("hosts", f"{name!r} is not a name that browsers ask for, as in blog.example.org")
        elif lower in hosts:
            given.wrong("hosts", f"{name!r} is listed twice (upper and lower case count as the same)")
        elif not isinstance(folder, str) or not _FOLDER.fullmatch(folder):
            given.wrong(
                "hosts", f"{name}: {folder!r} is not a folder of web_content: letters, digits, '_', '~', '-', '.' and '/' between"
            )
        else:
            hosts[lower] = folder
    return hosts
