# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters for the role xen_host: check its variables against the machine, and compute boot arguments and files."""

from __future__ import annotations

import datetime
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import one_line
from ansible_collections.unikernels.xen.plugins.module_utils.host import boot_menu, hardening, preflight, updates, variables
from ansible_collections.unikernels.xen.plugins.module_utils.host.variables import is_on


def _shown(lines: list[str]) -> list[str]:
    """Return lines with what a host answered, safe for a terminal."""
    return [one_line(line) for line in lines]


def host_variable_problems(values: dict[str, Any]) -> list[str]:
    """Return one line for each of the role's variables that is wrong on any host. ``values``: variable -> value."""
    return variables.host_refusals(values)


def host_limit_problems(info: dict[str, Any], dom0_vcpus: Any, domain_cpus: Any, smt: Any = True) -> list[str]:
    """Return one line for each variable that is too large for the machine."""
    return preflight.limit_refusals(info, int(dom0_vcpus), domain_cpus, is_on(smt))


def host_version_problems(info: dict[str, Any], min_xen: Any) -> list[str]:
    """Return one line if the host's Xen is older than allowed."""
    return _shown(preflight.version_refusals(info, str(min_xen or "")))


def host_boot_problems(info: dict[str, Any], reboots: Any, try_once: Any, take_over: Any) -> list[str]:
    """Return one line for each reason not to configure or reboot the host."""
    return _shown(preflight.boot_refusals(info, is_on(reboots), is_on(try_once), is_on(take_over)))


def host_warnings(info: dict[str, Any]) -> list[str]:
    """Return one line for each thing that works today but needs attention."""
    return _shown(preflight.warnings(info, datetime.date.today()))


def dom0_arguments(machine: list[str], named: list[str]) -> list[str]:
    """Return Dom0's kernel arguments: the named ones, and those of the machine that it needs to come up."""
    return boot_menu.linux_arguments(machine, named)


def lost_arguments(machine: list[str], named: list[str]) -> list[str]:
    """Return the machine's kernel arguments that Dom0 loses because others are named."""
    return boot_menu.lost_arguments(machine, named)


def host_access_problems(info: dict[str, Any], keys_only: Any, by_password: Any, networks: Any) -> list[str]:
    """Return one line for each setting that would lock the administrator out of the host."""
    return hardening.ssh_refusals(info["ssh"], is_on(keys_only), is_on(by_password)) + hardening.management_refusals(
        networks, info["ssh"]
    )


def xen_arguments(
    named: list[str],
    memory: Any,
    vcpus: Any,
    grants_v1: Any,
    microcode: Any,
    smt: Any,
    core_scheduling: Any = False,
    pinned: Any = False,
    machine: list[str] | None = None,
) -> list[str]:
    """Return Xen's whole command line, from the named arguments, the role's other variables and the machine's own arguments."""
    return hardening.xen_arguments(
        int(memory),
        int(vcpus),
        named,
        grants_v1=is_on(grants_v1),
        microcode=is_on(microcode),
        smt=is_on(smt),
        core_scheduling=is_on(core_scheduling),
        pinned=is_on(pinned),
        machine=machine or [],
    )


def hardening_files(
    info: dict[str, Any],
    sysctl: Any,
    sshd: Any,
    journal_size: Any,
    updates: str,
    modules: Any = False,
    auditd: Any = False,
    images: str = "",
    grub_password: Any = "",
) -> dict[str, list[Any]]:
    """Return options of host_files: files that harden a host (folders, files), and those to remove (absent)."""
    audited = images if is_on(auditd) else ""
    return hardening.files(
        info, is_on(sysctl), is_on(sshd), int(journal_size), updates, is_on(modules), audited, bool(grub_password)
    )


def management_table(networks: list[str], ssh_ports: list[int], more_ports: list[int]) -> str:
    """Return nftables' text that permits only ssh and the named ports, from these networks."""
    return hardening.management_table(networks, [*map(int, ssh_ports), *map(int, more_ports)])


def grub_password_script(password: str) -> str:
    """Return a script for /etc/grub.d that sets GRUB's password."""
    return hardening.password_script(password)


def update_refusals(info: dict[str, Any], which: str, held: str) -> list[str]:
    """Return why updating a host would stop half-way."""
    return _shown(updates.refusals(info, which, held))


def update_leftovers(info: dict[str, Any], which: str) -> list[str]:
    """Return the updates that were not installed though nobody holds them."""
    return _shown(updates.leftovers(info, which))


def apt_reason(result: dict[str, Any]) -> str:
    """Return the line that says why the module apt failed."""
    return one_line(updates.apt_reason(result))


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "host_variable_problems": host_variable_problems,
            "host_limit_problems": host_limit_problems,
            "host_boot_problems": host_boot_problems,
            "host_version_problems": host_version_problems,
            "host_warnings": host_warnings,
            "host_access_problems": host_access_problems,
            "xen_arguments": xen_arguments,
            "hardening_files": hardening_files,
            "management_table": management_table,
            "grub_password_script": grub_password_script,
            "update_problems": updates.variable_refusals,
            "update_refusals": update_refusals,
            "update_leftovers": update_leftovers,
            "update_stopped": updates.stopped,
            "apt_reason": apt_reason,
            "dom0_arguments": dom0_arguments,
            "lost_arguments": lost_arguments,
        }
