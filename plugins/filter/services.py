# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service roles: where their images come from, and what is wrong with their variables, one line for each mistake."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

# Names of certificates become file names and arguments of programs.
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}")
_ZONE = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")


IMAGES = ("build", "prebuilt", "standin")


def image_problems(images: Any, image: Any, service: str) -> list[str]:
    """Mistakes in images (build, prebuilt or standin) beside what is declared as the service's image."""
    if images not in IMAGES:
        return [f"images: {images!r}: expected {', '.join(IMAGES[:-1])} or {IMAGES[-1]}"]
    if images == "prebuilt" and not image:
        return [f"{service}_image: is required by images: prebuilt; give its file, or its url with sha256"]
    return []


def service_image(images: str, image: dict[str, Any], source: dict[str, Any], standin: dict[str, Any]) -> dict[str, Any]:
    """The origin of a service's image: what is declared, or else our unikernel's ``source``, or a stand-in for it."""
    return image or {"build": source, "standin": standin}.get(images, {})


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def _is_network(text: Any) -> bool:
    try:
        ipaddress.ip_network(str(text))
    except ValueError:
        return False
    return "/" in str(text)


def dns_problems(forward: list[Any], zones: dict[str, Any], clients: list[Any]) -> list[str]:
    """Mistakes in dns_forward, dns_zones and dns_clients."""
    lines = [f"dns_forward: {one!r} is not an address" for one in forward if not _is_address(one)]
    lines += [f"dns_clients: {one!r} is not a network, as in 192.0.2.0/24" for one in clients if not _is_network(one)]
    for name, text in zones.items():
        if not _ZONE.fullmatch(str(name)):
            lines.append(f"dns_zones: {name!r} is not the name of a zone")
        elif not isinstance(text, str) or not re.search(r"\bSOA\b", text):
            lines.append(f"dns_zones: the text of zone {name} has no SOA record")
        elif "\0" in text:
            lines.append(f"dns_zones: the text of zone {name} has a zero byte in it")
    return lines


def vpn_problems(network: Any, remote: Any, port: Any, clients: list[Any]) -> list[str]:
    """Mistakes in vpn_network, vpn_remote, vpn_remote_port and vpn_clients."""
    lines = []
    try:
        if ipaddress.IPv4Network(str(network)).prefixlen > 29:
            lines.append(f"vpn_network: {network} is too small, a /29 holds five clients")
    except ValueError:
        lines.append(f"vpn_network: {network!r} is not an IPv4 network, as in 10.8.0.0/24")
    if not _HOST.fullmatch(str(remote)):
        lines.append(f"vpn_remote: {str(remote)!r} is neither a name nor an address")
    if not str(port).isdigit() or not 1 <= int(port) <= 65535:
        lines.append(f"vpn_remote_port: {port!r} is not a port")
    for name in clients:
        if not _CLIENT.fullmatch(str(name)) or str(name) in ("server", "ca"):
            lines.append(f"vpn_clients: {str(name)!r} must be letters, digits, '_', '.', '-' and not 'server' or 'ca'")
    return lines


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "dns_problems": dns_problems,
            "image_problems": image_problems,
            "service_image": service_image,
            "vpn_problems": vpn_problems,
        }
