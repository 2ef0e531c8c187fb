# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Try a new boot once; the entry that worked stays GRUB's default until the new boot is confirmed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import Any

from ..image.store import write_whole
from .boot_entries import (
    FOLDER,
    GOOD,
    HEAD,
    IDS,
    TRY,
    booted,
    environment,
    mount_of,
    on_host,
    own_entry,
    part_of,
    running_entry,
    unwritable,
    xen_entry,
)

MENU = "/boot/grub/grub.cfg"
# Read by GRUB's menu (/etc/grub.d/21_unikernels-xen).
OWN_MENU = "/boot/grub/unikernels-xen.cfg"
GRUBENV = "/boot/grub/grubenv"
# Exists for this boot only: /run is empty at the next.
CONFIRMED = "/run/unikernels-boot-confirmed"
# The boot id in which a trial was prepared, then why it ended: the unit below adds its reason before it goes back.
RETURNED = "/var/lib/unikernels/boot-returned"
UNIT = "unikernels-boot-trial.service"
WANTED = f"/etc/systemd/system/sysinit.target.wants/{UNIT}"
_EARLY = "Xen or Dom0's kernel ended before a unit of it ran (wrong arguments, too little memory?); the serial console shows how"


class BootError(Exception):
    """One line: why the host can't try, keep or confirm a boot."""


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def environment_refusal() -> str:
    """Return why GRUB can't write grubenv on this machine; "" if it can."""
    number, filesystem = mount_of(read("/proc/self/mountinfo"), os.path.realpath("/boot/grub"))
    return unwritable(filesystem, os.path.realpath(f"/sys/dev/block/{number}"))


def state() -> dict[str, Any]:
    """Return which entry this boot came from and which one comes next."""
    values = environment(read(GRUBENV))
    this = booted(read("/proc/cmdline"))
    kept = part_of(read(OWN_MENU), GOOD)
    return {
        "entry": this,
        "unconfirmed": this == TRY and not os.path.exists(CONFIRMED),
        "default": values.get("saved_entry", ""),
        "next": values.get("next_entry", ""),
        "kept": bool(kept) and values.get("saved_entry") == IDS[GOOD],
        "cannot_try": environment_refusal(),
        "returned": "" if this == TRY else _returned(),
    }


def _boot_id() -> str:
    return read("/proc/sys/kernel/random/boot_id").strip()


def _returned() -> str:
    """Return why a trial prepared in an earlier boot failed; "" if there was none."""
    prepared, _newline, reasons = read(RETURNED).partition("\n")
    reason = (reasons.strip().splitlines() or [_EARLY])[-1] if prepared not in ("", _boot_id()) else ""
    return "".join(letter for letter in reason if letter.isprintable())[:300]


def same_files_as_booted() -> bool | None:
    """True if the Xen and Linux of GRUB's menu are the files that booted; None if unknown."""
    if not booted(read("/proc/cmdline")) or not os.path.exists(OWN_MENU):
        return None
    entry, good = xen_entry(read(MENU)), xen_entry(part_of(read(OWN_MENU), GOOD))
    if not entry or not good:
        return None
    # Only Xen and Linux: an initrd is rewritten whenever a package with modules changes.
    pairs = zip(entry.files[:2], good.files[:2])
    try:
        return all(os.path.samefile(on_host(menu), on_host(kept)) for menu, kept in pairs)
    except OSError:
        return False


def keep(xen_line: str, linux_line: str, release: str) -> None:
    """Make what runs now, with its files, GRUB's default until another boot is confirmed."""
    # Skip our other entry: it may have the same arguments but other files under the same names.
    own = booted(linux_line)
    menus = ([part_of(read(OWN_MENU), own)] if own else []) + [read(MENU)]
    entry = running_entry(menus, xen_line, linux_line, release)
    if entry is None:
        kind = "Xen and " if xen_line else ""
        raise BootError(
            f"GRUB's menu has no entry with {kind}Linux {release}, which runs: this host was not booted from that menu"
        )
    folder = FOLDER + _boot_id()[:8]
    os.makedirs(f"/boot/{folder}", mode=0o700, exist_ok=True)
    for path in entry.files:
        _second_name(on_host(path), os.path.join("/boot", folder, os.path.basename(path)))
    write_whole(OWN_MENU, (HEAD + own_entry(entry, GOOD, folder)).encode(), 0o600)
    _set_environment(f"saved_entry={IDS[GOOD]}")
    for name in os.listdir("/boot"):
        if name.startswith(FOLDER) and name != folder:
            shutil.rmtree(f"/boot/{name}", ignore_errors=True)


def prepare(xen_line: str, linux_line: str, release: str) -> None:
    """Make the next boot, and only that one, use Xen's first entry of GRUB's menu."""
    reason = environment_refusal()
    if reason:
        raise BootError(
            f"a new boot can't be tried once: {reason}, where /boot/grub is. Put /boot on a plain partition, or set"
            " xen_host_boot_try_once: false to make Xen's entry the default without a trial"
        )
    entry = xen_entry(read(MENU))
    if entry is None:
        raise BootError(f"{MENU} has no entry with Xen: does GRUB boot this machine? See 'update-grub'")
    if os.path.basename(OWN_MENU) not in read(MENU):
        raise BootError(f"{MENU} does not read {OWN_MENU}: run update-grub")
    if booted(linux_line) != GOOD or not state()["kept"]:
        keep(xen_line, linux_line, release)
    good = part_of(read(OWN_MENU), GOOD)
    write_whole(OWN_MENU, (HEAD + good + own_entry(entry, TRY)).encode(), 0o600)
    if not os.path.exists(WANTED):
        raise BootError(f"{WANTED} is missing, which returns the machine to the old boot: run the role xen_host first")
    os.makedirs(os.path.dirname(RETURNED), exist_ok=True)
    write_whole(RETURNED, f"{_boot_id()}\n{_EARLY}\n".encode(), 0o600)
    _set_environment(f"next_entry={IDS[TRY]}")


def confirm(xen_line: str, linux_line: str, release: str) -> None:
    """Confirm the boot on trial as the one that worked. Raise BootError if this boot is another one."""
    if booted(linux_line) != TRY:
        raise BootError(f"this boot came from another entry than the one on trial: {_returned() or 'no trial was under way'}")
    if not xen_line:
        raise BootError("this boot came from the entry with Xen, but runs without: look at the serial console")
    keep(xen_line, linux_line, release)
    write_whole(CONFIRMED, b"", 0o600)
    _run("systemctl", "stop", UNIT)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(RETURNED)


def _second_name(source: str, target: str) -> None:
    """Link the file under another name: an update replaces names, and never writes into an existing file."""
    if os.path.exists(target) and os.path.samefile(source, target):
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise BootError(f"{source}, which GRUB's menu names, does not exist: run update-grub") from None
    except OSError:
        # A file system without links (vfat).
        shutil.copyfile(source, target)


def _set_environment(*words: str) -> None:
    _run("grub-editenv", GRUBENV, "set", *words)
    # GRUB doesn't replay a journal: what it reads must be in its final place.
    os.sync()


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise BootError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise BootError(f"'{' '.join(command)}' failed ({done.returncode}): {lines[-1] if lines else 'it printed nothing'}")
