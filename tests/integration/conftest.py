"""A lab of real machines: site.yml has run on it before the first test, and tests share it."""

import json
import os
import pathlib
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PORTS = {
    name: int(os.environ.get(f"LAB_{name}_PORT", default))
    for name, default in (("SSH", 2201), ("HTTP", 8080), ("DNS", 5353), ("VPN", 1194))
}


def run(*command, check=True, timeout=1500, **named):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **named)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}")
    return done


def playbook(*arguments, check=True, **named):
    """Run ansible-playbook; the answer has .counts: host -> {"changed": 0, ...} from the recap."""
    done = run("ansible-playbook", *arguments, check=check, **named)
    done.counts = {}
    for line in done.stdout.splitlines():
        name, colon, rest = line.partition(" : ")
        if colon and "unreachable=" in rest:
            done.counts[name.strip()] = {key: int(value) for key, value in (word.split("=") for word in rest.split())}
    return done


class Dom0:
    """The lab machine's Dom0 over ssh, one connection for all."""

    def __init__(self):
        variables = json.loads(run("ansible-inventory", "--host", "xen1").stdout)
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=20", "ServerAliveInterval=15"]
        self.command = ["ssh", "-q", "-i", variables["ansible_ssh_private_key_file"], "-p", str(variables["ansible_port"])]
        for option in options:
            self.command += ["-o", option]
        self.command.append("root@127.0.0.1")

    def __call__(self, command, check=True, timeout=300, data=None):
        done = subprocess.run([*self.command, command], capture_output=True, text=True, timeout=timeout, check=False, input=data)
        if check and done.returncode:
            raise AssertionError(f"on Dom0: {command} failed ({done.returncode}): {done.stdout} {done.stderr}")
        return done.stdout

    def domains(self):
        """Name -> domid of everything but Dom0."""
        rows = [line.split() for line in self("xl list").splitlines()[1:]]
        return {row[0]: int(row[1]) for row in rows if row[1] != "0"}


def wait_until(question, seconds, what):
    until = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.5)


def http():
    done = run("curl", "-s", "-m", "5", f"http://127.0.0.1:{PORTS['HTTP']}/", check=False)
    return done.stdout


def dig(*options):
    command = ["dig", "+short", "+time=3", "+tries=2", "@127.0.0.1", "-p", str(PORTS["DNS"]), "www.lab.example", "A", *options]
    return run(*command, check=False).stdout.strip()


@pytest.fixture(scope="session")
def site():
    """The first run of site.yml, from plain Debian."""
    began = time.monotonic()
    playbook("playbooks/lab.yml")
    # Plain Debian has no bridge-utils, so this switch must fail, and the old network must come back by itself.
    bridge = run("ansible", "xen1", "-m", "unikernels.xen.xen_bridge", check=False)
    fresh_check = playbook("site.yml", "--check", "--diff")
    first = playbook("site.yml")
    first.fresh_check = fresh_check
    first.failed_bridge = bridge
    first.seconds = time.monotonic() - began
    return first


@pytest.fixture(scope="session")
def dom0(site):
    return Dom0()


@pytest.fixture
def play(tmp_path):
    """Run tasks on xen1 as a user's playbook would."""

    def run_tasks(*tasks, check=True, arguments=()):
        book = [{"hosts": "xen1", "gather_facts": False, "tasks": list(tasks)}]
        path = tmp_path / "play.yml"
        path.write_text(json.dumps(book))
        return playbook(str(path), *arguments, check=check)

    return run_tasks
