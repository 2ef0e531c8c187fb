# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Notifications of a rollout's end: JSON to a webhook, a message to a mail address. Pure."""

from __future__ import annotations

import email.message
import re
from typing import Any

from .queries import is_url

MAX_TARGETS = 10
_MAIL = re.compile(r"[A-Za-z0-9._%+][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9][A-Za-z0-9.-]{0,252}")


def is_mail(target: str) -> bool:
    return bool(_MAIL.fullmatch(target))


def targets_of(where: str, value: Any, problems: list[str]) -> tuple[str, ...]:
    """Read a webhook's URL or a mail address, or a list of these."""
    entries = [entry.strip() for entry in value.split(",")] if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries or len(entries) > MAX_TARGETS:
        problems.append(f"{where}: must be a webhook's URL, an address of mail, or a list of at most {MAX_TARGETS} of these")
        return ()
    good = []
    for index, entry in enumerate(entries):
        target = entry.removeprefix("mailto:") if isinstance(entry, str) else ""
        if is_url(target) or is_mail(target):
            good.append(target)
        else:
            # A webhook's URL may be a secret.
            problems.append(f"{where}[{index}]: must be a URL of http or https, or an address of mail")
    return tuple(good)


def shown(target: str) -> str:
    """Return a target without anything that may be secret: of a webhook only the server."""
    return target if is_mail(target) else re.sub(r"(?<=://)(?:[^/@]*@)?([^/?]*).*", r"\1/...", target)


def letter(to: str, sender: str, summary: dict[str, Any]) -> bytes:
    """Return a mail message as sendmail takes it."""
    message = email.message.EmailMessage()
    message["To"], message["From"] = to, sender
    message["Subject"] = " ".join(f"Rollout {summary['id']}: {summary['result']}".split())
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n".join(str(line) for line in summary.get("lines", [])) + "\n")
    return message.as_bytes()
