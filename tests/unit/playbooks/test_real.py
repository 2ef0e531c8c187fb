"""make real: toolchain, images and lab in one command; without opam's archive it stops before anything is installed."""

import os
import subprocess
import time

from tests.conftest import ROOT


def test_make_real_builds_the_toolchain_and_then_the_lab():
    done = subprocess.run(["make", "-n", "real", "ARGS=-v"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "ansible-playbook" in line or line.startswith("echo")]
    words = ("up to an hour", "playbooks/builder.yml", "five minutes", "LAB_IMAGES=build ansible-playbook site.yml")
    assert len(lines) >= 4 and all(word in line for word, line in zip(words, lines[-4:]))
    assert all(line.endswith(" -v") for line in lines[-4:] if "ansible-playbook" in line)


def test_without_the_archive_it_ends_within_seconds_and_names_the_variables(tmp_path):
    began = time.monotonic()
    variables = {"folder": tmp_path / "toolchain", "archive": "https://127.0.0.1:9/opam", "opam": "/nonexistent/opam"}
    words = [word for name, value in variables.items() for word in ("-e", f"mirage_builder_{name}={value}")]
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", "playbooks/builder.yml", *words]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode and "archive https://127.0.0.1:9/opam: cannot be reached: [Errno 111] Connection refused" in text
    assert "(mirage_builder_proxy, mirage_builder_archive; sources of packages: mirage_builder_mirrors)" in text
    assert "Install what opam needs" not in text and "changed=0" in text and not (tmp_path / "toolchain").exists()
    assert time.monotonic() - began < 60
