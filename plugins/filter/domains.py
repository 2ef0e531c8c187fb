# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A filter from declared unikernels to the option of xen_domains."""

from __future__ import annotations

from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import ROLE_KEYS


def as_domains(unikernels: list[dict[str, Any]], stored: dict[str, dict[str, Any]], store: str) -> list[dict[str, Any]]:
    """Return what xen_domains takes: `image` becomes the path of the stored file. ``stored``: image key -> manifest."""
    domains = []
    for one in unikernels:
        domain = {key: value for key, value in one.items() if key not in ROLE_KEYS}
        if one.get("image") in stored and one.get("state") != "absent":
            digest = stored[one["image"]].get("sha256")
            # In check mode an unbuilt image has no digest yet, so its name is used.
            domain["kernel"] = f"{store}/{digest or 'not-built-yet'}.xen"
        domains.append(domain)
    return domains


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "as_domains": as_domains,
        }
