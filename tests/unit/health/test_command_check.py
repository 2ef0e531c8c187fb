"""Programs that don't exit, ignore signals, leave children or flood their output."""

import os
import signal
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.health import checks, command_check

from .conftest import attempt_within, declared


def sh(script, *arguments):
    return ["/bin/sh", "-c", script, "sh", *arguments]


@pytest.fixture
def ask_command(ask):
    return lambda script, *arguments: ask(command=sh(script, *arguments))


def test_healthy(ask_patiently):
    assert ask_patiently(command=["/bin/true"]) is None
    assert ask_patiently(command=sh("test \"$1\" = 'é * $HOME'", "é * $HOME")) is None, "no shell, no locale"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (sh("exit 3"), "ended with 3: no output"),
        (sh("echo one; echo two >&2; echo; printf '\\033[2Jthree'; exit 1"), "ended with 1: two |  [2Jthree"),
        (sh("kill -SEGV $$"), "ended with -11"),
        (["/nonexistent/program"], "No such file or directory"),
        (["/etc/passwd"], "Permission denied"),
        (["/bin"], "Permission denied"),
        (sh("exit 1", "two\nlines"), "ended with 1"),
    ],
)
def test_unhealthy(ask_patiently, command, problem):
    line = ask_patiently(command=command)
    assert problem in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "script",
    [
        "sleep 30",
        "trap '' TERM INT HUP; while :; do sleep 30; done",
        "yes",
        "exec >&- 2>&-; sleep 30",
        "while :; do echo x; sleep 0.01; done",
    ],
)
def test_an_attempt_ends(ask_briefly, script):
    assert "did not end within" in ask_briefly(command=sh(script))


def test_a_flood_of_output_is_read_and_passes(ask_patiently):
    assert ask_patiently(command=sh("head -c 3000000 /dev/zero")) is None


def gone(pid):
    """True if the process was killed, even if its new parent has not reaped it yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("end", ["exit 0", "exit 1", "sleep 30"])
def test_its_children_end_too(tmp_path, end):
    """Also children that ignore SIGTERM, and children that hold its output open long after it has exited."""
    attempt_within(3)(command=sh(f"(trap '' TERM; exec sleep 30) & echo $! >{tmp_path}/pid; {end}"))
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < until, "a child is left"
        os.sched_yield()


def test_a_child_in_a_session_of_its_own_is_not_waited_for(ask_command, tmp_path):
    assert ask_command(f"setsid sh -c 'echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 30' &"
                       f" until [ -e {tmp_path}/pid ]; do :; done") is None  # fmt: skip
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_one_that_can_not_be_killed_is_not_waited_for(ask_briefly, monkeypatch):
    """A process that waits for a dead disk can't be killed."""
    killed = []
    monkeypatch.setattr(command_check.os, "killpg", lambda pid, _signal: killed.append(pid))
    monkeypatch.setattr(command_check, "_KILL_SECONDS", 0.1)
    assert "could not be killed" in ask_briefly(command=["/bin/sleep", "30"])
    monkeypatch.undo()
    os.killpg(killed[0], signal.SIGKILL)


def test_no_file_is_left_open(ask_command, ask_briefly):
    before = len(os.listdir("/proc/self/fd"))
    ask_command("exit 1")
    ask_briefly(command=sh("sleep 30"))
    checks.ask(declared(command=["/nonexistent"]))
    assert len(os.listdir("/proc/self/fd")) == before
