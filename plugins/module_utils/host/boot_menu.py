# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What GRUB's menu would give Xen and its Dom0. Pure: the menu's text in, arguments out."""

from __future__ import annotations

import re

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
