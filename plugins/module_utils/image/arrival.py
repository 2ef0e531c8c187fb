# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Images arrive at a store: verify what was shipped or comes from a mirror, take it in, and set its names."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

from . import signer_lines, versions
from .download import download, shown
from .policy import REQUIRED, Policy, PolicyError, check_definition, held_by, keep, merge, open_to_others, signature_of
from .shipping import Request, lacking
from .signature import SignatureError, homes, key_blob, logins
from .store import (
    DIGEST,
    INCOMING,
    KINDS,
    LOCK_SECONDS,
    MAX_IMAGE,
    MAX_TEXT,
    NAMES,
    SUFFIX,
    StoreError,
    describe,
    describe_again,
    digest_of,
    locked,
    point,
    remove,
    take,
    unused,
    write_whole,
)

# The configuration that libxl keeps of each running domain.
LIBXL = "/var/lib/xen/userdata-d.*"
# The generations that a host can roll back to, from `fleet.generation_folder`.
GENERATIONS = "/var/lib/unikernels/generations"


def receive(request: Request) -> dict[str, Any]:
    """Do what is asked for; the module's result. StoreError, SignatureError or PolicyError: one line."""
    _refuse_open_store(request)
    if request.mirrors and request.ca_file and not os.path.isfile(request.ca_file):
        raise StoreError(f"unikernel_images_ca_file: {request.ca_file}: is not a file on this host")
    policy, lines, changed = _policy(request)
    # Otherwise two runs could write to the same unfinished file. The other one may be waiting for its mirrors.
    with contextlib.nullcontext() if request.check else locked(request.store, request.mirror_timeout + LOCK_SECONDS):
        arrivals = _Arrivals(request)
        if not request.check:
            arrivals.take_in()
            arrivals.describe()
        missing = lacking(request, arrivals.there)
        _refuse_incomplete(request, missing, arrivals.reasons)
        incomplete = {file.partition(".")[0] for file in missing}
        names = {name: digest for name, digest in request.wanted.items() if digest not in incomplete}
        signers, signed = _signers(request, policy, names)
        # Record the highest version before a name means a newer image: from then on older ones are refused.
        highest, backwards, newer = _highest(request, policy, signed)
    # `point` takes the lock itself. Nothing is lost meanwhile: a prune keeps what arrived within the last hour.
    for name, digest in names.items():
        changed = point(request.store, name, digest, request.check) or changed
    removed = _prune(request)
    return {
        "changed": changed or newer or bool(arrivals.taken or removed),
        "missing": missing,
        "taken": sorted({file.partition(".")[0] for file in arrivals.taken if file.endswith(SUFFIX)}),
        "signers": signers,
        "removed": removed,
        "versions": {name: asdict(highest[name]) for name in request.wanted if name in highest},
        "notes": lines + backwards + arrivals.reasons,
        "stops": stopped(request, policy) if request.judge else [],
        "policy": _shown(policy) if request.trust else None,
    }


def _refuse_open_store(request: Request) -> None:
    """What is verified is what boots only where nobody else can write in between, or remove the policy."""
    if not request.trust:
        return
    for folder in (request.store, os.path.join(request.store, NAMES)):
        status = os.stat(folder) if os.path.isdir(folder) else None
        if status and (status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022):
            words = "users other than root may write there"
            raise StoreError(f"image store {folder}: {words}: chown root {folder}; chmod go-w {folder}")
    for folder in (request.store, request.trust):
        problem = open_to_others(folder) if os.path.isdir(folder) else ""
        if problem:
            raise StoreError(f"{folder}: {problem}")


def _shown(policy: Policy) -> dict[str, Any]:
    lists = {"allowed_signers": policy.allowed_signers, "revoked_keys": policy.revoked_keys, "kernels": policy.kernels}
    return {"signature": policy.signature, **{key: None if lines is None else list(lines) for key, lines in lists.items()}}


def _policy(request: Request) -> tuple[Policy, list[str], bool]:
    """Return the policy from now on, one line for each setting that was not accepted, and whether the policy changes."""
    if not request.trust:
        return request.given, [], False
    try:
        held = held_by(request.trust)
    except PolicyError:
        if not request.reset:
            raise
        held = None
    if held is None and request.given == Policy():
        return request.given, [], False  # no policy anywhere: signatures are required in this call, nothing is kept
    policy, lines = merge(held, request.given, request.reset)
    policy = replace(policy, signature=policy.signature or REQUIRED)
    entrances = logins(homes())
    for line in policy.allowed_signers or ():
        where = entrances.get(signer_lines.blob_of(line) or key_blob(line))
        if where:
            raise PolicyError(
                f"unikernel_images_allowed_signers: the key of {line.split()[0]} also logs in to this host ({where});"
                " images need a key of their own: ssh-keygen -t ed25519 -f ~/.config/unikernels/images"
            )
    return policy, lines, keep(request.trust, policy, request.check)


def _described(store: str, digest: str) -> bool:
    return os.path.exists(os.path.join(store, digest + ".json")) and "problem" not in describe(store, digest)


def present(request: Request) -> dict[str, str]:
    """Map each file of the wanted images in the store to its digest, computed now."""
    there = {}
    for digest in request.digests:
        for kind in KINDS:
            path = os.path.join(request.store, f"{digest}.{kind}")
            if os.path.isfile(path) and (kind != "json" or _described(request.store, digest)):
                there[f"{digest}.{kind}"] = digest_of(path)
    return there


class _Arrivals:
    """What arrives during one call."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.taken: list[str] = []
        self.reasons: list[str] = []  # why mirrors didn't deliver
        self.until = time.monotonic() + request.mirror_timeout
        self.there = present(request)  # each image is read only once per call

    def take_in(self) -> None:
        for file in lacking(self.request, self.there):
            if self.given(file) or self.shipped(file) or self.mirrored(file):
                self.taken.append(file)
                # An image was hashed when it was taken in.
                self.there[file] = self.sha256(file) or digest_of(os.path.join(self.request.store, file))

    def describe(self) -> None:
        """Write missing or unreadable descriptions of images from their own bytes."""
        for name, digest in sorted(self.request.wanted.items()):
            if self.there.get(digest + SUFFIX) == digest and not _described(self.request.store, digest):
                describe_again(self.request.store, digest, name)
                self.there[f"{digest}.json"] = ""
                self.taken.append(f"{digest}.json")

    def given(self, file: str) -> bool:
        """Write a text that came with the call. Return whether there was one."""
        if file not in self.request.texts:
            return False
        write_whole(os.path.join(self.request.store, file), self.request.texts[file], 0o644)
        return True

    def shipped(self, file: str) -> bool:
        path = os.path.join(self.request.arrived, file)
        if not self.request.arrived or not os.path.isfile(path):
            return False
        expected = self.sha256(file) or digest_of(path)
        try:
            take(self.request.store, file, path, expected)
        finally:
            os.unlink(path)
        return True

    def sha256(self, file: str) -> str:
        """Return a file's expected digest; "" if unknown (a statement is checked against its image, whoever delivers it)."""
        known = self.request.files.get(file)
        return known.sha256 if known else file.partition(".")[0] if file.endswith(SUFFIX) else ""

    def mirrored(self, file: str) -> bool:
        digest, _dot, kind = file.partition(".")
        known = self.request.files.get(file)
        if kind == "json" and not known:
            return False  # without an expected digest it is written from the image itself
        path = os.path.join(self.request.store, INCOMING + file)
        for mirror in self.request.mirrors:
            try:
                if download(
                    f"{mirror.rstrip('/')}/{file}", path, known.size if known else None, self.sha256(file) or None,
                    self.until - time.monotonic(), self.request.ca_file or None, MAX_IMAGE if kind == "xen" else MAX_TEXT,
                ):  # fmt: skip
                    take(self.request.store, file, path, self.sha256(file) or digest_of(path))
                    return True
                if kind == "xen":
                    self.reasons.append(f"mirror {shown(mirror)}: has no image {digest}")
            except StoreError as error:
                late = time.monotonic() >= self.until
                more = f" (unikernel_images_mirror_timeout: {self.request.mirror_timeout})" if late else ""
                self.reasons.append(f"mirror {shown(mirror)}: {error}{more}")
        return False


def _refuse_incomplete(request: Request, missing: list[str], reasons: list[str]) -> None:
    images = [file.partition(".")[0] for file in missing if file.endswith(SUFFIX)]
    if request.check or not request.final or not images or not (request.mirrors or request.arrived):
        return
    raise StoreError("; ".join(reasons) or f"image {images[0]}: has not arrived in {request.store}: run again")


def _signers(request: Request, policy: Policy, names: dict[str, str]) -> tuple[dict[str, str], dict[str, versions.Arrived]]:
    """Return (name -> signer of its image, name -> what was signed). Raise SignatureError for the first that is not valid."""
    signers, signed = {}, {}
    for name, digest in names.items() if request.trust else ():
        signer, problem, version = signature_of(request.store, digest, policy, [name])
        if problem:
            raise SignatureError(problem if problem.startswith("image ") else f"image {name} ({digest[:12]}): {problem}")
        if signer:
            signers[name], signed[name] = signer, versions.Arrived(digest, version)
    return signers, signed


def _highest(
    request: Request, policy: Policy, signed: dict[str, versions.Arrived]
) -> tuple[dict[str, versions.Highest], list[str], bool]:
    """Return (the highest version of each name, one line for each name that goes back, whether the record changes).

    Raise PolicyError for an image older than its name's highest, unless this is a rollback. Without required signatures a version
    proves nothing, so none is recorded.
    """
    if not request.trust or not policy.required:
        return {}, [], False
    damaged = False
    try:
        held = versions.held_by(request.trust)
    except PolicyError:
        if not request.reset:
            raise
        held, damaged = {}, True
    for name, image in signed.items() if not request.rollback else ():
        problem = versions.refusal(name, held.get(name), image)
        if problem:
            raise PolicyError(problem)
    highest, lines = versions.after(held, signed, datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))
    changed = damaged or highest != held
    if changed and not request.check:
        versions.keep_versions(request.trust, highest)
    return highest, lines, changed


def stopped(request: Request, policy: Policy) -> list[str]:
    """Return one line for each defined domain that could not start under ``policy``."""
    known: dict[str, str | None] = {}
    answers = [check_definition(path, policy, known) for path in definitions_in(request.definitions)]
    return [answer for answer in answers if answer]


def definitions_in(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.cfg")))


def used_by_domains(definitions: str, generations: str = "") -> set[str]:
    """Return the digests of kernels in a definition, a running domain, or a generation to roll back to."""
    used: set[str] = set()
    kept = glob.glob(os.path.join(glob.escape(generations or GENERATIONS), "*.json"))
    for path in [*definitions_in(definitions), *glob.glob(LIBXL), *kept]:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                used.update(re.findall(rf"({DIGEST.pattern})\{SUFFIX}", file.read()))
        except FileNotFoundError:
            continue
    return used


def _prune(request: Request) -> list[str]:
    # Without a folder of definitions nobody knows what is in use.
    if request.keep is None or not os.path.isdir(request.definitions) or not os.path.isdir(request.store):
        return []
    with contextlib.nullcontext() if request.check else locked(request.store):
        used = used_by_domains(request.definitions, request.generations) | set(request.wanted.values())
        paths = unused(request.store, used, request.keep, time.time())
        if not request.check:
            remove(paths)
    return paths
