#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_host_info
short_description: What a machine is, as a Xen host or as one to be
version_added: 0.1.0
description:
  - Read-only, in one round trip, on a plain Debian machine as well as on a Dom0.
author:
  - unikernels.xen authors (@unikernels)
extends_documentation_fragment: [unikernels.xen.attributes.info]
options:
  packages:
    description: Debian packages to look for.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look at the machine
  unikernels.xen.xen_host_info:
  register: host
"""

RETURN = r"""
host:
  description: The machine.
  returned: always
  type: dict
  contains:
    name:
      description: Its host name, from which MACs and UUIDs of its domains are derived where none are declared.
      type: str
      sample: xen1
    distribution:
      description: ID of os-release.
      type: str
      sample: debian
    release:
      description: VERSION_ID of os-release.
      type: str
      sample: "12"
    machine:
      description: CPU architecture.
      type: str
      sample: x86_64
    hardware_virtualization:
      description: Whether the CPU has VT-x or AMD-V.
      type: bool
    under_xen:
      description: Whether this is the Dom0 of a running Xen.
      type: bool
    pvh_capable:
      description: Whether the running Xen can start PVH domains.
      type: bool
    xen_version:
      description: Version of the running Xen, empty without.
      type: str
      sample: 4.17.7
    dom0_kernel:
      description: Release of Dom0's kernel.
      type: str
      sample: 6.1.0-31-amd64
    capabilities:
      description: What the running Xen can do with this machine (C(virt_caps) of C(xl info)).
      type: list
      elements: str
      sample: [pv, hvm, hap]
    topology:
      description: NUMA nodes, and cores and threads of each.
      type: dict
      sample: {nodes: 1, cores_per_socket: 4, threads_per_core: 2}
    pending_reboot:
      description:
        - Whether the next boot would be another one. The Xen or the kernel is newer than this boot, or GRUB's menu gives them
          other arguments than those that they run with.
      type: bool
    boot_menu_stale:
      description: Whether the collection's part of GRUB's configuration is newer than GRUB's menu, so that C(update-grub) is due.
      type: bool
    written_arguments:
      description: Arguments that the collection's part of GRUB's configuration has for Xen and its Dom0.
      type: list
      elements: str
    xen_arguments:
      description: Command line of the running Xen.
      type: str
    linux_arguments:
      description: Command line of the running kernel.
      type: str
    secure_boot:
      description: Whether the firmware enforces Secure Boot.
      type: bool
    memory:
      description: Memory of the whole machine in MiB.
      type: int
    free_memory:
      description: Memory that Xen can give to new domains, in MiB; 0 without Xen.
      type: int
    dom0_memory:
      description: Dom0's memory in MiB; 0 without Xen.
      type: int
    cpus:
      description: Number of CPUs of the machine.
      type: int
    free_disk:
      description: Free space on the root file system in MiB.
      type: int
    uplink:
      description: Network device of the default route.
      type: str
      sample: ens3
    networks:
      description: Global addresses by network device.
      type: dict
    bridges:
      description: The host's own addresses by bridge.
      type: dict
      sample: {xenbr0: [10.0.2.15/24]}
    network_style:
      description: Which program configures the network.
      type: str
      sample: ifupdown
    toolstack:
      description: Whether xl is installed.
      type: bool
    missing_packages:
      description: Those of O(packages) that are not installed.
      type: list
      elements: str
"""

import glob
import os
import platform
import re
import shutil
import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.unikernels.xen.plugins.module_utils.host.boot_menu import other_arguments, written_arguments
from ansible_collections.unikernels.xen.plugins.module_utils.xen.network import bridge_networks, networks_by_device, uplink
from ansible_collections.unikernels.xen.plugins.module_utils.xen.observation import available
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError, must

MENU = "/boot/grub/grub.cfg"
# What the role xen_host writes.
MENU_PART = "/etc/default/grub.d/unikernels-xen.cfg"


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def os_release() -> tuple[str, str]:
    found = dict(re.findall(r'^([A-Z_]+)="?(.*?)"?$', read("/etc/os-release"), re.MULTILINE))
    return found.get("ID", ""), found.get("VERSION_ID", "")


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
    """Debian's mark, or other arguments in the menu, or a hypervisor or kernel that was installed since this boot."""
    if os.path.exists("/run/reboot-required"):
        return True
    if xen_arguments and other_arguments(read(MENU), xen_arguments, linux_arguments):
        return True
    booted = re.search(r"^btime (\d+)$", read("/proc/stat"), re.MULTILINE)
    paths = [*glob.glob("/boot/xen-*.gz"), os.path.realpath("/vmlinuz")]
    times = [os.stat(path).st_ctime for path in paths if os.path.exists(path)]
    return booted is not None and any(time > int(booted.group(1)) for time in times)


def boot_menu_stale() -> bool:
    """A run that was killed between its file and update-grub leaves a menu without what the file says."""
    try:
        return os.stat(MENU).st_mtime < os.stat(MENU_PART).st_mtime
    except OSError:
        return os.path.exists(MENU_PART)


def missing_packages(names: list[str]) -> list[str]:
    """Those that dpkg does not call installed. A tenth of the time of the module apt, which loads the whole archive."""
    if not names or not shutil.which("dpkg-query"):
        return names
    # It ends with 1 where it does not know one of them, and tells of the others all the same.
    asked = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *names]
    told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout.splitlines()
    return [name for name in names if f"{name} installed" not in told]


def main() -> None:
    argument_spec = {"packages": {"type": "list", "elements": "str", "default": []}}
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    under_xen = available()
    xen: dict[str, str] = {}
    if under_xen and shutil.which("xl"):
        try:
            xen = dict(re.findall(r"^(\w+)\s*: (.*)$", must("info"), re.MULTILINE))
        except ToolstackError as error:
            module.fail_json(msg=str(error))
    distribution, release = os_release()
    device = uplink()
    memory = int((re.findall(r"MemTotal:\s+(\d+)", read("/proc/meminfo")) or ["0"])[0]) // 1024
    flags = re.search(r"^flags\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE)
    words = flags.group(1).split() if flags else []
    total = int(xen.get("total_memory", 0))
    linux_arguments = read("/proc/cmdline").strip()
    module.exit_json(
        changed=False,
        host={
            "name": platform.node(),
            "distribution": distribution,
            "release": release,
            "machine": platform.machine(),
            # Xen hides both flags from its Dom0.
            "hardware_virtualization": under_xen or "vmx" in words or "svm" in words,
            "under_xen": under_xen,
            "pvh_capable": "hvm" in xen.get("virt_caps", "").split(),
            "xen_version": xen.get("xen_version", ""),
            "dom0_kernel": platform.release(),
            "capabilities": xen.get("virt_caps", "").split(),
            "topology": {
                "nodes": int(xen.get("nr_nodes", 1)),
                "cores_per_socket": int(xen.get("cores_per_socket", 1)),
                "threads_per_core": int(xen.get("threads_per_core", 1)),
            },
            "pending_reboot": pending_reboot(xen.get("xen_commandline", ""), linux_arguments),
            "boot_menu_stale": boot_menu_stale(),
            "written_arguments": written_arguments(read(MENU_PART)),
            "xen_arguments": xen.get("xen_commandline", ""),
            "linux_arguments": linux_arguments,
            "secure_boot": secure_boot(),
            "memory": total or memory,
            "free_memory": int(xen.get("free_memory", 0)),
            "dom0_memory": memory if under_xen else 0,
            "cpus": int(xen.get("nr_cpus", 0)) or os.cpu_count() or 1,
            "free_disk": shutil.disk_usage("/").free >> 20,
            "uplink": device,
            "networks": networks_by_device(),
            "bridges": bridge_networks(),
            "network_style": network_style(device) if device else "none",
            "toolstack": shutil.which("xl") is not None,
            "missing_packages": missing_packages(module.params["packages"]),
        },
    )


if __name__ == "__main__":
    main()
