"""Several services at once: each gets its time, and all checks end."""

import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.health import checks, waiting
from ansible_collections.unikernels.xen.plugins.module_utils.health.waiting import declared_checks, service_health

from . import servers
from .conftest import SLACK

OK = b"HTTP/1.1 200 OK\r\n\r\n"


def test_all_healthy():
    with servers.tcp(lambda peer: (peer.request(), peer.send(OK))) as port:
        domains = [{"name": f"www{index}", "health": {"http": f"http://127.0.0.1:{port}/"}} for index in range(20)]
        result = service_health(domains)
    assert result["healthy"] == [f"www{index}" for index in range(20)]
    assert result["changed"] is False
    assert "failed" not in result
    assert all(answer["healthy"] and not answer["msg"] for answer in result["answers"])


def test_the_unhealthy_are_named_and_all_end_in_their_time():
    """More than any pool would check at once, each with a server that drips forever."""

    def drips(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        peer.drip(b"X: y\r\n")

    with servers.tcp(drips) as port:
        domains = [{"name": f"www{index}", "health": {"http": f"http://127.0.0.1:{port}/", "within": 1}} for index in range(12)]
        began = time.monotonic()
        result = service_health([*domains, {"name": "sh", "health": {"command": ["/bin/true"]}}])
        assert time.monotonic() - began < 1 + checks.MIN_SECONDS + SLACK
    assert result["failed"]
    assert result["healthy"] == ["sh"]
    assert "domain www0: not healthy after 1 s: http://127.0.0.1:" in result["msg"]
    assert result["msg"].count(" // ") == 11


def test_asks_again_until_it_answers(monkeypatch):
    answers = iter(["no", "no", None])
    monkeypatch.setattr(waiting, "ask", lambda _health, _deadline: next(answers))
    monkeypatch.setattr(waiting, "BETWEEN", 0)
    assert service_health([{"name": "www", "health": {"tcp": "a:1"}}])["healthy"] == ["www"]


def test_what_can_not_be_asked_here_is_not_waited_for():
    result = service_health([{"name": "www", "health": {"command": ["/nonexistent"], "within": 3600}}])
    assert result["msg"] == "domain www: health: command: /nonexistent is not a program on this host"


def test_whom_it_asks():
    checks_ = declared_checks(
        [
            {"name": "www", "health": {"tcp": "a:1"}, "memory": 64, "disks": [{"content": "a key"}]},
            {"name": "none"},
            {"name": "null", "health": None},
            {"name": "stopped", "state": "stopped", "health": {"tcp": "a:1"}},
            {"name": "console", "health": {"console": "ready"}},
        ]
    )
    assert [name for name, _health in checks_] == ["www"]
    assert service_health([]) == {"changed": False, "healthy": [], "answers": []}


@pytest.mark.parametrize(
    ("domain", "problem"),
    [
        ({}, "domains[0]: name: is required"),
        ({"name": "www", "health": {"tcp": "a:0"}}, "domain www: health: tcp: the port of 'a:0' must be 1..65535"),
        ({"name": "www", "state": "up", "health": {"tcp": "a:1"}}, "domain www: state: is 'up', must be one of"),
    ],
)
def test_wrong(domain, problem):
    result = service_health([domain])
    assert result["failed"]
    assert result["msg"].startswith(problem)


def test_every_problem_is_named():
    result = service_health([{"name": "a", "health": {"tcp": "x"}}, {"health": {}}, {"name": "b", "health": {"dns": "y"}}])
    assert result["failed"]
    assert all(words in result["msg"] for words in ("domain a: health: tcp: ", "domains[1]: name: ", "domain b: health: dns: "))
