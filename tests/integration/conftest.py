"""A lab of real machines, shared by all tests. site.yml has run on it before the first test."""

import atexit
import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import textwrap
import time

import pytest

from tests import preloaded
from tests.guests import ENDS, IDLE, LOOPS, guest, service

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
    """Run ansible-playbook; the result has .counts: host -> {"changed": 0, ...} from the recap."""
    return counted(run("ansible-playbook", *arguments, check=check, **named))


def counted(done):
    """With ``counts`` of each host, and ``changes``: the tasks that changed something, which a failed test shows."""
    done.counts, done.changes, task = {}, [], ""
    for line in done.stdout.splitlines():
        if line.startswith("TASK ["):
            task = line[6:].rstrip("*] ")
        elif line.startswith("changed: "):
            done.changes.append(task)
        name, colon, rest = line.partition(" : ")
        if colon and "unreachable=" in rest:
            done.counts[name.strip()] = {key: int(value) for key, value in (word.split("=") for word in rest.split())}
    return done


# Output of the first runs on a plain machine, if tests/run made them in parallel with stages that need no lab.
FIRST_RUNS = pathlib.Path(os.environ.get("LAB_DIR", "/nonexistent")) / "first-runs.json"
# A lab that was kept is not fresh; tests that need a fresh one are skipped.
KEPT = bool(os.environ.get("KEEP_LAB")) and not FIRST_RUNS.exists()


def first_runs():
    """Boot plain Debian, try what is only possible before the first run, and run site.yml for the first time."""
    playbook("playbooks/lab.yml")
    # Plain Debian has no bridge-utils, so this switch must fail and the old network must return by itself.
    bridge = run("ansible", "xen1", "-m", "unikernels.xen.xen_bridge", check=False)
    fresh_check = playbook("site.yml", "--check", "--diff")
    return {"failed_bridge": bridge, "fresh_check": fresh_check, "site": playbook("site.yml")}


QUICK_INVENTORY = f"{ROOT / 'inventories/lab'},{preloaded.INVENTORY}"


# Short, since a socket's path is limited to 108 bytes. ssh ends the connection itself (ControlPersist).
CONTROL = pathlib.Path(tempfile.mkdtemp(prefix="dom0-")) / "ssh"
atexit.register(shutil.rmtree, CONTROL.parent, ignore_errors=True)


class Dom0:
    """The lab machine's Dom0 over one ssh connection: a new one takes an emulated machine two seconds."""

    def __init__(self, name="xen1"):
        self.name = name
        variables = json.loads(run("ansible-inventory", "--host", name).stdout)
        port = str(variables["ansible_port"])
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=20"]
        # A machine that was reset is noticed within 15 s.
        options += ["ServerAliveInterval=5", "ServerAliveCountMax=3"]
        options += ["ControlMaster=auto", "ControlPersist=60", f"ControlPath={CONTROL}-{port}"]
        self.command = ["ssh", "-q", "-i", variables["ansible_ssh_private_key_file"], "-p", port]
        for option in options:
            self.command += ["-o", option]
        self.command.append("root@127.0.0.1")

    def __call__(self, command, check=True, timeout=300, data=None):
        # Not our own stdin: ssh makes it non-blocking, and Ansible refuses to start with that.
        stdin = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run([*self.command, command], capture_output=True, text=True, timeout=timeout, check=False, **stdin)
        if check and done.returncode:
            raise AssertionError(f"on Dom0: {command} failed ({done.returncode}): {done.stdout} {done.stderr}")
        return done.stdout

    def ship_engine(self):
        """Copy the collection's code to Dom0's /root/engine, to call it there without Ansible."""
        archive = subprocess.run(
            ["tar", "-c", "--exclude=__pycache__", "plugins/module_utils"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        target = "/root/engine/ansible_collections/unikernels/xen"
        unpack = f"mkdir -p {target} && tar -x -C {target}"
        subprocess.run([*self.command, unpack], input=archive, capture_output=True, check=True, timeout=60)

    def engine(self, code, check=True, timeout=300):
        """Run Python in Dom0 with the collection's module_utils as ``utils``. Return what it prints."""
        head = "import importlib, json, sys\nsys.path.insert(0, '/root/engine')\n"
        head += "utils = 'ansible_collections.unikernels.xen.plugins.module_utils'\n"
        head += "def load(name): return importlib.import_module(f'{utils}.{name}')\n"
        return self("python3 -", data=head + textwrap.dedent(code), check=check, timeout=timeout)

    def domains(self):
        """Return name -> domid of everything but Dom0."""
        rows = [line.split() for line in self("xl list").splitlines()[1:]]
        return {row[0]: int(row[1]) for row in rows if row[1] != "0"}


STATE = (
    "uptime; xl list; systemctl status --no-pager xendomains | head -n 5; journalctl -b --no-pager -u xendomains | tail -n 15;"
    ' for log in /var/log/xen/console/*.log; do echo "-- $log"; tail -n 5 $log; done; losetup -a; df -h / | tail -n 1'
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Add Dom0's state at that moment to a failure's report."""
    report = (yield).get_result()
    if report.failed:
        try:
            report.sections.append(("Dom0", Dom0()(STATE, check=False, timeout=120)))
        except Exception as error:  # no lab, or Dom0 doesn't answer: nothing to add
            report.sections.append(("Dom0", f"cannot be asked: {error}"))


def wait_until(question, seconds, what):
    until = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.5)


def hold(dom0, path, seconds):
    """Let another process in Dom0 hold a file's lock for so long. Once it does, return the command that stops it."""
    pid = dom0(f"nohup flock --no-fork {path} sleep {seconds} >/dev/null 2>&1 & echo $!").strip()
    held = f"flock --nonblock {path} true || echo held"
    wait_until(lambda: dom0(held).strip() == "held", 60, f"the lock of {path}")
    return f"kill {pid}"


def http():
    done = run("curl", "-s", "-m", "5", f"http://127.0.0.1:{PORTS['HTTP']}/", check=False)
    return done.stdout


def dig(*options):
    command = ["dig", "+short", "+time=3", "+tries=2", "@127.0.0.1", "-p", str(PORTS["DNS"]), "www.lab.example", "A", *options]
    lines = run(*command, check=False).stdout.splitlines()
    # An emulator under load may lose a datagram; dig repeats the query, as every client does, and reports it.
    return "\n".join(line for line in lines if not line.startswith(";;"))


@pytest.fixture(scope="session")
def site():
    """The first run of site.yml on plain Debian; .fresh_check and .failed_bridge are the runs before it."""
    if FIRST_RUNS.exists():
        runs = {name: subprocess.CompletedProcess(**done) for name, done in json.loads(FIRST_RUNS.read_text()).items()}
    elif KEPT:
        return playbook("site.yml", "--tags", "deploy")
    else:
        runs = first_runs()
    first = counted(runs["site"])
    first.fresh_check, first.failed_bridge = counted(runs["fresh_check"]), runs["failed_bridge"]
    return first


@pytest.fixture(scope="session")
def dom0(site):
    """Dom0 with a faster start of Ansible's modules from here on; the runs before used Debian's own Python, as users do."""
    reached = Dom0()
    preloaded.install(reached.command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANSIBLE_INVENTORY", QUICK_INVENTORY)
        yield reached


@pytest.fixture(scope="module")
def idle_services(dom0):
    """Pause the site's services for tests of other domains: three idle guests take a third of an emulated machine's time."""
    each = "for name in www dns vpn; do xl {} $name 2>/dev/null; done; true"
    dom0(each.format("pause"))
    yield
    dom0(each.format("unpause"), check=False)


@pytest.fixture(scope="session")
def engine(dom0):
    dom0.ship_engine()
    return dom0.engine


@pytest.fixture(scope="session")
def engine_server(engine, dom0):
    """engine_server(domain, ...): call xen_domains' own function in Dom0, without Ansible. Returns its result."""
    server = "/root/engine/server.py"
    dom0(f"cat >{server}", data=(ROOT / "tests/integration/engine_server.py").read_text())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*dom0.command, f"python3 -u {server}"], text=True, **pipes) as process:

        def call(*domains):
            process.stdin.write(json.dumps({"domains": domains}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield call
        process.stdin.close()


STORE = "/var/lib/unikernels/images"


@pytest.fixture(scope="session")
def images(dom0, engine):
    """Tiny guests in the host's store, put there by the function that takes images in, and the kernel of the lab's web server."""
    guests = {
        "idle": guest(IDLE),
        "idle2": guest(IDLE + b"\x90"),
        "ends": guest(ENDS),
        "loops": guest(LOOPS),
        "service": service(),
    }
    texts = {name: base64.b64encode(data).decode() for name, data in guests.items()}
    engine(
        f"""
        import base64
        store = load("image.store")
        for name, text in {texts!r}.items():
            with open("/root/guest", "wb") as file:
                file.write(base64.b64decode(text))
            store.put({STORE!r}, "/root/guest", None, {{"name": name}}, False)
        """
    )
    paths = {name: f"{STORE}/{hashlib.sha256(data).hexdigest()}.xen" for name, data in guests.items()}
    return {**paths, "web": re.search(r'kernel = "(.*)"', dom0("cat /etc/xen/unikernels/www.cfg")).group(1)}


@pytest.fixture
def cleared(dom0):
    """Remove what a test leaves of domains whose names begin with "try"."""
    yield
    dom0(
        "rm -f /usr/local/sbin/xl; for name in $(xl list | awk '$1 ~ /^try/ {print $1}'); do xl destroy $name 2>/dev/null; done;"
        " rm -f /etc/xen/unikernels/try*.cfg /etc/xen/unikernels/.try* /etc/xen/auto/try*.cfg /var/lib/unikernels/disks/try*"
        " /var/lib/unikernels/former-disks.json"
    )


@pytest.fixture
def results(play, tmp_path):
    """Run tasks in one play, each even if the one before it failed. Return their results, in order."""

    def run_tasks(*tasks, flags=()):
        path = tmp_path / "results.json"
        path.write_text("[]")
        names = [f"result{number}" for number in range(len(tasks))]
        kept = {"content": "{{ [" + ", ".join(names) + "] | to_json }}", "dest": str(path), "mode": "0600"}
        local = {"ansible_connection": "local", "ansible_host": "localhost", "ansible_python_interpreter": "/usr/bin/python3"}
        done = play(
            *({**task, "register": name, "ignore_errors": True} for task, name in zip(tasks, names, strict=True)),
            {"ansible.builtin.copy": kept, "delegate_to": "localhost", "vars": local, "check_mode": False,
             "changed_when": False, "diff": False},
            arguments=flags,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
        done.results = json.loads(path.read_text())
        return done

    return run_tasks


@pytest.fixture
def declared(results):
    """Run xen_domains with one list, as a user's task; its result is .result of ansible-playbook's."""

    def declare(*domains, check=True, flags=(), **options):
        done = results({"unikernels.xen.xen_domains": {"domains": list(domains), **options}}, flags=flags)
        (done.result,) = done.results
        assert not check or not done.result.get("failed"), done.stdout
        return done

    return declare


@pytest.fixture
def play(tmp_path):
    """Run tasks on xen1 like a user's playbook."""

    def run_tasks(*tasks, check=True, arguments=()):
        book = [{"hosts": "xen1", "gather_facts": False, "tasks": list(tasks)}]
        path = tmp_path / "play.yml"
        path.write_text(json.dumps(book))
        return playbook(str(path), *arguments, check=check)

    return run_tasks
