# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles ask of the pure part: is what was declared right, does it fit, what does the host get?"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.checks import clashes
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import ROLE_KEYS, declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Declaration
from ansible_collections.unikernels.xen.plugins.module_utils.host import boot_menu, preflight

IMAGE_KEYS = (
    "source",
    "version",
    "subfolder",
    "configure",
    "overlay",
    "update_lock",
    "lock",
    "file",
    "url",
    "sha256",
    "standin",
    "content",
)


def _declarations(unikernels: list[dict[str, Any]], host: str) -> list[Declaration]:
    found = []
    for one in unikernels:
        plain = {key: value for key, value in one.items() if key not in ROLE_KEYS} if isinstance(one, dict) else one
        # Which file an image is becomes known later; any absolute path stands for it here. Without an image too, so that
        # a misspelt one is named as the unknown key that it is.
        found.append(declaration_of(plain, host, kernel=None if isinstance(one, dict) and one.get("kernel") else "/image"))
    return found


def declaration_problems(unikernels: Any, images: Any, host: str) -> list[str]:
    """One line for everything that is wrong with a host's ``unikernels`` and ``unikernel_images``; [] when all is well."""
    lines = []
    if not isinstance(unikernels, list):
        return [f"unikernels must be a list, not {type(unikernels).__name__}"]
    if not isinstance(images, dict):
        return [f"unikernel_images must be a mapping of name to image, not {type(images).__name__}"]
    declared = []
    for one in unikernels:
        try:
            declared += _declarations([one], host)
        except SpecError as error:
            lines.append(str(error))
            continue
        if one.get("state") != "absent" and one.get("image") is None and not one.get("kernel"):
            lines.append(f"domain {one['name']}: image: is required (a key of unikernel_images)")
        if one.get("image") is not None and one["image"] not in images:
            known = ", ".join(sorted(images)) or "none"
            lines.append(f"domain {one['name']}: image: {one['image']!r} is not in unikernel_images (known: {known})")
    for key, image in images.items():
        lines += _image_problems(key, image)
    return lines + clashes(declared)


def _image_problems(key: str, image: Any) -> list[str]:
    where = f"image {key}"
    if not isinstance(image, dict):
        return [f"{where}: must be a mapping, as in {{file: /path/to/it.xen}}"]
    unknown = sorted(set(image) - set(IMAGE_KEYS))
    if unknown:
        return [f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(IMAGE_KEYS)}"]
    origins = [origin for origin in ("source", "file", "url", "standin") if image.get(origin)]
    if len(origins) != 1:
        return [f"{where}: must have exactly one of source, file, url, standin"]
    digest = image.get("sha256")
    if origins == ["url"] and not digest:
        return [f"{where}: a url needs the sha256 of what it should bring"]
    if digest is not None and (len(str(digest)) != 64 or set(str(digest).lower()) - set("0123456789abcdef")):
        return [f"{where}: sha256: must be 64 hexadecimal digits"]
    return []


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


def rollback_problems(names: Any, unikernels: list[dict[str, Any]], histories: dict[str, list[str]], host: str) -> list[str]:
    """Why these unikernels can't go back to what their images were before; [] when they can. ``histories``: the host's."""
    if not isinstance(names, list) or not names:
        return ['rollback: name the unikernels that go back, as in -e rollback=www or -e \'{"rollback": ["www", "dns"]}\'']
    declared = {one.get("name"): one for one in unikernels}
    lines = []
    for name in names:
        image = declared.get(name, {}).get("image")
        if name not in declared:
            lines.append(
                f"rollback: {host} has no unikernel {name!r} (declared: {', '.join(sorted(map(str, declared))) or 'none'})"
            )
        elif image is None:
            lines.append(f"rollback: {name}: names a kernel, not an image, so nothing is known of what it was")
        elif len(histories.get(image, [])) < 2:
            lines.append(f"rollback: {name}: the store of {host} knows nothing that image {image} was before")
    return lines


def rolled_back(names: list[str], unikernels: list[dict[str, Any]], histories: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Image name -> manifest, for `as_domains`, with what the named unikernels' images were before."""
    images = {one["image"] for one in unikernels if one.get("name") in names}
    return {image: {"sha256": histories[image][1]} for image in images}


def standin_lines(unikernels: list[dict[str, Any]], stored: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each declared unikernel that a stand-in runs for."""
    lines = []
    for one in unikernels:
        image = stored.get(one.get("image", ""), {})
        if image.get("standin") and one.get("state") != "absent":
            lines.append(f"{one['name']} runs a STAND-IN, not a unikernel ({image.get('description') or 'to be built'})")
    return lines


def health_checks(unikernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What service_health takes: nothing of a declaration but what it asks for."""
    return [{key: one[key] for key in ("name", "state", "health") if one.get(key) is not None} for one in unikernels]


def network_words(network: str) -> str:
    """10.8.0.0/24 as OpenVPN writes it: 10.8.0.0 255.255.255.0."""
    try:
        found = ipaddress.IPv4Network(network)
    except ValueError as error:
        raise AnsibleFilterError(f"{network!r} is not an IPv4 network: {error}") from error
    return f"{found.network_address} {found.netmask}"


def batches(hosts_at_once: Any) -> Any:
    """``hosts_at_once`` as a play's C(serial) takes it: a number of hosts, a share of them as "25%", or a list of these."""
    for one in hosts_at_once if isinstance(hosts_at_once, list) and hosts_at_once else [hosts_at_once]:
        if isinstance(one, bool) or not re.fullmatch(r"0*[1-9][0-9]{0,5}|0*(?:[1-9][0-9]?|100)%", str(one)):
            raise AnsibleFilterError(
                f"hosts_at_once: is {one!r}, must be a number of hosts (1), a share of them (25%), or a list of these"
            )
    return hosts_at_once


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "declaration_problems": declaration_problems,
            "used_images": used_images,
            "placement_problems": placement_problems,
            "host_problems": host_problems,
            "twin_problems": preflight.twin_refusals,
            "as_domains": as_domains,
            "images_by_name": images_by_name,
            "packed_sources": packed_sources,
            "image_digests": image_digests,
            "image_sidecars": image_sidecars,
            "rollback_problems": rollback_problems,
            "rolled_back": rolled_back,
            "standin_lines": standin_lines,
            "health_checks": health_checks,
            "network_words": network_words,
            "batches": batches,
            "differing_arguments": boot_menu.differing_arguments,
        }
