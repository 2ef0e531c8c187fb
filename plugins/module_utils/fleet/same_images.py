# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find hosts that need the same images, so that the controller acquires them once. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# Further variables of the roles that decide how the controller acquires an image, and whether it signs it.
SETTINGS = (
    *(
        f"unikernel_images_{name}"
        for name in (
            "controller", "suite", "sources", "signature", "allowed_signers", "revoked_keys", "signing_key", "builder",
            "builder_store", "builder_work", "toolchain", "build_timeout", "valid_days", "sign_again",
        )
    ),
    "mirage_builder_folder",
    "mirage_builder_sandbox",
)  # fmt: skip


def needed(unikernels: Iterable[Mapping[str, Any]], images: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``images`` that ``unikernels`` need."""
    names = {one.get("image") for one in unikernels if one.get("state") != "absent"}
    return {name: image for name, image in images.items() if name in names}


def same_images(hosts: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, str]:
    """Map each host to the first host with the same needs. ``hosts``: host -> (images that it needs, its settings)."""
    first: dict[str, str] = {}
    return {
        host: first.setdefault(json.dumps([images, settings], sort_keys=True, default=str), host)
        for host, (images, settings) in hosts.items()
    }
