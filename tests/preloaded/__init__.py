"""A Python in the test lab's Dom0 with Ansible's and our libraries already loaded: what it is and how it is installed."""

# SPDX-License-Identifier: GPL-3.0-or-later

import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
import tempfile

import ansible

HERE = pathlib.Path(__file__).parent
MODULE_UTILS = HERE.parents[1] / "plugins/module_utils"
UNIT = """[Unit]
Description=Python with the libraries of Ansible loaded
[Service]
ExecStart=/usr/bin/python3 -u /root/preloaded/server.py
Restart=always
RestartSec=1
KillMode=process
[Install]
WantedBy=multi-user.target
"""
# Beside Debian's own Python, which stays unchanged; the tests' inventory names this one (INVENTORY).
INTERPRETER = "/root/preloaded/python3"
INVENTORY = HERE / "inventory.yml"
INSTALL = """set -e
digest=%s
systemctl is-active -q preloaded-python && [ "$(cat /root/preloaded/digest)" = $digest ] && exit
rm -rf /root/preloaded
tar -x -C /
chmod 755 /root/preloaded/python3
systemctl daemon-reload
systemctl enable -q preloaded-python
rm -f /run/preloaded-python
systemctl restart preloaded-python
for try in $(seq 400); do
  [ -S /run/preloaded-python ] && echo $digest >/root/preloaded/digest && sync && exit
  sleep 0.5
done
echo "the preloaded Python does not answer"; journalctl --no-pager -u preloaded-python | tail; exit 1
"""


def install(command):
    """Install it in the Dom0 that ``command`` (ssh without its last argument) reaches; quick if it is there."""
    whole = archive()
    script = INSTALL % hashlib.sha256(whole).hexdigest()
    done = subprocess.run([*command, script], input=whole, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def archive():
    """Return what Dom0 gets, as a tar archive: the program, the server, the controller's ansible.module_utils, and ours."""
    buffer = io.BytesIO()
    source = pathlib.Path(ansible.__file__).parent

    def plain(member):
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = "root"
        return None if "__pycache__" in member.name else member

    def empty(member):
        member.type = tarfile.REGTYPE
        return plain(member)

    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=buffer, mode="w") as tar:
        program = f"{folder}/python3"
        subprocess.run(["gcc", "-O2", "-static", "-Wall", "-Werror", "-o", program, HERE / "python3.c"], check=True)
        unit = pathlib.Path(folder, "unit")
        unit.write_text(UNIT)
        tar.add(program, "root/preloaded/python3", filter=plain)
        tar.add(HERE / "server.py", "root/preloaded/server.py", filter=plain)
        # The package itself is empty, as in a module's archive.
        tar.add(os.devnull, "root/preloaded/ansible/__init__.py", filter=empty)
        tar.add(source / "module_utils", "root/preloaded/ansible/module_utils", filter=plain)
        tar.add(MODULE_UTILS, "root/preloaded/ansible_collections/unikernels/xen/plugins/module_utils", filter=plain)
        tar.add(unit, "etc/systemd/system/preloaded-python.service", filter=plain)
    return buffer.getvalue()
