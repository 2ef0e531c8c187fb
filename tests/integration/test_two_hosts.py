"""What two hosts share: storage and its locks. A lab of two machines takes twice the time, so it runs only on request:

LAB_HOSTS=2 make site, then LAB_HOSTS=2 KEEP_LAB=1 python -m pytest tests/integration/test_two_hosts.py
"""

import base64
import json
import os
import pathlib
import signal
import subprocess

import pytest

from tests.guests import IDLE, guest

from .conftest import Dom0, playbook, wait_until

pytestmark = pytest.mark.skipif(os.environ.get("LAB_HOSTS") != "2", reason="needs a lab of two machines: LAB_HOSTS=2")

SHARED = "/srv/shared"
DISK = f"{SHARED}/try.img"
KERNEL = "/root/idle.xen"
PORT = 12051
# Debian's nfsd waits 90 s for a silent client; less here to shorten the test.
LEASE = 20
EXPORT = "rw,insecure,no_root_squash,no_subtree_check,fsid=0"


class Host(Dom0):
    def declare(self, folder, check=True, **options):
        """Declare `try` with the shared disk, by a user's playbook. Return the module's result."""
        one = {"name": "try", "kernel": KERNEL, "memory": 16, "settle": 0, "shutdown_timeout": 0, "autostart": False}
        kept = {"content": "{{ result | to_json }}", "dest": str(folder / "result.json"), "mode": "0600"}
        tasks = [
            {"unikernels.xen.xen_domain": {**one, **options}, "register": "result", "ignore_errors": True},
            {"ansible.builtin.copy": kept, "delegate_to": "localhost", "vars": {"ansible_connection": "local"}},
        ]
        path = folder / "play.yml"
        path.write_text(json.dumps([{"hosts": self.name, "gather_facts": False, "tasks": tasks}]))
        done = playbook(str(path))
        result = json.loads((folder / "result.json").read_text())
        assert not check or not result.get("failed"), done.stdout
        return result


@pytest.fixture(scope="module")
def hosts():
    """Both machines, with one folder of xen1 mounted by NFS on each; xen2 reaches it through the lab's gateway."""
    first, second = Host("xen1"), Host("xen2")
    for host, package in ((first, "nfs-kernel-server"), (second, "nfs-common")):
        install = f"apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {package}"
        host(f"dpkg -s {package} >/dev/null 2>&1 || {{ {install}; }}", timeout=900)
        host(f"base64 -d >{KERNEL}", data=base64.b64encode(guest(IDLE)).decode())
    first(
        f"mkdir -p /srv/export && echo '/srv/export *({EXPORT})' >/etc/exports && systemctl stop nfs-server;"
        f" for time in lease grace; do echo {LEASE} >/proc/fs/nfsd/nfsv4${{time}}time; done;"
        " systemctl start nfs-server && exportfs -ra",
        timeout=300,
    )
    *ssh, target = first.command
    forward = ["-N", "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-L", f"{PORT}:127.0.0.1:2049"]
    tunnel = subprocess.Popen([*ssh, *forward, target])
    try:
        for host, server, port in ((first, "127.0.0.1", 2049), (second, "10.0.2.2", PORT)):
            host(f"mkdir -p {SHARED}; mountpoint -q {SHARED} || mount -t nfs4 -o port={port} {server}:/ {SHARED}", timeout=120)
            # A server that has just started grants no locks until previous holders could reclaim theirs; lockd waits 50 s.
            host(f"flock {SHARED}/free true", timeout=180)
        yield first, second
    finally:
        for host in (first, second):
            host(f"xl destroy try; umount -l {SHARED}; rm -f /etc/xen/unikernels/try.cfg {KERNEL}", check=False)
        tunnel.terminate()
        first("systemctl stop nfs-server; rm -rf /srv/export", check=False)


def kill_machine(name):
    """Like a power failure: the file server is not notified."""
    folder = pathlib.Path(os.environ.get("LAB_DIR", pathlib.Path.home() / ".cache/unikernels.xen/lab"))
    os.kill(int((folder / f"machines/{name}/pid").read_text()), signal.SIGKILL)


def test_a_disk_on_nfs_is_one_hosts_alone_until_it_lets_go_or_dies(hosts, tmp_path):
    first, second = hosts
    disk = {"path": DISK, "size": 1, "access": "w"}
    second.declare(tmp_path, disks=[disk])
    assert second.declare(tmp_path, disks=[disk])["changed"] is False
    refusal = f"{DISK} is in use, by domain try on host {second('hostname').strip()}; only one domain may open a disk for writing"
    for access in ("w", "r"):
        refused = first.declare(tmp_path, check=False, disks=[{**disk, "access": access}])
        assert refusal in refused["msg"] and "try" not in first.domains()
    second.declare(tmp_path, state="absent")
    first.declare(tmp_path, disks=[disk])
    assert f"by domain try on host {first('hostname').strip()}" in second.declare(tmp_path, check=False, disks=[disk])["msg"]
    first.declare(tmp_path, state="absent")
    second.declare(tmp_path, disks=[disk])
    kill_machine("xen2")
    wait_until(
        lambda: not first.declare(tmp_path, check=False, disks=[disk]).get("failed"), 6 * LEASE, "the dead host's lock to go"
    )
    assert "try" in first.domains()
