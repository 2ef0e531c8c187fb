"""A fleet of simulated hosts for tests: one sshd on loopback, which maps a host's name to its namespaces.

    fleet = Fleet(50); fleet.start(); fleet.playbook("playbooks/rollout.yml", "-e", ...); fleet.stop()

The controller is real: real ssh, real modules, real files. machines.py lists the doubles. Needs root, for namespaces.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import yaml

from tests import preloaded
from tests.doubles.dom0 import UNHEALTHY
from tests.guests import IDLE, guest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = pathlib.Path(__file__).parent / "tools"
CACHE = pathlib.Path(os.environ.get("LAB_CACHE") or pathlib.Path.home() / ".cache/unikernels.xen")
# Debian's server is unpacked, not installed: nothing listens that the user has not asked for.
SSHD_PACKAGES = ("openssh-server", "openssh-sftp-server", "libwrap0")
SSHD = """
ListenAddress 127.0.0.1:{port}
AcceptEnv FLEET_HOST
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
AllowUsers root
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
PrintMotd no
MaxStartups 200
MaxSessions 100
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
Subsystem sftp /usr/local/lib/sftp-server
ForceCommand {folder}/enter
"""
# A host without a process is dead.
ENTER = """#!/bin/sh
cd "{folder}/hosts/${{FLEET_HOST:?}}" || exit 255
[ -e dead ] && exit 255
[ -e slow ] && sleep "$(cat slow)"
read -r pid <pid && kill -0 "$pid" || exit 255
exec nsenter -t "$pid" -m -n -u -- /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""
IMAGES = {"one": IDLE + b"one", "two": IDLE + b"two", "bad": IDLE + UNHEALTHY}


def find_sshd():
    """Return (the server, the sftp server, the folder of its libraries or ""), unpacked into the cache if not installed."""
    if os.path.exists("/usr/sbin/sshd"):
        return "/usr/sbin/sshd", "/usr/lib/openssh/sftp-server", ""
    folder = CACHE / "sshd"
    if not (folder / "usr/sbin/sshd").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *SSHD_PACKAGES, cwd=work)
            for package in pathlib.Path(work).glob("*.deb"):
                run("dpkg", "-x", package, f"{work}/whole")
            if not folder.exists():
                os.rename(f"{work}/whole", folder)
    libraries = next(folder.glob("**/libwrap.so.0")).parent
    return str(folder / "usr/sbin/sshd"), str(folder / "usr/lib/openssh/sftp-server"), str(libraries)


def run(*command, check=True, timeout=600, **named):
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, **named)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)} failed ({done.returncode}):\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}")
    return done


def wait_until(question, seconds, what):
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Fleet:
    root = ROOT

    def __init__(self, count, folder=None):
        self.count = count
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="fleet-"))  # short: sockets are below it
        self.names = [f"xen{number:02}" for number in range(1, count + 1)]
        self.processes = []
        self.seconds = {}  # how long a rollout that changed each host took, by its waves

    # -- its life --------------------------------------------------------------------------------

    def start(self):
        self._files()
        log = open(self.folder / "machines.log", "w", encoding="utf-8")
        command = ["/usr/bin/python3", "-u", "-m", "tests.fleet.machines", str(self.folder), *self.names]
        self.processes.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        self._sshd()
        seen = self.folder / "machines.log"
        wait_until(lambda: len(seen.read_text().splitlines()) >= self.count or self._died(), 120, "the hosts start")
        assert sorted(seen.read_text().splitlines()) == self.names, seen.read_text()
        return self

    def _died(self):
        return any(process.poll() is not None for process in self.processes)

    def stop(self):
        for control in (self.folder / "cp").glob("*"):
            subprocess.run(["ssh", "-o", f"ControlPath={control}", "-O", "exit", "x"], capture_output=True, check=False)
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self):
        for name in ("local/bin", "local/sbin", "local/lib", "cp", "images", "controller", "hosts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        unpack = ["tar", "-x", "-C", str(self.folder), "--strip-components=1", "root/preloaded"]
        subprocess.run(unpack, input=preloaded.archive(), check=True)
        local = self.folder / "local"
        os.rename(self.folder / "preloaded/python3", local / "bin/python3")
        define = ['-DANSWERS="/run/double-of-xen"', "-DHANDS_OVER=1"]
        run("gcc", "-O2", "-static", "-Wall", "-Werror", *define, "-o", local / "sbin/xl", preloaded.HERE / "python3.c")
        for tool in ("xenstore-read", "xenstore-ls", "xenstore-exists"):
            (local / "sbin" / tool).symlink_to("xl")
        if TOOLS.exists():
            shutil.copytree(TOOLS, local / "sbin", dirs_exist_ok=True)
        for name, code in IMAGES.items():
            (self.folder / f"images/{name}.xen").write_bytes(guest(code))
        self.inventory()

    def _sshd(self):
        sshd, sftp, libraries = find_sshd()
        shutil.copy(sftp, self.folder / "local/lib/sftp-server")
        for key in ("host_key", "key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key)
        public = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"fleet {public}")
        (self.folder / "sshd_config").write_text(SSHD.format(folder=self.folder, port=self.port))
        (self.folder / "enter").write_text(ENTER.format(folder=self.folder))
        (self.folder / "enter").chmod(0o755)
        # It needs a user and a folder of its own; both exist only in its own view of this machine.
        passwd = pathlib.Path("/etc/passwd").read_text()
        lines = [re.sub(r":[^:]*$", ":/bin/sh", line) if line.startswith("root:") else line for line in passwd.splitlines()]
        lines += [] if "\nsshd:" in passwd else ["sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin"]
        (self.folder / "passwd").write_text("\n".join(lines) + "\n")
        prepare = f"mount --bind {self.folder}/passwd /etc/passwd; mount -t tmpfs -o mode=755 run /run; mkdir /run/sshd; exec "
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'{prepare}"$@"',
            "sh",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--bounding-set",
            "-sys_boot",
            sshd,
            "-D",
            "-e",
            "-f",
            f"{self.folder}/sshd_config",
        ]
        log = open(self.folder / "sshd.log", "w", encoding="utf-8")
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries} if libraries else None
        self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment))
        wait_until(lambda: "Server listening" in (self.folder / "sshd.log").read_text() or self._died(), 30, "sshd starts")
        assert not self._died(), (self.folder / "sshd.log").read_text()

    # -- the controller --------------------------------------------------------------------------

    def inventory(self, image="one", hosts=None, **more):
        """Write the declaration: a unikernel with ``image`` on each host. ``hosts``: name -> variables of its own."""
        if not hasattr(self, "port"):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port = probe.getsockname()[1]
        entries = {}
        for number, name in enumerate(self.names, 1):
            entries[name] = {"number": number, "site": f"site{number % 3}", **(hosts or {}).get(name, {})}
        unikernel = {
            "name": "www", "image": "{{ image }}", "memory": 32, "arguments": {"hello": "{{ inventory_hostname }}"},
            "interfaces": [{"bridge": "xenbr0", "address": "10.77.{{ number }}.2/16", "gateway": "10.77.255.254"}],
            "health": {"http": "http://10.77.{{ number }}.2/", "within": 6},
        }  # fmt: skip
        variables = {
            "ansible_user": "root",
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.folder / "key"),
            # All have the same address; FLEET_HOST tells sshd which host is meant.
            "ansible_ssh_common_args": "-o HostName=127.0.0.1 -o HostKeyAlias=fleet -o SetEnv=FLEET_HOST={{ inventory_hostname }}"
            f" -o UserKnownHostsFile={self.folder}/known_hosts -o GlobalKnownHostsFile=/dev/null",
            "ansible_python_interpreter": "/usr/local/bin/python3",
            "image": image,
            "unikernels": [unikernel],
            "unikernel_images": {name: {"file": f"{self.folder}/images/{name}.xen"} for name in IMAGES},
            "unikernel_images_controller": str(self.folder / "controller"),
            "unikernel_images_signature": "optional",
            # They are never booted.
            "xen_host_reboot": False,
            "xen_host_boot_try_once": False,
            "xen_host_updates": "none",
            **{name: value for name, value in more.items() if value is not None},
        }
        path = self.folder / "inventory.yml"
        path.write_text(yaml.safe_dump({"xen_hosts": {"hosts": entries, "vars": variables}}))
        return path

    def environment(self):
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            "ANSIBLE_FORKS": "10",
            "ANSIBLE_NOCOLOR": "1",
            # A simulated host may be slow: the double answers at once, but this machine is shared.
            "ANSIBLE_TIMEOUT": "30",
        }

    def command(self, *arguments):
        return [
            os.path.join(os.path.dirname(sys.executable), "ansible-playbook"),
            "-i",
            f"{self.folder}/inventory.yml",
            *arguments,
        ]

    def playbook(self, *arguments, check=True, timeout=900):
        """Run a playbook; the result has .counts: host -> {"changed": 0, ...}."""
        done = run(*self.command(*arguments), check=check, timeout=timeout, cwd=ROOT, env=self.environment())
        done.counts = {}
        for line in done.stdout.splitlines():
            name, colon, rest = line.partition(" : ")
            if colon and "unreachable=" in rest:
                done.counts[name.strip()] = {key: int(value) for key, value in (word.split("=") for word in rest.split())}
        return done

    def declare(self, image="one", rollout=None, hosts=None):
        self.inventory(image, hosts, rollout=rollout, rollout_journal=str(self.folder / "journal"))

    def rollout(self, *arguments, image="one", rollout=None, hosts=None, check=True):
        """Declare this image for all hosts, and roll it out."""
        self.declare(image, rollout, hosts)
        began = time.monotonic()
        done = self.playbook("playbooks/rollout.yml", *arguments, check=check)
        if done.returncode == 0 and sum(counts["changed"] > 0 for counts in done.counts.values()) >= self.count:
            self.seconds[json.dumps(rollout)] = time.monotonic() - began
        return done

    def journals(self):
        """Return the lines of each rollout's journal, the newest last."""
        for path in sorted((self.folder / "journal").glob("*.jsonl")):
            yield [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def event(self, name, times=1):
        """True if the newest rollout is under way and has reached this event so many times."""
        newest = (list(self.journals()) or [[]])[-1]
        events = [line["event"] for line in newest]
        return events.count(name) >= times and "end" not in events

    def unfinished(self):
        """Return the rollout that is under way by its journal; "" if none."""
        for lines in self.journals():
            ends = [line for line in lines if line["event"] == "end" and line["result"] not in ("stopped", "waiting")]
            if lines and not ends:
                return lines[0]["id"]
        return ""

    # -- the hosts -------------------------------------------------------------------------------

    def process(self, name):
        return int((self.folder / "hosts" / name / "pid").read_text())

    def path(self, name, path):
        """Return a host's path as seen from here."""
        return pathlib.Path(f"/proc/{self.process(name)}/root{path}")

    def shell(self, name, command, check=True):
        return run("nsenter", "-t", self.process(name), "-m", "-n", "-u", "--", "/bin/sh", "-c", command, check=check).stdout

    def serves(self, name):
        """Return the image with which the host's guest answers; "" if nobody answers."""
        number = self.names.index(name) + 1
        script = (
            "import sys, urllib.request\n"
            f"try: print(urllib.request.urlopen('http://10.77.{number}.2/', timeout=5).read().decode().split()[1][:64])\n"
            "except OSError: pass"
        )
        digest = self.shell(name, f'/usr/bin/python3 -c "{script}"').strip()
        return self.digests().get(digest, digest)

    def digests(self):
        import hashlib

        return {hashlib.sha256(guest(code)).hexdigest(): name for name, code in IMAGES.items()}

    def served(self):
        """Map each image to the hosts that answer with it."""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = collections.defaultdict(list)
            for name, image in zip(self.names, pool.map(self.serves, self.names)):
                found[image].append(name)
        return dict(found)

    def calls(self, name):
        """Return how many modules have run there."""
        return len(self.path(name, "/run/calls").read_bytes())

    def dead(self, name, dead=True):
        """Cut the host off, or reconnect it: its network is gone, its processes keep running."""
        path = self.folder / "hosts" / name / "dead"
        path.touch() if dead else path.unlink(missing_ok=True)

    def slow(self, name, seconds=2):
        """Delay each command by so many seconds from now on; 0 stops that."""
        path = self.folder / "hosts" / name / "slow"
        path.write_text(str(seconds)) if seconds else path.unlink(missing_ok=True)

    def fill(self, name, full=True, left=0):
        """Fill its disk but for so many bytes, or free it again."""
        path = self.path(name, "/var/tmp/full")
        if not full:
            path.unlink(missing_ok=True)
            return
        with open(path, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                file.truncate(max(0, file.tell() - left))
