# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot arguments of Xen and its Dom0: declared, in GRUB's menu, and running. Pure: texts in, arguments out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .boot_entries import plain_words, xen_entry


def other_arguments(menu: str, xen: str, linux: str) -> bool:
    """Whether Xen's first entry of ``menu`` (grub.cfg) boots with other arguments than ``xen`` and ``linux``, which run."""
    entry = xen_entry(menu)
    if not entry:
        return False
    return plain_words(entry.xen_line) != plain_words(xen) or plain_words(entry.linux_line) != plain_words(linux)


def written_arguments(part: str) -> list[str]:
    """What the role's own part of GRUB's configuration (roles/xen_host/templates/grub.cfg.j2) gives both of them."""
    lines = re.findall(r'^GRUB_CMDLINE_(?:XEN|LINUX_XEN_REPLACE)="(.*)"$', part, re.MULTILINE)
    return [word for line in lines for word in line.split()]


def differing_arguments(info: dict[str, Any], xen: Iterable[str], linux: Iterable[str]) -> list[str]:
    """Arguments that a boot would bring or take away, on the host that ``info`` (xen_host_info) describes.

    Those of ``xen`` and ``linux`` that don't run, and those that the role wrote before, that run, and that are in neither:
    what runs beside these is the administrator's.
    """
    runs = {"xen": info["xen_arguments"].split(), "linux": info["linux_arguments"].split()}
    declared_words = {"xen": list(xen), "linux": list(linux)}
    lacking = [word for kind, words in declared_words.items() for word in words if word not in runs[kind]]
    kept, running = {*declared_words["xen"], *declared_words["linux"]}, {*runs["xen"], *runs["linux"]}
    return lacking + [word for word in info["written_arguments"] if word not in kept and word in running]


# Without these a machine does not find its root file system or its network, or nobody sees it boot: the words of
# kernel-parameters.txt, initramfs-tools(7), crypttab's cryptopts, dracut.cmdline(7), bootparam(7) and ZFS's initramfs script.
_NEEDED = re.compile(
    r"(?:net\.ifnames|biosdevname|ifname|ip|BOOTIF|nfsroot|netroot|root|rootfstype|rootflags|rootdelay|rootwait|ro|rw|boot|bootdegraded"
    r"|cryptdevice|cryptopts|cryptroot|cryptkey|rd\..+|luks\..+|systemd\..+|lvm.*|raid|md|dm|dm_mod\..+|zfs.*|resume|noresume|init"
    r"|modprobe\.blacklist|module_blacklist|blacklist|iscsi_.+|console|fstab|usrmount|mount\.usr|scsi_mod\..+|nvme.*\..+|libata\..+"
    r"|pci|acpi)(?:=.*)?"
)


def kept_arguments(machine: Iterable[str], named: Iterable[str]) -> list[str]:
    """Arguments that the ``machine`` boots with and needs to come up, and that are not ``named`` for it under Xen.

    GRUB puts what is named for Xen in place of the machine's own line, so what is in neither is lost.
    """
    keys = {word.partition("=")[0] for word in named}
    return [word for word in machine if _NEEDED.fullmatch(word) and word.partition("=")[0] not in keys]


def lost_arguments(machine: Iterable[str], named: Iterable[str]) -> list[str]:
    """Arguments of the ``machine`` that it has not under Xen, where others are ``named``: somebody set them for something."""
    named = list(named)
    keys = {word.partition("=")[0] for word in named}
    kept = kept_arguments(machine, named)
    return [word for word in machine if word not in kept and word.partition("=")[0] not in keys] if named else []


def linux_arguments(machine: Iterable[str], named: Iterable[str]) -> list[str]:
    """Dom0's arguments as GRUB gets them: what the ``machine`` needs of its own, and those ``named``; [] to keep its line."""
    named = list(named)
    return kept_arguments(machine, named) + named if named else []
