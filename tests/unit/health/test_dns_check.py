"""DNS with real sockets: types, aliases, truncation, transports, and invalid answers."""

import builtins
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.health import RECORD_TYPES
from ansible_collections.unikernels.xen.plugins.module_utils.health import connection

from . import servers

ZONE = """
    www.example.org. 60 IN A 10.0.0.1
    www.example.org. 60 IN A 10.0.0.2
    www.example.org. 60 IN AAAA 2001:db8::1
    alias.example.org. 60 IN CNAME second.example.org.
    second.example.org. 60 IN CNAME www.example.org.
    outside.example.org. 60 IN CNAME www.example.net.
    loop.example.org. 60 IN CNAME loop2.example.org.
    loop2.example.org. 60 IN CNAME loop.example.org.
    example.org. 60 IN MX 10 Mail.Example.org.
    example.org. 60 IN TXT "v=spf1 " "-all"
    example.org. 60 IN NS ns.example.org.
    _http._tcp.example.org. 60 IN SRV 0 5 80 www.example.org.
    example.org. 60 IN TYPE65400 \\# 4 01020304
"""
RECORDS = [line.split(None, 4) for line in ZONE.strip().splitlines()]


def response_to(wire, **changes):
    """Return an honest server's answer: the chain of aliases, then the records."""
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.flags |= changes.get("flags", 0)
    response.set_rcode(changes.get("rcode", 0))
    name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
    for _link in range(5):
        records = [row for row in RECORDS if row[0].lower() == name.lower() and row[3] == kind]
        aliases = [row for row in RECORDS if row[0].lower() == name.lower() and row[3] == "CNAME"]
        for row in records or aliases:
            # One rrset for each type of a name, as servers have it.
            response.find_rrset(response.answer, dns.name.from_text(row[0]), dns.rdataclass.IN,
                                dns.rdatatype.from_text(row[3]), create=True).update(dns.rrset.from_text(*row))  # fmt: skip
        if records or not aliases:
            break
        name = aliases[0][4]
    return response


def honest(wire):
    return [response_to(wire).to_wire()]


def over_tcp(answers):
    def handler(peer):
        wire = answers(peer.packet())[0]
        peer.send(struct.pack(">H", len(wire)) + wire)

    return handler


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("www.example.org", {}),
        ("WWW.example.org.", {"answer": "10.0.0.2"}),
        ("www.example.org", {"type": "AAAA", "answer": "2001:DB8:0:0::0001"}),
        ("alias.example.org", {"answer": "10.0.0.1"}),
        ("alias.example.org", {"type": "CNAME", "answer": "SECOND.example.org"}),
        ("example.org", {"type": "mx", "answer": "10  mail.example.ORG."}),
        ("example.org", {"type": "TXT", "answer": "v=spf1 -all"}),
        ("example.org", {"type": "TXT", "answer": '"v=spf1 -all"'}),
        ("example.org", {"type": "NS", "answer": "ns.example.org"}),
        ("_http._tcp.example.org", {"type": "SRV", "answer": "0 5 80 www.example.org"}),
        ("example.org", {"type": "TYPE65400", "answer": "\\# 4 01020304"}),
    ],
)
def test_healthy(ask_patiently, name, options):
    with servers.udp(honest) as port:
        assert ask_patiently(dns=f"{name}@127.0.0.1:{port}", **options) is None
        assert ask_patiently(dns=f"{name}@localhost:{port}", **options) is None, "IPv4 before IPv6, where nothing listens"


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("www.example.org", {"answer": "10.0.0.9"}, "answered 10.0.0.1, 10.0.0.2, expected 10.0.0.9"),
        ("none.example.org", {}, "no A record in the answer"),
        ("outside.example.org", {}, "no A record in the answer, an alias of www.example.net."),
        ("loop.example.org", {}, "ChainTooLong"),
    ],
)
def test_unhealthy(ask, name, options, problem):
    with servers.udp(honest) as port:
        line = ask(dns=f"{name}@127.0.0.1:{port}", **options)
    assert line.startswith(f"{name}@127.0.0.1:{port}: ")
    assert problem in line


@pytest.mark.parametrize(
    ("signatures", "problem"),
    [
        ([], "no signature of the SOA record in the answer"),
        ([("MX", 20200101, 20990101)], "no signature of the SOA record in the answer"),
        (
            [("SOA", 20200101, 20200201), ("SOA", 20200301, 20200401)],
            "the signature of the SOA record ended on 2020-04-01 00:00 UTC",
        ),
        ([("SOA", 20980101, 20990101)], "the signature of the SOA record is not valid yet: is this clock right?"),
        ([("SOA", 20200101, 20990101)], None),
        ([("SOA", 20200101, 20200201), ("SOA", 20200101, 20990101)], None),
    ],
)
def test_a_signature_must_be_there_and_valid(ask, signatures, problem):
    def answers(wire):
        query = dns.message.from_wire(wire)
        assert query.ednsflags & dns.flags.DO and query.payload == 1232
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "SOA", "ns. h. 1 2 3 4 5"))
        for kind, begins, ends in signatures:
            data = f"{kind} 15 2 60 {ends}000000 {begins}000000 1 example.org. {'A' * 86}=="
            rrset = dns.rrset.from_text("example.org.", 60, "IN", "RRSIG", data)
            response.find_rrset(response.answer, rrset.name, rrset.rdclass, rrset.rdtype, rrset.covers, create=True).update(rrset)
        return [response.to_wire()]

    with servers.udp(answers) as port:
        line = ask(dns=f"example.org@127.0.0.1:{port}", type="SOA", signed=True)
    assert (problem in line) if problem else (line is None)


def test_without_signatures_nothing_is_asked_for_them(ask):
    def answers(wire):
        assert dns.message.from_wire(wire).edns == -1
        return honest(wire)

    with servers.udp(answers) as port:
        assert ask(dns=f"www.example.org@127.0.0.1:{port}") is None


def test_a_response_code_is_named(ask):
    with servers.udp(lambda wire: [response_to(wire, rcode=dns.rcode.REFUSED).to_wire()]) as port:
        assert "response code REFUSED" in ask(dns=f"www.example.org@127.0.0.1:{port}")


def test_silence_ends(ask_briefly):
    with servers.udp(lambda _wire: []) as port:
        assert "no complete answer in time" in ask_briefly(dns=f"www.example.org@127.0.0.1:{port}")


def test_a_lost_datagram_is_sent_again(ask_patiently, monkeypatch):
    monkeypatch.setattr(connection, "_RESEND_SECONDS", 0.05)
    seen = []

    def answers(wire):
        seen.append(wire)
        return honest(wire) if len(seen) > 2 else []

    with servers.udp(answers) as port:
        assert ask_patiently(dns=f"www.example.org@127.0.0.1:{port}") is None


def test_answers_to_other_questions_are_passed_over(ask_patiently, ask_briefly):
    def liar(wire):
        other = bytes([wire[0] ^ 1]) + honest(wire)[0][1:]
        asked = dns.message.make_query("other.example.org", "A", id=dns.message.from_wire(wire).id)
        return [other, response_to(asked.to_wire()).to_wire(), wire]

    with servers.udp(lambda wire: [*liar(wire), *honest(wire)]) as port:
        assert ask_patiently(dns=f"www.example.org@127.0.0.1:{port}") is None
    with servers.udp(liar) as port:
        assert "time" in ask_briefly(dns=f"www.example.org@127.0.0.1:{port}")


POINTS_AT_ITSELF = b"\0\0\x80\0\0\1\0\1\0\0\0\0\xc0\x0c\0\1\0\1\xc0\x0c"


def repr_short(junk):
    return junk[:4].hex()


@pytest.mark.parametrize("junk", [b"x", b"\0" * 11, b"\xfd" * 600, POINTS_AT_ITSELF], ids=repr_short)
def test_a_malformed_answer_is_one_line(ask, junk):
    with servers.udp(lambda wire: [wire[:2] + junk[2:] if len(junk) > 2 else junk]) as port:
        line = ask(dns=f"www.example.org@127.0.0.1:{port}")
    assert "malformed" in line or "time" in line or "more than 200 records" in line, line


def test_names_that_point_from_one_to_the_next_take_no_time(ask):
    """64 KiB of these took dnspython 2.3 eleven seconds, and blocked all other checks."""

    def bomb(wire):
        body = bytearray(wire[:2] + b"\x81\x80\0\1\0\0\0\0\0\0" + b"\1a\0\0\1\0\1")
        chain, before = bytearray(), 12
        for _label in range(120):
            here = len(body) + 12 + len(chain)
            chain += b"\1a" + struct.pack(">H", 0xC000 | before)
            before = here
        body += b"\xc0\x0c" + struct.pack(">HHIH", 65400, 1, 60, len(chain)) + chain
        count = 1
        while len(body) < 65500:
            body += struct.pack(">HHHIHI", 0xC000 | before, 1, 1, 60, 4, count)
            count += 1
        body[6:8] = struct.pack(">H", count)
        return [bytes(body)]

    with servers.tcp(over_tcp(bomb)) as port:
        assert "more than 200 records" in ask(dns=f"a@127.0.0.1:{port}", transport="tcp")


def test_truncated_over_udp_is_asked_over_tcp(ask_patiently):
    def truncated(wire):
        return [response_to(wire, flags=dns.flags.TC).to_wire()[:20]]  # anywhere, even where it can't be parsed

    with servers.tcp(over_tcp(honest)) as port, udp_at(port, truncated):
        assert ask_patiently(dns=f"www.example.org@127.0.0.1:{port}", answer="10.0.0.1") is None


def udp_at(port, answers):
    """A UDP server with a TCP one on the same port."""
    import contextlib
    import socket
    import threading

    @contextlib.contextmanager
    def serving():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", port))

            def serve():
                data, address = sock.recvfrom(65535)
                for answer in answers(data):
                    sock.sendto(answer, address)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            yield
            thread.join(servers.UNHEALTHY)

    return serving()


def test_both_transports_must_answer(ask_patiently, ask):
    with servers.tcp(over_tcp(honest)) as port, udp_at(port, honest):
        assert ask_patiently(dns=f"www.example.org@127.0.0.1:{port}", transport="both") is None
    with servers.udp(honest) as port:
        assert "refused" in ask(dns=f"www.example.org@127.0.0.1:{port}", transport="both")
    with servers.tcp(over_tcp(lambda wire: [response_to(wire, rcode=dns.rcode.REFUSED).to_wire()])) as port, udp_at(port, honest):
        assert "REFUSED (over TCP)" in ask_patiently(dns=f"www.example.org@127.0.0.1:{port}", transport="both")


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (lambda peer: peer.drip(b"\0\xff" + b"x" * 255), "time"),
        (lambda peer: peer.hang(), "time"),
        (lambda peer: peer.packet(), "closed before the answer was complete"),
        (lambda peer: (peer.packet(), peer.send(b"\0\x10abc")), "closed before the answer was complete"),
        (lambda peer: (peer.packet(), peer.send(b"\0\0")), "malformed"),
        (over_tcp(lambda wire: [b"\0\0" + honest(wire)[0][2:]]), "an answer to another question"),
        (lambda peer: peer.reset(), "reset"),
    ],
)
def test_tcp_that_is_no_answer(ask, ask_briefly, handler, problem):
    asked = ask_briefly if problem == "time" else ask
    with servers.tcp(handler) as port:
        assert problem in asked(dns=f"www.example.org@127.0.0.1:{port}", transport="tcp").lower()


def test_every_type_that_may_be_declared_is_known():
    for name in RECORD_TYPES:
        kind = dns.rdatatype.from_text(name)
        assert not dns.rdatatype.is_metatype(kind)


def test_without_dnspython(ask, monkeypatch):
    load = builtins.__import__

    def missing(name, *arguments):
        if name.partition(".")[0] == "dns":
            raise ImportError(name)
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert "python3-dnspython" in ask(dns="www.example.org@127.0.0.1")
