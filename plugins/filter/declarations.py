# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles ask of the pure part: is what was declared right, does it fit, what does the host get?"""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import ROLE_KEYS, declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Declaration
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.batches import batches_problem
from ansible_collections.unikernels.xen.plugins.module_utils.host import boot_menu, preflight


def _declarations(unikernels: list[dict[str, Any]], host: str) -> list[Declaration]:
    found = []
    for one in unikernels:
        plain = {key: value for key, value in one.items() if key not in ROLE_KEYS} if isinstance(one, dict) else one
        # Which file an image is becomes known later; any absolute path stands for it here. Without an image too, so that
        # a misspelt one is named as the unknown key that it is.
        found.append(declaration_of(plain, host, kernel=None if isinstance(one, dict) and one.get("kernel") else "/image"))
    return found


def used_images(unikernels: list[dict[str, Any]], images: dict[str, Any]) -> dict[str, Any]:
    """The part of ``images`` that ``unikernels`` need."""
    keys = {one.get("image") for one in unikernels if one.get("state") != "absent"}
    return {key: image for key, image in images.items() if key in keys}


def placement_problems(
    unikernels: list[dict[str, Any]], info: dict[str, Any], dom0_memory: int, bridge: str, host: str
) -> list[str]:
    """One line for each reason why the host can't run what is declared for it."""
    return preflight.placement_refusals(_declarations(unikernels, host), info, int(dom0_memory), bridge)


def host_problems(info: dict[str, Any], dom0_memory: int, bridge: str, manage_network: bool) -> list[str]:
    """One line for each reason why a machine can't be a Xen host."""
    return preflight.host_refusals(info, int(dom0_memory), bridge, bool(manage_network))


def as_domains(unikernels: list[dict[str, Any]], stored: dict[str, dict[str, Any]], store: str) -> list[dict[str, Any]]:
    """What xen_domains takes: `image` becomes the path of the stored file; ``stored``: image key -> manifest."""
    domains = []
    for one in unikernels:
        domain = {key: value for key, value in one.items() if key not in ROLE_KEYS}
        if one.get("image") in stored and one.get("state") != "absent":
            digest = stored[one["image"]].get("sha256")
            # In check mode an image that has yet to be built has no digest: its name says so.
            domain["kernel"] = f"{store}/{digest or 'not-built-yet'}.xen"
        domains.append(domain)
    return domains


def images_by_name(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Image name -> manifest, from the results of loops over images with ``item.key`` as the name."""
    of_the_task = ("item", "invocation", "ansible_loop_var", "failed", "changed")
    return {one["item"]["key"]: {key: one[key] for key in one if key not in of_the_task} for one in results}


def packed_sources(wanted: dict[str, Any], packed: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    """``wanted`` with the archives in ``folder`` for sources that a loop over images packed; an overlay is in them."""
    archives = {one["item"]["key"]: os.path.join(folder, os.path.basename(one["path"])) for one in packed}
    return {
        name: {**{key: value for key, value in origin.items() if key != "overlay"}, "source": archives[name]}
        if name in archives
        else origin
        for name, origin in wanted.items()
    }


def image_digests(stored: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> dict[str, str]:
    """Image name -> sha256 of those of ``wanted`` that are stored; in check mode one that has yet to be built has none."""
    return {name: image["sha256"] for name, image in stored.items() if name in wanted and image.get("sha256")}


def image_sidecars(stored: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> dict[str, str]:
    """File name of the statements and signatures of those of ``wanted`` that are stored -> sha256."""
    found: dict[str, str] = {}
    for name, image in stored.items():
        if name in wanted:
            found.update(image.get("sidecars") or {})
    return found


def standin_lines(unikernels: list[dict[str, Any]], stored: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each declared unikernel that a stand-in runs for."""
    lines = []
    for one in unikernels:
        image = stored.get(one.get("image", ""), {})
        if image.get("standin") and one.get("state") != "absent":
            lines.append(f"{one['name']} runs a STAND-IN, not a unikernel ({image.get('description') or 'to be built'})")
    return lines


def image_names(unikernels: list[dict[str, Any]]) -> dict[str, str]:
    """Name of a unikernel -> name of its image."""
    return {one["name"]: one["image"] for one in unikernels if one.get("image")}


def health_checks(unikernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What service_health takes: nothing of a declaration but what it asks for."""
    return [{key: one[key] for key in ("name", "state", "health") if one.get(key) is not None} for one in unikernels]


def quick_checks(generations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What service_health takes to ask at once whether the domains of the newest generation are healthy."""
    checks = []
    for one in generations[-1]["domains"] if generations else []:
        health = one.get("health")
        if health and one.get("state", "running") == "running":
            checks.append({"name": one["name"], "health": {**health, "within": 5} if isinstance(health, dict) else health})
    return checks


def watched(unikernels: list[dict[str, Any]], within: int) -> list[dict[str, Any]]:
    """What service_health takes to ask again and again: one that gives no good answer for ``within`` seconds is ill."""
    checks = health_checks(unikernels)
    for one in checks:
        if isinstance(one.get("health"), dict):
            one["health"] = {**one["health"], "within": int(within)}
    return checks


def batches(hosts_at_once: Any) -> Any:
    """``hosts_at_once`` as a play's C(serial) takes it: a number of hosts, a share of them as "25%", or a list of these."""
    problem = batches_problem(hosts_at_once)
    if problem:
        raise AnsibleFilterError(problem)
    return hosts_at_once


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "used_images": used_images,
            "placement_problems": placement_problems,
            "host_problems": host_problems,
            "twin_problems": preflight.twin_refusals,
            "as_domains": as_domains,
            "images_by_name": images_by_name,
            "packed_sources": packed_sources,
            "image_digests": image_digests,
            "image_sidecars": image_sidecars,
            "standin_lines": standin_lines,
            "health_checks": health_checks,
            "image_names": image_names,
            "quick_checks": quick_checks,
            "watched": watched,
            "batches": batches,
            "differing_arguments": boot_menu.differing_arguments,
        }
