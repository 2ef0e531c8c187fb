"""A Debian with its own systemd in a container, whose uplink is one end of a cable, to test what network managers really do.

Its network namespace outlives it, so it can be "switched off" and booted again; `off` removes the devices that a boot would not
find.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROVIDER4, PROVIDER6 = "192.0.2.1/24", "2001:db8::1/64"
UPLINK_MAC = "52:54:00:aa:00:01"
WITHIN = 120
WAITING = ("systemd-networkd-wait-online", "NetworkManager-wait-online")


def sh(*words, check=True, text=None, seconds=120):
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds, input=text)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout} {done.stderr}")
    return done


def until(question, what, seconds=WITHIN):
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.2)


def alone():
    """Enter mounts and a network of our own, so that nothing of the machine that runs the tests is touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000 | 0x40000000):  # CLONE_NEWNS, CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare needs root")
    sh("mount", "--make-rprivate", "/")
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    sh("mount", "-t", "tmpfs", "none", "/run/netns")
    sh("ip", "link", "set", "lo", "up")


class Machine:
    """``root``: a Debian made by mmdebstrap; ``nspawn``: the program, with its libraries in ``libraries``."""

    def __init__(self, folder, root, nspawn, libraries=""):
        self.folder, self.nspawn, self.libraries = pathlib.Path(folder), nspawn, libraries
        self.process = None
        sh("umount", "-R", "/sys/fs/cgroup", check=False)
        sh("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
        sh("mount", "-t", "tmpfs", "none", str(folder))
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir()
        layers = f"lowerdir={root},upperdir={self.folder}/upper,workdir={self.folder}/work"
        sh("mount", "-t", "overlay", "none", "-o", layers, str(self.folder / "root"))
        self.root = self.folder / "root"
        sh("ip", "netns", "add", "host")
        sh("ip", "link", "add", "provider", "type", "veth", "peer", "name", "eth0", "address", UPLINK_MAC, "netns", "host")
        for address in (PROVIDER4, PROVIDER6):
            sh("ip", "address", "add", address, "dev", "provider", *(["nodad"] if ":" in address else []))
        sh("ip", "link", "set", "provider", "up")
        self.write("/etc/hostname", "host1\n")
        for unit in ("NetworkManager", "systemd-networkd", "networking", *WAITING):
            self.mask(f"{unit}.service")
        self.mask("systemd-networkd.socket")

    def write(self, path, text, mode=0o644):
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def read(self, path):
        place = self.root / path.lstrip("/")
        return place.read_text() if place.exists() else None

    def mask(self, unit):
        self.write(f"/etc/systemd/system/{unit}", "")
        (self.root / f"etc/systemd/system/{unit}").unlink()
        os.symlink("/dev/null", self.root / f"etc/systemd/system/{unit}")

    def unmask(self, unit, start=True):
        (self.root / f"etc/systemd/system/{unit}").unlink()
        if not start:
            return
        wants = self.root / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.symlink(f"/lib/systemd/system/{unit}", wants / unit)

    def boot(self):
        environment = {
            **os.environ,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "SYSTEMD_NSPAWN_LOCK": "0",
            "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
        }
        if self.libraries:
            environment["LD_LIBRARY_PATH"] = self.libraries
        words = [self.nspawn, "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={self.root}", "--console=pipe",
                 "--network-namespace-path=/run/netns/host", "--machine=host1", f"--bind-ro={ROOT}:/collection",
                 "--capability=CAP_NET_ADMIN,CAP_SYS_ADMIN,CAP_NET_RAW"]  # fmt: skip
        with open(self.folder / "console", "ab") as console:
            self.process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self.leader = until(self._leader, f"the machine's init: {(self.folder / 'console').read_text()[-2000:]}")
        until(self._booted, "it has booted")

    def _booted(self):
        return self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _leader(self):
        path = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = path.read_text().split() if path.exists() else []
        return int(children[0]) if children else 0

    def off(self):
        """Switch off like a power failure: nothing is notified."""
        os.kill(self.leader, signal.SIGKILL)
        self.process.wait(timeout=WITHIN)
        self.process = None
        for link in json.loads(sh("ip", "-n", "host", "-j", "-d", "link").stdout):
            if link.get("linkinfo", {}).get("info_kind") == "bridge":
                sh("ip", "-n", "host", "link", "delete", link["ifname"])
        sh("ip", "-n", "host", "address", "flush", "dev", "eth0")
        sh("ip", "-n", "host", "link", "set", "eth0", "down", "address", UPLINK_MAC)
        sh("ip", "netns", "exec", "host", "nft", "flush", "ruleset")

    def run(self, script, check=True, seconds=150):
        words = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "env", "-i",
                 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1",
                 "PYTHONPATH=/collection/.collections", "sh", "-c", script]  # fmt: skip
        return sh(*words, check=check, seconds=seconds)

    def call(self, code):
        """Return the result of the module's own function, or its refusal as {"refused": [...]}."""
        program = (
            "import json\n"
            "from ansible_collections.unikernels.xen.plugins.module_utils.xen import networks as edge\n"
            "from ansible_collections.unikernels.xen.plugins.module_utils.xen.bridge_switch import SwitchError\n"
            f"try:\n    result = {code}\n"
            "except edge.NetworkError as error:\n    result = {'refused': error.lines}\n"
            "except SwitchError as error:\n    result = {'refused': [str(error)]}\n"
            "print(json.dumps(result))\n"
        )
        self.write("/root/call.py", program)
        return json.loads(self.run("python3 /root/call.py").stdout)

    def offer(self, networks, guests=None, check=False, within=120):
        options = {"networks": networks, "guests": guests, "rules_only": False, "confirm_within": within}
        return self.call(f"edge.offer({options!r}, {check})")

    def confirm(self):
        return self.call("edge.confirm(False)")

    def state(self):
        return (self.read("/var/lib/unikernels/network/state") or "").strip()

    def addresses(self, device):
        found = json.loads(sh("ip", "-n", "host", "-j", "address", "show").stdout)
        return sorted(
            f"{one['local']}/{one['prefixlen']}"
            for link in found
            if link["ifname"] == device
            for one in link["addr_info"]
            if one["scope"] == "global"
        )

    def links(self):
        return [link["ifname"] for link in json.loads(sh("ip", "-n", "host", "-j", "link").stdout)]

    def reached(self, address="192.0.2.10"):
        return sh("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0

    def guest(self, bridge, index, address, gateway):
        """Add a guest at the end of a cable that is named like its vif."""
        sh("ip", "netns", "add", f"guest{index}")
        sh("ip", "-n", "host", "link", "add", f"vif{index}.0", "type", "veth", "peer", "name", "eth0", "netns", f"guest{index}")
        sh("ip", "-n", "host", "link", "set", f"vif{index}.0", "master", bridge, "up")
        sh("ip", "-n", f"guest{index}", "link", "set", "eth0", "up")
        sh("ip", "-n", f"guest{index}", "link", "set", "lo", "up")
        for one in address:
            sh("ip", "-n", f"guest{index}", "address", "add", one, "dev", "eth0", *(["nodad"] if ":" in one else []))
        for one in gateway:
            on_link = ["onlink"] if ":" not in one else []
            sh("ip", "-n", f"guest{index}", "route", "add", "default", "via", one, "dev", "eth0", *on_link)

    def close(self):
        if self.process:
            os.kill(self.leader, signal.SIGKILL)
            self.process.wait(timeout=WITHIN)
        for name in ("root", ""):
            sh("umount", "-l", str(self.folder / name), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
