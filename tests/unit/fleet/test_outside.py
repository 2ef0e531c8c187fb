"""What a rollout asks and reports outside the fleet, with servers on loopback."""

import contextlib
import http.server
import json
import socketserver
import threading
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import State
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.queries import Query
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import rollout_of
from ansible_collections.unikernels.xen.plugins.plugin_utils import outside, rollout_bake


@pytest.fixture
def server():
    """A server that answers from ``replies`` and records its requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer()

        def do_POST(self):
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer()

        def answer(self):
            code, body, headers = replies.pop(0)
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words):
            pass

    got, replies = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        running.url, running.got, running.replies = f"http://127.0.0.1:{running.server_address[1]}", got, replies
        yield running
        running.shutdown()
        thread.join()


def good(value):
    result = [{"metric": {}, "value": [1, str(value)]}]
    return (200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode(), {})


def asked(query):
    (line,) = outside.ask_all([query])
    return line


def test_prometheus_is_asked(server):
    query = Query(server.url, "up", below=1)
    server.replies += [good(0), good(2), (400, b'{"status": "error", "error": "parse error"}', {}), (404, b"", {})]
    assert asked(query) == ""
    assert asked(query) == "query 'up': 2, must be below 1"
    assert asked(query) == "query 'up': Prometheus refused it: parse error"
    assert asked(query).endswith("answers 404")


def test_no_answer_is_bad_and_redirects_are_not_followed(server, monkeypatch):
    query = Query(server.url, "up", below=1)
    server.replies += [(302, b"", {"Location": server.url}), (200, b"x" * 2000, {})]
    assert asked(query).endswith("answers 302")
    monkeypatch.setattr(outside, "MAX_ANSWER", 1000)
    assert "is longer than" in asked(query)
    assert "does not answer" in asked(Query("http://127.0.0.1:1", "up", below=1))


def test_a_webhook_gets_json_and_its_address_is_not_shown(server):
    server.replies += [(200, b"", {}), (500, b"", {})]
    assert outside.notify(f"{server.url}/T0KEN", {"id": "A", "result": "done"}) == ""
    assert json.loads(server.got[0]) == {"id": "A", "result": "done"}
    failed = outside.notify(f"{server.url}/T0KEN", {"id": "A"})
    assert failed.startswith("notify: http://127.0.0.1:") and "T0KEN" not in failed


@pytest.fixture
def raw():
    """A server that sends ``raw.words``, and then a byte every tenth of a second while ``raw.drips``, until the test ends."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError):
                self.request.recv(9999)
                self.request.sendall(running.words)
                while running.drips and not ended.wait(0.1):
                    self.request.sendall(b"a")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        running.url, running.words, running.drips = f"http://127.0.0.1:{running.server_address[1]}", b"", False
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        ended.set()
        running.shutdown()
        thread.join()


def test_an_answer_that_never_ends_is_given_up(raw, monkeypatch):
    raw.words, raw.drips = b"HTTP/1.1 200 OK\r\nX: ", True
    monkeypatch.setattr(outside, "SECONDS", 0.5)
    began = time.monotonic()
    line = outside.notify(f"{raw.url}/T0KEN", {"id": "A"})
    assert line == f"notify: {raw.url}/...: no answer within 0.5 s"
    lines = outside.ask_all([Query(raw.url, "up", below=1)] * 20, 0.5)
    assert len(lines) == 20 and all(line.startswith(f"query 'up': {raw.url}/... does not answer") for line in lines)
    assert time.monotonic() - began < 20, "all are asked at once"


@pytest.mark.parametrize("words", [b"HTTP/1.1 500 \x1b[2Jboo\r\n\r\n", b"\x1b[2Jboo\r\n\r\n"])
def test_what_a_server_sends_moves_no_cursor(raw, words):
    raw.words = words
    for line in (asked(Query(raw.url, "up", below=1)), outside.notify(raw.url, {"id": "A"})):
        assert line and line.isprintable()


def test_mail_goes_to_the_local_mail_system(tmp_path, monkeypatch):
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/letter\n')
    program.chmod(0o755)
    monkeypatch.setattr(outside, "_SENDMAIL", (str(program),))
    assert outside.notify("ops@example.org", {"id": "A", "result": "done", "lines": ["all done"], "by": "alice@c1"}) == ""
    assert (tmp_path / "arguments").read_text() == "-oi -- ops@example.org\n"
    assert "Subject: Rollout A: done" in (tmp_path / "letter").read_text()
    program.write_text("#!/bin/sh\nexit 75\n")
    assert outside.notify("ops@example.org", {"id": "A", "result": "done"}) == "notify: ops@example.org: sendmail exits with 75"
    monkeypatch.setattr(outside, "_SENDMAIL", ())
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "has no sendmail" in outside.notify("ops@example.org", {"id": "A", "result": "done"})


def test_the_same_query_to_two_servers_is_two_queries(monkeypatch):
    """In one mapping by their text, the second answer would replace the first."""
    queries = [{"prometheus": f"http://127.0.0.1:{port}", "query": "up", "above": 0} for port in (1, 2)]
    rollout, problems = rollout_of({"queries": queries, "watch": {"failures": 1}})
    assert problems == []
    monkeypatch.setattr(outside, "ask_all", lambda asked: ["is bad" if one.prometheus.endswith(":1") else "" for one in asked])
    deployed = {"began": time.time(), "watched": ["a"]}
    seen = rollout_bake.bake(State(waves=[["a"]]), rollout, 0, {"unikernels_xen_deployed": deployed}, 0, set())
    assert (seen["bad"], seen["over"]) == ("is bad", True)
