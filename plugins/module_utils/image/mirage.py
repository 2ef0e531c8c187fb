# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Turn OCaml source into an image in the store: configure, fetch packages, build, inspect, store.

A build's key is a digest of everything that goes into it, so an earlier build is found without starting a process. Each build has
a folder of its own below the work folder, and a lock: a second build of the same key waits. Without a sandbox that kills orphans,
child processes hold the lock too, so that it waits for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import Any

from . import lock_file, provenance, sandbox, signature
from .building import Building
from .elf import ImageError, inspect_file
from .request import SWITCH as SWITCH
from .request import Request as Request
from .request import Settings as Settings
from .request import Source as Source
from .request import Toolchain as Toolchain
from .request import configure_refusal as configure_refusal
from .request import range_refusal as range_refusal
from .sources import LOCK, digest_of_sources, source_files
from .steps import BuildError as BuildError
from .steps import Steps
from .steps import reason as reason
from .store import describe, digest_of, hold, image_path, put, read_text, write_json, write_whole

# Raise this number whenever the same sources would be built differently.
RECIPE = 3
# Seconds; orphans of a killed build exit soon, since their pipe is closed.
_LOCK_SECONDS = 60


@dataclass
class Result:
    changed: bool
    cached: bool
    manifest: dict[str, Any] = field(default_factory=dict)


def toolchain(folder: str) -> Toolchain:
    path = os.path.join(folder, "versions.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        versions = {str(tool): str(version) for tool, version in found.items()}
        return Toolchain(folder, versions, _settings(folder))
    except FileNotFoundError as error:
        raise BuildError(f"toolchain {folder}: there is no MirageOS toolchain; the role mirage_builder installs one") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BuildError(f"toolchain {folder}: {path} cannot be read: {error}; run the role mirage_builder again") from error


def _settings(folder: str) -> Settings:
    """Return how this builder gets packages; defaults for an older toolchain."""
    try:
        with open(os.path.join(folder, "settings.json"), encoding="utf-8") as file:
            settings = json.load(file)
    except FileNotFoundError:
        return Settings()
    return Settings(**{**settings, "mirrors": tuple(settings.get("mirrors", ()))})


def key_of(request: Request, tools: Toolchain) -> str:
    """Return a digest of sources, lock file, configure options and toolchain: equal keys give equal images."""
    sources, lock = digest_of_sources(request.source.folder)
    if request.lock and not request.update_lock:
        lock = digest_of(request.lock)
    over = [(path, digest_of_sources(folder)[0]) for path, folder in request.overlay]
    # A lock file to be made may pin the commit, so another commit needs another one, even with equal sources.
    parts = [
        RECIPE,
        sources,
        over,
        [request.source.revision] if request.update_lock else lock,
        list(request.configure),
        tools.versions,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def built(store: str, key: str) -> dict[str, Any] | None:
    """Return the manifest of the image built for the key, if it is still in the store."""
    try:
        with open(os.path.join(store, "keys", key), encoding="ascii") as file:
            digest = file.read().strip()
    except FileNotFoundError:
        return None
    return describe(store, digest) if os.path.exists(image_path(store, digest)) else None


def config_of(folder: str, overlay: tuple[tuple[str, str], ...]) -> str:
    """Return a unikernel's config.ml. Raise BuildError if there is none, or if an overlay's folder is missing."""
    try:
        config = read_text(os.path.join(folder, "config.ml")).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BuildError(f"source {folder}: not a unikernel's folder: there is no config.ml in it") from error
    except (OSError, ValueError) as error:
        raise BuildError(f"source {folder}: config.ml: {getattr(error, 'strerror', None) or error}") from error
    for path, laid in overlay:
        if os.path.isabs(path) or ".." in path.split("/") or not path.strip("./"):
            raise BuildError(f"overlay: {path!r}: expected a folder inside the source's folder")
        if not os.path.isdir(laid):
            raise BuildError(f"overlay: {path}: {laid} is not a folder")
    return config


def refusals(request: Request, tools: Toolchain) -> None:
    """Raise BuildError for whatever can be refused before anything is started."""
    folder = request.source.folder
    config = config_of(folder, request.overlay)
    for option in request.configure:
        refusal = configure_refusal(option)
        if refusal:
            raise BuildError(refusal)
    refusal = range_refusal(config, tools.versions.get("mirage", ""))
    if refusal:
        raise BuildError(f"source {folder}: {refusal}")
    if request.update_lock:
        return
    if request.lock and not os.path.isfile(request.lock):
        raise BuildError(f"lock: {request.lock} is not a file; update_lock: true creates it")
    locks = (
        [request.lock] if request.lock else [os.path.join(folder, path) for path in source_files(folder) if LOCK.fullmatch(path)]
    )
    for path in locks:
        with open(path, encoding="utf-8", errors="replace") as file:
            lock = lock_file.read(file.read())
        refusal = lock.problem or lock_file.other_commit(lock, request.source.uri, request.source.revision)
        if refusal:
            raise BuildError(f"{request.name}: lock file {path}: {refusal}")
    if not locks:
        raise BuildError(
            f"source {folder}: there is no lock file mirage/NAME-xen.opam.locked, so what would be built in is unknown;"
            " update_lock: true creates one to commit, and lock: FILE names one that you keep"
        )


def build(store: str, work: str, request: Request, tools: Toolchain, check: bool) -> Result:
    """Build the image unless it exists. Raise BuildError, StoreError or SignatureError; then the store is unchanged."""
    try:
        return _built_or_found(store, work, request, tools, check)
    except sandbox.SandboxError as error:
        raise BuildError(str(error)) from error


def _built_or_found(store: str, work: str, request: Request, tools: Toolchain, check: bool) -> Result:
    refusals(request, tools)
    key = key_of(request, tools)
    found = _known(store, key, request)
    if found and (check or not request.verify_reproducible):
        return _found(store, found, key, request, check)
    if check:
        return Result(True, False, {"sha256": None, "path": None, "key": key})
    sandbox.require(request.sandbox)
    sandbox.private(work)
    path, seconds = os.path.join(work, key + ".lock"), request.timeout + _LOCK_SECONDS
    with hold(path, seconds, BuildError(f"another build of the same image still holds {path} after {seconds} s")) as lock:
        found = _known(store, key, request)  # built by another run while this one waited
        if found and not request.verify_reproducible:
            return _found(store, found, key, request, check)
        return _build(store, work, key, request, tools, lock)


def _known(store: str, key: str, request: Request) -> dict[str, Any] | None:
    """Return the manifest of an earlier build; None if the lock file that it made is no longer in its place."""
    found = built(store, key)
    if not found or not request.update_lock:
        return found
    try:
        with open(os.path.join(store, "keys", key + ".lock"), encoding="utf-8") as file:
            path, digest = json.load(file)
        return found if digest_of(_place_of_lock(request, path)) == digest else None
    except (OSError, ValueError, TypeError):
        return None


def _place_of_lock(request: Request, path: str) -> str:
    return request.lock or os.path.join(request.source.folder, path)


def _build(store: str, work: str, key: str, request: Request, tools: Toolchain, lock: int) -> Result:
    log = os.path.join(work, f"{request.name}-{key[:12]}.log")
    steps = Steps(request.name, log, os.path.join(work, "progress"), request.timeout, (lock,))
    steps.begin()
    building = Building(request, tools, os.path.join(work, key), steps)
    building.clean()
    known = built(store, key) is not None
    try:
        images = [building.once(attempt) for attempt in (("", "-again") if request.verify_reproducible else ("",))]
        if len(images) == 2:
            _compare(images[0], images[1], request.name)
        _look_at(images[0], request.name, log)
        if key_of(request, tools) != key:
            raise BuildError(f"{request.name}: its sources were changed while they were built; nothing was stored: run again")
        lock_digest = hashlib.sha256(building.lock_text or b"").hexdigest()
        digest = digest_of(images[0])
        text = _statement(digest, key, request, tools, lock_digest, building.lock_text or b"")
        if request.signing_key:
            signature.sign(text, request.signing_key)  # fail before anything is stored if the key can't sign
        extra = {"name": request.name, "key": key, "source": request.source.uri}
        changed, _manifest = put(store, images[0], digest, extra, False)
        changed = signature.attach(store, digest, text, request.signing_key, False) or changed
        changed = _keep_lock(store, key, request, tools, building, digest) or changed
        _remember(store, key, digest)
        manifest = {**describe(store, digest), "key": key, "log": log, "origin": _origin(request)}
        return Result(changed or not known, False, manifest)
    finally:
        building.clean()
        steps.finish()


def _look_at(image: str, name: str, log: str) -> None:
    try:
        target = inspect_file(image).target
    except (ImageError, OSError) as error:
        raise BuildError(f"{name}: what make build left is not an image: {error} (log: {log})") from error
    if target != "xen":
        raise BuildError(f"{name}: what make build left has no note of Solo5 for xen (log: {log})")


def _remember(store: str, key: str, digest: str) -> None:
    os.makedirs(os.path.join(store, "keys"), mode=0o755, exist_ok=True)
    write_whole(os.path.join(store, "keys", key), digest.encode(), 0o644)


def _keep_lock(store: str, key: str, request: Request, tools: Toolchain, building: Building, digest: str) -> bool:
    """Save a lock file that was made: as a source, to be committed, or in the user's file. Return whether it differs."""
    if not request.update_lock or building.lock_text is None:
        return False
    target = _place_of_lock(request, building.lock_path)
    old = b""
    with contextlib.suppress(FileNotFoundError), open(target, "rb") as file:
        old = file.read()
    if old != building.lock_text:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        write_whole(target, building.lock_text, 0o644)
    _remember(store, key_of(replace(request, update_lock=False), tools), digest)
    write_json(os.path.join(store, "keys", key + ".lock"), [building.lock_path, digest_of(target)])
    return old != building.lock_text


def _origin(request: Request) -> dict[str, Any]:
    """The source as a statement has it (SLSA's resolvedDependencies)."""
    digest = {"sha256": digest_of_sources(request.source.folder)[0]}
    if request.source.revision:
        digest["gitCommit"] = request.source.revision
    name = {"name": request.source.subfolder} if request.source.subfolder else {}
    return {**name, "uri": request.source.uri, "digest": digest}


def _statement(digest: str, key: str, request: Request, tools: Toolchain, lock_digest: str, lock: bytes) -> bytes:
    return provenance.statement(
        request.name, digest, built=True, parameters={"target": "xen", "configure": list(request.configure)},
        materials=[
            _origin(request), {"name": "lock file", "digest": {"sha256": lock_digest}},
            *({"name": path, "digest": {"sha256": digest_of_sources(laid)[0]}} for path, laid in request.overlay),
            *lock_file.materials(lock_file.read(lock.decode("utf-8", "replace"))),
        ],
        builder={"id": os.uname().nodename, **tools.versions}, key=key,
    )  # fmt: skip


def _found(store: str, found: dict[str, Any], key: str, request: Request, check: bool) -> Result:
    """Return an image that was built before; sign it if that is still missing."""
    changed = False
    if request.signing_key:
        changed = signature.attach(store, found["sha256"], b"", request.signing_key, check)
    return Result(changed, True, {**found, "key": key, "origin": _origin(request)})


def _compare(one: str, other: str, name: str) -> None:
    with open(one, "rb") as first, open(other, "rb") as second:
        left, right = first.read(), second.read()
    if left == right:
        return
    at = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
    raise BuildError(
        f"{name}: not reproducible: two builds of the same sources differ from byte {at} on"
        f" ({len(left)} and {len(right)} bytes); nothing was stored"
    )
