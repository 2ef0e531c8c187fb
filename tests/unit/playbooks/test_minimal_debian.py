"""Check mode on a Debian without python3-apt, which Ansible's apt refuses there: a role lists what a run would install."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROLES = {"xen_monitor": "prometheus-node-exporter", "mirage_builder": "opam"}
VARIABLES = {"mirage_builder_archive": "", "mirage_builder_folder": "/nonexistent/toolchain"}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_lists_what_it_would_install(tmp_path, role):
    # Nothing is installed.
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "dpkg-query").chmod(0o755)
    play: dict[str, object] = {"hosts": "box", "gather_facts": False, "connection": "local"}
    play |= {"roles": [f"unikernels.xen.{role}"], "vars": {**VARIABLES, "ansible_python_interpreter": sys.executable}}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_CONFIG": str(tmp_path / "none"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = ["ansible-playbook", "-i", "box,", "play.yml", "--check"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    line = "box: python3-apt is not installed, so check mode can't ask apt; a run would install "
    assert re.search(rf"{line}.*\b{ROLES[role]}\b", done.stdout), done.stdout


def test_no_other_role_asks_apt_without_a_look_for_it():
    """Updates alone: a host that has run the role has python3-apt, and apt's own message names the package."""
    for path in (ROOT / "roles").glob("*/tasks/*.yml"):
        text = path.read_text(encoding="utf-8")
        if "ansible.builtin.apt:" in text and path.name != "update.yml":
            assert "python3-apt" in text, path
