# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the variables of a service; each refusal names the variable. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..domain.spec import HEALTH_KINDS, UPDATES
from ..fleet.plain import number

IMAGES = ("build", "prebuilt", "standin")
USUAL_MEMORY = 64


@dataclass(frozen=True)
class Keys:
    """A PKI that must exist on the controller before its unikernel runs."""

    folder: str
    remote: str
    port: int
    clients: tuple[str, ...]
    name: str = "vpn"  # of the endpoint
    new_ca: bool = False
    days: int = 1825
    ca_days: int = 3650
    renew_days: int = 90


@dataclass(frozen=True)
class Service:
    """A service as a unikernel with its image. Must not be used if it has problems."""

    unikernel: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    keys: Keys | None = None


class Variables:
    """The variables of one service, by their names without its prefix. Null counts as not set."""

    def __init__(self, service: str, values: Mapping[str, Any]) -> None:
        self.service = service
        self._values = values
        self.problems: list[str] = []

    def wrong(self, option: str, words: str) -> None:
        self.problems.append(f"{self.service}_{option}: {words}")

    def get(self, option: str, default: Any = None) -> Any:
        value = self._values.get(f"{self.service}_{option}")
        return default if value is None else value

    def text(self, option: str, default: str | None = None) -> str:
        value = self.get(option, default)
        if value is None:
            self.wrong(option, "is required")
        elif isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.wrong(option, f"must be text, not {_kind(value)}")
        else:
            return str(value)
        return default or ""

    def number(self, option: str, default: int, low: int, high: int, unit: str) -> int:
        value = self.get(option, default)
        read = number(value)
        if read is None or not low <= read <= high:
            self.wrong(option, f"is {value!r}, must be {unit}, {low}..{high}")
            return default
        return read

    def items(self, option: str, what: str) -> list[Any]:
        value = self.get(option, [])
        if not isinstance(value, list):
            self.wrong(option, f"must be a list of {what}, not {_kind(value)}")
            return []
        return value

    def texts(self, option: str, what: str) -> list[str]:
        """Read a list of words; a single word is a list of one."""
        value = self.get(option, [])
        words: list[str] = []
        for item in self.items(option, what) if not isinstance(value, str) else [value]:
            if isinstance(item, bool) or not isinstance(item, (str, int, float)):
                self.wrong(option, f"{item!r} must be text, not {_kind(item)}")
            else:
                words.append(str(item))
        return words

    def mapping(self, option: str, what: str) -> dict[str, Any]:
        value = self.get(option, {})
        if not isinstance(value, dict):
            self.wrong(option, f"must be a mapping of {what}, not {_kind(value)}")
            return {}
        return value

    def interfaces(self) -> list[dict[str, Any]]:
        value = self.items("interfaces", "interfaces, as in [{bridge: xenbr0, address: 10.0.0.10/24}]")
        if any(not isinstance(item, dict) for item in value):
            self.wrong("interfaces", "must be a list of mappings, as in [{bridge: xenbr0, address: 10.0.0.10/24}]")
            return []
        return value

    def update(self) -> dict[str, str]:
        """Return how a changed domain replaces the old one, if declared."""
        if self.get("update") is None:
            return {}
        value = self.text("update")
        if value not in UPDATES:
            self.wrong("update", f"is {value!r}, must be {', '.join(UPDATES[:-1])} or {UPDATES[-1]}")
        if value != "warm":
            return {"update": value}
        if self.get("log_level") == "quiet":
            ready = f"{self.service}: ready"
            self.wrong("update", f"is warm, which waits for the line {ready}, and {self.service}_log_level: quiet hides it")
        return {"update": value, "ready": f"{self.service}: ready"}  # a line that our unikernels and their stand-ins print

    def origin(self, source: dict[str, Any], standin: dict[str, Any]) -> dict[str, Any]:
        """Return where the image comes from: as declared, else our unikernel's ``source`` or a stand-in for it."""
        image = self.mapping("image", "where the image comes from, as in {file: /path/to/it.xen}")
        images = self.get("images", "build")
        if images not in IMAGES:
            self.wrong("images", f"is {images!r}, must be {', '.join(IMAGES[:-1])} or {IMAGES[-1]} (the variable images sets it)")
        elif images == "prebuilt" and not image and not self.problems:
            self.wrong("image", "is required by images: prebuilt; give its file, or its url with sha256")
        return image or {"build": source, "standin": standin}.get(str(images), {})

    def health(self, default: dict[str, Any]) -> Any:
        """Return ``default`` with further options. A declared check replaces it, since its options are for another kind."""
        value = self.get("health", {})
        if not isinstance(value, dict) or asks_one(value):
            return value
        return {**default, **value}


def asks_one(health: Any) -> bool:
    """Whether it is a check of its own, which asks one server by its address: another would count as healthy whatever it does."""
    return isinstance(health, dict) and any(kind in health for kind in HEALTH_KINDS)


def _kind(value: Any) -> str:
    return {
        "dict": "a mapping",
        "list": "a list",
        "str": "text",
        "bool": "true or false",
        "int": "a number",
        "NoneType": "nothing",
    }.get(type(value).__name__, type(value).__name__)


def first_address(interfaces: list[dict[str, Any]]) -> str:
    """Return the address of the first interface without its prefix; the loopback address if there is none."""
    value = interfaces[0].get("address") or interfaces[0].get("address6") if interfaces else None
    return str(value or "127.0.0.1/8").split("/", maxsplit=1)[0]


def at(address: str, port: int) -> str:
    """Return ADDRESS:PORT, with an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # Python accepts anything after '%' as the zone of an IPv6 address


def is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return "/" in text and "%" not in text
