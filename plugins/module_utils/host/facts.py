# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Facts of a machine that is, or will become, a Xen host; reads only."""

from __future__ import annotations

import fnmatch
import glob
import os
import platform
import re
import shutil
import subprocess
import time
from typing import Any

from ..domain.cpus import xl_topology
from ..xen.network import bridge_networks, networks_by_device, offered, uplink
from ..xen.observation import DEFINITIONS, available
from ..xen.xenstore import Xenstore
from ..xen.xl import must
from .audit_facts import command_output, management_loaded, microcode, needs_router_advertisements, ssh, updates
from .boot import MENU, OWN_MENU, read, same_files_as_booted, state
from .boot_menu import NO_SMT, other_arguments, written_arguments
from .cpu_topology import rows_of_linux, topology
from .hardening import NEEDLESS_PACKAGES, PASSWORD_FILE

# Written by the role xen_host.
MENU_PART = "/etc/default/grub.d/unikernels-xen.cfg"
# Exists once the filter was confirmed.
MANAGEMENT = "/etc/systemd/system/sysinit.target.wants/unikernels-management.service"
MENU_SCRIPT = "/etc/grub.d/21_unikernels-xen"


def os_release() -> tuple[str, str]:
    found = dict(re.findall(r'^([A-Z_]+)="?(.*?)"?$', read("/etc/os-release"), re.MULTILINE))
    return found.get("ID", ""), found.get("VERSION_ID", "")


def of_xen(info: dict[str, str]) -> dict[str, Any]:
    """Return the facts from ``xl info`` alone; empty values if Xen doesn't run."""
    capabilities = info.get("virt_caps", "").split()
    return {
        "pvh_capable": "hvm" in capabilities,
        "xen_version": info.get("xen_version", ""),
        "xen_arguments": info.get("xen_commandline", ""),
        "capabilities": capabilities,
        "topology": {
            "nodes": int(info.get("nr_nodes", 1)),
            "cores_per_socket": int(info.get("cores_per_socket", 1)),
            "threads_per_core": int(info.get("threads_per_core", 1)),
        },
        "free_memory": int(info.get("free_memory", 0)),
        "cpu_numbers": cpu_numbers(info),
    }


def cpu_numbers(info: dict[str, str]) -> int:
    """Return one more than the highest number of a CPU; 0 if Xen doesn't run. Without SMT there are gaps between the numbers."""
    cpus = int(info.get("nr_cpus", 0))
    gaps = any(map(NO_SMT.fullmatch, info.get("xen_commandline", "").split()))
    return max(cpus, int(info.get("max_cpu_id", -1)) + 1) if gaps else cpus


def secure_boot() -> bool:
    # The variable's value follows four bytes of attributes (Linux: Documentation/filesystems/efivarfs.rst).
    for path in glob.glob("/sys/firmware/efi/efivars/SecureBoot-*"):
        try:
            with open(path, "rb") as file:
                return file.read()[4:5] == b"\1"
        except OSError:
            return False
    return False


def network_style(device: str) -> str:
    if re.search(rf"^\s*iface\s+{re.escape(device)}\s", read("/etc/network/interfaces"), re.MULTILINE):
        return "ifupdown"
    for style, pattern in (
        ("netplan", "/etc/netplan/*.yaml"),
        ("systemd-networkd", "/etc/systemd/network/*.network"),
        ("NetworkManager", "/etc/NetworkManager/system-connections/*"),
        ("ifupdown in interfaces.d", "/etc/network/interfaces.d/*"),
    ):
        if glob.glob(pattern):
            return style
    return "something unknown"


def pending_reboot(xen_arguments: str, linux_arguments: str) -> bool:
    """True if Debian asks for a reboot, GRUB's menu has other arguments, or Xen or Linux was installed after this boot."""
    if os.path.exists("/run/reboot-required"):
        return True
    if xen_arguments and other_arguments(read(MENU), xen_arguments, linux_arguments):
        return True
    same = same_files_as_booted()
    if same is not None:
        return not same
    booted = re.search(r"^btime (\d+)$", read("/proc/stat"), re.MULTILINE)
    paths = [*glob.glob("/boot/xen-*.gz"), os.path.realpath("/vmlinuz")]
    times = [os.stat(path).st_ctime for path in paths if os.path.exists(path)]
    return booted is not None and any(time > int(booted.group(1)) for time in times)


def boot_menu_stale() -> bool:
    """True if a run died between writing its file and update-grub, so that the menu lacks what the file says."""
    if os.path.exists(MENU_SCRIPT) and os.path.basename(OWN_MENU) not in read(MENU):
        return True
    parts = [path for path in (MENU_PART, PASSWORD_FILE) if os.path.exists(path)]
    try:
        return any(os.stat(MENU).st_mtime < os.stat(path).st_mtime for path in parts)
    except OSError:
        return bool(parts)


def installed_packages(names: list[str]) -> set[str]:
    """Return those that are installed. Takes a tenth of the time of the module apt, which loads the whole archive."""
    if not names or not shutil.which("dpkg-query"):
        return set()
    # It exits with 1 if it doesn't know one of them, but lists the others.
    asked = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *names]
    rows = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout.splitlines()
    return {name for name in names if f"{name} installed" in rows}


# $1: our part, $2: the folder. Shell files, which update-grub reads in this order; one that is broken ends its own subshell.
_GRUB_VARIABLES = """
ours=$1 folder=$2
sourced() { for part in "$@"; do [ "$part" = "$ours" ] || [ ! -r "$part" ] || . "$part"; done >/dev/null 2>&1; }
row() { printf '%s ' "$1"; printf '%s' "$2" | tr '\\n' ' '; echo; }
(sourced "$folder/grub" "$folder"/grub.d/*.cfg; row linux "$GRUB_CMDLINE_LINUX"
 row xen "$GRUB_CMDLINE_XEN $GRUB_CMDLINE_XEN_DEFAULT")
(GRUB_CMDLINE_XEN=ours GRUB_CMDLINE_LINUX_XEN_REPLACE=ours GRUB_CMDLINE_XEN_DEFAULT=
 for file in "$folder"/grub.d/*.cfg; do [ ! "$file" \\> "$ours" ] || sourced "$file"; done
 case $GRUB_CMDLINE_XEN in *ours*) ;; *) row after GRUB_CMDLINE_XEN ;; esac
 [ -z "$GRUB_CMDLINE_XEN_DEFAULT" ] || row after GRUB_CMDLINE_XEN_DEFAULT
 case $GRUB_CMDLINE_LINUX_XEN_REPLACE in *ours*) ;; *) row after GRUB_CMDLINE_LINUX_XEN_REPLACE ;; esac)
"""


def machine_arguments(folder: str = "/etc/default") -> dict[str, list[str]]:
    """Return what the administrator set in GRUB's configuration: kernel arguments, Xen's, and variables set after our part."""
    ours = os.path.join(folder, "grub.d", os.path.basename(MENU_PART))
    text = command_output("sh", "-c", _GRUB_VARIABLES, "sh", ours, folder)
    rows = [line.partition(" ") for line in text.splitlines()]
    found = {kind: [word for row in rows if row[0] == kind for word in row[2].split()] for kind in ("linux", "xen", "after")}
    return {"machine_arguments": found["linux"], "machine_xen_arguments": found["xen"], "boot_overrides": found["after"]}


def foreign_domains() -> list[str]:
    """Return the names of domains, whatever their state, without a definition of this collection."""
    with Xenstore() as store:
        ids = [domid for domid in store.directories(["/local/domain"])[0] if domid != "0"]
        names = store.read([f"/local/domain/{domid}/name" for domid in ids])
    # A replacement is NAME~next or NAME~prev.
    return sorted(name for name in names if name and not os.path.exists(f"{DEFINITIONS}/{name.partition('~')[0]}.cfg"))


def installed_versions() -> dict[str, str]:
    """Return the installed versions of the packages of Xen, Linux and microcode."""
    patterns = {"xen": "xen-hypervisor-*-amd64", "kernel": "linux-image-amd64", "microcode": "*-microcode"}
    found = dict.fromkeys(patterns, "")
    if shutil.which("dpkg-query"):
        asked = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\\n", *patterns.values()]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        rows = [line.split() for line in done.stdout.splitlines()]
        for kind, pattern in patterns.items():
            names = [row for row in rows if len(row) == 3 and row[2] == "installed" and fnmatch.fnmatch(row[0], pattern)]
            found[kind] = names[-1][1] if names else ""
    return found


def running_versions(xen: str) -> dict[str, str]:
    """Return the running versions: Xen's own number, Linux's package version, the revision of the CPU's microcode."""
    kernel = re.search(r"Debian (\S+)", platform.version())
    revision = re.search(r"^microcode\s*:\s*(\S+)", read("/proc/cpuinfo"), re.MULTILINE)
    return {"xen": xen, "kernel": kernel[1] if kernel else platform.version(), "microcode": revision[1] if revision else ""}


def package_lists_age() -> int:
    """Return the days since apt last updated its lists; -1 if never."""
    times = [os.stat(path).st_mtime for path in glob.glob("/var/lib/apt/lists/*Release")]
    # A list keeps the mirror's timestamp, but apt touches the folder.
    times += [os.stat(path).st_mtime for path in ("/var/lib/apt/lists",) if times]
    return int(max(0.0, time.time() - max(times)) // 86400) if times else -1


_NO_UPDATES = {
    **dict.fromkeys(("security_updates", "updates", "held_updates", "updates_remove", "updates_space")),
    "updates_problem": "",
}


def _memory() -> int:
    """Return this system's memory in MiB."""
    return int((re.findall(r"MemTotal:\s+(\d+)", read("/proc/meminfo")) or ["0"])[0]) // 1024


def _access() -> dict[str, Any]:
    """Return how the host is reached, and what filters that."""
    return {
        "ssh": ssh(),
        "management": os.path.exists(MANAGEMENT),
        "management_loaded": os.path.exists(MANAGEMENT) and management_loaded(),
        "needs_router_advertisements": needs_router_advertisements(),
    }


def gather(packages: list[str], with_updates: bool = False) -> dict[str, Any]:
    """All of it, for the module xen_host_info, which documents each; ToolstackError when Xen runs and does not answer."""
    under_xen = available()
    text = must("info", "-n") if under_xen and shutil.which("xl") else ""
    xen = dict(re.findall(r"^(\w+)\s*: (.*)$", text, re.MULTILINE))
    distribution, release = os_release()
    device = uplink()
    memory = _memory()
    words = " ".join(re.findall(r"^flags\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE)[:1]).split()
    linux_arguments = read("/proc/cmdline").strip()
    installed = installed_packages([*packages, *NEEDLESS_PACKAGES])
    return {
        "name": platform.node(),
        "distribution": distribution,
        "release": release,
        "machine": platform.machine(),
        # Xen hides both flags from its Dom0.
        "hardware_virtualization": under_xen or "vmx" in words or "svm" in words,
        "under_xen": under_xen,
        **of_xen(xen),
        **topology(xl_topology(text) if under_xen else rows_of_linux()),
        "dom0_kernel": platform.release(),
        "pending_reboot": pending_reboot(xen.get("xen_commandline", ""), linux_arguments),
        "boot_menu_stale": boot_menu_stale(),
        "boot": state(),
        **machine_arguments(),
        "microcode": microcode(),
        "running": running_versions(xen.get("xen_version", "")),
        "installed": installed_versions(),
        "package_lists_age": package_lists_age(),
        **(updates() if with_updates else _NO_UPDATES),
        **_access(),
        "foreign_domains": foreign_domains() if under_xen else [],
        "written_arguments": written_arguments(read(MENU_PART)),
        "linux_arguments": linux_arguments,
        "secure_boot": secure_boot(),
        "grub": os.path.exists("/usr/sbin/update-grub"),
        "memory": int(xen.get("total_memory", 0)) or memory,
        "dom0_memory": memory if under_xen else 0,
        "cpus": int(xen.get("nr_cpus", 0)) or os.cpu_count() or 1,
        "free_disk": shutil.disk_usage("/").free >> 20,
        "uplink": device,
        "networks": networks_by_device(),
        "bridges": bridge_networks(),
        "offered": offered(),
        "network_style": network_style(device) if device else "none",
        "toolstack": shutil.which("xl") is not None,
        "missing_packages": [name for name in packages if name not in installed],
        "needless_packages": [name for name in NEEDLESS_PACKAGES if name in installed],
    }
