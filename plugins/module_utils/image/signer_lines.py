# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines of an allowed_signers file, ALLOWED SIGNERS in ssh-keygen(1). Pure.

ssh-keygen leaves out a line that it can't read, in silence: an option with a typing error is a signer whose images do not boot.
So a line must be one that ssh-keygen reads, in the way that this file reads it.
"""

from __future__ import annotations

import fnmatch
import re
from datetime import datetime

from .signature import NAMESPACE, key_blob

_OPTION = r'[A-Za-z-]+(?:="[^"]*")?'
_LINE = re.compile(
    rf'(?P<names>"[^"]+"|[^\s"]+)[ \t]+(?:(?P<options>{_OPTION}(?:,{_OPTION})*)[ \t]+)?'
    r"(?P<key>[a-z0-9@.-]+[ \t]+[A-Za-z0-9+/=]+)(?:[ \t].*)?"
)
# ssh's match_pattern_list takes no longer ones.
_MAX_NAME = 1000
# What ends a line for one program and not for another, or is not seen.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def lines(text: str) -> list[tuple[int, str]]:
    """(number, line) of what is neither empty nor a comment; a line ends with a line feed alone, as for ssh-keygen."""
    rows = [(number, line.strip(" \t\r")) for number, line in enumerate(text.split("\n"), 1)]
    return [(number, line) for number, line in rows if line and not line.startswith("#")]


def blob_of(line: str) -> bytes:
    """The public key of a line; b"" where `problem` says that it is none."""
    found = _LINE.fullmatch(line)
    return key_blob(found["key"]) if found else b""


def problem(line: str) -> str:
    """Why ssh-keygen would not take an image for signed by this line; "" where it would."""
    found = _LINE.fullmatch(line)
    if not found or _CONTROL.search(line) or not key_blob(found["key"]):
        return "is not 'NAME [options] TYPE KEY', see ssh-keygen(1)"
    names = found["names"].strip('"').split(",")
    if all(name[:1] in ("", "!") for name in names):
        return "names nobody: it has no name without '!'"
    if max(map(len, names)) > _MAX_NAME:
        return f"has a name of more than {_MAX_NAME} characters"
    options = [option.partition("=") for option in re.findall(_OPTION, found["options"] or "")]
    return _options_problem([(name, value.strip('"'), bool(value)) for name, _equals, value in options])


def _options_problem(options: list[tuple[str, str, bool]]) -> str:
    """``options``: (name, value, whether it has one)."""
    for name, value, is_given in options:
        words = _option_problem(name.lower(), value, is_given)
        if words:
            return f"{name}: {words}"
    given = {name.lower(): value for name, value, _is_given in options}
    if len(given) != len(options):
        return "has an option twice"
    after, before = (_time(given.get(name, "")) for name in ("valid-after", "valid-before"))
    return "valid-after: is not before valid-before" if after and before and after >= before else ""


def _option_problem(name: str, value: str, is_given: bool) -> str:
    if name == "cert-authority" and not is_given:
        return "what a certificate signed can't be revoked by its key; give the signer's own key"
    if name == "namespaces" and is_given:
        return "" if _in_namespaces(value) else f"has no {NAMESPACE}, so it is for no image"
    if name in ("valid-after", "valid-before") and is_given:
        return "" if _time(value) else f"{value[:40]!r} is not a time, as in 20270101Z or 202701311200Z"
    return 'is not an option; known are namespaces="...", valid-after="..." and valid-before="..."'


def _time(value: str) -> datetime | None:
    """The time of an option; None where ssh-keygen would not take it."""
    digits = value.removesuffix("Z")
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits), "")
    try:
        time = datetime.strptime(digits, form) if form and digits.isascii() and digits.isdigit() else None
    except ValueError:  # the 13th month
        return None
    return time if time and time.year >= 1971 else None


def _in_namespaces(patterns: str) -> bool:
    """As ssh's match_pattern_list (ssh_config(5), PATTERNS): the first of these with ! that matches decides."""
    every = patterns.split(",")
    if any(pattern.startswith("!") and _matches(pattern[1:]) for pattern in every):
        return False
    return any(_matches(pattern) for pattern in every if not pattern.startswith("!"))


def _matches(pattern: str) -> bool:
    return fnmatch.fnmatchcase(NAMESPACE, pattern.replace("[", "[[]"))
