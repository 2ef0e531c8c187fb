# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters between declared and stored images."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.same_images import needed


def used_images(unikernels: list[dict[str, Any]], images: dict[str, Any]) -> dict[str, Any]:
    """Return the part of ``images`` that ``unikernels`` need."""
    return needed(unikernels, images)


def images_by_name(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return image name -> manifest, from the results of loops over the images' names."""
    of_the_task = ("item", "invocation", "ansible_loop_var", "failed", "changed")
    return {one["item"]: {key: one[key] for key in one if key not in of_the_task} for one in results}


def packed_sources(wanted: dict[str, Any], packed: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    """Return ``wanted`` with the archives in ``folder`` for the sources that a loop packed; archives include overlays."""
    archives = {one["item"]: os.path.join(folder, os.path.basename(one["path"])) for one in packed}
    return {
        name: {**{key: value for key, value in origin.items() if key != "overlay"}, "source": archives[name]}
        if name in archives
        else origin
        for name, origin in wanted.items()
    }


def image_names(unikernels: list[dict[str, Any]]) -> dict[str, str]:
    """Return unikernel -> name of its image."""
    return {one["name"]: one["image"] for one in unikernels if one.get("image")}


def standin_lines(unikernels: list[dict[str, Any]], stored: dict[str, dict[str, Any]]) -> list[str]:
    """Return one line for each declared unikernel that is run by a stand-in."""
    lines = []
    for one in unikernels:
        image = stored.get(one.get("image", ""), {})
        if image.get("standin") and one.get("state") != "absent":
            lines.append(f"{one['name']} runs a STAND-IN, not a unikernel ({image.get('description') or 'to be built'})")
    return lines


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "used_images": used_images,
            "images_by_name": images_by_name,
            "packed_sources": packed_sources,
            "image_names": image_names,
            "standin_lines": standin_lines,
        }
