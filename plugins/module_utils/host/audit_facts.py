# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. What an audit and the role's refusals need to know of a host's access and hardening; reads only."""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
import subprocess
from typing import Any

from .boot import MENU, WANTED, read
from .hardening import MICROCODE, ROUTER_ADVERTISEMENTS, SYSCTLS, listeners, parse_sshd, weight_of

CONSOLES = "/var/log/xen/console"
# Path -> the mode bits that it may have.
_MODES = {
    CONSOLES: 0o700,
    "/etc/xen/unikernels": 0o755,
    "/etc/xen/unikernels/*.cfg": 0o600,
    "/var/lib/unikernels/disks": 0o700,
    "/var/lib/unikernels/disks/*": 0o600,
    "/run/unikernels-xen": 0o700,
    "/run/unikernels-xen/lock": 0o600,
    "/boot/grub/unikernels-xen.cfg": 0o600,
}
_ADDRCONF = 0x00040000  # RTF_ADDRCONF of Linux's ipv6_route.h: the route comes from a router advertisement


class UpdatesError(Exception):
    """One line: why apt can't list the pending updates; half-installed packages, for example."""


def microcode() -> dict[str, Any]:
    """Return the package with microcode for this CPU, whether it is installed, and whether apt can install it."""
    cpuinfo = read("/proc/cpuinfo")
    vendor = re.search(r"^vendor_id\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    package = MICROCODE.get(vendor[1], "") if vendor else ""
    names = ("/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name")
    machine = " ".join(read(path) for path in names).lower()
    # Every Dom0 has the hypervisor flag, so under Xen the firmware's strings decide.
    virtual = any(word in machine for word in ("qemu", "kvm", "vmware", "virtualbox", "bochs", "virtual machine"))
    if flags and "hypervisor" in flags[1].split() and not os.path.exists("/proc/xen/capabilities"):
        virtual = True
    sources = ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*")]
    lines = [line for path in sources for line in read(path).splitlines() if not line.lstrip().startswith("#")]
    return {
        "package": package,
        "installed": bool(package) and os.path.exists(f"/var/lib/dpkg/info/{package}.list"),
        "available": any("non-free-firmware" in line.split() for line in lines),
        "virtual": virtual,
    }


def ssh() -> dict[str, Any]:
    """Return who logs in here, from where, and whether with a key from a file."""
    environment = _session()
    user = environment.get("SUDO_USER") or environment.get("USER") or "root"
    try:
        home = pwd.getpwnam(user).pw_dir
    except KeyError:
        home = "/root"
    keys = "\n".join(read(f"{home}/.ssh/{name}") for name in ("authorized_keys", "authorized_keys2"))
    config = "\n".join(read(path) for path in ["/etc/ssh/sshd_config", *sorted(glob.glob("/etc/ssh/sshd_config.d/*.conf"))])
    elsewhere = re.search(r"^\s*(?:TrustedUserCAKeys|AuthorizedKeysCommand)\s+(?!none)\S", config, re.MULTILINE | re.IGNORECASE)
    # sshd may listen on several ports: 'ListenAddress [::1]:2222' names its own; otherwise those of Port apply.
    ports = re.findall(r"^\s*(?:Port\s+|ListenAddress\s+(?:\[[^]\s]*\]|[^:\s]+):)(\d+)", config, re.MULTILINE | re.IGNORECASE)
    client = environment.get("SSH_CONNECTION", "").split(" ")[0]
    return {
        "sshd": os.path.exists("/etc/ssh/sshd_config"),
        "user": user,
        "key": bool(elsewhere) or any(line.strip() and not line.startswith("#") for line in keys.splitlines()),
        "client": client.removeprefix("::ffff:").partition("%")[0],
        "port": int(ports[0]) if ports else 22,
        "ports": sorted({int(port) for port in ports} or {22}),
    }


def _session() -> dict[str, str]:
    """Return our environment with SSH_CONNECTION; if sudo removed it, the one of a process that called us."""
    found = dict(os.environ)
    process = os.getppid()
    while process > 1 and "SSH_CONNECTION" not in found:
        try:
            with open(f"/proc/{process}/environ", "rb") as file:
                words = file.read().decode("utf-8", "replace").split("\0")
            parent = re.search(r"^PPid:\s+(\d+)", read(f"/proc/{process}/status"), re.MULTILINE)
        except OSError:
            break
        outer = dict(word.split("=", 1) for word in words if "=" in word)
        found.update({key: outer[key] for key in ("SSH_CONNECTION",) if key in outer})
        process = int(parent[1]) if parent else 0
    return found


def needs_router_advertisements() -> bool:
    """True if a route from a router advertisement is the only way to or from the host."""
    rows = [line.split() for line in read("/proc/net/ipv6_route").splitlines()]
    advertised = any(row[0] == "0" * 32 and row[1] == "00" and int(row[8], 16) & _ADDRCONF for row in rows if len(row) > 8)
    if not advertised:
        return False
    by_ipv4 = any(row.split()[1:2] == ["00000000"] for row in read("/proc/net/route").splitlines()[1:])
    return not by_ipv4 or ":" in ssh()["client"]


def audit_facts() -> dict[str, Any]:
    """Return what hardening.audit needs in addition to facts.gather."""
    return {
        "sysctls": {key: _sysctl(key) for key in {**SYSCTLS, **ROUTER_ADVERTISEMENTS}},
        "sshd": parse_sshd(command_output("sshd", "-T")) if os.path.exists("/etc/ssh/sshd_config") else {},
        "console": _console(),
        "xenconsoled": _command_line("xenconsoled"),
        "journal": _journal(),
        "modes": _modes(),
        "management": management_loaded(),
        "blocked_modules": blocked_modules(),
        "dom0_weight": weight_of(command_output("xl", "sched-credit2", "-d", "0")),
        "guest_filter": bool(command_output("nft", "list", "table", "bridge", "unikernels")),
        "domain_limits": os.path.exists("/etc/systemd/system/xendomains.service.d/unikernels.conf"),
        "boot_trial": os.path.exists(WANTED),
        "grub_password": bool(re.search(r"^\s*password(?:_pbkdf2)?\s", read(MENU), re.MULTILINE)),
        "listening": listeners(command_output("ss", "-H", "-lntup")),
        "automatic_updates": _automatic_updates(command_output("apt-config", "dump")),
        "audit_rules": re.search(r"(?:key=|-k )xen$", command_output("auditctl", "-l"), re.MULTILINE) is not None,
    }


def _automatic_updates(text: str) -> bool:
    """True if unattended-upgrades is installed and apt's timer calls it. ``text``: from `apt-config dump`."""
    days = re.search(r'^APT::Periodic::Unattended-Upgrade "(\w+)";', text, re.MULTILINE)
    return os.path.exists("/usr/bin/unattended-upgrade") and days is not None and days[1] not in ("0", "")


def blocked_modules() -> list[str]:
    """Return the modules that modprobe refuses to load and that are not loaded."""
    paths = sorted(path for folder in ("/etc", "/run", "/lib") for path in glob.glob(f"{folder}/modprobe.d/*.conf"))
    text = "\n".join(map(read, paths))
    blocked = re.findall(r"^\s*install\s+(\S+)\s+(?:/usr)?/bin/(?:true|false)\s*$", text, re.MULTILINE)
    loaded = {row.split()[0] for row in read("/proc/modules").splitlines()}
    return [name for name in blocked if name.replace("-", "_") not in loaded]


def management_loaded() -> bool:
    """True if the kernel has Dom0's packet filter; flushing all rules removes it."""
    return "policy drop" in command_output("nft", "list", "table", "inet", "unikernels_management")


def _sysctl(key: str) -> dict[str, str]:
    paths = glob.glob("/proc/sys/" + key.replace(".", "/"))
    return {path[len("/proc/sys/") :]: read(path).strip() for path in paths}


def command_output(*command: str) -> str:
    """Return what a command prints; "" if it is missing or can't be run."""
    # sshd and nft are only on root's PATH.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if not shutil.which(command[0], path=path):
        return ""
    environment = {**os.environ, "PATH": path, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=120, check=False, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def simulated_upgrade() -> str:
    """Return what `apt-get dist-upgrade` would do by the host's package lists, held packages included. Needs no network."""
    command = ["apt-get", "-s", "-qq", "--ignore-hold", "dist-upgrade"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=300, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UpdatesError(f"pending updates are not known: '{' '.join(command)}': {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["it printed no error"]
        raise UpdatesError(f"pending updates are not known: '{' '.join(command)}' failed ({done.returncode}): {lines[0]}")
    return done.stdout


def waiting_updates() -> dict[str, bool]:
    """Map each package with a newer version in the host's package lists to whether a security archive has that version."""
    return updates_of(simulated_upgrade())


def updates_of(text: str) -> dict[str, bool]:
    """Parse what `apt-get -s dist-upgrade` prints."""
    rows = re.findall(r"^Inst (\S+) .*?\((\S+) ([^)]*)\)", text, re.MULTILINE)
    return {name: "security" in origin.lower() for name, _version, origin in rows}


def removed_by(text: str) -> list[str]:
    """Return the packages that `apt-get -s dist-upgrade` would remove."""
    return re.findall(r"^Remv (\S+)", text, re.MULTILINE)


def boot_space() -> dict[str, int]:
    """Return the free MiB of /boot and /, and the MiB that another kernel, Xen and initrd take there, by those it has."""
    largest = 0
    for pattern in ("initrd.img-*", "vmlinuz-*", "xen-*.gz"):
        largest += max((os.stat(path).st_size for path in glob.glob(f"/boot/{pattern}") if os.path.isfile(path)), default=0)
    # update-initramfs writes the new initrd beside the old one.
    return {"boot": shutil.disk_usage("/boot").free >> 20, "root": shutil.disk_usage("/").free >> 20, "boot_needs": largest >> 19}


def half_installed(text: str) -> list[str]:
    """Return the packages whose installation or configuration was not finished: dpkg's second letter (dpkg-query(1))."""
    rows = (line.split() for line in text.splitlines())
    return [row[0] for row in rows if len(row) > 1 and row[1][1:2] in ("H", "U", "F", "W", "t")]


def updates() -> dict[str, Any]:
    """Return the pending updates as xen_host_info has them; ``updates_problem`` if apt can't list them."""
    try:
        text, problem = simulated_upgrade(), ""
    except UpdatesError as error:
        text, problem = "", str(error)
    waiting = updates_of(text)
    half = half_installed(command_output("dpkg-query", "-W", "-f", "${binary:Package} ${db:Status-Abbrev}\\n"))
    if half and not problem:
        problem = f"{', '.join(half[:10])}: half installed"
    held = set(command_output("apt-mark", "showhold").split())
    return {
        "security_updates": sorted(name for name, security in waiting.items() if security),
        "updates": sorted(waiting),
        "held_updates": sorted(held & waiting.keys()),
        "updates_remove": removed_by(text),
        "updates_problem": problem,
        "updates_space": boot_space(),
    }


def _console() -> dict[str, Any]:
    bounded = os.path.ismount(CONSOLES)
    return {"bounded": bounded, "size": _size(CONSOLES) if bounded else 0}


def _size(path: str) -> int:
    usage = os.statvfs(path)
    return usage.f_blocks * usage.f_frsize >> 20


def _command_line(name: str) -> str:
    for path in glob.glob("/proc/[0-9]*/comm"):
        if read(path).strip() == name:
            return " ".join(read(os.path.dirname(path) + "/cmdline").split("\0")).strip()
    return ""


def _journal() -> dict[str, Any]:
    paths = ["/etc/systemd/journald.conf", *sorted(glob.glob("/etc/systemd/journald.conf.d/*.conf"))]
    values = dict(re.findall(r"^\s*(Storage|SystemMaxUse)\s*=\s*(\S+)", "\n".join(map(read, paths)), re.MULTILINE))
    storage = values.get("Storage", "")
    folder = os.path.isdir("/var/log/journal")
    return {
        "storage": storage,
        "persistent": folder and storage in ("persistent", "auto", ""),
        "max_use": values.get("SystemMaxUse", ""),
    }


def _modes() -> dict[str, tuple[int, int]]:
    return {
        path: (os.lstat(path).st_mode & 0o7777, most)
        for pattern, most in _MODES.items()
        for path in glob.glob(pattern)
        if not os.path.islink(path)
    }
