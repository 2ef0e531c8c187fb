# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. The folder of images: ``<sha256>.xen`` and, beside it, ``<sha256>.json`` with its description.

If known, there are also ``<sha256>.provenance.json``, where it came from, and ``.provenance.json.sig``, the signature of that.
``names/NAME.json`` has the image of a name and its previous images, to roll back to.

The file name is the digest, so an existing file is the right one and is never written again. Files appear complete or not at all:
written to a temporary name, synced, renamed. The image comes last, so an image without a description is never seen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from . import strict_json
from .elf import ImageError, inspect, inspect_file, printable

SUFFIX = ".xen"
KINDS = ("xen", "json", "provenance.json", "provenance.json.sig")
DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
NAMES = "names"
INCOMING = ".incoming-"
MAX_HISTORY = 100
# Bytes; a description, statement or signature has a few KB. A statement lists every package of a build.
MAX_TEXT = 4 << 20
# An image has a few MB, a stand-in some dozen.
MAX_IMAGE = 1 << 30
_LOCK, LOCK_SECONDS = ".lock", 120
# How long a prune keeps an unused image, in seconds: its domain is created within minutes after it arrived.
FRESH_SECONDS = 3600


class StoreError(Exception):
    """One line: what could not be stored, where and why."""


def write_whole(path: str, data: bytes, mode: int) -> None:
    """Write ``path`` atomically: the old file or the new one, never a part, even after a power failure."""
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=INCOMING, dir=folder)
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
    sync_folder(folder)


def write_json(path: str, content: Any, mode: int = 0o644) -> None:
    """Write JSON that a program reads again, as `write_whole` does."""
    write_whole(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(), mode)


def sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def image_path(store: str, digest: str) -> str:
    return os.path.join(store, digest + SUFFIX)


def open_file(path: str, flags: int = 0) -> BinaryIO:
    """A file for reading. OSError for what is none: a pipe would be waited for, and a device has no end."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    is_folder = stat.S_ISDIR(mode)
    raise OSError(errno.EISDIR if is_folder else errno.EINVAL, "Is a directory" if is_folder else "is not a file", path)


def read_text(path: str) -> bytes:
    """The bytes of a description, statement or signature; OSError, or ValueError where it is too long to be one."""
    with open_file(path) as file:
        return _bounded(file)


def read_own(path: str) -> bytes:
    """As `read_text`, of a file that decides what boots: ValueError where others than root and this user may have written it."""
    with open_file(path) as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise ValueError(f"users other than root may have written it: inspect it, then chown root {path}; chmod 644 {path}")
        return _bounded(file)


def _bounded(file: BinaryIO) -> bytes:
    data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise ValueError(f"has more than {MAX_TEXT} bytes")
    return data


def listing(store: str) -> list[dict[str, Any]]:
    """Return the descriptions of all stored images without reading the images; [] if there is no store."""
    if not os.path.isdir(store):
        return []
    images = []
    for name in sorted(os.listdir(store)):
        digest, suffix = os.path.splitext(name)
        if suffix == SUFFIX and DIGEST.fullmatch(digest):
            images.append(describe(store, digest))
    return images


# Keys of a description and their types, as `put` writes them.
_FIELDS: dict[str, type] = {
    "name": str, "description": str, "target": str, "source": str, "key": str, "size": int, "memory_size": int,
    "standin": bool, "debug_info": bool, "devices": list,
}  # fmt: skip


def _device(value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not isinstance(value.get("type"), str):
        return None
    return {"name": printable(value["name"]), "type": printable(value["type"])}


def read_manifest(data: bytes) -> tuple[dict[str, Any], str]:
    """Return (the valid part of a description, what is wrong with it or ""). It may come from anywhere."""
    try:
        content = strict_json.loads(data)
    except ValueError:
        return {}, "is not JSON"
    if not isinstance(content, dict):
        return {}, "is not a mapping"
    manifest: dict[str, Any] = {}
    wrong = set()
    for key, value in content.items():
        expected = _FIELDS.get(key, type(value))
        if type(value) is not expected or printable(key) != key:
            wrong.add(printable(key))
        elif isinstance(value, list):
            devices = [_device(entry) for entry in value]
            if key == "devices" and None not in devices:
                manifest[key] = devices
            else:
                wrong.add(printable(key))
        elif isinstance(value, str):
            manifest[key] = printable(value)
            if printable(value) != value:
                wrong.add(printable(key))
        elif isinstance(value, int) and abs(value) < 1 << 62:
            manifest[key] = value
        else:
            wrong.add(printable(key))
    return manifest, f"has no valid {', '.join(sorted(wrong))[:200]}" if wrong else ""


def describe(store: str, digest: str) -> dict[str, Any]:
    """Return the manifest of one stored image with its path; sizes in bytes. ``problem``: what is wrong with the description."""
    path = os.path.join(store, digest + ".json")
    manifest: dict[str, Any] = {}
    try:
        manifest, wrong = read_manifest(read_text(path))
    except FileNotFoundError:
        wrong = ""  # only the image matters; putting it again writes its description again
    except (OSError, ValueError) as error:
        wrong = getattr(error, "strerror", None) or str(error)
    problem = {"problem": f"description {path}: {wrong}"} if wrong else {}
    return {**manifest, "sha256": digest, "path": image_path(store, digest), **problem}


@contextlib.contextmanager
def hold(path: str, seconds: float, late: Exception) -> Iterator[int]:
    """Hold the lock of the file at ``path``; yield its descriptor. Raise ``late`` if somebody else holds it for ``seconds``."""
    until = time.monotonic() + seconds
    # Whoever can open a file can hold its lock, and block every run.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "a", encoding="ascii") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            os.fchmod(file.fileno(), 0o600)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise late from None
                time.sleep(0.05)
        yield file.fileno()


@contextlib.contextmanager
def locked(store: str, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the store's lock, so that concurrent runs lose no entry of a name's history, and no prune removes what arrives."""
    folder = os.path.join(store, NAMES)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    late = StoreError(f"image store {store}: another run has been working on it for {seconds:g} s")
    with hold(os.path.join(folder, _LOCK), seconds, late):
        yield


def read_image(path: str, expected: str | None) -> tuple[bytes, str, dict[str, Any]]:
    """Return the bytes, digest and manifest of an image file that Xen can boot. Raise StoreError if it can't."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_IMAGE:
                raise StoreError(f"image {path}: has more than {MAX_IMAGE} bytes")
            # Python takes memory for as much as may be read, and Dom0 has little.
            data = file.read(size + 1)
    except OSError as error:
        raise StoreError(f"image {path}: {error.strerror}") from error
    except MemoryError:
        raise StoreError(f"image {path}: its {size >> 20} MiB do not fit into this machine's memory") from None
    if len(data) > size:
        raise StoreError(f"image {path}: it grew while it was read")
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
        "debug_info": image.debug_info,
    }
    return data, digest, manifest


def put(store: str, path: str, expected: str | None, extra: dict[str, Any], check: bool) -> tuple[bool, dict[str, Any]]:
    """Store the image file at ``path``. Return (changed, manifest with path). An altered file in the store is replaced."""
    data, digest, manifest = read_image(path, expected)
    target = image_path(store, digest)
    whole = os.path.exists(target) and digest_of(target) == digest
    described = os.path.exists(os.path.join(store, digest + ".json")) and "problem" not in describe(store, digest)
    if whole and described:
        return False, {**extra, **manifest, **describe(store, digest)}
    if not check:
        try:
            os.makedirs(store, mode=0o755, exist_ok=True)
            if not described:
                write_description(store, digest, {**extra, **manifest})
            if not whole:
                write_whole(target, data, 0o644)
        except OSError as error:
            raise StoreError(f"image store {store}: {error.strerror}") from error
    return True, {**extra, **manifest, "path": target}


def write_description(store: str, digest: str, manifest: dict[str, Any]) -> None:
    write_json(os.path.join(store, digest + ".json"), manifest)


# -- names: which image a name means, and meant before ----------------------------------------------


def _name_path(store: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise StoreError(f"image name {name!r}: letters, digits and . _ + - only, at most 64, beginning with a letter or digit")
    return os.path.join(store, NAMES, name + ".json")


def history(store: str, name: str) -> list[str]:
    """Return the digests that ``name`` has meant, the current one first; [] for an unknown name."""
    path = _name_path(store, name)
    try:
        digests = strict_json.loads(read_text(path))["history"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a history"
        raise StoreError(f"image store {store}: {path} cannot be read: {reason}; remove it, and run again") from error
    if not isinstance(digests, list) or not all(isinstance(digest, str) and DIGEST.fullmatch(digest) for digest in digests):
        raise StoreError(f"image store {store}: {path} cannot be read: it is not a history; remove it, and run again")
    return digests


def known_names(store: str) -> list[str]:
    """Return the names with a history in the store."""
    try:
        files = sorted(os.listdir(os.path.join(store, NAMES)))
    except FileNotFoundError:
        return []
    names = [os.path.splitext(file)[0] for file in files if file.endswith(".json")]
    return [name for name in names if NAME.fullmatch(name)]


def names(store: str) -> dict[str, list[str]]:
    """Return every name with its history."""
    return {name: history(store, name) for name in known_names(store)}


def names_and_problems(store: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return every name with a readable history, and one line for each other."""
    readable, problems = {}, []
    for name in known_names(store):
        try:
            readable[name] = history(store, name)
        except StoreError as error:
            problems.append(str(error))
    return readable, problems


def point(store: str, name: str, digest: str, check: bool) -> bool:
    """Make ``name`` mean the image ``digest``. Return whether that is a change. Atomic; the history is kept."""
    path, before = _name_path(store, name), history(store, name)
    if before[:1] == [digest]:
        return False
    if check:
        return True
    with locked(store):
        before = history(store, name)  # another run may have written it
        if before[:1] == [digest]:
            return False
        write_json(path, {"name": name, "history": [digest, *before][:MAX_HISTORY]})
    return True


# -- looking after the folder -------------------------------------------------------------------------


def digest_of(path: str) -> str:
    """Return the sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fsck(store: str) -> list[str]:
    """Return one line for everything wrong in the store; reads every image."""
    lines = []
    images = {image["sha256"]: image for image in listing(store)}
    if os.path.isdir(store) and os.stat(store).st_mode & 0o022:
        lines.append(f"{store}: users other than its owner can write there: chmod go-w {store}")
    for digest, image in images.items():
        actual = digest_of(image_path(store, digest))
        if actual != digest:
            lines.append(f"{image_path(store, digest)}: its content has the sha256 {actual}: the next run ships it again")
        if not os.path.exists(os.path.join(store, digest + ".json")):
            lines.append(f"{image_path(store, digest)}: has no description beside it: put it again")
        elif image.get("problem"):
            lines.append(f"{image['problem']}: put it again")
    for file in _files(store):
        digest, _dot, kind = file.partition(".")
        path = os.path.join(store, printable(file))
        if DIGEST.fullmatch(digest) and digest not in images:
            lines.append(f"{path}: there is no image of that digest")
        elif file.startswith(INCOMING):
            lines.append(f"{path}: left by a run that died; the next prune removes it")
        elif kind not in ("", *KINDS) and DIGEST.fullmatch(digest):
            lines.append(f"{path}: not a file of the store")
    readable, problems = names_and_problems(store)
    for name, digests in readable.items():
        if digests and digests[0] not in images:
            lines.append(f"image name {name}: means {digests[0]}, which is not in the store")
    return lines + problems


def unused(store: str, used: set[str], depth: int, now: float) -> list[str]:
    """Return the paths of the files that a prune removes.

    An image is kept while a domain uses it (``used``: digests), or while it is one of the last 1 + ``depth`` images of a name.
    Whatever is arriving or arrived within the last hour is kept too, since its domain may not exist yet.
    """
    kept = set(used)
    for digests in names(store).values():
        kept.update(digests[: depth + 1])
    ages: dict[str, float] = {}
    for file in _files(store):
        image = file if file.startswith(INCOMING) else file.partition(".")[0]
        if file.startswith(INCOMING) or (DIGEST.fullmatch(image) and image not in kept):
            # An image's files are removed together, once the youngest is old enough.
            ages[image] = min(ages.get(image, now), now - os.stat(os.path.join(store, file)).st_mtime)
    old = {image for image, age in ages.items() if age > FRESH_SECONDS}
    return [os.path.join(store, file) for file in _files(store) if file in old or file.partition(".")[0] in old]


def _files(store: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(store) if entry.is_file()) if os.path.isdir(store) else []


def remove(paths: list[str]) -> None:
    """Remove files, images first: an interruption leaves a description without an image, which the next prune removes."""
    for path in sorted(paths, key=lambda path: not path.endswith(SUFFIX)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def take(store: str, file: str, path: str, sha256: str) -> None:
    """Make the file that arrived at ``path`` the store's ``file`` if its digest is right. Raise StoreError otherwise.

    A wrong file is removed: nothing of it stays in the store.
    """
    incoming = os.path.join(store, INCOMING + file)
    try:
        if path != incoming:
            # Who brought it can put a link there, and nobody may read what arrives before it is known.
            with open_file(path, os.O_NOFOLLOW) as source, open(incoming, "wb", opener=_private) as target:
                shutil.copyfileobj(source, target)
        actual = digest_of(incoming)
        if actual != sha256:
            raise StoreError(f"{file}: the received file has the sha256 {actual}; it was removed: run again")
        if file.endswith(SUFFIX):
            inspect_file(incoming)
        with open(incoming, "rb+") as arrived:
            os.fchmod(arrived.fileno(), 0o644)
            os.fsync(arrived.fileno())
        os.rename(incoming, os.path.join(store, file))
    except ImageError as error:
        raise StoreError(f"{file}: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(incoming)
    sync_folder(store)


def describe_again(store: str, digest: str, name: str) -> None:
    """Write the description of an image that arrived without one, from the image itself."""
    _data, _digest, manifest = read_image(image_path(store, digest), digest)
    write_description(store, digest, {"name": name, **manifest})
