"""Properties of all checks: no exception, one line, a deadline. And connections."""

import socket
import threading
import time
import types

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.health import checks, command_check, connection, tcp_check

from . import servers
from .conftest import declared


def test_tcp(ask_patiently, ask):
    with servers.tcp(lambda peer: peer.hang()) as port:
        assert ask_patiently(tcp=f"127.0.0.1:{port}") is None
        assert ask_patiently(tcp=f"localhost:{port}") is None, "after ::1, where nothing listens"
    assert "refused" in ask(tcp=f"127.0.0.1:{port}")


def test_tcp_to_nobody_ends(ask_briefly):
    """A listener with a full queue neither accepts nor refuses connections."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        assert "timed out" in ask_briefly(tcp=f"127.0.0.1:{full.getsockname()[1]}")


@pytest.mark.parametrize("error", [ValueError("é\n\x1b"), RecursionError(), MemoryError("no"), UnicodeError(), KeyError("x")])
def test_every_exception_is_one_line(ask, monkeypatch, error):
    def fails(*_arguments):
        raise error

    monkeypatch.setattr(tcp_check, "connect", fails)
    assert ask(tcp="10.0.0.1:80").startswith(f"10.0.0.1:80: {type(error).__name__}")


def test_a_console_is_not_asked(ask):
    assert "kind console is not asked" in ask(console="ready")


def test_a_line_is_bounded(ask, monkeypatch):
    def fails(*_arguments):
        raise OSError("x" * 100_000)

    monkeypatch.setattr(tcp_check, "connect", fails)
    assert len(ask(tcp="10.0.0.1:80")) == checks.MAX_LINE


@pytest.mark.parametrize(
    ("kind", "left", "seconds"),
    [
        ({"tcp": "a:1"}, None, checks.ATTEMPT_SECONDS),
        ({"tcp": "a:1"}, 100, checks.ATTEMPT_SECONDS),
        ({"tcp": "a:1"}, 3, 3),
        ({"tcp": "a:1"}, 0.1, checks.MIN_SECONDS),
        ({"tcp": "a:1"}, -5, checks.MIN_SECONDS),
        ({"command": ["/x"]}, 100, checks.COMMAND_SECONDS),
        ({"command": ["/x"]}, 3, 3),
    ],
)
def test_the_time_of_an_attempt(monkeypatch, kind, left, seconds):
    seen = []
    monkeypatch.setattr(tcp_check, "check", lambda _health, deadline: seen.append(deadline))
    monkeypatch.setattr(command_check, "check", lambda _health, deadline: seen.append(deadline))
    now = 1000.0
    monkeypatch.setattr(checks, "time", types.SimpleNamespace(monotonic=lambda: now))
    checks.ask(declared(**kind), None if left is None else now + left)
    assert seen == [now + seconds]


def test_a_name_that_is_not_resolved_in_time(ask_briefly, monkeypatch):
    known, asked_enough = socket.getaddrinfo, threading.Event()

    def slow(*arguments, flags=0, **options):
        if flags:
            return known(*arguments, flags=flags, **options)
        asked_enough.wait(servers.UNHEALTHY)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert "the name www.example.org was not resolved in time" in ask_briefly(tcp="www.example.org:80")
    asked_enough.set()


@pytest.mark.parametrize(
    ("error", "problem"),
    [(socket.gaierror(-2, "Name or service not known"), "is not resolved"), (UnicodeError("label"), "label")],
)
def test_a_name_that_is_not_resolved(ask, monkeypatch, error, problem):
    def fails(*_arguments, flags=0, **_options):
        raise socket.gaierror if flags else error

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert problem in ask(tcp="www.example.org:80")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: [])
    assert "has no address" in ask(tcp="www.example.org:80")


def test_each_address_of_a_name_has_its_share_of_the_time(monkeypatch):
    shares = []

    class Hurried(socket.socket):
        def settimeout(self, seconds):
            shares.append(seconds)
            super().settimeout(0.2 if len(shares) == 1 else seconds)

    with servers.tcp(lambda peer: peer.hang()) as port, socket.socket() as full, socket.socket() as one, socket.socket() as two:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for sock in (one, two):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", where) for where in (full.getsockname(), ("127.0.0.1", port))]
        monkeypatch.setattr(connection, "resolve", lambda *_arguments: infos)
        monkeypatch.setattr(connection, "socket", types.SimpleNamespace(**{**vars(socket), "socket": Hurried}))
        connection.connect("www", port, time.monotonic() + 100).close()
    assert 40 < shares[0] <= 50 < 80 < shares[1] <= 100


def test_datagrams_to_an_unreachable_address_leave_no_socket(monkeypatch):
    infos = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("255.255.255.255", 53))]  # needs SO_BROADCAST
    monkeypatch.setattr(connection, "resolve", lambda *_arguments: infos)
    with pytest.raises(OSError):
        connection.Datagrams("x", 53, time.monotonic() + 1)


@pytest.mark.parametrize(
    ("health", "problem"),
    [
        ({"tcp": "a:1"}, None),
        ({"console": "x"}, None),
        ({"http": "http://a/"}, None),
        ({"http": "https://a/"}, None),
        ({"http": "https://a/", "ca": "/nonexistent"}, "http: [Errno 2] No such file"),
        ({"dns": "a@b"}, None),
        ({"openvpn": "a:1", "key": "/nonexistent"}, "openvpn: [Errno 2] No such file"),
        ({"openvpn": "a:1", "key": "/etc/passwd"}, "openvpn: key: /etc/passwd is not an OpenVPN static key"),
        ({"command": ["/bin/true"]}, None),
        ({"command": ["/etc/passwd"]}, "command: /etc/passwd is not a program on this host"),
        ({"command": ["/nonexistent"]}, "is not a program on this host"),
    ],
)
def test_what_this_host_lacks_for_a_check(health, problem):
    line = checks.lacking(declared(**health))
    assert line is None if problem is None else problem in line


def test_after_the_deadline():
    with pytest.raises(TimeoutError):
        connection.left(time.monotonic() - 1)
