# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Stand on a domain's network as another domain would: at a port of its bridge, filtered as a vif is, in a network
namespace of our own. When this process ends, however it does, the namespace disappears, and the port with it."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import platform
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..domain.options import SpecError
from ..health.waiting import Answer, ask_all, declared_checks
from ..network import antispoof
from ..network.guests import guests_of
from ..network.kinds import read_networks
from ..network.outside import Place, PlaceError, Round, as_neighbours, from_controller
from ..network.reading import bridge_mac
from ..wait import until
from .network import ip_json

# Named as domains' interfaces are: the network's manager leaves it alone, and the filter of domains knows it.
DEVICE, INNER = "vif-verify", "eth0"
_CLONE_NEWNET = 0x40000000
_SECONDS = 30
# Linux looks for a second owner of an IPv6 address for one second; a probe by ARP is answered sooner.
_PROBE_SECONDS, _PROBES = 0.5, 2
_ETH_P_ARP, _REQUEST = 0x0806, 1


class NeighbourError(Exception):
    """One line."""


def _run(*words: str, text: str | None = None, check: bool = True) -> str:
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise NeighbourError(f"{words[0]}: {error}") from None
    if check and done.returncode:
        raise NeighbourError(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
    return done.stdout


def _enter(call: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments):
        raise NeighbourError(f"{call}: {os.strerror(ctypes.get_errno())}; is the task run as root?")


@contextlib.contextmanager
def standing(place: Place) -> Iterator[None]:
    """Be at the place. Raise NeighbourError if that can't be, or if somebody has its address."""
    mac = bridge_mac(platform.node(), f"verify {place.network}")
    vif = antispoof.vif(DEVICE, mac, " ".join(str(ip) for ip in place.ips))
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inner = -1
    try:
        _enter("unshare", _CLONE_NEWNET)
        inner = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _enter("setns", home, _CLONE_NEWNET)
        _plug(place.network, mac, antispoof.added(vif), f"/proc/{os.getpid()}/fd/{inner}")
        _enter("setns", inner, _CLONE_NEWNET)
        _settle(place, mac)
        yield
    finally:
        _enter("setns", home, _CLONE_NEWNET)
        _run("ip", "link", "delete", DEVICE, check=False)
        _run("nft", "-f", "-", text=antispoof.removed(DEVICE), check=False)
        os.close(home)
        if inner >= 0:
            os.close(inner)


def _plug(bridge: str, mac: str, rules: str, namespace: str) -> None:
    _run("ip", "link", "delete", DEVICE, check=False)  # of a run that has not ended yet
    try:
        _run("nft", "-f", "-", text=rules)
    except NeighbourError as error:
        raise NeighbourError(f"the packet filter of domains does not take a port: {error}: run the role xen_host") from None
    _run("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", INNER, "address", mac, "netns", namespace)
    try:
        _run("ip", "link", "set", DEVICE, "master", bridge, "up")
    except NeighbourError as error:
        raise NeighbourError(f"network {bridge}: {error}") from None


def _settle(place: Place, mac: str) -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "set", INNER, "up")
    if not until(lambda: any("LOWER_UP" in one.get("flags", []) for one in ip_json("link", "show", "dev", INNER)), _SECONDS):
        raise NeighbourError(f"network {place.network}: the port {DEVICE} has no carrier")
    for text in place.addresses:
        address = ipaddress.ip_interface(text)
        if address.version == 4 and _answered(str(address.ip), mac):
            raise NeighbourError(_owned(place, str(address.ip)))
        _run("ip", "address", "add", text, "dev", INNER)
    for text in place.gateways:
        words = ["default", "via", text, "dev", INNER, *(["onlink"] if ":" not in text else [])]
        _run("ip", "route", "add", *words)
    until(lambda: not _flagged("tentative"), _SECONDS)
    for refused in _flagged("dadfailed"):
        raise NeighbourError(_owned(place, refused))


def _owned(place: Place, address: str) -> str:
    return (
        f"network {place.network}: {address}, the address to ask from, is in use: name an unused one in"
        f" verify_neighbours.{place.network}"
    )


def _flagged(flag: str) -> list[str]:
    """Return our IPv6 addresses that Linux has given this flag."""
    infos = [info for link in ip_json("-6", "address", "show", "dev", INNER) for info in link.get("addr_info", [])]
    return [str(info.get("local")) for info in infos if info.get(flag) and info.get("scope") == "global"]


def _answered(address: str, mac: str) -> bool:
    """Whether somebody answers an ARP probe (RFC 5227) for the address."""
    hardware, target = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    probe = b"\xff" * 6 + hardware + struct.pack("!H", _ETH_P_ARP)
    probe += struct.pack("!HHBBH", 1, 0x0800, 6, 4, _REQUEST) + hardware + bytes(4) + bytes(6) + target
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as end:
        end.bind((INNER, 0))
        for _attempt in range(_PROBES):
            end.send(probe)
            deadline = time.monotonic() + _PROBE_SECONDS
            while select.select([end], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if end.recv(100)[28:32] == target:
                    return True
    return False


def _ask(one: Round) -> list[Answer]:
    with standing(one.place):
        answers = ask_all(one.checks)
    asked = f" (asked from {', '.join(map(str, one.place.ips))} on network {one.place.network}, as a neighbour)"
    return [{**answer, "msg": answer["msg"] + asked} if answer["msg"] else answer for answer in answers]


def network_health(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of the module `network_health`: arguments of exit_json, or with ``failed`` of fail_json."""
    networks, lines = read_networks(options["networks"], managed=False)
    guests, domains, answers = guests_of(options["guests"] or {}), options["domains"], []
    problems = list(lines)
    try:
        checks = declared_checks(domains)
        if options["seen_from"] == "controller":
            asked, skipped = from_controller(networks, checks, domains, guests, options["host"] or "")
            answers = ask_all(asked)
        else:
            rounds, skipped = as_neighbours(networks, checks, domains, guests, options["places"])
            for one in rounds:
                try:
                    answers += _ask(one)
                except NeighbourError as error:
                    problems.append(str(error))
    except (SpecError, PlaceError) as error:
        return {"failed": True, "msg": str(error)}
    problems += [answer["msg"] for answer in answers if answer["msg"]]
    healthy = [answer["name"] for answer in answers if answer["healthy"]]
    result = {"changed": False, "healthy": healthy, "answers": answers, "not_asked": skipped}
    return {**result, "failed": True, "msg": " // ".join(problems)} if problems else result
