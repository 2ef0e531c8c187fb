# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What a rollout asks and reports outside the fleet: Prometheus, webhooks, the local mail system. All with limits."""

from __future__ import annotations

import functools
import http.client
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet import notices
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import one_line
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.queries import Query, QueryError, judge

SECONDS = 10
MAX_ANSWER = 4 << 20
_SENDMAIL = ("/usr/sbin/sendmail", "/usr/lib/sendmail")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _within(seconds: float, calls: Sequence[Callable[[], str]]) -> list[str | None]:
    """Make all calls at once. Return what each returned, None for one that takes longer than that.

    A socket's own timeout begins again with each byte of an answer.
    """
    returned: list[str | None] = [None] * len(calls)

    def keep(index: int) -> None:
        returned[index] = calls[index]()

    # Daemons: one that still waits for an answer ends with this process.
    threads = [threading.Thread(target=keep, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(returned)


def ask_all(queries: Sequence[Query], seconds: float = SECONDS) -> list[str]:
    """Return why each query is bad now, in one line; "" for a good one. No answer is bad."""
    answers = _within(seconds + 1, [functools.partial(_ask, query, seconds) for query in queries])
    lines = []
    for query, answer in zip(queries, answers):
        bad = f"{notices.shown(query.prometheus)} does not answer within {seconds:g} s" if answer is None else answer
        lines.append(f"query {query.query!r}: {bad}" if bad else "")
    return lines


def _ask(query: Query, seconds: float) -> str:
    server = notices.shown(query.prometheus)
    try:
        with _reply(urllib.request.Request(query.url), seconds) as reply:
            code, answer = reply.status, reply.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{server} does not answer: {_reason(error, str(error))}"
    # With these codes Prometheus explains what it refuses.
    if code != 200 and (code not in (400, 422, 503) or not answer):
        return f"{server} answers {code}"
    if len(answer) > MAX_ANSWER:
        return f"the answer is longer than {MAX_ANSWER >> 20} MiB"
    try:
        return judge(query, answer)
    except QueryError as error:
        return str(error)


def _reply(request: urllib.request.Request, seconds: float) -> Any:
    try:
        return _OPENER.open(request, timeout=seconds)
    except urllib.error.HTTPError as error:
        return error


def _reason(error: Exception, otherwise: str) -> str:
    """Return why a request failed, printable: the server may have written a part of it."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or otherwise
    return one_line(" ".join(str(reason).split()))[:200]


def notify(target: str, summary: dict[str, Any]) -> str:
    """Return why the target was not reached, in one line; "" if it was."""
    if notices.is_mail(target):
        return _mail(target, summary)
    (failed,) = _within(SECONDS + 1, [lambda: _post(target, summary)])
    return f"notify: {notices.shown(target)}: no answer within {SECONDS} s" if failed is None else failed


def _post(url: str, summary: dict[str, Any]) -> str:
    request = urllib.request.Request(
        url, json.dumps(summary).encode("utf-8"), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with _OPENER.open(request, timeout=SECONDS):
            return ""
    except (OSError, http.client.HTTPException, ValueError) as error:
        # Not the text of any other error: it may hold the URL, which may be a secret.
        return f"notify: {notices.shown(url)}: {_reason(error, type(error).__name__)}"


def _mail(address: str, summary: dict[str, Any]) -> str:
    program = next((path for path in _SENDMAIL if os.path.exists(path)), None) or shutil.which("sendmail")
    if program is None:
        return f"notify: {address}: this controller has no sendmail: install a mail system, as in nullmailer"
    text = notices.letter(address, str(summary.get("by") or "root"), summary)
    try:
        done = subprocess.run([program, "-oi", "--", address], input=text, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"notify: {address}: {getattr(error, 'strerror', None) or 'sendmail does not end'}"
    return "" if done.returncode == 0 else f"notify: {address}: sendmail exits with {done.returncode}"
