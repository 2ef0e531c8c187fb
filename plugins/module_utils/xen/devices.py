# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Changes to a running domain that need its guest's help: devices and vCPUs."""

from __future__ import annotations

import os
import re

from ..wait import until
from .watch import XL_LOGS
from .xenstore import Xenstore
from .xl import ToolstackError, last_words, must, xl

# How long, in seconds, a guest may take to accept a device or to give it back.
DEVICE_SECONDS = 20
# XenbusStateInitialising and XenbusStateConnected in xen/include/public/io/xenbus.h
_UNTOUCHED, _CONNECTED = "1", "4"
_COMMANDS = {"vbd": "block", "vif": "network"}


def await_qemu(domid: int, name: str) -> None:
    """Wait until QEMU has attached the domain's disks: xl doesn't wait, and QEMU reports a failure only in its own log."""
    backends = f"/local/domain/0/backend/qdisk/{domid}"
    with Xenstore() as store:
        (served,) = store.directories([backends])
        if until(lambda: _UNTOUCHED not in store.read([f"{backends}/{disk}/state" for disk in served]), DEVICE_SECONDS):
            return
    log = os.path.join(XL_LOGS, f"qemu-dm-{name}.log")
    raise ToolstackError(f"domain {name}: QEMU in Dom0 did not attach a disk: {_last_line(log)} ({log})")


def set_vcpus(name: str, count: int) -> None:
    """Set the vCPUs in use and wait: the guest itself takes them on and off line."""
    must("vcpu-set", name, str(count))
    online = -1

    def follows() -> bool:
        nonlocal online
        online = len(re.findall(r"\s(?:r--|-b-|---)\s", must("vcpu-list", name)))  # --p: offline
        return online == count

    if not until(follows, DEVICE_SECONDS, 0.2):
        raise ToolstackError(
            f"domain {name}: vcpus: the guest does not follow (it uses {online}, not {count}); without live: true it would be"
            " replaced"
        )


def attach(domid: int, name: str, kind: str, text: str, label: str) -> None:
    before = _devices(domid, kind)
    # xl takes each part of a vif as an argument of its own, a disk as one.
    code, out, err = xl(f"{_COMMANDS[kind]}-attach", name, *([text] if kind == "vbd" else text.split(",")))
    new = [device for device in _devices(domid, kind) if device not in before]
    problem = f"xl prints: {last_words(err + out)}" if code else _connect(domid, kind, new)
    if problem:
        raise ToolstackError(
            f"domain {name}: {label} could not be attached to the running domain: {problem}; without live: true it would be"
            " replaced"
        )


def detach(domid: int, name: str, kind: str, key: str, force: bool = False) -> None:
    """Detach a device. ``force``: required for a disk that the guest never accepted, since it can't release it."""
    before = _devices(domid, kind)
    device = key if kind == "vbd" else _devid(domid, key)
    flags = ["--force"] if force and kind == "vbd" else []
    code, out, err = xl(f"{_COMMANDS[kind]}-detach", *flags, name, device)
    if not until(lambda: len(_devices(domid, kind)) < len(before), 0 if code else DEVICE_SECONDS, 0.2):
        raise ToolstackError(
            f"domain {name}: the guest does not give {key} back, it is still attached"
            f" ({last_words(err + out) or 'xl prints nothing'}); without live: true the domain would be replaced"
        )


def _devices(domid: int, kind: str) -> list[str]:
    with Xenstore() as store:
        return store.directories([f"/libxl/{domid}/device/{kind}"])[0]


def _devid(domid: int, mac: str) -> str:
    with Xenstore() as store:
        ids = store.directories([f"/libxl/{domid}/device/vif"])[0]
        macs = store.read([f"/libxl/{domid}/device/vif/{devid}/mac" for devid in ids])
    return next((devid for devid, own in zip(ids, macs) if (own or "").lower() == mac), mac)


def _connect(domid: int, kind: str, devices: list[str]) -> str | None:
    """Return None when the guest has accepted all devices, else why not."""
    states: list[str | None] = []
    with Xenstore() as store:

        def connected() -> bool:
            nonlocal states
            states = store.read([f"/local/domain/{domid}/device/{kind}/{device}/state" for device in devices])
            return bool(devices) and all(state == _CONNECTED for state in states)

        if until(connected, DEVICE_SECONDS if devices else 0, 0.2):
            return None
    return f"the guest does not take it (state {', '.join(map(str, states)) or 'none'})"


def _last_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()[-1].strip()
    except (OSError, IndexError):
        return "its log is empty"
