# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The web server: its variables -> a unikernel with its image. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .variables import USUAL_MEMORY, Service, Variables, at, first_address

NAME = "web"
OPTIONS = ("interfaces", "content", "name", "image", "images", "memory", "port", "arguments", "health")


def declare(values: Mapping[str, Any], source: str) -> Service:
    """``source``: the folder of our own unikernel for it."""
    given = Variables(NAME, values)
    interfaces = given.interfaces()
    name, port = given.text("name", "www"), given.number("port", 80, 1, 65535, "a TCP port")
    # Only what we build has the content in it.
    content = given.text("content", "" if given.get("image") else None)
    unikernel = {
        "name": name,
        "service": NAME,
        "image": name,
        "memory": given.number("memory", USUAL_MEMORY, 4, 16 << 20, "a number of MiB"),
        "interfaces": interfaces,
        "arguments": {"port": port, **given.mapping("arguments", "boot argument to value")},
        "health": given.health({"http": f"http://{at(first_address(interfaces), port)}/"}),
    }
    origin = given.origin({"source": source, "overlay": {"htdocs": content}}, {"standin": NAME, "content": content})
    return Service(unikernel, {name: origin}, tuple(given.problems))
