# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare the boot arguments of Xen and Dom0: declared, in GRUB's menu, and running. Pure: texts in, arguments out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .boot_entries import plain_words, xen_entry


def other_arguments(menu: str, xen: str, linux: str) -> bool:
    """True if Xen's first entry of ``menu`` (grub.cfg) has other arguments than the running ``xen`` and ``linux``."""
    entry = xen_entry(menu)
    if not entry:
        return False
    return plain_words(entry.xen_line) != plain_words(xen) or plain_words(entry.linux_line) != plain_words(linux)


def written_arguments(part: str) -> list[str]:
    """Return the arguments in the role's own part of GRUB's configuration (roles/xen_host/templates/grub.cfg.j2)."""
    lines = re.findall(r'^GRUB_CMDLINE_(?:XEN|LINUX_XEN_REPLACE)="(.*)"$', part, re.MULTILINE)
    return [word for line in lines for word in line.split()]


def differing_arguments(info: dict[str, Any], xen: Iterable[str], linux: Iterable[str]) -> list[str]:
    """Return the arguments that a reboot would add or remove on the host that ``info`` (xen_host_info) describes.

    These are the ones of ``xen`` and ``linux`` that don't run, and the ones that the role wrote earlier, that run and are no
    longer declared. Other running arguments are the administrator's.
    """
    runs = {"xen": info["xen_arguments"].split(), "linux": info["linux_arguments"].split()}
    declared_words = {"xen": list(xen), "linux": list(linux)}
    lacking = [word for kind, words in declared_words.items() for word in words if word not in runs[kind]]
    kept, running = {*declared_words["xen"], *declared_words["linux"]}, {*runs["xen"], *runs["linux"]}
    return lacking + [word for word in info["written_arguments"] if word not in kept and word in running]


# Without these a machine doesn't find its root file system or its network, or shows nothing while it boots. From
# kernel-parameters.txt, initramfs-tools(7), crypttab's cryptopts, dracut.cmdline(7), bootparam(7), cloud-init's ds and ZFS's
# initramfs script. A word with a dot is a driver's (ixgbe.allow_unsupported_sfp), or belongs to systemd, dracut or the network.
_NEEDED = re.compile(
    r"(?:[A-Za-z0-9_-]+\..+|biosdevname|ifname|ip|vlan|bond|team|bridge|nameserver|BOOTIF|nfsroot|netroot|ds|cloud-init"
    r"|root|rootfstype|rootflags|rootdelay|rootwait|overlayroot|ro|rw|boot|bootfs|bootdegraded|init|fstab|usrmount"
    r"|crypt(?:device|opts|root|key)|luks|rd_.+|lvm.*|raid|md|dm|zfs.*|resume|noresume|blacklist|module_blacklist|iscsi_.+"
    r"|console|earlycon|earlyprintk|nomodeset|pci|pcie_.+|acpi.*|irqpoll)(?:=.*)?"
)
# Xen stays where it panicked. Of several types of reboot the last one counts.
XEN_STOPS = re.compile(r"noreboot(?:=(?!no$|false$|off$|0$).*)?|reboot=(?:[^,]*,)*n.*")
# Xen without SMT.
NO_SMT = re.compile(r"smt=(?:0|no|off|false|disable)|no-smt")
# What can be written between the double quotes of a shell file, as GRUB's configuration is.
_WRITABLE = re.compile(r'[^"$`\\\x00-\x20]+')


def kept_arguments(machine: Iterable[str], named: Iterable[str]) -> list[str]:
    """Return the arguments that the ``machine`` needs to come up and that are not ``named`` for it under Xen.

    GRUB replaces the machine's own line with the one named for Xen, so an argument that is not copied is lost.
    """
    keys = {word.partition("=")[0] for word in named}
    needed = [word for word in machine if _NEEDED.fullmatch(word) and _WRITABLE.fullmatch(word)]
    return [word for word in needed if word.partition("=")[0] not in keys]


def lost_arguments(machine: Iterable[str], named: Iterable[str]) -> list[str]:
    """Return the ``machine``'s arguments that it loses under Xen because others are ``named``: somebody had set them."""
    machine, named = list(machine), list(named)
    remain = {*kept_arguments(machine, named), *named}
    return [word for word in machine if word not in remain] if named else []


def linux_arguments(machine: Iterable[str], named: Iterable[str]) -> list[str]:
    """Return Dom0's arguments for GRUB: those that the ``machine`` needs, then the ``named`` ones; [] to keep its own line."""
    named = list(named)
    return kept_arguments(machine, named) + named if named else []


def xen_key(word: str) -> str:
    """Return the name of an argument of Xen, which reads hyphens as underscores and no-NAME as NAME=no."""
    return word.partition("=")[0].replace("-", "_").removeprefix("no_")


def kept_for_xen(machine: Iterable[str], named: Iterable[str], decided: Iterable[str]) -> list[str]:
    """Return the ``machine``'s own arguments for Xen (its serial console, for example) that stay on Xen's line.

    ``decided``: keys that variables of the role set. Words with which Xen would wait for a hand after a panic are left out.
    """
    keys = set(map(xen_key, [*named, *decided]))
    usable = [word for word in machine if _WRITABLE.fullmatch(word) and not XEN_STOPS.fullmatch(word)]
    return [word for word in usable if xen_key(word) not in keys]
