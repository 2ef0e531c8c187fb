# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Begin and confirm a change of a host's network; compute the change that bridges an uplink configured by ifupdown."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import time
from dataclasses import dataclass

from ..host.interfaces import InterfacesError, bridged, has, sources
from ..image.store import write_whole
from ..network.switch import NOTHING, UP, FileChange, Switch, ended, needs_confirmation, state_of
from .network import bridges, networks_by_device, uplink

INTERFACES = "/etc/network/interfaces"
FOLDER = "/var/lib/unikernels/network"
UNITS = "/etc/systemd/system"
UNIT = "unikernels-xen-bridge"
# How long, in seconds, the program may take to see its confirmation; it looks every second.
KEPT_SECONDS = 20
# How long the new network may take to come up: ifupdown brings one network after another up, each with dozens of processes.
UP_SECONDS = 300
_BETWEEN = 0.2


class SwitchError(Exception):
    """One line: why the change failed."""


@dataclass(frozen=True)
class Change:
    """A file of interfaces(5) before and after the change."""

    path: str
    uplink: str
    before: str
    after: str


def state() -> str:
    try:
        with open(os.path.join(FOLDER, "state"), encoding="utf-8", errors="replace") as file:
            return state_of(file.read())
    except OSError:
        return NOTHING


def addresses(name: str) -> list[str]:
    return networks_by_device().get(name, [])


def needed(name: str, device: str) -> Change | None:
    """Return the change that creates the bridge; None if it is there."""
    if name in bridges():
        return None
    device = device or uplink()
    if not device:
        raise SwitchError("the host has no default route, so its uplink is not known: give uplink")
    path, text = _configuring(device)
    try:
        return Change(path, device, text, bridged(text, device, name))
    except InterfacesError as error:
        raise SwitchError(f"{path}: {error}") from None


def _configuring(device: str) -> tuple[str, str]:
    """Return (path, text) of the file that configures the device; of INTERFACES if none does."""
    first = _text(INTERFACES)
    paths, texts = [INTERFACES], {INTERFACES: first}
    for path in paths:
        texts[path] = texts.get(path) or _text(path)
        if has(texts[path], device):
            return path, texts[path]
        for pattern in sources(texts[path]):
            paths += [one for one in sorted(glob.glob(os.path.join(os.path.dirname(path), pattern))) if one not in paths]
    return INTERFACES, first


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise SwitchError(f"{path}: {error.strerror}; is the host's network configured by ifupdown?") from None


def begin(name: str, change: Change, seconds: int) -> None:
    """Start the change, which then waits ``seconds`` for confirmation. Raise SwitchError if the new network does not come up."""
    scripts = {
        "down": [f"ifdown --force {change.uplink}"],
        "up": [f"ip address flush dev {change.uplink} || true", f"ifup {change.uplink} {name}"],
        "down-new": [f"ifdown --force {name} {change.uplink}"],
        "up-old": [f"ip link delete {name} 2>/dev/null", f"ifup {change.uplink}"],
    }
    start(Switch((FileChange(change.path, change.before, change.after),), scripts), seconds, f"bridge {name}")


def start(switch: Switch, seconds: int, what: str) -> None:
    """Start the program with these files and commands, and wait until the new network is up. Raise SwitchError if it is not."""
    if subprocess.run(["systemctl", "is-active", "--quiet", UNIT], timeout=30, check=False).returncode == 0:
        raise SwitchError(f"{what}: another change of the network waits for its confirmation: run again in two minutes")
    if os.path.exists(os.path.join(FOLDER, "pending")):
        _run("sh", os.path.join(FOLDER, "switch"), "return", UNITS, seconds=120)
        raise SwitchError(f"{what}: an earlier change was interrupted, and the old network was put back: run again")
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(os.path.join(FOLDER, "files"), mode=0o700)
    os.chmod(FOLDER, 0o700)
    for file, (text, mode) in switch.folder().items():
        write_whole(os.path.join(FOLDER, file), text.encode("utf-8", "surrogateescape"), mode)
    _run("systemd-run", "--quiet", "--collect", "--unit", UNIT, os.path.join(FOLDER, "switch"), str(seconds), UNITS)
    until = time.monotonic() + UP_SECONDS
    while not ended(state()):
        if time.monotonic() > until:
            raise SwitchError(
                f"{what}: not up after {UP_SECONDS} s; without a confirmation the old network returns {seconds} s after it is;"
                f" see journalctl -u {UNIT}"
            )
        time.sleep(_BETWEEN)
    if state() != UP:
        raise SwitchError(f"{what} did not come up, the old network was put back; see journalctl -u {UNIT}")


def _run(*words: str, seconds: int = 30) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise SwitchError(f"{words[0]}: {error}") from None
    if done.returncode:
        raise SwitchError(f"{words[0]}: {' '.join(done.stderr.split())}")


def confirm(name: str, check: bool) -> bool:
    """Keep the new network. Return whether a change was waiting for that. Raise SwitchError if the bridge is gone."""
    return keep(f"bridge {name}", name in bridges(), check)


def keep(what: str, there: bool, check: bool) -> bool:
    """Confirm a waiting change. Return whether there was one. Raise SwitchError if it was undone.

    ``there``: whether what it should have created exists.
    """
    try:
        waiting = needs_confirmation(state(), there)
    except ValueError as error:
        raise SwitchError(f"{what} {error}. See: journalctl -u {UNIT}; then run again") from None
    if not waiting or check:
        return waiting
    write_whole(os.path.join(FOLDER, "confirmed"), b"", 0o600)
    until = time.monotonic() + KEPT_SECONDS
    while state() == UP:
        if time.monotonic() > until:
            break
        time.sleep(_BETWEEN)
    if state() != "kept":
        raise SwitchError(f"{what}: the confirmation came too late; see journalctl -u {UNIT}")
    return True
