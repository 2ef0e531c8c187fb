# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. A bridge over the uplink of a host that ifupdown configures: begins the change, confirms it."""

from __future__ import annotations

import glob
import os
import subprocess
import time
from dataclasses import dataclass

from ..host.interfaces import InterfacesError, bridged, has, sources
from ..image.store import write_whole
from ..network.switch import NOTHING, PROGRAM, UP, ended, needs_confirmation, state_of
from .network import bridges, networks_by_device, uplink

INTERFACES = "/etc/network/interfaces"
FOLDER = "/var/lib/unikernels/network"
UNITS = "/etc/systemd/system"
UNIT = "unikernels-xen-bridge"
# How long the program takes to see its confirmation; it looks each second.
KEPT_SECONDS = 20
_BETWEEN = 0.2


class SwitchError(Exception):
    """One line."""


@dataclass(frozen=True)
class Change:
    """A file of interfaces(5), as it is and as it is to be."""

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
    """What the bridge takes; None when it is there."""
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
    """The file that configures the device, with its text; INTERFACES when none does."""
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
    """Start the change, which then waits ``seconds`` for its confirmation. SwitchError when the new network does not come up."""
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    for leftover in ("confirmed", "state"):
        if os.path.exists(os.path.join(FOLDER, leftover)):
            os.unlink(os.path.join(FOLDER, leftover))
    for file, text, mode in (("old", change.before, 0o600), ("new", change.after, 0o600), ("switch", PROGRAM, 0o700)):
        write_whole(os.path.join(FOLDER, file), text.encode("utf-8", "surrogateescape"), mode)
    words = [os.path.join(FOLDER, "switch"), change.uplink, name, str(seconds), change.path, UNITS]
    _run("systemd-run", "--quiet", "--collect", "--unit", UNIT, *words)
    until = time.monotonic() + seconds
    while not ended(state()) and time.monotonic() < until:
        time.sleep(_BETWEEN)
    if state() != UP:
        raise SwitchError(f"bridge {name} did not come up, the old network was put back; see journalctl -u {UNIT}")


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise SwitchError(f"{words[0]}: {error}") from None
    if done.returncode:
        raise SwitchError(f"{words[0]}: {' '.join(done.stderr.split())}")


def confirm(name: str, check: bool) -> bool:
    """Keep the new network; whether there was something to confirm. SwitchError when it has gone."""
    try:
        waiting = needs_confirmation(state(), name in bridges())
    except ValueError as error:
        raise SwitchError(f"bridge {name} {error}. See: journalctl -u {UNIT}; then run again") from None
    if not waiting or check:
        return waiting
    write_whole(os.path.join(FOLDER, "confirmed"), b"", 0o600)
    until = time.monotonic() + KEPT_SECONDS
    while state() == UP:
        if time.monotonic() > until:
            break
        time.sleep(_BETWEEN)
    if state() != "kept":
        raise SwitchError(f"bridge {name}: the confirmation came too late; see journalctl -u {UNIT}")
    return True
