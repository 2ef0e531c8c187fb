# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The folder of images: ``<sha256>.xen`` and, beside it, ``<sha256>.json`` with what it is.

The name is the digest, so a file that is there is the right one and is never written again.
Both files appear whole or not at all: written beside their place, synced, renamed. The image
comes last, so an image without its description is never seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from typing import Any

from .elf import ImageError, inspect

SUFFIX = ".xen"
DIGEST = re.compile(r"[0-9a-f]{64}")


class StoreError(Exception):
    """One line: what could not be stored, where and why."""


def write_whole(path: str, data: bytes, mode: int) -> None:
    """Write ``path`` atomically: the old file or the new one, never a part, also after a power cut."""
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=".incoming-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)


def image_path(store: str, digest: str) -> str:
    return os.path.join(store, digest + SUFFIX)


def listing(store: str) -> list[dict[str, Any]]:
    """What every stored image says of itself, without reading the images. [] when there is no store."""
    if not os.path.isdir(store):
        return []
    found = []
    for name in sorted(os.listdir(store)):
        digest, suffix = os.path.splitext(name)
        if suffix == SUFFIX and DIGEST.fullmatch(digest):
            found.append(describe(store, digest))
    return found


def describe(store: str, digest: str) -> dict[str, Any]:
    """The manifest of one stored image with its path; sizes in bytes."""
    manifest: dict[str, Any] = {}
    try:
        with open(os.path.join(store, digest + ".json"), encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError):
        pass  # the image is what counts; its description is made anew when it is put again
    return {**manifest, "sha256": digest, "path": image_path(store, digest)}


def read_image(path: str, expected: str | None) -> tuple[bytes, str, dict[str, Any]]:
    """The bytes, the digest and the manifest of an image file that Xen can boot; else StoreError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise StoreError(f"image {path}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if expected and digest != expected.lower():
        raise StoreError(f"image {path}: its sha256 is {digest}, declared is {expected.lower()}; nothing was stored")
    try:
        image = inspect(data)
    except ImageError as error:
        raise StoreError(f"image {path}: {error}") from error
    manifest = {
        "sha256": digest,
        "size": image.size,
        "memory_size": image.memory_size,
        "target": image.target,
        "standin": image.target == "standin",
        "description": image.description,
        "devices": [{"name": device.name, "type": device.type} for device in image.devices],
    }
    return data, digest, manifest


def put(store: str, path: str, expected: str | None, extra: dict[str, Any], check: bool) -> tuple[bool, dict[str, Any]]:
    """Store the image file at ``path``. Return (changed, manifest with path)."""
    if expected and DIGEST.fullmatch(expected) and os.path.exists(image_path(store, expected)):
        return False, describe(store, expected)
    data, digest, manifest = read_image(path, expected)
    target = image_path(store, digest)
    result = {**extra, **manifest, "path": target}
    if os.path.exists(target):
        return False, {**result, **describe(store, digest)}
    if not check:
        try:
            os.makedirs(store, mode=0o755, exist_ok=True)
            text = json.dumps({**extra, **manifest}, indent=1, sort_keys=True) + "\n"
            write_whole(os.path.join(store, digest + ".json"), text.encode(), 0o644)
            write_whole(target, data, 0o644)
        except OSError as error:
            raise StoreError(f"image store {store}: {error.strerror}") from error
    return True, result
