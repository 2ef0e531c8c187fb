# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What a rollout asks and reports outside the fleet: Prometheus, webhooks, the local mail system. All with limits."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet import notices
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.queries import Query, QueryError, judge

SECONDS = 10
MAX_ANSWER = 4 << 20
_SENDMAIL = ("/usr/sbin/sendmail", "/usr/lib/sendmail")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def ask(query: Query, seconds: float = SECONDS) -> str:
    """Return why the query is bad now, in one line; "" if it is good. No answer is bad."""
    try:
        with _OPENER.open(urllib.request.Request(query.url), timeout=seconds) as reply:
            answer = reply.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        answer = error.read(MAX_ANSWER + 1) if error.code in (400, 422, 503) else b""
        if not answer:
            return f"query {query.query!r}: {notices.shown(query.prometheus)} answers {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        return f"query {query.query!r}: {notices.shown(query.prometheus)} does not answer: {reason}"
    if len(answer) > MAX_ANSWER:
        return f"query {query.query!r}: the answer is longer than {MAX_ANSWER >> 20} MiB"
    try:
        bad = judge(query, answer)
    except QueryError as error:
        bad = str(error)
    return f"query {query.query!r}: {bad}" if bad else ""


def notify(target: str, summary: dict[str, Any]) -> str:
    """Return why the target was not reached, in one line; "" if it was."""
    return _mail(target, summary) if notices.is_mail(target) else _post(target, summary)


def _post(url: str, summary: dict[str, Any]) -> str:
    request = urllib.request.Request(
        url, json.dumps(summary).encode("utf-8"), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with _OPENER.open(request, timeout=SECONDS):
            return ""
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        return f"notify: {notices.shown(url)}: {reason}"


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
