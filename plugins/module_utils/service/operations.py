# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every service has for those who run it: log level, syslog, metrics -> boot arguments. Pure."""

from __future__ import annotations

import ipaddress
from typing import Any

from ..fleet.plain import holds_unresolved
from .variables import Variables

OPTIONS = ("log_level", "syslog", "metrics")
# As MirageOS' --logs has them.
LEVELS = ("quiet", "error", "warning", "info", "debug")
SYSLOG_PORT = 514
METRICS_PORT = 9100
_METRICS = ("port", "from")


def arguments(given: Variables, name: str, ports: dict[int, str]) -> dict[str, Any]:
    """``ports``: TCP port that the service uses -> the variable that has it."""
    return {**_level(given), **_syslog(given, name), **_metrics(given, ports)}


def _level(given: Variables) -> dict[str, Any]:
    if given.get("log_level") is None:
        return {}
    level = given.get("log_level")
    if level not in LEVELS:
        given.wrong("log_level", f"is {level!r}, must be {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
        return {}
    return {"logs": f"*:{level}"}


def _syslog(given: Variables, name: str) -> dict[str, Any]:
    """Under the domain's name: all that a server keeps apart by."""
    text = given.get("syslog")
    if text is None:
        return {}
    try:
        address, port = endpoint(str(text), SYSLOG_PORT)
    except ValueError:
        given.wrong("syslog", f"{text!r} is not the address of a server, as in 192.0.2.9, 192.0.2.9:514 or [2001:db8::9]:514")
        return {}
    return {"syslog": address, **({"syslog-port": port} if port != SYSLOG_PORT else {}), "name": name}


def endpoint(text: str, default: int) -> tuple[str, int]:
    """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; ValueError for anything else."""
    host, port = text, str(default)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise ValueError(text)
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _colon, port = text.partition(":")
    address = ipaddress.ip_address(host)
    if "%" in host or address.is_unspecified or not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(text)
    return str(address), int(port)


def _metrics(given: Variables, ports: dict[int, str]) -> dict[str, Any]:
    metrics = given.mapping("metrics", "port and from, as in {port: 9100, from: [192.0.2.0/24]}")
    # What is not resolved was reported where it stands.
    if not metrics or holds_unresolved(metrics):
        return {}
    for unknown in sorted(set(map(str, metrics)) - set(_METRICS)):
        given.wrong("metrics", f"has no option {unknown}; its options are {' and '.join(_METRICS)}")
    inner = Variables("metrics", {f"metrics_{key}": value for key, value in metrics.items()})
    port = inner.number("port", METRICS_PORT, 1, 65535, "a TCP port")
    if port in ports:
        inner.wrong("port", f"is {port}, and so is {ports[port]}; give them different ports")
    networks = inner.texts("from", "networks, as in [192.0.2.0/24]")
    if not networks:
        inner.wrong("from", "must have the networks that may read the metrics, as in [192.0.2.0/24]; nobody else can")
    for network in networks:
        if problem := _problem_of(network):
            inner.wrong("from", problem)
    given.problems += [f"{given.service}_metrics: {line.removeprefix('metrics_')}" for line in inner.problems]
    if is_standin(given):
        given.wrong("metrics", "stand-ins have none: leave it out, or use our unikernel (images: build)")
    return {"metrics-port": port, "metrics-from": networks}


def _problem_of(network: str) -> str:
    try:
        if "/" in network and "%" not in network:
            ipaddress.ip_network(network)
            return ""
    except ValueError as error:
        if "host bits" in str(error):
            return f"{network!r} has host bits set, must be {ipaddress.ip_network(network, strict=False)}"
    return f"{network!r} is not a network, as in 192.0.2.0/24"


def is_standin(given: Variables) -> bool:
    image = given.get("image")
    if isinstance(image, dict) and image:
        return bool(image.get("standin"))
    return bool(given.get("images") == "standin")
