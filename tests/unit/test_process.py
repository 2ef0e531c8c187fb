"""A program that is run with a limit holds nobody up, whatever it does."""

import subprocess
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils import process
from ansible_collections.unikernels.xen.plugins.module_utils.xen import xl


def test_what_a_program_prints_and_how_it_ends():
    done = process.run(["sh", "-c", "echo out; printf 'e\\351' >&2; exit 3"], 30)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "e\ufffd")
    with pytest.raises(FileNotFoundError):
        process.run(["/nosuch"], 30)


def test_a_program_that_does_not_end_is_killed_though_its_child_holds_its_output():
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        process.run(["sh", "-c", "sleep 20 & sleep 20"], 0.2)
    assert time.monotonic() - began < 15


def test_a_process_that_survives_sigkill_is_left_behind(monkeypatch):
    """It waits in the kernel; subprocess.run would wait with it, and hold the host's lock."""
    monkeypatch.setattr(process, "KILL_SECONDS", 0.1)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _process: None)
    began = time.monotonic()
    monkeypatch.setenv("PATH", "/nosuch")
    with pytest.raises(subprocess.TimeoutExpired):
        process.run(["/bin/sleep", "20"], 0.1)
    assert time.monotonic() - began < 15


def test_an_xl_that_hangs_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "xl").write_text("#!/bin/sh\nexec /bin/sleep 20\n")
    (tmp_path / "xl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(xl.ToolstackError, match=r"^'xl info' did not end within 0 s; is xenstored alive"):
        xl.xl("info", timeout=0.2)
