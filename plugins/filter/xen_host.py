# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role xen_host asks of the pure part: are its variables right, does the machine fit them, what must be booted?"""

from __future__ import annotations

from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.host import boot_menu, hardening, preflight, variables


def host_variable_problems(values: dict[str, Any]) -> list[str]:
    """One line for each of the role's variables that is wrong whatever the host; ``values``: variable -> value."""
    return variables.host_refusals(values)


def host_limit_problems(info: dict[str, Any], dom0_vcpus: Any, domain_cpus: Any) -> list[str]:
    """One line for each variable that the machine is too small for."""
    return preflight.limit_refusals(info, int(dom0_vcpus), domain_cpus)


def host_boot_problems(info: dict[str, Any], reboots: Any, try_once: Any, take_over: Any) -> list[str]:
    """One line for each reason why a run must not configure or boot the host."""
    return preflight.boot_refusals(info, bool(reboots), bool(try_once), bool(take_over))


def host_warnings(info: dict[str, Any]) -> list[str]:
    """One line for each thing that works today and that somebody should know of."""
    return preflight.warnings(info)


def dom0_arguments(machine: list[str], named: list[str]) -> list[str]:
    """Dom0's kernel arguments: those that are named, with those of the machine's own that it needs to come up."""
    return boot_menu.linux_arguments(machine, named)


def lost_arguments(machine: list[str], named: list[str]) -> list[str]:
    """The machine's own kernel arguments that Dom0 has not, because others are named."""
    return boot_menu.lost_arguments(machine, named)


def host_access_problems(info: dict[str, Any], keys_only: Any, by_password: Any, networks: Any) -> list[str]:
    """One line for each setting that would lock the administrator out of the host."""
    return hardening.ssh_refusals(info["ssh"], bool(keys_only), bool(by_password)) + hardening.management_refusals(
        networks, info["ssh"]
    )


def xen_arguments(named: list[str], memory: Any, vcpus: Any, grants_v1: Any, microcode: Any, smt: Any) -> list[str]:
    """Xen's whole command line, from what is named for it and the role's other variables."""
    return hardening.xen_arguments(int(memory), int(vcpus), named, bool(grants_v1), bool(microcode), bool(smt))


def hardening_files(info: dict[str, Any], sysctl: Any, sshd: Any, journal_size: Any, updates: str) -> dict[str, list[Any]]:
    """Files that harden a host (files, folders), and those that must not be there (absent), as host_files takes them."""
    return hardening.files(info, bool(sysctl), bool(sshd), int(journal_size), updates)


def management_table(networks: list[str], port: Any) -> str:
    """nftables' text that leaves nothing open but ssh from these networks."""
    return hardening.management_table(networks, int(port))


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "host_variable_problems": host_variable_problems,
            "host_limit_problems": host_limit_problems,
            "host_boot_problems": host_boot_problems,
            "host_warnings": host_warnings,
            "host_access_problems": host_access_problems,
            "xen_arguments": xen_arguments,
            "hardening_files": hardening_files,
            "management_table": management_table,
            "dom0_arguments": dom0_arguments,
            "lost_arguments": lost_arguments,
        }
