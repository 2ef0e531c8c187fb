# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Check that a DNS server answers a question, and as declared. dnspython encodes and decodes the messages.

It is not used for the sockets: dnspython measures time by a clock that can be set.
"""

from __future__ import annotations

import datetime
import time
from typing import Any

from ..domain.health import canonical_answer
from ..domain.spec import Health
from .connection import Datagrams, Stream, connect

_MISSING = "the Python library dnspython is missing where this runs (Debian's python3-dnspython, by the role xen_host)"

# Decoding a message can't be interrupted at a deadline. dnspython 2.3 takes 11 s for 64 KiB of records whose names point from one
# to the next, and half a second for this many records.
MAX_RECORDS = 200
_TRUNCATED = 2  # the flag TC in the third byte of a message


def prepare(_health: Health) -> None:
    try:
        import dns.message  # noqa: F401
    except ImportError:
        raise OSError(_MISSING) from None


def check(health: Health, deadline: float) -> str | None:
    prepare(health)
    import dns.message

    question = dns.message.make_query(
        health.name, health.record, want_dnssec=health.signed, payload=1232 if health.signed else None
    )
    for transport in ("udp", "tcp") if health.transport == "both" else (health.transport,):
        response = (_over_tcp if transport == "tcp" else _over_udp)(health, question, deadline)
        problem = _problem(health, response)
        if problem:
            return f"{problem} (over {transport.upper()})" if health.transport != "udp" else problem
    return None


def _unsigned(health: Health, chain: Any, response: Any, now: float) -> str | None:
    """Return why resolvers that validate refuse an answer for its signatures' times. By which keys they are is not checked."""
    import dns.rdataclass
    import dns.rdatatype

    owner, kind = chain.answer.name, chain.answer.rdtype
    signatures = response.get_rrset(response.answer, owner, dns.rdataclass.IN, dns.rdatatype.RRSIG, kind) or ()
    if any(each.inception <= now < each.expiration for each in signatures):
        return None
    if not signatures:
        return f"no signature of the {health.record} record in the answer"
    ended = [each.expiration for each in signatures if each.expiration <= now]
    if not ended:
        return f"the signature of the {health.record} record is not valid yet: is this clock right?"
    end = datetime.datetime.fromtimestamp(max(ended), datetime.timezone.utc)
    return f"the signature of the {health.record} record ended on {end:%Y-%m-%d %H:%M} UTC"


def _over_udp(health: Health, question: Any, deadline: float) -> Any:
    wire = question.to_wire()
    with Datagrams(health.address, health.port, deadline) as socket:
        socket.send(wire)
        while True:
            answer = socket.receive(again=wire)
            if answer[:2] == wire[:2] and answer[2:3] and answer[2] & _TRUNCATED:
                break  # it may be cut off anywhere, so nothing else in it is read
            response = _parsed(answer)
            # Anybody can send a datagram in a server's name.
            if question.is_response(response):
                return response
    return _over_tcp(health, question, deadline)


def _over_tcp(health: Health, question: Any, deadline: float) -> Any:
    wire = question.to_wire()
    with Stream(connect(health.address, health.port, deadline), deadline) as stream:
        stream.sendall(len(wire).to_bytes(2, "big") + wire)
        reader = stream.makefile("rb")
        size = int.from_bytes(_exactly(reader, 2), "big")
        response = _parsed(_exactly(reader, size))
    if not question.is_response(response):
        raise OSError("an answer to another question")
    return response


def _exactly(reader: Any, size: int) -> bytes:
    data: bytes = reader.read(size)
    if len(data) < size:
        raise OSError("the connection was closed before the answer was complete")
    return data


def _parsed(wire: bytes) -> Any:
    import dns.exception
    import dns.message

    if sum(int.from_bytes(wire[at : at + 2], "big") for at in (4, 6, 8, 10)) > MAX_RECORDS:
        raise OSError(f"an answer with more than {MAX_RECORDS} records")
    try:
        return dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError, LookupError) as error:
        raise OSError(f"a malformed answer ({type(error).__name__})") from None


def _problem(health: Health, response: Any) -> str | None:
    import dns.rcode

    if response.rcode():
        return f"response code {dns.rcode.to_text(response.rcode())}"
    chain = response.resolve_chaining()  # follows CNAMEs
    if chain.answer is None:
        end = str(chain.canonical_name)
        alias = f", an alias of {end}" if chain.cnames else ""
        return f"no {health.record} record in the answer{alias}"
    answers = sorted(canonical_answer(health.record, record.to_text()) for record in chain.answer)
    if health.expect and health.expect not in answers:
        return f"answered {', '.join(answers)}, expected {health.expect}"
    return _unsigned(health, chain, response, time.time()) if health.signed else None
