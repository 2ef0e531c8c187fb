# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How images get to a host: what is requested, what is missing, and where each file comes from. No file access, no host.

The controller calls the module on the host once to look, copies what only the controller has, and calls it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .download import shown
from .policy import OPTIONAL, REQUIRED, Policy, revocations, signers
from .store import DIGEST, KINDS, NAME, SUFFIX, StoreError

# Without a query: the names of files are added behind it.
_MIRROR = re.compile(r"https?://[^\s/?#][^\s?#]*")
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class File:
    """What is known of a store's file before it arrives."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Request:
    """What one call of the module on a host is to do."""

    store: str
    wanted: dict[str, str]  # name -> digest
    files: dict[str, File]  # by file name, as the controller has them
    texts: dict[str, bytes]
    arrived: str = ""  # folder of the shipped files
    mirrors: tuple[str, ...] = ()
    mirror_timeout: int = 600
    ca_file: str = ""
    given: Policy = field(default_factory=Policy)
    reset: bool = False
    rollback: bool = False  # names may mean older images than before
    trust: str = ""
    keep: int | None = None
    definitions: str = ""
    judge: bool = False
    final: bool = True  # nothing is shipped after this call
    check: bool = False
    generations: str = ""

    @property
    def digests(self) -> list[str]:
        return sorted(set(self.wanted.values()))


def wanted_images(wanted: dict[str, Any], names: list[str] | None) -> dict[str, str]:
    """Return image name -> digest, "" if it is not built yet. Raise StoreError for invalid values.

    ``wanted``: name -> digest or result of mirage_image; ``names``: only these, None for all.
    """
    images = {}
    for name, image in wanted.items():
        if names is not None and name not in names:
            continue
        digest = image.get("sha256") if isinstance(image, dict) else image
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise StoreError(f"wanted: {name!r} is not a name of an image: letters, digits and . _ + - only, at most 64")
        if digest not in (None, "") and not (isinstance(digest, str) and DIGEST.fullmatch(digest)):
            raise StoreError(f"wanted: {name}: {digest!r} is not 64 hexadecimal digits")
        images[name] = digest or ""
    return images


def settings_problem(options: Mapping[str, Any]) -> str:
    """Return what is wrong with options of `image_store`, in the words of the variables that set them; "" if nothing."""
    signature, mirrors, kernels = (options.get(name) for name in ("signature", "mirrors", "kernels"))
    if signature not in (None, "", REQUIRED, OPTIONAL):
        return f"unikernel_images_signature: is {signature!r}, must be {REQUIRED} or {OPTIONAL}"
    for mirror in mirrors if isinstance(mirrors, list) else [mirrors] if mirrors else []:
        if not isinstance(mirror, str) or not _MIRROR.fullmatch(mirror):
            return f"unikernel_images_mirror: {shown(str(mirror))!r}: must be as in https://images.example.net/x, without ? and #"
    for name, low in (("mirror_timeout", 1), ("keep", 0)):
        value = options.get(name)
        if value not in (None, "") and not (_NUMBER.fullmatch(str(value)) and int(value) >= low):
            return f"unikernel_images_{name}: is {value!r}, must be a whole number of {low} or more"
    for digest in kernels if isinstance(kernels, list) else [kernels] if kernels else []:
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest.lower()):
            return f"unikernel_images_kernels: {digest!r} is not 64 hexadecimal digits"
    return ""


def given_policy(params: dict[str, Any]) -> Policy:
    """Return what a run sets of a host's policy; None for what it doesn't set."""
    kernels = params.get("kernels")
    for digest in kernels or ():
        if not DIGEST.fullmatch(digest.lower()):
            raise StoreError(f"unikernel_images_kernels: {digest!r} is not 64 hexadecimal digits")
    return Policy(
        params.get("signature"),
        signers(params["allowed_signers"]) or None if params.get("allowed_signers") else None,
        revocations(params["revoked_keys"]) if params.get("revoked_keys") else None,
        None if kernels is None else tuple(digest.lower() for digest in kernels),
    )


def request_of(params: dict[str, Any], check: bool) -> Request:
    """Return the module's options as a request. Raise StoreError or PolicyError for nonsense."""
    shipping = params.get("shipping") or {}
    wanted = {name: digest for name, digest in wanted_images(params["wanted"], params.get("names")).items() if digest}
    known = {f"{digest}.{kind}" for digest in wanted.values() for kind in KINDS}
    files = {file: File(str(entry["sha256"]), int(entry["size"])) for file, entry in shipping.get("files", {}).items()}
    texts = {file: str(text).encode() for file, text in shipping.get("texts", {}).items()}
    for file in [*files, *texts]:
        if file not in known:
            raise StoreError(f"{file!r} is not a file of an image of wanted")
    if params["keep"] is not None and params["keep"] < 0:
        raise StoreError("keep: must be 0 or more")
    if params["mirror_timeout"] < 1:
        raise StoreError("mirror_timeout: must be 1 or more")
    return Request(
        params["store"], wanted, files, texts, shipping.get("arrived") or params["arrived"] or "", tuple(params["mirrors"]),
        params["mirror_timeout"], params["ca_file"] or "", given_policy(params), params["policy_reset"],
        params["rollback"], params["trust"] or "",
        params["keep"], params["definitions"], params["judge"], not shipping or bool(shipping.get("final")), check,
        params.get("generations") or "",
    )  # fmt: skip


def lacking(request: Request, there: dict[str, str]) -> list[str]:
    """Return the files that are missing, images last. ``there``: file name -> digest, for the store's files."""
    lines = []
    for digest in request.digests:
        image = digest + SUFFIX
        known = [file for file in request.files if file.startswith(digest + ".")]
        if known:
            # Each store writes its own descriptions; statements and signatures must be the controller's.
            lines += [
                file
                for file in known
                if file not in there or (not file.endswith(f"{digest}.json") and there[file] != request.files[file].sha256)
            ]
        elif there.get(image) != digest:
            lines += [f"{digest}.{kind}" for kind in KINDS]
        elif request.mirrors and request.given.signature != OPTIONAL:
            lines += [f"{digest}.{kind}" for kind in KINDS if kind.startswith("provenance") and f"{digest}.{kind}" not in there]
    return sorted(set(lines), key=lambda file: (file.endswith(SUFFIX), file))


def unsigned_problem(policy: Policy, names: list[str], signing_key: str) -> str:
    """Return why images that are not built yet will be refused, as far as that is known without using the key; or ""."""
    if not names or not policy.required:
        return ""
    if not policy.allowed_signers:
        return (
            "unikernel_images_allowed_signers: is required to check signatures; give it, or unikernel_images_signature: optional"
        )
    if not signing_key:
        return (
            f"unikernel_images_signing_key: is required: image {', '.join(sorted(names))} has yet to be built or stored,"
            f" and unikernel_images_signature is {REQUIRED}"
        )
    return ""
