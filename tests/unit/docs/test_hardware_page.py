"""The commands of docs/hardware.md, typed in an empty folder: the example that they copy is accepted, without a warning."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/hardware.md").read_text(encoding="utf-8")
BIN = str(pathlib.Path(sys.executable).parent)


def test_the_copied_example_is_accepted_as_it_is(tmp_path):
    block = re.search(r"## Install\n\n((?:    .*\n)+)", PAGE)[1]
    lines = [line.strip() for line in block.splitlines() if "ansible-galaxy" not in line]
    collections = tmp_path / "home/.ansible/collections/ansible_collections/unikernels"
    collections.mkdir(parents=True)
    (collections / "xen").symlink_to(ROOT)
    project = tmp_path / "project"
    project.mkdir()
    environment = {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "1",
    }

    def type_in(*commands, answers=""):
        done = subprocess.run(
            ["sh", "-ec", "\n".join(commands)], cwd=project, env=environment, input=answers, text=True, capture_output=True,
            timeout=300, check=False, start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    # ssh-keygen asks twice for a passphrase.
    type_in(*lines, answers="\n\n")
    assert "WARNING" not in type_in("ansible-inventory -i inventory --graph")
    assert "failed=0" in type_in("ansible-playbook -i inventory unikernels.xen.validate")
