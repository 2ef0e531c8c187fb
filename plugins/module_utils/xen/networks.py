# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Read how a host's network is configured, and carry out a plan for it (network/plan.py)."""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ..domain.spec import derived_mac
from ..host.interfaces import sources
from ..image.store import write_whole
from ..network import ifupdown, netplan, networkd, networkmanager, reach, reach_rules
from ..network.guests import guests_of
from ..network.kinds import read_networks
from ..network.offered import STATE
from ..network.plan import COMMON, Plan, make_plan, state_of
from ..network.reading import IFUPDOWN, NETPLAN, NETWORKD, NETWORKMANAGER, Link, NetworkError, Reading, State
from ..network.switch import FileChange
from . import bridge_switch
from .network import ip_json, uplink
from .xenstore import Xenstore
from .xl import ToolstackError

_PATTERNS = (
    ifupdown.INTERFACES,
    f"{ifupdown.INTERFACES}.d/*",
    f"{netplan.FOLDER}/*.yaml",
    "/run/netplan/*.yaml",
    "/lib/netplan/*.yaml",
    *(f"{folder}/*.network" for folder in networkd.FOLDERS),
    *(f"{folder}/*.network.d/*.conf" for folder in networkd.FOLDERS),
    f"{networkd.FOLDER}/*.netdev",
    f"{networkmanager.FOLDER}/*",
    *networkmanager.VIFS,
)
# The state of a listening socket in /proc/net/tcp; a UDP socket without a peer has 07.
_LISTENS = {"tcp": "0A", "udp": "07"}
SECONDS = 120
# Names of secrets in the managers' files.
_SECRET = re.compile(r"password|passphrase|psk|wep-key|secret|private|^\s*keys?:|^\[802-1x\]", re.IGNORECASE | re.MULTILINE)


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError:
        return None


def _files(state: State) -> dict[str, str]:
    paths = {path for pattern in _PATTERNS for path in glob.glob(pattern)} | set(COMMON) | set(state.originals)
    found = {path: _text(path) for path in sorted(paths)}
    texts = {path: text for path, text in found.items() if text is not None}
    # interfaces(5) may source files from anywhere.
    for _ in range(8):
        more = {
            path
            for known in ifupdown.files_in_order(texts)
            for pattern in sources(texts[known])
            for path in glob.glob(os.path.join(os.path.dirname(known), pattern))
            if os.path.normpath(path) not in texts
        }
        for path in more:
            texts[os.path.normpath(path)] = _text(path) or ""
        if not more:
            break
    return texts


def _links(rows: list[dict[str, Any]]) -> dict[str, Link]:
    found = {}
    for one in rows:
        name = str(one.get("ifname", ""))
        linkinfo = one.get("linkinfo")
        info = linkinfo if isinstance(linkinfo, dict) else {}
        addresses = tuple(
            f"{item['local']}/{item['prefixlen']}"
            for item in one.get("addr_info", [])
            if item.get("scope") != "host" and "local" in item
        )
        mac, kind, master, lower = (
            str(text or "") for text in (one.get("address"), info.get("info_kind"), one.get("master"), one.get("link"))
        )
        mtu = one.get("mtu")
        found[name] = Link(name, mac, kind, master, addresses, mtu if isinstance(mtu, int) else 0, lower)
    return {name: link for name, link in found.items() if name and not name.startswith("vif")}


def _active(unit: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", unit], timeout=30, check=False).returncode == 0


def _connection() -> tuple[str, str]:
    """Return NetworkManager's (device of the default route, file of its connection); "" for what there is not."""
    device = uplink()
    if not device or not shutil.which("nmcli"):
        return "", ""
    done = subprocess.run(
        ["nmcli", "--terse", "--escape", "no", "--fields", "FILENAME,DEVICE", "connection", "show", "--active"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    rows = [line.rpartition(":") for line in done.stdout.splitlines()]
    path = next((path for path, _colon, name in rows if name == device), "")
    return (device, path if path.startswith(networkmanager.FOLDER) else "") if path else ("", "")


def _manager(device: str, files: dict[str, str], links: dict[str, Link]) -> str:
    """Return which program configures the device of the default route."""
    if any(path.startswith(f"{netplan.FOLDER}/") for path in files) and shutil.which("netplan"):
        return NETPLAN
    names = {device, *(link.name for link in links.values() if link.master == device)}
    if ifupdown.INTERFACES in files and names & ifupdown.configured(files):
        return IFUPDOWN
    if _active("NetworkManager.service") and _connection()[0]:
        return NETWORKMANAGER
    if _active("systemd-networkd.service"):
        return NETWORKD
    return IFUPDOWN if ifupdown.INTERFACES in files and shutil.which("ifup") else ""


def _guests(rows: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Map each bridge to the names of the domains with a vif on it; the id if xenstore has no name."""
    ids: dict[str, set[str]] = {}
    for one in rows:
        shape = re.match(r"vif([0-9]+)\.", str(one.get("ifname", "")))
        if shape and one.get("master"):
            ids.setdefault(str(one["master"]), set()).add(shape[1])
    known: dict[str, str] = {}
    domids = sorted({domid for found in ids.values() for domid in found})
    if domids:
        with contextlib.suppress(ToolstackError), Xenstore() as store:
            known = dict(zip(domids, (text or "" for text in store.read([f"/local/domain/{one}/name" for one in domids]))))
    return {bridge: tuple(sorted(known.get(one) or one for one in found)) for bridge, found in ids.items()}


def _listener(text: str) -> str:
    """Return the address that /proc/net shows, each of its words in the host's byte order; "" if it is this host's alone, as
    127.0.0.53 of systemd-resolved."""
    try:
        packed = b"".join(int(text[index : index + 8], 16).to_bytes(4, sys.byteorder) for index in range(0, len(text), 8))
        address = ipaddress.ip_address(packed)
    except ValueError:
        return str(ipaddress.IPv6Address(0))  # what can't be read is taken for all addresses
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return "" if (mapped or address).is_loopback else str(mapped or address)


def _listening() -> frozenset[tuple[str, str, int]]:
    found = set()
    for protocol, state in _LISTENS.items():
        for path in (f"/proc/net/{protocol}", f"/proc/net/{protocol}6"):
            for line in (_text(path) or "").splitlines()[1:]:
                words = line.split()
                local = words[1].split(":") if len(words) > 3 else []
                address = _listener(local[0]) if len(local) == 2 and words[3] == state else ""
                if address:
                    found.add((protocol, address, int(local[1], 16)))
    return frozenset(found)


def _advertised() -> tuple[str, ...]:
    """Return the devices whose default route Linux itself takes from router advertisements.

    networkd and NetworkManager read these themselves.
    """
    routes = ip_json("-6", "route", "show", "default")
    devices = {str(route["dev"]) for route in routes if "dev" in route and route.get("protocol") == "ra"}
    return tuple(sorted(name for name in devices if (_text(f"/proc/sys/net/ipv6/conf/{name}/accept_ra") or "0").strip() != "0"))


def observe() -> Reading:
    """Read the host's network. Raise NetworkError if the state that we wrote can't be read."""
    try:
        state = state_of(_text(STATE) or "")
    except ValueError as error:
        raise NetworkError(f"{STATE}: {error}: remove it if the host's network is as it was before") from None
    rows = ip_json("-d", "address", "show")
    files, links, device = _files(state), _links(rows), uplink()
    return Reading(
        host=os.uname().nodename,
        manager=_manager(device, files, links),
        links=links,
        default=device,
        files=files,
        guests=_guests(rows),
        listening=_listening(),
        advertised=_advertised(),
        connection=_connection()[1],
        cloud_init=os.path.isdir("/etc/cloud/cloud.cfg.d"),
        state=state,
    )


def diffs(plan: Plan) -> list[dict[str, str]]:
    """Return what --diff shows. Of a file with a password (802.1X, wireless networks, tunnels) show only the name."""
    shown: list[dict[str, str]] = []
    for change in plan.files:
        if change.path == STATE:
            continue
        hidden = _SECRET.search((change.before or "") + (change.after or ""))
        before, after = ("(not shown)\n", "(not shown)\n") if hidden else (change.before or "", change.after or "")
        shown.append(
            {
                "before": before.encode("utf-8", "replace").decode(),
                "after": after.encode("utf-8", "replace").decode(),
                "before_header": change.path if change.before is not None else "/dev/null",
                "after_header": change.path if change.after is not None else "/dev/null",
            }
        )
    return shown


def _write(changes: Iterable[FileChange]) -> None:
    for change in changes:
        if change.after is None:
            os.unlink(change.path)
        else:
            os.makedirs(os.path.dirname(change.path), exist_ok=True)
            write_whole(change.path, change.after.encode("utf-8", "surrogateescape"), change.mode)


def carry_out(plan: Plan, seconds: int) -> None:
    """Devices by the program that takes them back; rules alone at once."""
    if plan.devices:
        bridge_switch.start(plan.switch, seconds, f"network {', '.join(plan.devices)}")
        return
    _write(plan.files)
    script = "\n".join(plan.apply)
    done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise NetworkError(f"rules of the networks: {' '.join(done.stderr.split()) or 'a command failed'}")


def _in_force(text: str, listed: str = "nft -s list table inet unikernels_networks 2>/dev/null") -> bool:
    """Whether the kernel has the tables that ``text`` makes."""
    now = subprocess.run(["sh", "-c", listed], capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    wanted = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"nft -f - && {listed}"],
        input=text, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    if wanted.returncode and wanted.stderr:
        raise NetworkError(f"nft: {wanted.stderr.strip().splitlines()[0]}: is it Debian's nftables?")
    return now == wanted.stdout


def flushed(plan: Plan) -> bool:
    """True if the plan's rules are not in force, because an administrator ran 'nft flush ruleset', for example."""
    return bool(plan.rules) and not _in_force(plan.rules)


def limit(limits: list[reach.Limits], check: bool) -> dict[str, Any]:
    """What may reach domains, and what they may reach, into force. Loaded before it is written: a run that dies in between is
    repeated by the next one."""
    node = platform.node()
    here = [reach.on_host(one, lambda index, name=one.name: derived_mac(node, name, index)) for one in limits]  # type: ignore[misc]
    now = {path: _text(path) for path in (reach_rules.RULES, reach_rules.WORDS)}
    changes = reach_rules.files(here, now)
    text = reach_rules.tables(here)
    # Without what they hold: a change of that is one of the file.
    listed = "; ".join(f"nft -s -t list table {family} {reach_rules.TABLE} 2>/dev/null" for family in reach_rules.FAMILIES)
    changed = bool(changes) or (bool(here) and not _in_force(text, f"{{ {listed}; true; }}"))
    if changed and not check:
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            raise NetworkError(f"accept, reach: nft: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
        _write(changes)
    before, after = (reach_rules.words_of(now[reach_rules.WORDS]), {one.name: one.words() for one in here})
    shown = {"before": reach.listing(before), "after": reach.listing(after)}
    header = {f"{when}_header": "what may reach unikernels, and what they may reach" for when in shown}
    return {"changed": changed, "diff": [{**shown, **header}] if before != after else []}


def confirm(check: bool) -> bool:
    return bridge_switch.keep("the new network", True, check)


def summary(reading: Reading, names: Iterable[str]) -> dict[str, Any]:
    there = {name: list(reading.links[name].addresses) for name in names if name in reading.links}
    return {"manager": reading.manager, "networks": there}


def offer(options: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """What the module xen_networks does with its options, and its result. NetworkError with everything that is wrong."""
    guests = guests_of(options["guests"]) if options["guests"] is not None else None
    if options.get("limits_only"):
        return {**limit(guests.limits if guests else [], check), "devices": [], "waits": False}
    networks, lines = read_networks(options["networks"])
    if lines:
        raise NetworkError(*lines)
    reading = observe()
    plan = make_plan(networks, guests, reading)
    if plan.devices and options["rules_only"]:
        raise NetworkError(
            f"network {', '.join(plan.devices)}: is not on the host as it is declared: run the role xen_host"
            " (playbooks/provision.yml)"
        )
    if not check and plan.rules and not shutil.which("nft"):
        raise NetworkError("nft is not there: install Debian's package nftables")
    limited: dict[str, Any] = limit(guests.limits, check) if guests else {"changed": False, "diff": []}
    changed = bool(plan.files) or flushed(plan)
    if changed and not check:
        carry_out(plan, options["confirm_within"])
    return {
        "changed": changed or limited["changed"],
        "diff": [*limited["diff"], *diffs(plan)],
        "devices": list(plan.devices),
        "waits": bool(plan.devices) and not check,
        **summary(reading, networks),
    }
