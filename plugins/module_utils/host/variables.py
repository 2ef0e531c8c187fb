# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check the variables of the role xen_host as Xen, xl and GRUB will read them. Pure: values in, refusals out.

A wrong value is refused before the first host is contacted. Checks that depend on the machine are in preflight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..domain.cpus import MOST, cpu_mask, cpu_text
from ..network.names import NAME, bridge_refusal, uplink_refusal
from .boot_entries import REBOOTS
from .boot_menu import XEN_STOPS, xen_key
from .hardening import DECIDED_FOR_XEN, management_refusals

# With less, Debian's kernel with systemd, sshd, Python and xenstored doesn't come up, or not for long.
MIN_DOM0_MIB = 512
# Xen's own limit on x86 (CONFIG_BIGMEM, 16 TiB).
MAX_DOM0_MIB = 16 << 20
# Xen's NR_CPUS can't be configured higher (xen/arch/Kconfig).
MAX_CPUS = 4095
# Xen copies 1024 bytes of its line (xen/common/kernel.c), Linux 2048 (COMMAND_LINE_SIZE); GRUB adds words of its own.
MAX_XEN_LINE, MAX_LINUX_LINE = 900, 1700

# The consoles' file system is in Dom0's memory, which guests can fill to this part.
MAX_CONSOLE_SHARE = 4

# Variable -> unit, minimum, maximum.
_NUMBERS = {
    "xen_host_dom0_memory": ("MiB", MIN_DOM0_MIB, MAX_DOM0_MIB),
    "xen_host_dom0_vcpus": ("virtual CPUs, 0 for as many as the machine has", 0, MAX_CPUS),
    "xen_host_reboot_timeout": ("seconds", 60, 86400),
    "xen_host_boot_confirm_within": ("seconds", 120, 3600),
    "xen_host_console_size": ("MiB", 4, 4096),
    "xen_host_start_timeout": ("seconds", 10, 3600),
    "xen_host_stop_timeout": ("seconds", 1, 600),
    "xen_host_journal_size": ("MiB, 0 to leave it as it is", 0, 65536),
    # Xen's own bounds (CSCHED2_MIN_WEIGHT is 1, 16 bits); other domains have 256 by default.
    "xen_host_dom0_weight": ("a domain has 256 by default", 1, 65535),
}
_FLAGS = (
    "xen_host_accept_ra",
    "xen_host_auditd",
    "xen_host_boot_later",
    "xen_host_boot_try_once",
    "xen_host_core_scheduling",
    "xen_host_dom0_pinned",
    "xen_host_grant_tables_v1",
    "xen_host_harden_modules",
    "xen_host_harden_sshd",
    "xen_host_harden_sysctl",
    "xen_host_manage_network",
    "xen_host_microcode",
    "xen_host_qemu",
    "xen_host_reboot",
    "xen_host_remove_needless",
    "xen_host_smt",
    "xen_host_take_over",
)
_CHOICES = {"xen_host_updates": ("security", "all", "none")}
_FOLDERS = ("xen_host_images", "xen_monitor_images")
_TEXTS = (*_CHOICES, "xen_host_images", "xen_host_min_xen", "xen_host_grub_password")
_LINES = {"xen_host_xen_arguments": MAX_XEN_LINE, "xen_host_linux_arguments": MAX_LINUX_LINE}
# Arguments that other variables set: with two of them on a line the last one wins.
_WRITTEN_ELSEWHERE: dict[str, dict[str, str]] = {
    "xen_host_xen_arguments": DECIDED_FOR_XEN,
    "xen_host_linux_arguments": {},
}
# With these, a boot that fails waits for a hand: Xen or Linux that stops at a panic (panic=0 waits forever), and systems that
# never start the unit which returns to the old boot (sysinit.target has it, emergency.target doesn't; confirm_spawn asks the
# console before each unit; volatile=yes has no /etc), or that turn off (run does it when its command ends).
_NO_WAY_BACK = {
    "xen_host_xen_arguments": XEN_STOPS,
    "xen_host_linux_arguments": re.compile(
        rf"(?!{REBOOTS.pattern}$)panic(?:=.*)?|init=(?!(?:/usr)?/sbin/init$|(?:/usr)?/lib/systemd/systemd$).*|rdinit=(?!/init$).*"
        r"|emergency|-b|systemd\.unit=(?!(?:default|graphical|multi-user|rescue)(?:\.target)?$).*"
        r"|systemd\.mask=(?:unikernels-boot-trial(?:\.service)?|sysinit(?:\.target)?)|systemd\.run(?:=.*)?"
        r"|systemd\.(?:confirm[_-]spawn|volatile)(?!=(?:0|no?|f|false|off|state|overlay)$)(?:=.*)?"
    ),
}
_DEVICES = ("xen_host_bridge", "xen_host_uplink")
# It becomes part of units and of a shell command line.
_FOLDER = re.compile(r"(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+")
# A Debian version (deb-version(7)) or the beginning of one: 4.17.5, 4.17.5+23-ga4e5191dc0-1+deb12u1.
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)+[A-Za-z0-9.+~-]*")
# The output of grub-mkpasswd-pbkdf2.
_GRUB_PASSWORD = re.compile(r"grub\.pbkdf2\.sha512\.[1-9][0-9]{3,7}\.[0-9A-F]{32,256}\.[0-9A-F]{64,256}")
_SAFE_LINE = re.compile(r"[A-Za-z0-9_=,.:/+ -]*")


def number_refusal(name: str, value: Any) -> str:
    """Return why ``value`` is wrong for the variable ``name``; "" if it is right."""
    unit, least, most = _NUMBERS[name]
    # "0768" is octal to Xen; "1e3", "1024M", " 1024" and true would reach its line unchanged.
    text = str(value)
    whole = not isinstance(value, (bool, float)) and re.fullmatch(r"0|[1-9][0-9]{0,8}", text, re.ASCII) is not None
    if whole and least <= int(text) <= most:
        return ""
    return f"{name}: is {value!r}, must be a whole number {least}..{most} ({unit})"


def cpus_refusal(
    value: Any, every: set[int] | None = None, nodes: Mapping[int, set[int]] | None = None, smt: bool = True, highest: int = 0
) -> str:
    """Return why xen_host_domain_cpus can't be xl's vm.cpumask; "" if it can.

    ``every``: the CPUs that the machine will have, ``nodes``: those of each NUMA node; None before the machine is known.
    ``highest``: a number up to which a CPU may be off.
    """
    name, example = "xen_host_domain_cpus", "as in 2-15, 0-3,^1, all,^0 or nodes:0, or empty for all"
    if isinstance(value, (bool, float)) or not isinstance(value, (str, int)):
        return f"{name}: is {value!r}, must be a set of CPUs, {example}"
    text = str(value)
    if not text:
        return ""
    known = set(range(MOST)) if every is None else every
    try:
        cpu_mask(text, known)
    except ValueError:
        return f"{name}: is {text!r}, must be a set of CPUs, {example}"
    try:
        chosen = cpu_mask(text, known, nodes)
    except ValueError as error:
        return f"{name}: is {error}"
    if every is not None and chosen and max(chosen) > max(highest, *every):
        return f"{name}: is {text!r}, but the host's CPUs are {cpu_text(every)}"
    if not chosen & known:
        why = f": without SMT the host's CPUs are {cpu_text(known)}" if chosen and not smt else ""
        return f"{name}: is {text!r}, which leaves no CPU for domains{why or f'; write it {example}'}"
    return ""


def line_refusal(name: str, value: Any) -> str:
    """Return why ``value`` can't be on a boot line; "" if it can."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        return f"{name}: is {value!r}, must be one text, as in 'console=hvc0 quiet'"
    if not _SAFE_LINE.fullmatch(value):
        bad = sorted({letter for letter in value if not _SAFE_LINE.fullmatch(letter)})
        letters = ", ".join(repr(letter) for letter in bad[:5])
        return f"{name}: has {letters}, may have letters, digits, spaces and _ = , . : / + - only"
    if len(value) > _LINES[name]:
        return f"{name}: has {len(value)} characters, must have at most {_LINES[name]}: the rest would be lost at boot"
    for word in value.split():
        other = _WRITTEN_ELSEWHERE[name].get(xen_key(word))
        if other:
            return f"{name}: has {word}, which {other} decides: set that instead"
        if _NO_WAY_BACK[name].fullmatch(word):
            return f"{name}: has {word}, with which the host would not return by itself from a boot that fails: leave it out"
    return ""


def device_refusal(name: str, value: Any) -> str:
    """Return why ``value`` is not a network device's name; "" if it is. It becomes part of files and of arguments."""
    if name == "xen_host_uplink" and value in (None, ""):
        return ""  # the device of the default route
    if not isinstance(value, str) or not NAME.fullmatch(value):
        return f"{name}: is {value!r}, must be the name of a network device, as in xenbr0"
    if name == "xen_host_uplink":
        refused = uplink_refusal(value)
        return f"{name}: {refused}, or leave it empty for that of the default route" if refused else ""
    refused = bridge_refusal(value)
    return f"{name}: is {value}: {refused}" if refused else ""


def flag_refusal(name: str, value: Any) -> str:
    """Return why ``value`` is neither yes nor no; "" if it is. Accepts the words of Ansible's own filter bool."""
    if isinstance(value, bool) or (value in (0, 1) and not isinstance(value, float)):
        return ""
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0"):
        return ""
    return f"{name}: is {value!r}, must be true or false"


def text_refusal(name: str, value: Any) -> str:
    """Return why ``value`` is not the text that the variable ``name`` needs; "" if it is."""
    if name in _CHOICES:
        wanted = ", ".join(_CHOICES[name])
        return "" if isinstance(value, str) and value in _CHOICES[name] else f"{name}: is {value!r}, must be one of {wanted}"
    if name in _FOLDERS:
        good = isinstance(value, str) and _FOLDER.fullmatch(value) is not None
        return "" if good else f"{name}: is {value!r}, must be the absolute path of a folder, of letters, digits and _ . + - only"
    if value in ("", None):
        return ""
    if name == "xen_host_min_xen":
        good = isinstance(value, str) and _VERSION.fullmatch(value) is not None
        return "" if good else f"{name}: is {value!r}, must be a version in quotes, as in '4.17.5', or empty"
    # Not shown: whoever has the hash can try passwords.
    good = isinstance(value, str) and _GRUB_PASSWORD.fullmatch(value) is not None
    return "" if good else f"{name}: must be what grub-mkpasswd-pbkdf2 prints (grub.pbkdf2.sha512...), or empty"


def ports_refusal(name: str, value: Any) -> str:
    """Return why ``value`` is not a list of TCP ports; "" if it is."""
    good = isinstance(value, list) and all(
        not isinstance(port, (bool, float)) and re.fullmatch(r"[1-9][0-9]{0,4}", str(port), re.ASCII) and int(port) < 65536
        for port in value
    )
    return "" if good else f"{name}: is {value!r}, must be a list of TCP ports 1..65535, as in [9100], or []"


def conflicts(variables: dict[str, Any]) -> list[str]:
    """Return one line for each pair of variables that are valid alone but not together."""
    flags = {name: is_on(value) for name, value in variables.items() if name in _FLAGS and not flag_refusal(name, value)}
    lines = []
    if flags.get("xen_host_core_scheduling") and flags.get("xen_host_smt") is False:
        lines.append(
            "xen_host_core_scheduling: schedules the threads of a core together, and xen_host_smt: false leaves one of each:"
            " set one of them"
        )
    sizes = {name: variables.get(name) for name in ("xen_host_console_size", "xen_host_dom0_memory")}
    if not any(number_refusal(name, size) for name, size in sizes.items()):
        most = int(str(sizes["xen_host_dom0_memory"])) // MAX_CONSOLE_SHARE
        if int(str(sizes["xen_host_console_size"])) > most:
            lines.append(
                f"xen_host_console_size: is {sizes['xen_host_console_size']!r}, must be at most {most}, a quarter of Dom0's"
                " memory (xen_host_dom0_memory): guests can fill it"
            )
    if variables.get("xen_host_grub_password") and flags.get("xen_host_boot_try_once") is False:
        lines.append(
            "xen_host_grub_password: GRUB would ask for it at every boot: Debian's entries have no --unrestricted, those of"
            " xen_host_boot_try_once: true have"
        )
    return lines


def is_on(value: Any) -> bool:
    """Return the meaning of a flag that `flag_refusal` accepts; the text "false" (-e NAME=false) is false."""
    return value.lower() in ("true", "yes", "on", "1") if isinstance(value, str) else bool(value)


def variable_refusals(variables: dict[str, Any]) -> list[str]:
    """Return one line for each of the role's ``variables`` (by name) that is wrong on any host."""
    lines = []
    for name, value in variables.items():
        if name in _NUMBERS:
            lines.append(number_refusal(name, value))
        elif name in _LINES:
            lines.append(line_refusal(name, value))
        elif name in _FLAGS:
            lines.append(flag_refusal(name, value))
        elif name in _TEXTS:
            lines.append(text_refusal(name, value))
        elif name == "xen_host_management_ports":
            lines.append(ports_refusal(name, value))
        elif name == "xen_host_domain_cpus":
            lines.append(cpus_refusal("" if value is None else value))
        elif name in _DEVICES:
            lines.append(device_refusal(name, value))
        elif name == "xen_host_management_networks" and not value and value not in ([], ""):
            lines.append(f"{name}: is {value!r}, must be a list of networks, as in [192.0.2.0/24], or [] for no filter")
    return [line for line in lines if line] + conflicts(variables)


# Everything that can be checked without a host.
HOST_VARIABLES = (
    *_NUMBERS, *_FLAGS, *_TEXTS, *_LINES, *_DEVICES,
    "xen_host_domain_cpus", "xen_host_management_networks", "xen_host_management_ports",
)  # fmt: skip


def host_refusals(variables: dict[str, Any]) -> list[str]:
    """Return `variable_refusals`, and whether the networks that may manage the host are networks."""
    return variable_refusals(variables) + management_refusals(variables.get("xen_host_management_networks"), {})
