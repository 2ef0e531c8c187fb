# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Get an image into the store, built from source or finished, with its statement and name: module ``mirage_image``."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

from . import mirage, provenance, signature
from .archive import name_of, unpacked
from .checkout import COMMIT, checkout, is_url, local_folder
from .origin import shown as shown
from .sandbox import private
from .steps import BuildError
from .store import NAME, StoreError, describe, image_path, point, put, write_whole

# (url, path, wanted sha256) -> True once the file is at path; False if the server doesn't have it.
Download = Callable[[str, str, str], bool]


def acquire(params: dict[str, Any], check: bool, download: Download) -> tuple[bool, dict[str, Any]]:
    """Return (changed, the module's result). Raise StoreError, BuildError or SignatureError."""
    if params["name"] and not NAME.fullmatch(params["name"]):
        raise StoreError(f"name: {params['name']!r} may have letters, digits and . _ + - only, at most 64")
    changed, manifest = _from_source(params, check) if params["source"] else _finished(params, check, download)
    manifest.setdefault("cached", not changed)
    if manifest["sha256"]:
        manifest["sidecars"] = signature.sidecars(params["store"], manifest["sha256"])
        manifest["provenance"] = os.path.join(params["store"], manifest["sha256"] + signature.STATEMENT)
        if params["name"] or params["source"]:
            name = params["name"] or manifest["name"]
            changed = point(params["store"], name, manifest["sha256"], check) or changed
    return changed, manifest


def _finished(params: dict[str, Any], check: bool, download: Download) -> tuple[bool, dict[str, Any]]:
    """Store a finished image. Return (changed, manifest)."""
    store, digest = params["store"], (params["sha256"] or "").lower()
    if params["sha256"] and not re.fullmatch("[0-9a-f]{64}", digest):
        raise StoreError(f"sha256: {params['sha256']!r} is not 64 hexadecimal digits")
    origin = shown(params["url"]) if params["url"] else "file:" + os.path.basename(params["file"])
    if params["url"] and os.path.exists(image_path(store, digest)):
        changed, manifest = False, describe(store, digest)
    elif params["url"]:
        with tempfile.TemporaryDirectory(prefix="unikernels-") as folder:
            path = os.path.join(folder, "image")
            if not download(params["url"], path, digest):
                raise StoreError(f"url {origin}: the server has no such file")
            changed, manifest = put(store, path, digest, {"name": params["name"], "source": origin}, check)
    else:
        extra = {"name": params["name"], "source": os.path.basename(params["file"])}
        changed, manifest = put(store, params["file"], digest or None, extra, check)
    digest = manifest["sha256"]
    manifest["origin"] = {"uri": origin, "digest": {"sha256": digest}}
    if check:
        return changed, manifest
    text = provenance.statement(
        params["name"] or digest, digest, built=False, parameters={"origin": origin}, materials=[manifest["origin"]],
        builder={"id": os.uname().nodename}, key="",
    )  # fmt: skip
    return signature.attach(store, digest, text, params["signing_key"] or "", False) or changed, manifest


def _from_source(params: dict[str, Any], check: bool) -> tuple[bool, dict[str, Any]]:
    """Build an image. Return (changed, manifest)."""
    if is_url(params["source"]):
        if not params["version"]:
            raise BuildError(f"source {shown(params['source'])}: a git repository needs version: the revision to build")
        if params["require_commit"] and not COMMIT.fullmatch(params["version"]):
            raise BuildError(
                f"version: {params['version']!r}: anyone who can push can move it; where images must be signed"
                " (unikernel_images_signature: required) give the full commit, 40 hexadecimal digits"
            )
        _needs_lock(params, "the folder of a git repository is a cache")
        source = checkout(params["source"], params["version"], params["subfolder"], params["work"])
        return _build(params, check, source, os.path.basename(source.folder.rstrip("/")))
    if params["version"] or params["subfolder"]:
        raise BuildError("version, subfolder: are for a git repository, and source is a folder")
    path = local_folder(params["source"])
    name = name_of(path)
    if not name:
        return _build(params, check, mirage.Source(path, "file:" + os.path.basename(path)), os.path.basename(path))
    _needs_lock(params, "the source's folder is on another machine")
    with unpacked(path, params["work"]) as folder:
        return _build(params, check, mirage.Source(folder, "file:" + name), name)


def _needs_lock(params: dict[str, Any], why: str) -> None:
    if params["update_lock"] and not params["lock"]:
        raise BuildError(f"update_lock: {why}; give lock: the file that the lock file is kept in, on the machine that builds")


def _build(params: dict[str, Any], check: bool, source: mirage.Source, name: str) -> tuple[bool, dict[str, Any]]:
    tools = mirage.toolchain(params["toolchain"])
    request = mirage.Request(
        params["name"] or name, source, tuple(params["configure"]), params["update_lock"], params["timeout"],
        params["signing_key"] or "", params["verify_reproducible"],
        tuple((str(path), local_folder(str(folder))) for path, folder in sorted(params["overlay"].items())),
        params["sandbox"], _lock(params),
    )  # fmt: skip
    result = mirage.build(params["store"], params["work"], request, tools, check)
    return result.changed, {**result.manifest, "cached": result.cached}


def _lock(params: dict[str, Any]) -> str:
    """Return the path of a lock file kept outside the source's folder; one given as text is a file of the builder's."""
    if params["lock"]:
        return local_folder(params["lock"])
    if not params["lock_text"]:
        return ""
    text = params["lock_text"].encode()
    path = os.path.join(params["work"], "locks", hashlib.sha256(text).hexdigest())
    if not os.path.exists(path):
        private(os.path.dirname(path))
        write_whole(path, text, 0o600)
    return path
