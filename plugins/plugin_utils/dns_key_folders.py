# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Read and write the keys that zones are signed with, in folders on the controller: ZONE.NUMBER.pem, mode 0600.

There are only these files: a copy of the folder is a backup. A run reads them; only `bring_up_to_date`, for
playbooks/dns_keys.yml, writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Resolved
from ansible_collections.unikernels.xen.plugins.module_utils.image.store import sync_folder, write_whole
from ansible_collections.unikernels.xen.plugins.module_utils.service.dns_signing import ALGORITHMS, Keys, ZoneKey, key_file

_FILE = re.compile(r"(.{1,253})\.([1-9][0-9]{0,8})\.pem")
# A key has some 250 bytes; the folder could hold anything.
_MAX_FILE = 1 << 16


class KeyFolderError(Exception):
    """One line: the file, and what is wrong with it."""


def absolute(folder: str) -> str:
    return os.path.realpath(os.path.expanduser(folder)) if "\0" not in folder else "/"


def with_zone_keys(resolved: Resolved, lines: list[str]) -> Resolved:
    """Return ``resolved`` with absolute folders in C(dns_sign), and the keys there; add a line for each that can't be read."""
    values: dict[str, Any] = dict(resolved.values)
    places = [(values, "dns_sign", "dns_sign")]
    listed = values.get("dns_servers")
    if isinstance(listed, list):
        values["dns_servers"] = [dict(item) if isinstance(item, dict) else item for item in listed]
        places += [
            (item, "sign", f"dns_servers[{index}].sign")
            for index, item in enumerate(values["dns_servers"])
            if isinstance(item, dict)
        ]
    found: dict[str, Keys | None] = {}
    for holder, key, place in places:
        sign = holder.get(key)
        if isinstance(sign, dict) and isinstance(sign.get("keys"), str):
            folder = absolute(sign["keys"])
            holder[key] = {**sign, "keys": folder}
            if folder not in found:
                try:
                    found[folder] = read(folder)
                except KeyFolderError as error:
                    found[folder] = None
                    lines.append(f"{place}: keys: {error}")
    return dataclasses.replace(resolved, values=values, zone_keys=found)


def read(folder: str) -> Keys:
    """Return the folder's keys by zone, the oldest first; none if there is no folder."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise KeyFolderError(f"{folder}: {error.strerror}") from None
    keys: dict[str, list[ZoneKey]] = {}
    for name in names:
        named = _FILE.fullmatch(name)
        if named:
            keys.setdefault(named[1], []).append(ZoneKey(int(named[2]), _text(os.path.join(folder, name))))
    return {zone: tuple(sorted(each, key=lambda key: key.number)) for zone, each in keys.items()}


def _text(path: str) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise KeyFolderError(f"{path}: is not a file")
            if about.st_mode & 0o077:
                mode = stat.S_IMODE(about.st_mode)
                raise KeyFolderError(f"{path}: others than its owner may use this key (mode {mode:04o}): chmod 600")
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise KeyFolderError(f"{path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise KeyFolderError(f"{path}: has more than {_MAX_FILE} bytes")
    return data.decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """``new``: the zone that gets a second key; ``remove``: the zone that loses the older of its two."""

    zones: tuple[str, ...]
    algorithm: str = ALGORITHMS[0]
    new: str = ""
    remove: str = ""


def bring_up_to_date(folder: str, wanted: Wanted, write: bool = True) -> list[str]:
    """Create the first key of each zone, and what else is wanted. Return what was done, or would be, a line each."""
    due = _due(read(folder), wanted)
    if not due or not write:
        return [f"would {step} {os.path.join(folder, file)}" for step, file in due]
    with _locked(folder):
        due = _due(read(folder), wanted)  # another run may have changed it meanwhile
        for step, file in due:
            path = os.path.join(folder, file)
            if step == "create":
                _create(path, wanted.algorithm)
            else:
                os.unlink(path)
        sync_folder(folder)
    return [f"{step}d {os.path.join(folder, file)}" for step, file in due]


def _due(found: Keys, wanted: Wanted) -> list[tuple[str, str]]:
    """What to do with which file: create or remove. What is done already is not due, so it can be asked for by many hosts."""
    due = [("create", key_file(zone, 1)) for zone in wanted.zones if not found.get(zone)]
    for zone in wanted.zones:
        keys = found.get(zone, ())
        if zone == wanted.new and len(keys) == 1:
            due.append(("create", key_file(zone, keys[0].number + 1)))
        if zone == wanted.remove and len(keys) > 1:
            due.append(("remove", key_file(zone, keys[0].number)))
    return due


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.open(os.path.join(folder, ".lock"), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create(path: str, algorithm: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ecdsap256sha256" else ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_whole(path, text, 0o600)
