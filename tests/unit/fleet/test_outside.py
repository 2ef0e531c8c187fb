"""What a rollout asks and reports outside the fleet, with servers on loopback."""

import http.server
import json
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.queries import Query
from ansible_collections.unikernels.xen.plugins.plugin_utils import outside


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


def test_prometheus_is_asked(server):
    query = Query(server.url, "up", below=1)
    server.replies += [good(0), good(2), (400, b'{"status": "error", "error": "parse error"}', {}), (404, b"", {})]
    assert outside.ask(query) == ""
    assert outside.ask(query) == "query 'up': 2, must be below 1"
    assert outside.ask(query) == "query 'up': Prometheus refused it: parse error"
    assert outside.ask(query).endswith("answers 404")


def test_no_answer_is_bad_and_redirects_are_not_followed(server, monkeypatch):
    query = Query(server.url, "up", below=1)
    server.replies += [(302, b"", {"Location": server.url}), (200, b"x" * 2000, {})]
    assert outside.ask(query).endswith("answers 302")
    monkeypatch.setattr(outside, "MAX_ANSWER", 1000)
    assert "is longer than" in outside.ask(query)
    assert "does not answer" in outside.ask(Query("http://127.0.0.1:1", "up", below=1))


def test_a_webhook_gets_json_and_its_address_is_not_shown(server):
    server.replies += [(200, b"", {}), (500, b"", {})]
    assert outside.notify(f"{server.url}/T0KEN", {"id": "A", "result": "done"}) == ""
    assert json.loads(server.got[0]) == {"id": "A", "result": "done"}
    failed = outside.notify(f"{server.url}/T0KEN", {"id": "A"})
    assert failed.startswith("notify: http://127.0.0.1:") and "T0KEN" not in failed


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
