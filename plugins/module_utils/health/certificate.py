# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a certificate expires, read from its bytes (RFC 5280): Python's ssl reads only certificates that it verifies. Pure."""

from __future__ import annotations

import datetime

_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18


def expiry(certificate: bytes) -> datetime.datetime:
    """Return the end of its validity. Raise ValueError for what is no certificate."""
    try:
        _tag, at, _end = _element(certificate, 0)  # Certificate
        _tag, at, _end = _element(certificate, at)  # its TBSCertificate
        tag, _begin, end = _element(certificate, at)
        at = end if tag == _VERSION else at
        for _field in ("serialNumber", "signature", "issuer"):
            at = _element(certificate, at)[2]
        _tag, at, _end = _element(certificate, at)  # validity
        tag, begin, end = _element(certificate, _element(certificate, at)[2])
    except IndexError:
        raise ValueError("it is cut off") from None
    form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}.get(tag)
    if not form:
        raise ValueError("it has no end")
    return datetime.datetime.strptime(certificate[begin:end].decode("ascii"), form).replace(tzinfo=datetime.timezone.utc)


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return (tag, where its content begins, where it ends)."""
    tag, length, begin = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
    if begin + length > len(data):
        raise IndexError(at)
    return tag, begin, begin + length


def expired(certificate: bytes | None, now: datetime.datetime) -> str | None:
    """Return one line for a certificate that has expired; None for another, or for none that can be read."""
    try:
        end = expiry(certificate or b"")
    except ValueError:
        return None
    return f"its certificate expired on {end:%Y-%m-%d %H:%M} UTC" if end < now else None
