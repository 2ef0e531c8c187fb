# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""DNS over TLS: the certificate of a variable -> lines of the DNS unikernel's disk, before the zones. Pure.

For every reader of zone files these lines are comments.
"""

from __future__ import annotations

from ..fleet.plain import holds_unresolved
from .certificates import problem_of
from .variables import Variables

TLS = "; tls "
PORT = 853
_AS_IN = "as in {certificate: PEM text of the chain, key: PEM text}"


def lines(given: Variables) -> str:
    """Of C(dns_tls), "" where there is none. No problem shows any of the text."""
    value = given.mapping("tls", f"certificate and key, {_AS_IN}")
    # What is not resolved was reported where it stands.
    if not value or holds_unresolved(value):
        return ""
    if set(value) != {"certificate", "key"}:
        given.wrong("tls", f"must have certificate and key and nothing else, {_AS_IN}")
        return ""
    chain = problem_of(value["certificate"], value["key"])
    if isinstance(chain, str):
        given.wrong("tls", chain)
        return ""
    return "".join(f"{TLS}{line}\n" for line in chain.text.splitlines() if line.strip())
