"""The callback progress: one line for a long task on a terminal, nothing elsewhere, and other callbacks' output unchanged."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from ansible_collections.unikernels.xen.plugins.plugin_utils import progress
from ansible_collections.unikernels.xen.plugins.plugin_utils.health_limit import longest_check
from hypothesis import given
from hypothesis import strategies as st

PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "connection": "local",
        "tasks": [{"name": "Something long", "ansible.builtin.command": "sleep 2"}],
    }
]


@pytest.fixture
def play(tmp_path):
    book = tmp_path / "play.yml"
    book.write_text(json.dumps(PLAY))

    def run(environment, stderr=subprocess.PIPE):
        known = {"ANSIBLE_CALLBACKS_ENABLED": "unikernels.xen.progress", "UNIKERNELS_PROGRESS_EVERY": "1"}
        words = ["ansible-playbook", "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", str(book)]
        named = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True, "timeout": 300, "check": True}
        return subprocess.run(words, env={**os.environ, **known, "HOME": str(tmp_path), **environment}, **named)

    return run


def test_on_a_terminal_a_long_task_shows_that_it_works_and_for_how_long(play):
    ours, theirs = pty.openpty()
    try:
        done = play({}, stderr=theirs)
        os.close(theirs)
        printed = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
    assert "   ... 1 s: Something long (in all 0:0" in printed
    assert "..." not in done.stdout


def test_without_a_terminal_it_is_silent_unless_asked(play):
    assert "   ... " not in play({}).stderr
    assert "   ... 1 s: Something long" in play({"UNIKERNELS_PROGRESS_ALWAYS": "true"}).stderr


def test_what_another_callback_prints_or_writes_stays_whole(play, tmp_path):
    environment = {"UNIKERNELS_PROGRESS_ALWAYS": "true", "JUNIT_OUTPUT_DIR": str(tmp_path / "junit")}
    done = play({**environment, "ANSIBLE_STDOUT_CALLBACK": "oneline"})
    assert [line.split(" | ")[:2] for line in done.stdout.splitlines()] == [["localhost", "CHANGED"]]
    play({**environment, "ANSIBLE_CALLBACKS_ENABLED": "unikernels.xen.progress,junit"})
    (report,) = (tmp_path / "junit").glob("*.xml")
    assert 'errors="0"' in report.read_text() and report.read_text().rstrip().endswith("</testsuites>")


def test_the_line_of_an_action_is_there_while_its_process_runs(tmp_path, monkeypatch):
    folder = str(tmp_path / "progress")
    monkeypatch.setattr(progress, "FOLDER", folder)
    with progress.stated("xen1: 3 domains"):
        assert progress.newest([folder], time.time()) == "xen1: 3 domains"
    assert progress.newest([folder], time.time()) == ""
    (tmp_path / "progress/4194305").write_text("of a process that was killed\n")
    assert progress.newest([folder, str(tmp_path / "missing")], time.time()) == ""
    (tmp_path / "build").write_text("step 3 of 5\n")
    assert progress.newest([str(tmp_path / "build")], time.time()) == "step 3 of 5"
    os.utime(tmp_path / "build", (1, 1))
    assert progress.newest([str(tmp_path / "build")], time.time()) == "", "of a build that ended long ago"
    monkeypatch.setattr(progress, "FOLDER", "/proc/nowhere")
    with progress.stated("a folder that can't be written is no failure"):
        pass


def test_seconds_that_are_left_are_counted_down_and_others_at_work_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FOLDER", str(tmp_path))
    with progress.stated("xen1: health checks", until=1060), subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / str(other.pid)).write_text('{"line": "xen2: health checks", "until": 1060}\n')
        os.utime(tmp_path / str(other.pid), (1, 1))
        assert progress.newest([str(tmp_path)], 1018) == "xen1: health checks, at most 42 s left (and 1 more)"
        assert progress.newest([str(tmp_path)], 1061) == "xen1: health checks (and 1 more)"
        other.kill()


def test_how_much_of_a_file_has_been_sent_is_read_from_the_process_that_sends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FOLDER", str(tmp_path / "progress"))
    image = tmp_path / "image.xen"
    image.write_bytes(b"x" * 17_000_000)
    sender = "import sys; file = open(sys.argv[1], 'rb', 0); file.read(4_000_000); print(flush=True); sys.stdin.read()"
    with progress.stated("xen1: image 88f7cd96c122", str(image)):
        assert progress.newest([str(tmp_path / "progress")], 0) == "xen1: image 88f7cd96c122, 17.0 MB"
        # Below a shell, as sftp is below the process of a host's task.
        shell = ["sh", "-c", '"$@"; :', "sh", sys.executable, "-c", sender, str(image)]
        with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert progress.newest([str(tmp_path / "progress")], 0) == "xen1: image 88f7cd96c122, 4.0 of 17.0 MB sent"
            process.stdin.close()


@given(st.text(max_size=300))
def test_no_text_in_a_file_acts_on_the_terminal(text):
    for written in (text, json.dumps({"line": text, "until": text, "file": text})):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]", progress.shown(written, 0.0, "1"))


def test_a_health_checks_limit_is_that_of_the_longest(tmp_path):
    domains = [
        {"name": "www", "health": {"http": "http://10.0.0.10/", "within": 60}},
        {"name": "dns", "health": {"tcp": "10.0.0.53:53", "within": 20}},
        {"name": "wrong", "health": {"http": 5}},
        "not a mapping",
    ]
    assert longest_check(domains) == 60
    assert longest_check([]) == longest_check("{{ undefined }}") == 0


@pytest.mark.parametrize("module, extra", [("service_health", {}), ("xen_domains", {"lock_timeout": 1})])
def test_a_module_whose_limits_are_stated_returns_what_it_returns_without(tmp_path, module, extra):
    """A refusal is the module's own, and nothing is left in the folder."""
    arguments = json.dumps({"domains": [{"name": "www", "health": {"tcp": "nowhere"}}], **extra})
    words = ["ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", f"unikernels.xen.{module}", "-a", arguments]
    words += ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(words, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=300)
    assert "health: tcp: is" in done.stdout and "FAILED" in done.stdout, done.stdout + done.stderr
    assert list((tmp_path / ".cache/unikernels.xen/progress").iterdir()) == []
