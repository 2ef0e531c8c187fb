"""module_defaults by the groups of meta/runtime.yml reach the modules."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
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
    # Values of a wrong type, which the module names: there is no Xen here, and nothing shall be done.
    defaults = {
        "group/unikernels.xen.xen": {"lock_timeout": "soon"},
        "group/unikernels.xen.generations": {"folder": {"no": "path"}},
        "group/unikernels.xen.images": {"store": {"no": "path"}},
    }
    tasks = []
    for module, (option, arguments) in TASKS.items():
        tasks.append({f"unikernels.xen.{module}": arguments, "register": "done", "ignore_errors": True})
        tasks.append({"ansible.builtin.assert": {"that": f"done.msg is search(\"'{option}' is of type\")"}})
    book = tmp_path / "play.yml"
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "module_defaults": defaults, "tasks": tasks}
    book.write_text(json.dumps([{**play, "check_mode": True}]))
    words = ["ansible-playbook", "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", str(book)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
