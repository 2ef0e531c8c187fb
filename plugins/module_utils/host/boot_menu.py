# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot arguments of Xen and its Dom0: declared, in GRUB's menu, and running. Pure: texts in, arguments out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Debian's grub.d/20_linux_xen puts the word in front of both; it adds the rest to Xen's where the firmware is no BIOS.
NOT_DECLARED = {"placeholder", "no-real-mode", "edd=off"}
ENTRY = re.compile(
    r"^\s*multiboot2?\s+\S*/xen-\S+(.*)$(?:\n(?!\s*menuentry).*)*?\n\s*module2?\s+\S*/vmlinuz\S*(.*)$", re.MULTILINE
)


def declared(line: str) -> set[str]:
    """The arguments of a line, without those that GRUB's scripts add themselves."""
    return {word for word in line.split() if not word.startswith("${")} - NOT_DECLARED


def other_arguments(menu: str, xen: str, linux: str) -> bool:
    """Whether Xen's first entry of ``menu`` (grub.cfg) boots with other arguments than ``xen`` and ``linux``, which run."""
    entry = ENTRY.search(menu)
    if not entry:
        return False
    return declared(entry[1]) != declared(xen) or declared(entry[2]) != declared(linux)


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
