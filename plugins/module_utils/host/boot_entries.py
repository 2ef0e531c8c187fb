# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two entries of our own in GRUB's menu: the boot that worked last, and the next one, which is tried once. Pure.

The entry to try is Xen's first one of GRUB's menu. GRUB boots it once (next_entry), then again what saved_entry names: the entry
that worked, whose files have names of their own, so that no update removes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

# On Dom0's line: which of our entries booted. Linux ignores a word with a dot whose module it doesn't know.
MARK = "unikernels.boot"
TRY, GOOD = "try", "good"
# A kernel panic before anybody can confirm the boot must reboot; initramfs-tools reads the word too.
ADDED = "panic=30"
IDS = {TRY: "unikernels-try", GOOD: "unikernels-good"}
# Folders below /boot with the files of the entry that worked.
FOLDER = "unikernels-"
# If an entry can't be loaded because a file is missing: boot the one that worked, then the first one.
HEAD = f'# Written by unikernels.xen (module xen_boot).\nset fallback="{IDS[GOOD]} 0"\n'
# GRUB writes its environment straight into a file's blocks, so not on file systems that it can only read.
_READ_ONLY = ("btrfs", "bcachefs", "zfs", "squashfs", "f2fs", "overlay", "iso9660", "nfs", "nfs4", "9p", "tmpfs")

# Debian's grub.d/20_linux_xen puts the first word into both lines; it adds the others to Xen's if the firmware is not a BIOS.
_NOT_DECLARED = {"placeholder", "no-real-mode", "edd=off", ADDED}

_HEAD = re.compile(r"^([ \t]*)menuentry\s+(['\"])(.*?)\2")
_XEN = re.compile(r"^(\s*multiboot2?\s+)(\S*/xen[^/\s]*)(.*)$")
_DOM0 = re.compile(r"^(\s*module2?\s+(?:--\S+\s+)*)(\S*/vmlinu[xz][^/\s]*)(.*)$")
_LINUX = re.compile(r"^(\s*linux(?:16|efi)?\s+)(\S*/vmlinu[xz][^/\s]*)(.*)$")
_FILES = re.compile(r"^(\s*(?:module2?\s+(?:--\S+\s+)*|initrd(?:16|efi)?\s+))(/.*)$")
# Linux reads 08 and what is too large as no number, and waits forever; more than 999 s would seem like it.
REBOOTS = re.compile(r"panic=-?[1-9][0-9]{0,2}")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_=,.:/+@%-]+")


@dataclass(frozen=True)
class Entry:
    """A menuentry of GRUB: its title and the lines between its braces."""

    title: str
    body: tuple[str, ...]

    def _match(self, *patterns: re.Pattern[str]) -> re.Match[str] | None:
        matches = (pattern.match(line) for line in self.body for pattern in patterns)
        return next((match for match in matches if match), None)

    @property
    def under_xen(self) -> bool:
        return self._match(_XEN) is not None and self._match(_DOM0) is not None

    @property
    def xen_line(self) -> str:
        match = self._match(_XEN)
        return match[3].strip() if match else ""

    @property
    def kernel(self) -> str:
        """The path of Linux, as GRUB sees it."""
        match = self._match(_DOM0 if self.under_xen else _LINUX)
        return match[2] if match else ""

    @property
    def linux_line(self) -> str:
        match = self._match(_DOM0 if self.under_xen else _LINUX)
        return match[3].strip() if match else ""

    @property
    def files(self) -> list[str]:
        """The paths of Xen, Linux and what is loaded with them, as GRUB sees them."""
        paths: list[str] = []
        for line in self.body:
            match = _XEN.match(line) or _DOM0.match(line) or _LINUX.match(line)
            more = _FILES.match(line)
            paths += [match[2]] if match else more[2].split() if more else []
        return paths


def entries(menu: str) -> list[Entry]:
    """Return all menu entries of a grub.cfg, in order, including those of submenus."""
    found: list[Entry] = []
    lines = iter(menu.splitlines())
    for line in lines:
        head = _HEAD.match(line)
        if head:
            body = []
            for inner in lines:
                if inner.rstrip() == head[1] + "}":
                    break
                body.append(inner)
            found.append(Entry(head[3], tuple(body)))
    return found


def xen_entry(menu: str) -> Entry | None:
    """Return Xen's first entry: what Debian's own configuration would boot."""
    return next((entry for entry in entries(menu) if entry.under_xen), None)


def plain_words(line: str) -> set[str]:
    """Return the arguments of a line without those that GRUB's scripts and our own entries add."""
    added = ("${", "BOOT_IMAGE=", "initrd=", f"{MARK}=")
    return {word for word in line.split() if not word.startswith(added)} - _NOT_DECLARED


def running_entry(menus: Iterable[str], xen_line: str, linux_line: str, release: str) -> Entry | None:
    """Return the entry of one of ``menus`` that boots what runs; if the menu has changed, one with the running arguments."""
    kernel = f"vmlinuz-{release}"
    candidates = [
        entry
        for menu in menus
        for entry in entries(menu)
        if entry.under_xen == bool(xen_line) and os.path.basename(entry.kernel) == kernel
    ]
    for entry in candidates:
        if plain_words(entry.linux_line) == plain_words(linux_line) and plain_words(entry.xen_line) == plain_words(xen_line):
            return entry
    return with_lines(candidates[0], xen_line, linux_line) if candidates else None


def _quoted(word: str) -> str:
    return word if _PLAIN_WORD.fullmatch(word) else "'" + word.replace("'", "'\\''") + "'"


def _sorted_out(line: str) -> str:
    """Return the words of a running command line, quoted for GRUB's script, without those that GRUB and we add."""
    words = [word for word in line.split() if not word.startswith(("BOOT_IMAGE=", "initrd=", f"{MARK}="))]
    return " ".join(_quoted(word) for word in words)


def with_lines(entry: Entry, xen_line: str, linux_line: str) -> Entry:
    """Return ``entry`` with the arguments ``xen_line`` and ``linux_line``."""
    body = []
    for line in entry.body:
        xen, linux = _XEN.match(line), _DOM0.match(line) or _LINUX.match(line)
        if xen:
            line = f"{xen[1]}{xen[2]} {_sorted_out(xen_line)}".rstrip()
        elif linux:
            line = f"{linux[1]}{linux[2]} {_sorted_out(linux_line)}".rstrip()
        body.append(line)
    return Entry(entry.title, tuple(body))


def moved(path: str, folder: str) -> str:
    """Return GRUB's ``path`` of a file in /boot, moved into ``folder`` of /boot; unchanged if ``folder`` is ""."""
    parent, name = os.path.split(path)
    if os.path.basename(parent).startswith(FOLDER):
        parent = os.path.dirname(parent)
    return os.path.join(parent, folder, name) if folder else path


def on_host(path: str) -> str:
    """Return GRUB's ``path`` as Linux sees it: /boot may be a file system of its own, or in a subvolume."""
    parent, name = os.path.split(path)
    folder = os.path.basename(parent)
    return os.path.join("/boot", folder, name) if folder.startswith(FOLDER) else os.path.join("/boot", name)


def own_entry(entry: Entry, kind: str, folder: str = "") -> str:
    """Return the text of our entry (TRY or GOOD) that boots what ``entry`` boots, with its files from ``folder`` of /boot."""
    titles = {TRY: "next boot, tried once", GOOD: "as it booted last"}
    body = []
    for line in entry.body:
        xen, linux, more = _XEN.match(line), _DOM0.match(line) or _LINUX.match(line), _FILES.match(line)
        if line.strip() == "savedefault":
            continue  # it would make GRUB save the tried entry as default
        if xen:
            line = f"{xen[1]}{moved(xen[2], folder)}{xen[3]}"
        elif linux:
            words = [word for word in linux[3].split() if not word.startswith(f"{MARK}=")]
            # The last one counts.
            panics = [word for word in words if word.startswith("panic=")]
            if not panics or not REBOOTS.fullmatch(panics[-1]):
                words.append(ADDED)
            line = f"{linux[1]}{moved(linux[2], folder)} {' '.join([*words, f'{MARK}={kind}'])}"
        elif more:
            line = more[1] + " ".join(moved(path, folder) for path in more[2].split())
        body.append(line)
    title = f"{titles[kind]} (unikernels.xen)"
    head = f"menuentry '{title}' --class debian --class xen --unrestricted --id {IDS[kind]} {{"
    return "\n".join([head, *body, "}", ""])


def part_of(text: str, kind: str) -> str:
    """Return our entry of that kind in ``text``, as own_entry wrote it; "" if there is none."""
    match = re.search(rf"^menuentry [^\n]*--id {IDS[kind]} \{{$.*?^\}}$\n?", text, re.MULTILINE | re.DOTALL)
    return match[0] if match else ""


def booted(linux_line: str) -> str:
    """Return which of our entries this boot came from; "" if another one."""
    kinds = [word.partition("=")[2] for word in linux_line.split() if word.startswith(f"{MARK}=")]
    return kinds[-1] if kinds and kinds[-1] in IDS else ""


def environment(text: str) -> dict[str, str]:
    """Parse grubenv into key -> value."""
    rows = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value for key, _equals, value in rows}


def mount_of(mountinfo: str, path: str) -> tuple[str, str]:
    """Return (device number, file system) of the mount in /proc/self/mountinfo that contains ``path``."""
    best, found = "", ("", "")
    for line in mountinfo.splitlines():
        words = line.split()
        if "-" not in words[6:]:
            continue
        point = words[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, (words[2], words[words.index("-", 6) + 1])
    return found


def unwritable(filesystem: str, device: str) -> str:
    """Return why GRUB can't write into a file there; "" if it can. ``device``: the block device's path below /sys."""
    if filesystem in _READ_ONLY:
        return f"GRUB can't write to {filesystem}"
    parts = device.split("/")
    if any(re.fullmatch(r"md\d+(?:p\d+)?|md_.*", part) for part in parts):
        return "GRUB can't write to a software RAID (md)"
    if any(re.fullmatch(r"dm-\d+", part) for part in parts):
        return "GRUB can't write to a logical or encrypted volume (device mapper)"
    return ""
