"""The keeper in Dom0, round by round, with a double of xl and real files."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from .conftest import module

CRASHED = "Waiting for domain www (domid {0}) to die [pid 1]\nDomain {0} has shut down, reason code 3 0x3\n"
ENDED = "Waiting for domain www (domid {0}) to die [pid 1]\nDomain {0} has shut down, reason code 0 0x0\n"
ACTION = "Action for shutdown reason code 3 is {}\n"
REBUILT = CRASHED + "Action for shutdown reason code 3 is restart\nDone. Rebooting now\n"


@pytest.fixture
def host(xen, converge, monkeypatch, capsys):
    """A running domain www, and its keeper with a clock that the test controls."""
    host = Dom0(xen, converge, capsys)
    monkeypatch.setattr(module("xen.keeper").time, "time", lambda: host.now)
    monkeypatch.setattr(module("xen.keeper"), "DESTROY_SECONDS", 0.3)
    host.deploy()
    return host


class Dom0:
    def __init__(self, xen, converge, capsys):
        self.xen, self.converge, self.capsys = xen, converge, capsys
        self.now = time.time()
        self.keeper = module("xen.keeper").Keeper()

    def deploy(self, **options):
        result = self.converge({"name": "www", **options})
        assert not result["failed"], result
        self.xen.calls.clear()
        return result

    def domain(self):
        return self.xen.domains.get("www")

    def log(self, text, name="www"):
        path = self.xen.folder / "logs" / f"xl-{name}.log"
        path.write_text(text)
        os.utime(path, (self.now, self.now))

    def console(self, text):
        (self.xen.folder / "console" / "guest-www.log").write_text(text)

    def crash(self):
        self.log(CRASHED.format(self.domain()["domid"]) + ACTION.format("preserve"))
        self.domain().update(state="shutdown", reason="crash")

    def exit(self, code):
        self.console(f"web: ready\n\x1b[31mFatal error\nSolo5: solo5_exit({code}) called\n")
        self.log(ENDED.format(self.xen.domains.pop("www")["domid"]) + "Action for shutdown reason code 0 is destroy\n")

    def rounds(self, seconds=1.5):
        """One round that notices the end, and one when the restart is due."""
        self.keeper.round()
        self.now += seconds
        pause = self.keeper.round()
        self.keeper.round()
        return pause

    def record(self):
        path = self.xen.folder / "restarts" / "www.json"
        return json.loads(path.read_text()) if path.exists() else None

    def started(self):
        return [call for call in self.xen.calls if call.startswith("xl create")]


def test_a_domain_that_crashed_is_started_again_and_what_led_to_it_is_kept(host):
    host.keeper.round()
    host.crash()
    host.console("web: ready\nPage fault\x07 at 0xdead\n")
    assert host.keeper.round() <= 1.0
    assert not host.started()  # not at once
    host.now += 1.5
    host.keeper.round()
    assert host.started() == [f"xl create {host.xen.folder}/unikernels/www.cfg"]
    assert host.domain()["state"] == "running"
    record = host.record()
    assert record["count"] == 1 and not record["gave_up"]
    assert record["reason"] == "it ended by itself, reason crash"
    assert record["console"] == ["web: ready", "Page fault at 0xdead"]
    path = host.xen.folder / "restarts" / "www.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert host.capsys.readouterr().out.count("domain www: it ended by itself, reason crash; started again (1 of 5 times") == 1
    host.now += 30
    host.keeper.round()
    assert len(host.started()) == 1


def test_one_that_ended_with_an_error_before_the_keeper_began_is_started_again(host):
    host.exit(2)
    host.rounds()
    assert host.domain() and host.record()["exit_code"] == 2
    assert host.record()["reason"] == "it ended by itself with exit code 2"


def test_one_that_ended_without_an_error_is_left_alone_unless_it_is_always_started(host):
    host.exit(0)
    host.rounds()
    assert not host.started() and host.record() is None
    host.deploy(restart="always")
    host.keeper.round()
    host.exit(0)
    host.rounds()
    assert len(host.started()) == 1


@pytest.mark.parametrize("options", [{"restart": "never"}, {"autostart": False}, {"state": "paused"}])
def test_what_is_not_to_be_kept_is_not(host, options):
    host.deploy(**options)
    host.crash()
    host.rounds()
    assert not host.started()


def test_one_that_was_destroyed_by_hand_is_left_alone(host):
    host.keeper.round()
    host.log(f"Domain {host.xen.domains.pop('www')['domid']} has been destroyed.\n")
    host.rounds()
    # A domain that crashed, was preserved, and then destroyed by somebody who inspected it.
    host.xen.domains.clear()
    host.log(CRASHED.format(1) + ACTION.format("preserve"))
    host.rounds()
    assert not host.started()


def test_one_that_was_never_healthy_has_no_definition_and_is_left_alone(host):
    os.unlink(host.xen.folder / "unikernels" / "www.cfg")
    host.crash()
    host.rounds()
    assert not host.started()


@pytest.mark.parametrize("leftover", ["intent", "~next", "~prev", "foreign", "renamed"])
def test_nothing_is_done_in_the_middle_of_a_change_nor_to_others(host, leftover):
    host.crash()
    config = dict(host.domain()["config"])
    text = (host.xen.folder / "unikernels" / "www.cfg").read_text()
    if leftover == "intent":
        (host.xen.folder / "unikernels" / ".www.cfg.next").write_text("# replaces: running\n")
    elif leftover == "foreign":
        config["uuid"] = "11111111-2222-3333-4444-555555555555"
        host.domain()["config"] = config
    elif leftover == "renamed":
        host.xen.add("www-old", text)
        host.xen.domains["www-old"]["config"] = config
        del host.xen.domains["www"]
        host.log(CRASHED.format(1) + ACTION.format("destroy"))
    else:
        host.xen.add("www" + leftover, text)
    before = set(host.xen.domains)
    host.rounds()
    assert not host.started() and set(host.xen.domains) == before


def test_nothing_is_done_while_a_run_has_the_lock(host):
    host.crash()
    with open(host.xen.folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert host.rounds() <= 2.0
        assert not host.started() and host.record() is None
    host.rounds()
    assert len(host.started()) == 1


def test_a_run_that_ended_meanwhile_has_decided(host, monkeypatch):
    """Seen dead; then the run that held the lock has created it again."""
    host.crash()
    host.keeper.round()
    host.now += 1.5
    lock = module("xen.keeper").Lock

    def after_a_run(*words, **named):
        host.domain().update(state="running", reason="")
        return lock(*words, **named)

    monkeypatch.setattr(module("xen.keeper"), "Lock", after_a_run)
    host.keeper.round()
    assert not host.started()


def test_the_limit_ends_it_until_a_run_creates_it(host):
    host.deploy(restart_limit={"starts": 2, "within": 100})
    for _start in range(2):
        host.crash()
        host.rounds(5)
    host.crash()
    host.rounds(5)
    host.rounds(90)
    assert len(host.started()) == 2
    assert host.record()["gave_up"] and host.record()["count"] == 2
    lines = [line for line in host.capsys.readouterr().out.splitlines() if "is left as it is" in line]
    assert len(lines) == 1 and "2 times within 100 s" in lines[0]
    facts = module("xen.restarts").summary("www")
    assert facts["gave_up"] and facts["count"] == 2 and facts["reason"] == "it ended by itself, reason crash"
    host.deploy(restart_limit={"starts": 2, "within": 100})
    assert host.record() is None
    assert module("xen.restarts").summary("www") == {"count": 0, "last": "", "reason": "", "gave_up": False}
    host.crash()
    host.rounds(5)
    assert host.record()["count"] == 1


def test_a_boot_loop_is_counted_and_ended(host):
    host.deploy(restart_limit={"starts": 3, "within": 600})
    host.log("")
    host.keeper.round()
    text = ""
    for number in range(3):
        text += REBUILT.format(number)
        host.log(text + "Waiting for domain www (domid 1) to die [pid 1]\n")
        host.now += 1
        host.keeper.round()
        assert host.domain() and host.record()["count"] == number + 1
    host.log(text + REBUILT.format(9) + "Waiting for domain www (domid 1) to die [pid 1]\n")
    host.keeper.round()
    assert host.domain() is None
    assert host.record()["gave_up"]
    host.rounds()
    assert not host.started()


def test_what_a_log_had_before_the_keeper_began_is_no_restart(host):
    host.log("".join(REBUILT.format(number) for number in range(9)) + "Waiting for domain www (domid 1) to die [pid 1]\n")
    host.rounds()
    assert host.domain() and host.record() is None


def test_a_create_that_fails_is_said_and_tried_again_later(host):
    host.crash()
    host.xen.hooks["xl create"] = lambda: (3, "Could not find bridge device xenbr0")
    host.rounds()
    assert "'xl create' failed: Could not find bridge device xenbr0" in host.capsys.readouterr().out
    assert host.record()["count"] == 1 and host.domain() is None
    # Its log now reports a destroy by hand, or nothing, but it was we who destroyed it.
    del host.xen.hooks["xl create"]
    host.rounds(5)
    assert host.domain() and host.record()["count"] == 2
    host.log(f"Domain {host.xen.domains.pop('www')['domid']} has been destroyed.\n")
    host.rounds(60)
    assert host.domain() is None


def test_a_record_that_cannot_be_read_is_no_reason_to_fail(host):
    (host.xen.folder / "restarts" / "www.json").write_text('{"starts": "x", "count": [], "history": 3')
    host.crash()
    host.rounds()
    assert host.record()["count"] == 1


def test_what_is_wrong_with_a_domain_is_said_and_the_others_are_looked_after(host, monkeypatch):
    assert not host.converge({"name": "aaa"})["failed"]
    host.xen.calls.clear()
    code_of = module("xen.keeper")._exit_code
    monkeypatch.setattr(module("xen.keeper"), "_exit_code", lambda name: code_of(name) if name == "www" else 1 / 0)
    host.xen.domains["aaa"].update(state="shutdown", reason="crash")
    host.crash()
    host.rounds()
    assert len(host.started()) == 1
    assert "domain aaa: ZeroDivisionError" in host.capsys.readouterr().out


def test_an_image_that_is_refused_is_not_started(host, monkeypatch):
    program = host.xen.folder / "verify"
    monkeypatch.setattr(module("xen.keeper"), "VERIFY", str(program))
    program.write_text("")
    host.xen.hooks[str(program)] = lambda: (0, "")
    host.crash()
    host.rounds()
    host.rounds(100)
    assert not host.started()
    assert host.record()["gave_up"]
    assert "it is not started again: its image is refused" in host.capsys.readouterr().out


def test_one_that_was_asked_to_end_is_left_alone(host, monkeypatch):
    host.deploy(restart="always")
    host.keeper.round()
    host.now += 60
    path = f"/local/domain/{host.domain()['domid']}/control/shutdown"
    watched = []
    monkeypatch.setattr(host.keeper.events, "watch", watched.append)
    monkeypatch.setattr(host.keeper.events, "wait", lambda _seconds: {path})
    monkeypatch.setattr(module("xen.keeper"), "Xenstore", host.xen.xenstore)
    # Its key is removed when it stops by itself.
    host.keeper._await(1.0)
    assert path in watched[0] and not host.keeper._tracks["www"].asked_at
    host.xen.store[path] = ""  # the guest has cleared it
    host.keeper._await(1.0)
    host.exit(0)
    host.rounds()
    assert not host.started()


def test_a_domain_that_hangs_is_restarted(host, monkeypatch):
    answers = []
    monkeypatch.setattr(module("xen.keeper"), "ask", lambda health: answers.pop(0))
    health = {"tcp": "10.0.0.1:80", "within": 30}
    monkeypatch.setattr(module("apply.perform"), "ask", lambda *_words: None)
    host.deploy(health=health, watchdog=10)

    def ask(answer):
        answers.append(answer)
        host.now += 10
        host.keeper.round()
        host.keeper._tracks["www"].check.result(5)
        host.keeper.round()

    for answer in ("refused", "refused", "refused"):
        ask(answer)  # it boots
    assert host.keeper._tracks["www"].failures == 0
    for answer in (None, "refused", "refused", None, "refused", "refused"):
        ask(answer)
    assert not host.started() and host.keeper._tracks["www"].failures == 2
    old = host.domain()["domid"]
    ask("refused")
    host.now += 2
    answers.append(None)
    host.keeper.round()
    assert len(host.started()) == 1 and host.domain()["domid"] != old
    assert host.record()["reason"] == "it hangs: its health check failed 3 times in a row"


def test_a_change_of_these_options_alone_is_a_define(host):
    for options in ({"restart": "always"}, {"restart": "never"}, {"restart_limit": {"starts": 2}}):
        assert host.deploy(**options)["steps"] == ["define www"]
        assert host.deploy(**options)["steps"] == []
    assert not host.started() and host.domain()["domid"] == 1


def test_events_of_xenstore_end_the_wait(monkeypatch, tmp_path):
    events = module("xen.events")
    import socket

    path = str(tmp_path / "socket")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)
    monkeypatch.setattr(events, "SOCKETS", (path,))
    waiting = events.Events()
    waiting.watch({"@releaseDomain"})
    assert waiting.connected
    peer, _address = server.accept()
    header = events._HEADER
    assert peer.recv(4096) == header.pack(4, 0, 0, 30) + b"@releaseDomain\0@releaseDomain\0"
    event = b"@releaseDomain\0@releaseDomain\0"
    fired = header.pack(15, 0, 0, len(event)) + event
    # The reply, the first event of each watch, and a real event in two parts.
    peer.sendall(header.pack(4, 0, 0, 3) + b"OK\0" + fired + fired[:7])
    threading.Timer(0.1, peer.sendall, [fired[7:]]).start()
    began = time.monotonic()
    assert waiting.wait(20) == {"@releaseDomain"}
    assert time.monotonic() - began < 10
    peer.close()
    assert waiting.wait(0.1) == set()
    assert not waiting.connected


def test_the_program_runs_from_the_files_that_the_role_installs(tmp_path):
    """It needs nothing that is missing in Dom0, and nothing of Ansible."""
    import pathlib

    import yaml

    root = pathlib.Path(__file__).parents[3]
    library = yaml.safe_load((root / "roles/xen_host/vars/main.yml").read_text())["xen_host_library"]
    for path in library:
        target = tmp_path / "module_utils" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / "plugins/module_utils" / path).read_bytes())
    modules = sorted(path[:-3].replace("/", ".") for path in library)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        + "".join(f"import module_utils.{name}\n" for name in modules)
        + "from module_utils.xen.keeper import Keeper\n"
        + "print(Keeper().round(), sorted(name for name in sys.modules if 'ansible' in name))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "30.0 []\n", done.stderr


def test_a_pipe_in_the_place_of_a_definition_is_not_opened(host):
    folder = host.xen.folder
    os.mkfifo(folder / "unikernels" / "pipe.cfg")
    (folder / "auto" / "pipe.cfg").symlink_to(folder / "unikernels" / "pipe.cfg")
    assert "pipe" not in module("xen.keeper")._definitions()
