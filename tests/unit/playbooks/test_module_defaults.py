"""module_defaults by the groups of meta/runtime.yml reach the modules."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import os
import re
import subprocess
import sys

TASKS = {
    "xen_domain": ("lock_timeout", {"name": "x", "state": "absent"}),
    "xen_domains": ("lock_timeout", {"domains": []}),
    "xen_rollback": ("lock_timeout", {}),
    "xen_generation_info": ("folder", {}),
    "mirage_image_info": ("store", {}),
}


def test_an_option_is_given_once_for_all_modules_of_a_group(tmp_path):
    given = {"lock_timeout": "601", "folder": str(tmp_path / "generations"), "store": str(tmp_path / "store")}
    defaults = {
        "group/unikernels.xen.xen": {"lock_timeout": 601},
        "group/unikernels.xen.generations": {"folder": given["folder"]},
        "group/unikernels.xen.images": {"store": given["store"]},
    }
    # Without Xen some fail; only the arguments that -vvv prints matter.
    tasks = [{f"unikernels.xen.{name}": arguments, "ignore_errors": True} for name, (_option, arguments) in TASKS.items()]
    book = tmp_path / "play.yml"
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "module_defaults": defaults, "tasks": tasks}
    book.write_text(json.dumps([{**play, "check_mode": True}]))
    words = ["ansible-playbook", "-vvv", "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", str(book)]
    # ansible-core 2.20 and later print arguments only if asked to.
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "ANSIBLE_INJECT_INVOCATION": "1"}
    )
    printed = re.split(r"^TASK \[", done.stdout, flags=re.MULTILINE)[1:]
    assert len(printed) == len(TASKS), done.stdout[-3000:]
    for text, (name, (option, _arguments)) in zip(printed, TASKS.items()):
        assert text.startswith(f"unikernels.xen.{name}]")
        assert re.search(rf"^ +{option}: {re.escape(given[option])}$", text, re.MULTILINE), text
