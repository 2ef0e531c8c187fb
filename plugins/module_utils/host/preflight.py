# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that a machine can become a Xen host and that the declared domains fit on it. Pure: facts in, refusals out."""

from __future__ import annotations

import datetime
import re
from typing import Any

from ..domain.checks import outside_networks
from ..domain.cpus import cpu_mask, cpu_set, cpu_text
from ..domain.spec import OVERHEAD_MIB, Declaration
from .boot_menu import NO_SMT
from .debian_version import is_older
from .variables import cpus_refusal

SUPPORTED_RELEASES = {"12": "bookworm", "13": "trixie"}
# The day on which a version of Xen was released. Since 4.17 each gets security fixes from its developers for five years
# (announced on xen-announce in February 2026). Debian 12 has 4.17, Debian 13 has 4.20.
XEN_RELEASED = {
    "4.17": datetime.date(2022, 12, 12),
    "4.18": datetime.date(2023, 11, 16),
    "4.19": datetime.date(2024, 7, 29),
    "4.20": datetime.date(2025, 3, 5),
    "4.21": datetime.date(2025, 11, 19),
}
XEN_OF_RELEASE = {"12": "4.17", "13": "4.20"}
XEN_FIXES_YEARS = 5
# How long before the end it is time to move a fleet.
NOTICE = datetime.timedelta(days=180)
MAX_LISTS_AGE = 14
# Debian's Xen packages with Dom0's kernel take about 0.5 GB; an image takes 1..60 MiB.
MIN_DISK_MIB = 1500
# What Dom0 needs to work: room for a definition, a log, a new image.
MIN_FREE_MIB = 100
# Xen's own heap and Dom0's page tables on a small machine: 94 MiB measured with 2560 MiB, rounded up. On a large one 32 bytes of
# Xen's for each page of 4 KiB come first (struct page_info).
XEN_MIB = 160
XEN_HEAP_MIB, XEN_SHARE = 100, 128
# Debian with its daemons, and what one more domain takes in Dom0: 0.85 MiB measured with 100 paused ones, rounded up.
DOM0_SYSTEM_MIB, DOM0_DOMAIN_MIB = 400, 1
# For the first domain; a host with less is of no use.
MIN_DOMAINS_MIB = 256
# Variable of GRUB's configuration -> the role's variable for it.
_NAMED_BY = {
    "GRUB_CMDLINE_XEN": "xen_host_xen_arguments",
    "GRUB_CMDLINE_XEN_DEFAULT": "xen_host_xen_arguments",
    "GRUB_CMDLINE_LINUX_XEN_REPLACE": "xen_host_linux_arguments",
}


def xen_memory(memory: int) -> int:
    """Return the MiB that Xen itself takes on a machine with ``memory`` MiB."""
    return max(XEN_MIB, XEN_HEAP_MIB + memory // XEN_SHARE)


def host_refusals(info: dict[str, Any], dom0_memory: int, bridge: str, manage_network: bool) -> list[str]:
    """Return one line for each reason why the machine in ``info`` (xen_host_info) can't be a Xen host."""
    lines = []
    if info["distribution"] != "debian" or info["release"] not in SUPPORTED_RELEASES:
        lines.append(
            f"runs {info['distribution'] or 'an unknown system'} {info['release']}; xen_host supports Debian"
            f" {' and '.join(SUPPORTED_RELEASES)}: install one of these"
        )
    if info["machine"] != "x86_64":
        lines.append(f"is a {info['machine']} machine; Xen's PVH guests are supported on x86-64 only")
    elif not info["hardware_virtualization"]:
        lines.append("has no VT-x or AMD-V: enable virtualization in the firmware's setup, or use another machine")
    elif info["under_xen"] and not info["pvh_capable"]:
        lines.append("runs Xen, but without hardware virtualization (virt_caps has no hvm): enable VT-x or AMD-V in the firmware")
    if info["secure_boot"]:
        lines.append("has Secure Boot enabled, and Debian's Xen is not signed: disable Secure Boot in the firmware's setup")
    if not info.get("grub", True) and not info["under_xen"]:
        lines.append(
            "has no GRUB (update-grub is missing), which Xen needs to boot: install grub-pc, or grub-efi-amd64 with UEFI, and"
            " boot this machine with it"
        )
    # Also where Xen runs: the next boot gives Dom0 what is declared, and Xen clamps what is too much to all that there is.
    xen = xen_memory(info["memory"])
    if info["memory"] < dom0_memory + MIN_DOMAINS_MIB + xen:
        lines.append(
            f"has {info['memory']} MiB of memory; Dom0 is to get {dom0_memory} (xen_host_dom0_memory) and Xen takes"
            f" {xen}: too little is left for domains"
        )
    if not info["under_xen"] and info["free_disk"] < MIN_DISK_MIB:
        lines.append(f"has {info['free_disk']} MiB free on /; Xen and images need {MIN_DISK_MIB}")
    if info["under_xen"] and info["free_disk"] < MIN_FREE_MIB:
        lines.append(
            f"has {info['free_disk']} MiB free on / of Dom0; images, definitions and logs need {MIN_FREE_MIB}: make room"
        )
    # Everything else that networks need of the host is checked by xen_networks.
    if manage_network and bridge not in info["bridges"] and not info["uplink"]:
        lines.append("has no default route, so its uplink is not known: set xen_host_uplink")
    return lines + list(info.get("cut_off", []))


def _cpu_numbers(info: dict[str, Any]) -> int:
    return int(info.get("cpu_numbers") or info["cpus"])


def _cpus_after_boot(info: dict[str, Any], smt: bool) -> set[int]:
    """Return the CPUs that the next boot leaves on; empty if all, also those that are off now."""
    if smt and not any(map(NO_SMT.fullmatch, info.get("machine_xen_arguments") or [])):
        return set()
    return cpu_set(info.get("cpus_without_smt") or "") or set()


def _nodes(info: dict[str, Any]) -> dict[int, set[int]] | None:
    return {int(node): cpu_set(cpus) or set() for node, cpus in (info.get("cpus_of_nodes") or {}).items()} or None


def pinning_refusals(declarations: list[Declaration], info: dict[str, Any], domain_cpus: Any, smt: bool) -> list[str]:
    """Return one line for each declared domain that would have no CPU after the next boot."""
    every = _cpus_after_boot(info, smt) or set(range(_cpu_numbers(info)))
    try:
        mask = "" if domain_cpus is None else str(domain_cpus)
        allowed = cpu_mask(mask or "all", every, _nodes(info)) & every
    except ValueError:
        allowed = set()
    if not allowed:
        return []  # limit_refusals has a line for it
    pinned = [(one.name, one.domain.cpus) for one in declarations if one.domain.cpus and one.state in ("running", "paused")]
    return [
        f"domain {name}: cpus: is {cpus}, but this host's domains may run on {cpu_text(allowed)} only (xen_host_domain_cpus,"
        " xen_host_smt)"
        for name, cpus in pinned
        if not (cpu_set(cpus) or set()) & allowed
    ]


def limit_refusals(info: dict[str, Any], dom0_vcpus: int, domain_cpus: Any, smt: bool = True) -> list[str]:
    """Return one line for each variable that is too large for the machine in ``info``, as it will be after the next boot."""
    cpus = _cpus_after_boot(info, smt)
    every, without_smt = cpus or set(range(_cpu_numbers(info))), bool(cpus)
    lines = [
        cpus_refusal("" if domain_cpus is None else domain_cpus, every, _nodes(info), not without_smt, _cpu_numbers(info) - 1)
    ]
    most = len(cpus) or info["cpus"]
    if int(dom0_vcpus) > most:
        why = "without SMT the host has" if without_smt else "the host has"
        lines.append(f"xen_host_dom0_vcpus: is {dom0_vcpus}, but {why} {most} CPUs: set at most {most}, or 0 for all")
    return [line for line in lines if line]


def boot_refusals(info: dict[str, Any], reboots: bool, try_once: bool, take_over: bool) -> list[str]:
    """Return one line for each reason not to configure the host, or not to reboot it (if the run ``reboots``)."""
    lines = [
        f"has {variable} in a file of /etc/default/grub.d that GRUB reads after unikernels-xen.cfg, so Xen would boot without the"
        f" declared arguments: remove it there, and add to {named} what must stay"
        for variable, named in _NAMED_BY.items()
        if variable in info["boot_overrides"]
    ]
    strangers = ", ".join(info["foreign_domains"])
    # A host that was taken over once stays ours: its administrator knows of the other domains.
    if strangers and not take_over and (reboots or not info["written_arguments"]):
        what = "a reboot would stop them" if reboots else "its defaults would become those of this role"
        lines.append(
            f"runs domains that this collection did not create ({strangers}): {what}; set xen_host_take_over: true to do it"
        )
    if reboots and try_once and info["boot"]["cannot_try"]:
        lines.append(
            f"can't try a new boot once: {info['boot']['cannot_try']}, where /boot/grub is. Put /boot on a plain partition, or"
            " set xen_host_boot_try_once: false, which makes Xen GRUB's default without a trial"
        )
    return lines


def version_refusals(info: dict[str, Any], least: str) -> list[str]:
    """Return one line if the installed or running Xen is older than ``least``; "" allows all."""
    installed, running = info["installed"]["xen"], info["running"]["xen"]
    if not least or not installed:
        return []
    if is_older(installed, least):
        return [f"has Xen {installed}, and xen_host_min_xen is {least}: install a newer one (playbooks/update.yml)"]
    # A running Xen reports only its upstream version.
    if info["under_xen"] and is_older(running, re.split(r"[+~-]", least)[0]):
        return [f"runs Xen {running}, and xen_host_min_xen is {least}: Xen {installed} is installed, and waits for a reboot"]
    return []


def xen_support_warning(info: dict[str, Any], today: datetime.date) -> str:
    """Return a line if the host's Xen gets no more fixes from its developers, or not for long; "" otherwise."""
    version = info["running"]["xen"] or info["installed"]["xen"] or XEN_OF_RELEASE.get(info["release"], "")
    number = re.match(r"(\d+)\.(\d+)", version)
    if not number:
        return ""
    newest = f"use Debian {max(SUPPORTED_RELEASES)} for new hosts"
    if (int(number[1]), int(number[2])) < min(tuple(map(int, name.split("."))) for name in XEN_RELEASED):
        return f"has Xen {number[0]}, for which Xen's developers no longer fix vulnerabilities: {newest}"
    released = XEN_RELEASED.get(number[0])
    if released is None:  # newer than this table
        return ""
    end = released.replace(year=released.year + XEN_FIXES_YEARS)
    if today > end:
        return f"has Xen {number[0]}, for which Xen's developers have fixed no vulnerabilities since {end}: {newest}"
    return f"has Xen {number[0]}, for which Xen's developers fix vulnerabilities until {end}" if today > end - NOTICE else ""


def warnings(info: dict[str, Any], today: datetime.date) -> list[str]:
    """Return one line for each thing that works today but needs attention."""
    lines = [line for line in [xen_support_warning(info, today)] if line]
    if info["under_xen"] and info["pending_reboot"]:
        running, installed = info["running"], info["installed"]
        lines.append(
            f"runs Xen {running['xen']} and Linux {running['kernel']}, installed are {installed['xen']} and"
            f" {installed['kernel']}: a reboot is pending (playbooks/update.yml)"
        )
    if info["package_lists_age"] > MAX_LISTS_AGE:
        lines.append(f"has package lists that are {info['package_lists_age']} days old: so pending updates are not known")
    if info["boot"]["returned"]:
        lines.append(f"returned from a boot that failed: {info['boot']['returned']}")
    return lines


def twin_refusals(names: dict[str, str]) -> list[str]:
    """Return one line for each host name that several hosts of the inventory have. ``names``: inventory name -> host name."""
    hosts: dict[str, list[str]] = {}
    for host, name in names.items():
        hosts.setdefault(name, []).append(host)
    return [
        f"{', '.join(twins)}: all have the host name {name!r}: either they are one machine, which must be in the inventory once,"
        " or MACs and UUIDs of their domains and their locks on NFS, which are made from it, would clash: give each a name of"
        " its own (hostnamectl set-hostname NAME)"
        for name, twins in hosts.items()
        if len(twins) > 1
    ]


def placement_refusals(declarations: list[Declaration], info: dict[str, Any], dom0_memory: int, bridge: str) -> list[str]:
    """Return one line for each reason why the declared domains can't run on the host, before anything changes."""
    networks = {name: list(addresses) for name, addresses in info["bridges"].items()}
    # The bridge will get the uplink's addresses.
    networks.setdefault(bridge, list(info["networks"].get(info["uplink"], [])))
    lines = outside_networks(declarations, networks, info.get("offered"))
    wanted = [one for one in declarations if one.state in ("running", "paused")]
    needed = sum(one.domain.memory + OVERHEAD_MIB for one in wanted)
    # Dom0's declared memory, not its present one: a run that gives it more reboots before the domains start.
    total = info["memory"] - xen_memory(info["memory"]) - dom0_memory
    floor = DOM0_SYSTEM_MIB + DOM0_DOMAIN_MIB * len(wanted)
    if dom0_memory < floor:
        lines.append(
            f"{len(wanted)} domains: need about {floor} MiB in Dom0 for their disks, networks and consoles, but Dom0 gets"
            f" {dom0_memory} (xen_host_dom0_memory): give it more, or move domains to another host"
        )
    if needed > total:
        names = ", ".join(one.name for one in wanted)
        lines.append(
            f"{names}: need {needed} MiB with Xen's overhead of {OVERHEAD_MIB} MiB a domain; the host has {max(total, 0)}"
            f" MiB beside Dom0: declare less memory or move domains to another host (Dom0 is to get {dom0_memory} MiB,"
            " xen_host_dom0_memory)"
        )
    return lines
