"""A health check is parsed completely when declared: valid ones can't raise later, invalid ones get one line."""

import socket
import ssl
import time
import urllib.parse

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.health import KIND_OPTIONS, canonical_answer, health_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import Reader, SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import HEALTH_KINDS
from ansible_collections.unikernels.xen.plugins.module_utils.health import checks, command_check, connection
from hypothesis import example, given, settings
from hypothesis import strategies as st

from .conftest import declared

LONG = "a" * 63
LONGEST = f"{LONG}.{LONG}.{LONG}.{'a' * 61}"


def refusal(health):
    with pytest.raises(SpecError) as caught:
        health_of(Reader("domain www", {}), health)
    line = str(caught.value)
    assert line.startswith("domain www: health")
    assert line.isprintable()
    assert len(line) < 500
    return line


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("http://10.0.0.10/", {"address": "10.0.0.10", "port": 80, "path": "/", "host": "10.0.0.10", "tls": False}),
        ("https://www.example.org", {"address": "www.example.org", "port": 443, "path": "/", "tls": True}),
        ("HTTP://WWW.example.org:8080/a?b=c#d", {"address": "WWW.example.org", "port": 8080, "path": "/a?b=c"}),
        ("http://[2001:db8::1]:81?x", {"address": "2001:db8::1", "port": 81, "path": "/?x", "host": "[2001:db8::1]:81"}),
        ("https://www.example.org./", {"address": "www.example.org.", "name": "www.example.org"}),
        ("http://a/%C3%A9~!$&'()*+,;=:@[]", {"path": "/%C3%A9~!$&'()*+,;=:@[]"}),
        (f"http://{LONGEST}/", {"address": LONGEST}),
        ("http://_a-b_.example/", {"address": "_a-b_.example"}),
        ("http://x:00080/", {"port": 80}),
        ("http://x:65535/", {"port": 65535}),
    ],
)
def test_urls(url, fields):
    health = declared(http=url)
    assert {key: getattr(health, key) for key in fields} == fields
    assert health.target == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must be a URL"),
        ("ftp://x", "must be a URL"),
        ("http:/x", "must be a URL"),
        ("//x/", "must be a URL"),
        (" http://x/", "must be a URL"),
        ("http://", "has no host"),
        ("http:///x", "has no host"),
        ("http://:80/", "must be ADDRESS"),
        ("http://]", "must be ADDRESS"),
        ("http://[::1", "must be ADDRESS"),
        ("http://[::1]x/", "must be ADDRESS"),
        ("http://a]:1/", "must be ADDRESS"),
        ("http://[]/", "must be an IPv6 address"),
        ("http://[v1.x]/", "must be an IPv6 address"),
        ("http://[10.0.0.1]/", "must be an IPv6 address"),
        ("http://[fe80::1%eth0]/", "without a zone"),
        ("http://[fe80::1%25eth0]/", "without a zone"),
        ("http://2001:db8::1/", "in brackets"),
        ("http://a:b/", "the port of 'a:b' must be 1..65535"),
        ("http://a:/", "must be 1..65535"),
        ("http://a:0/", "must be 1..65535"),
        ("http://a:99999/", "must be 1..65535"),
        ("http://a:65536/", "must be 1..65535"),
        ("http://a:-1/", "must be 1..65535"),
        ("http://a:+1/", "must be 1..65535"),
        ("http://a:" + "9" * 1000 + "/", "must be 1..65535"),
        ("http://a:\u0661/", "must be 1..65535"),
        ("http://user:secret@a/", "must not hold a user or a password"),
        ("http://@a/", "must not hold a user"),
        ("http://10.0.0.10/é", "'/é' must be percent-encoded, as in '/%C3%A9'"),
        ("http://10.0.0.10/a b", "must be percent-encoded, as in '/a%20b'"),
        ("http://10.0.0.10/a\\b", "must be percent-encoded, as in '/a%5Cb'"),
        ("http://10.0.0.10/100%", "'%' in '/100%' must be % and two hexadecimal digits; % itself is %25"),
        ("http://10.0.0.10/?q=%zz", "'%zz' in '/?q=%zz' must be % and two hexadecimal digits"),
        ("http://0.0.0.1/", "is reserved (RFC 6890): no service can have it"),
        ("http://[::ffff:240.0.0.1]/", "is reserved (RFC 6890): no service can have it"),
        ("http://10.0.0.10/?q=é", "must be percent-encoded, as in '/?q=%C3%A9'"),
        ("http://10.0.0.10/a\tb", "control character"),
        ("http://10.0.0.10/a\r\nX: y", "control character"),
        ("http://10.0.0.10/\x85", "must be percent-encoded"),
        ("http://café.example/", "must be ASCII, as in xn--caf-dma.example"),
        ("http://a\u2100b/", "must be ASCII"),
        ("http://" + "é" * 400 + "/", "an international name as its xn-- form"),
        ("http://a b/", "not a label"),
        ("http://a..b/", "an empty label"),
        ("http://.a/", "an empty label"),
        ("http://a../", "an empty label"),
        ("http://./", "an empty label"),
        (f"http://{LONG}a/", "has 64 characters"),
        (f"http://{LONGEST}a/", "has 254 characters"),
        ("http://-a/", "not a label"),
        ("http://a-/", "not a label"),
        ("http://a%41/", "not a label"),
        ("http://10.0.0/", "neither a name nor an IPv4 address"),
        ("http://10.0.0.256/", "neither a name nor an IPv4 address"),
        ("http://010.0.0.1/", "neither a name nor an IPv4 address"),
        ("http://0x7f.1/", "neither a name nor an IPv4 address"),
        ("http://a.0x7f/", "neither a name nor an IPv4 address"),
        ("http://1/", "neither a name nor an IPv4 address"),
        ("http://a/" + "x" * 3000, "must be at most 2000"),
        ("http://\ud800/", "not valid text"),
        (80, "http: "),
        (True, "http: "),
        (["http://a/"], "must be text"),
    ],
)
def test_wrong_urls(url, problem):
    assert problem in refusal({"http": url})


@pytest.mark.parametrize(
    ("health", "problem"),
    [
        ([], "health: must be a mapping"),
        ("http://x", "health: must be a mapping"),
        ({}, "must have exactly one of http, tcp, dns"),
        ({"http": None}, "must have exactly one of"),
        ({"http": "http://x", "tcp": "x:1"}, "must have exactly one of"),
        ({"tcp": "a:1", "within": 0}, "within: is 0, must be 1..3600"),
        ({"tcp": "a:1", "within": "soon"}, "within: must be a whole number"),
        ({"tcp": "a:1", "whithin": 1}, "unknown key 'whithin'"),
        ({"tcp": "a:1", 5: 1}, "unknown key"),
        ({"tcp": "a:1", "status": 200}, "status: is for http, not for tcp"),
        ({"http": "http://a/", "answer": "x"}, "answer: is for dns, not for http"),
        ({"http": "http://a/", "transport": "tcp"}, "transport: is for dns and openvpn, not for http"),
        ({"http": "http://a/", "status": 100}, "status: is 100, must be 200..599 (an HTTP status"),
        ({"http": "http://a/", "status": 600}, "must be 200..599"),
        ({"http": "http://a/", "status": "2xx"}, "status: must be a whole number"),
        ({"http": "http://a/", "contains": ""}, "contains: is empty"),
        ({"http": "http://a/", "contains": "a\nb"}, "contains: must not contain a newline"),
        ({"http": "http://a/", "host": ""}, "host: is '', must be ADDRESS"),
        ({"http": "http://a/", "host": "a:b"}, "host: the port of"),
        ({"http": "http://a/", "host": "é"}, "host: 'é' must be ASCII"),
        ({"http": "http://a/", "host": "a\r\nX: y"}, "host: must not contain"),
        ({"http": "http://a/", "ca": "/x"}, "ca: is for https"),
        ({"http": "http://a/", "insecure": True}, "insecure: is for https"),
        ({"http": "https://a/", "insecure": "maybe"}, "insecure: must be true or false"),
        ({"http": "https://a/", "insecure": True, "ca": "/x"}, "leave one of them out"),
        ({"http": "https://a/", "ca": "x.pem"}, "ca: 'x.pem' must be the absolute path"),
        ({"http": "https://a/", "ca": ""}, "ca: '' must be the absolute path"),
        ({"tcp": ""}, "tcp: is ''"),
        ({"tcp": "10.0.0.1"}, "tcp: is '10.0.0.1', must be ADDRESS:PORT"),
        ({"tcp": "10.0.0.1:99999"}, "must be 1..65535"),
        ({"tcp": "10.0.0.1:0"}, "must be 1..65535"),
        ({"tcp": "10.0.0.1:80:80"}, "in brackets"),
        ({"tcp": "::1:80"}, "in brackets"),
        ({"tcp": "[::1]"}, "must be ADDRESS:PORT"),
        ({"tcp": "[fe80::1%1]:80"}, "without a zone"),
        ({"tcp": "0.0.0.0:80"}, "'0.0.0.0' is zero, and would ask Dom0 itself"),
        ({"tcp": "[::]:80"}, "is zero, and would ask Dom0 itself"),
        ({"tcp": "[::ffff:0.0.0.0]:80"}, "is zero, and would ask Dom0 itself"),
        ({"tcp": "255.255.255.255:80"}, "is a multicast or broadcast address"),
        ({"tcp": "[::ffff:224.0.0.1]:80"}, "is a multicast or broadcast address"),
        ({"tcp": "[fe80::1]:80"}, "is link-local, which needs a zone"),
        ({"http": "http://[ff02::1]/"}, "is a multicast or broadcast address"),
        ({"dns": "a@224.0.0.251"}, "is a multicast or broadcast address"),
        ({"tcp": "a@b:80"}, "not a label"),
        ({"tcp": "a/b:80"}, "not a label"),
        ({"dns": "www"}, "must be NAME@ADDRESS"),
        ({"dns": "@10.0.0.1"}, "must be NAME@ADDRESS"),
        ({"dns": "www@"}, "must be NAME@ADDRESS"),
        ({"dns": "www@10.0.0.10:99999"}, "must be 1..65535"),
        ({"dns": "www@a@b"}, "not a label"),
        ({"dns": "www@2001:db8::1"}, "in brackets"),
        ({"dns": "a..b@10.0.0.1"}, "empty label"),
        ({"dns": ".a@10.0.0.1"}, "empty label"),
        ({"dns": "..@10.0.0.1"}, "empty label"),
        ({"dns": f"{LONG}a@10.0.0.1"}, "has 64 characters"),
        ({"dns": f"{LONGEST}a@10.0.0.1"}, "has 254 characters"),
        ({"dns": "a b@10.0.0.1"}, "not a label"),
        ({"dns": "a\\b@10.0.0.1"}, "not a label"),
        ({"dns": "café@10.0.0.1"}, "must be ASCII"),
        ({"dns": "a@10.0.0.1", "type": "AAAAA"}, "type: is 'AAAAA', must be a type of DNS record"),
        ({"dns": "a@10.0.0.1", "type": "ANY"}, "must be a type"),
        ({"dns": "a@10.0.0.1", "type": "AXFR"}, "must be a type"),
        ({"dns": "a@10.0.0.1", "type": "TYPE255"}, "must be a type"),
        ({"dns": "a@10.0.0.1", "type": "TYPE65536"}, "must be a type"),
        ({"dns": "a@10.0.0.1", "type": "TYPE0"}, "must be a type"),
        ({"dns": "a@10.0.0.1", "answer": ""}, "answer: is empty"),
        ({"dns": "a@10.0.0.1", "answer": "x"}, "must be an IPv4 address"),
        ({"dns": "a@10.0.0.1", "answer": "2001:db8::1"}, "an IPv6 address goes with type: AAAA"),
        ({"dns": "a@10.0.0.1", "type": "AAAA", "answer": "10.0.0.1"}, "must be an IPv6 address"),
        ({"dns": "a@10.0.0.1", "type": "AAAA", "answer": "fe80::1%1"}, "must be an IPv6 address"),
        ({"dns": "a@10.0.0.1", "transport": "sctp"}, "transport: is 'sctp', must be one of udp, tcp, both"),
        ({"openvpn": "10.0.0.1:1194"}, "key: is required"),
        ({"openvpn": "10.0.0.1", "key": "/k"}, "must be ADDRESS:PORT"),
        ({"openvpn": "10.0.0.1:1194", "key": "k"}, "key: 'k' must be the absolute path"),
        ({"openvpn": "10.0.0.1:1194", "key": "/k", "transport": "both"}, "must be one of tcp, udp"),
        ({"console": ""}, "console: is empty"),
        ({"console": "("}, "is not a regular expression"),
        ({"console": "a{99999999999}"}, "is not a regular expression"),
        ({"console": "x" * 1001}, "must have at most 1000"),
        ({"command": "/bin/true"}, "must be a list of words"),
        ({"command": []}, "must be a list of words"),
        ({"command": ["/bin/true", 1]}, "must be a list of words"),
        ({"command": ["true"]}, "must be the absolute path"),
        ({"command": ["/bin/true", "a\0"]}, "zero byte"),
        ({"command": ["/bin/true", "\ud800"]}, "not valid text"),
        ({"command": ["/bin/true", "é" * 50_000]}, "command: has 100011 bytes, must have at most 100000"),
        ({"command": ["/bin/true"] * 20_000}, "must have at most 100000"),
    ],
)
def test_wrong(health, problem):
    assert problem in refusal(health)


@pytest.mark.parametrize(
    ("health", "fields"),
    [
        ({"tcp": "[2001:db8::1]:80"}, {"address": "2001:db8::1", "port": 80}),
        ({"tcp": "host.example:80"}, {"address": "host.example", "port": 80}),
        ({"dns": "_x._tcp.A@10.0.0.1"}, {"name": "_x._tcp.A", "address": "10.0.0.1", "port": 53, "record": "A"}),
        ({"dns": ".@[2001:db8::1]:5353", "type": "ns"}, {"name": ".", "port": 5353, "record": "NS"}),
        ({"dns": "0/25.2.0.192.in-addr.arpa.@a", "type": "PTR"}, {"name": "0/25.2.0.192.in-addr.arpa."}),
        ({"dns": "*.a@b", "type": "TYPE00065"}, {"record": "TYPE65"}),
        ({"dns": "a@b", "type": "AAAA", "answer": "2001:DB8:0::1"}, {"expect": "2001:db8::1"}),
        ({"dns": "a@b", "type": "CNAME", "answer": "WWW.Example.org."}, {"expect": "www.example.org"}),
        ({"openvpn": "a:1", "key": "/k", "within": "7"}, {"key": "/k", "transport": "tcp", "within": 7}),
        ({"console": "a|b"}, {"target": "a|b", "within": 30}),
        ({"command": ["/x", "a b"]}, {"target": "/x 'a b'", "command": ("/x", "a b")}),
        ({"http": "http://a:8080/", "host": "b"}, {"host": "b", "name": "b", "address": "a"}),
        ({"http": "http://a/", "insecure": False}, {"insecure": False}),
    ],
)
def test_right(health, fields):
    read = declared(**health)
    assert {key: getattr(read, key) for key in fields} == fields


@pytest.mark.parametrize(
    "split", [lambda _url: urllib.parse.SplitResult("http", "evil.example", "/", "", ""), lambda _url: int("")]
)
def test_what_urllib_reads_in_another_way_is_refused(monkeypatch, split):
    monkeypatch.setattr(urllib.parse, "urlsplit", split)
    assert "http://10.0.0.10/" in refusal({"http": "http://www.example.org/"})


def test_no_health():
    assert health_of(Reader("domain www", {}), None) is None


@pytest.mark.parametrize(
    ("record", "one", "other"),
    [
        ("AAAA", "::FFFF:1.2.3.4", "0:0:0:0:0:ffff:102:304"),
        ("TXT", '"a" "b"', "ab"),
        ("TXT", '"a \\"b\\""', 'a "b"'),
        ("TXT", '"caf\\195" "\\169 \\\\"', "café \\"),
        ("MX", "0 .", "0  ."),
        ("SRV", "0 5 80 A.b.", "0 5 80 a.b"),
    ],
)
def test_two_ways_to_write_one_answer(record, one, other):
    assert canonical_answer(record, one) == canonical_answer(record, other)


def test_text_keeps_its_case():
    assert canonical_answer("TXT", '"Ab"') != canonical_answer("TXT", "ab")


# Parts of targets: right ones, nearly right ones, and wrong ones.
PARTS = st.sampled_from(
    (
        *("http", "https", "://", ":", "//", "/", "?", "#", "@", "[", "]", "%", "%25", "\\", ".", "..", "-", "_", "*", " ", "\t"),
        *("a", "www", "example.org", "xn--", "xn--caf-dma", "10.0.0.1", "::1", "[::1]", "fe80::1%1", "2001:db8::1", "0x7f", "0"),
        *("1", "80", "65535", "65536", "99999", "9" * 50, "\u0661", "\u2100", "\u3002", "\u200d", LONG, LONG + "a", "\x7f"),
        *("http://", "https://www.example.org", "http://10.0.0.1:80/", "www@10.0.0.1", "www@[::1]:53", "\x85", "é"),
    )
)
TARGETS = st.one_of(st.text(), st.lists(PARTS, max_size=8).map("".join))
VALUES = st.one_of(TARGETS, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(TARGETS, max_size=3))
KEYS = st.one_of(
    st.sampled_from([*HEALTH_KINDS, *(option for options in KIND_OPTIONS.values() for option in options)]), st.text()
)
OPTIONS = sorted({option for options in KIND_OPTIONS.values() for option in options})
KEYS = st.one_of(st.sampled_from([*HEALTH_KINDS, *OPTIONS, "within"]), st.text())


class NoNetwork(OSError):
    """The failure that a check meets at its first packet."""


@pytest.fixture(scope="module")
def no_network():
    """Run checks with sockets that fail on first use and names that resolve to nothing real."""

    def getaddrinfo(host, port, *_arguments, **_options):
        assert isinstance(host, str) and 1 <= port <= 65535
        if not host.isascii() or any(len(label) > 63 for label in host.split(".")) or "\0" in host:
            raise UnicodeError(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", port))]

    class Silent:
        """Accepts a connection and every byte, and never answers."""

        def __init__(self, *_arguments):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_error):
            pass

        def sendall(self, data):
            assert isinstance(data, bytes)

        def recv_into(self, _buffer):
            return 0

        def recv(self, _size):
            raise NoNetwork("silence")

        connect = settimeout = close = __init__
        send = sendall

    def wrap_socket(context, _sock, server_hostname):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=server_hostname)  # a real one parses the name too
        raise NoNetwork("no handshake here")

    def popen(words, **_options):
        assert all(isinstance(word, bytes) and word and b"\0" not in word for word in words)
        raise NoNetwork("no program is started here")

    patch = pytest.MonkeyPatch()
    patch.setattr(connection.socket, "getaddrinfo", getaddrinfo)
    patch.setattr(connection.socket, "socket", Silent)
    patch.setattr(ssl.SSLContext, "wrap_socket", wrap_socket)
    patch.setattr(command_check.subprocess, "Popen", popen)
    patch.setattr(command_check.os, "set_blocking", lambda *_arguments: None)
    yield
    patch.undo()


@pytest.mark.usefixtures("no_network")
@settings(max_examples=600)
@given(kind=st.sampled_from(HEALTH_KINDS), target=TARGETS, options=st.dictionaries(st.sampled_from(OPTIONS), TARGETS, max_size=2))
@example(kind="dns", target="www@10.0.0.10:99999", options={})
@example(kind="http", target="http://10.0.0.10/é", options={})
@example(kind="http", target="http://]", options={})
def test_what_passes_can_only_meet_the_network(kind, target, options):
    value = [target] if kind == "command" else target
    if kind == "openvpn":
        options = {"key": "/nonexistent/key", **options}
    try:
        health = health_of(Reader("domain www", {}), {kind: value, **options})
    except SpecError as error:
        line = str(error)
        assert line.startswith("domain www: health: ")
        assert "\n" not in line
        return
    assert health is not None
    if health.kind == "console":
        return
    try:
        # Not `ask`, which would turn any error into a line.
        answer = checks._module_of(health.kind).check(health, time.monotonic() + 5)
    except OSError:
        return  # the network, or a missing file
    assert answer is None or isinstance(answer, str)


@settings(max_examples=300)
@given(
    st.dictionaries(st.one_of(st.sampled_from([*HEALTH_KINDS, *OPTIONS, "within"]), st.text(), st.integers()), VALUES, max_size=4)
)
def test_any_mapping_is_read_or_refused(health):
    try:
        health_of(Reader("domain www", {}), health)
    except SpecError as error:
        assert str(error).startswith("domain www: health")
