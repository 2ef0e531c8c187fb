"""The callback progress: one line for a long task on a terminal, nothing elsewhere, and other callbacks' output unchanged."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import os
import pty
import subprocess
import sys

import pytest
from ansible_collections.unikernels.xen.plugins.plugin_utils import progress

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
        named = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True, "timeout": 120, "check": True}
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
    from ansible_collections.unikernels.xen.plugins.callback.progress import _stated

    monkeypatch.setattr(progress, "FOLDER", str(tmp_path / "progress"))
    with progress.stated("xen1: image 88f7cd96c122, 17.0 MB"):
        assert _stated([str(tmp_path / "progress")]) == ": xen1: image 88f7cd96c122, 17.0 MB"
    assert _stated([str(tmp_path / "progress")]) == ""
    (tmp_path / "progress/4194305").write_text("of a process that was killed\n")
    assert _stated([str(tmp_path / "progress"), str(tmp_path / "missing")]) == ""
    (tmp_path / "build").write_text("step 3 of 5\n")
    assert _stated([str(tmp_path / "build")]) == ": step 3 of 5"
    os.utime(tmp_path / "build", (1, 1))
    assert _stated([str(tmp_path / "build")]) == "", "of a build that ended long ago"
    monkeypatch.setattr(progress, "FOLDER", "/proc/nowhere")
    with progress.stated("a folder that can't be written is no failure"):
        pass
