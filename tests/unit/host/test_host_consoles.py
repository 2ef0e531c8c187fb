"""The job that runs every minute: no console's log grows without limit, whatever its guest does, and its end is kept."""

import os
import pathlib
import subprocess

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / "roles/xen_host/files/unikernels-consoles"


def rotate(folder, kib=64):
    return subprocess.run(["sh", PROGRAM, str(kib)], env={**os.environ, "CONSOLES": str(folder)}, check=True, timeout=30)


def test_a_log_that_is_written_on_begins_again_and_keeps_its_end(tmp_path):
    log = tmp_path / "guest-my vm.log"
    short = tmp_path / "guest-www.log"
    short.write_text("short\n")
    with log.open("ab", buffering=0) as xenconsoled:
        xenconsoled.write(b"first\n" + b"x" * 200_000 + b"\nlast\n")
        rotate(tmp_path)
        xenconsoled.write(b"next\n")
    assert log.read_text() == "next\n"
    kept = tmp_path / "guest-my vm.log.1"
    assert kept.stat().st_size == 64 * 1024 and kept.read_text().endswith("x\nlast\n")
    assert kept.stat().st_mode & 0o077 == 0
    assert short.read_text() == "short\n"


def test_what_is_old_goes_and_a_link_is_not_followed(tmp_path):
    target = tmp_path / "elsewhere"
    target.write_bytes(b"x" * 200_000)
    (tmp_path / "guest-a.log").symlink_to(target)
    old = tmp_path / "guest-b.log.1"
    old.write_text("old")
    os.utime(old, (0, 0))
    rotate(tmp_path)
    assert not old.exists() and target.stat().st_size == 200_000
    rotate(tmp_path / "nowhere")
