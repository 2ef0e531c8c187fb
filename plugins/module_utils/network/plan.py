# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plan the files and commands for the declared networks, or list all that is wrong. Pure.

The files of the host's network manager are made from *their originals, as they were before us*, so that a network that is no
longer declared leaves nothing behind, and a second run changes nothing.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import ifupdown, netplan, networkd, networkmanager, rules
from .guests import Guests, guests_of
from .kinds import BRIDGED, ROUTED, Network
from .offered import STATE
from .reading import (
    IFUPDOWN,
    NETPLAN,
    NETWORKD,
    NETWORKMANAGER,
    Bridge,
    NetworkError,
    Reading,
    State,
    refusals,
    settle,
    ways,
)
from .switch import FileChange, Switch

NFT = "/etc/xen/unikernels-networks.nft"
NEIGHBOURS = "/etc/xen/unikernels-networks.neighbours"
SYSCTL = "/etc/sysctl.d/62-unikernels-networks.conf"
UNIT = "/etc/systemd/system/unikernels-networks.service"
WANTED = "/etc/systemd/system/multi-user.target.wants/unikernels-networks.service"
CLOUD = "/etc/cloud/cloud.cfg.d/99-unikernels-network.cfg"
# Files that belong to no manager.
COMMON = (STATE, NFT, NEIGHBOURS, SYSCTL, UNIT, CLOUD)
# Seconds within which a device must exist after a manager's command has returned.
WITHIN = 30

_HEAD = "# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run.\n"
_UNIT = f"""{_HEAD}[Unit]
Description=What Dom0 lets through between its networks
# nftables.service begins with 'flush ruleset'; with it this one starts again.
After=nftables.service firewalld.service network.target
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
Before=xendomains.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {NFT}
ExecStart=-/usr/sbin/ip -force -batch {NEIGHBOURS}
ExecReload=/usr/sbin/nft -f {NFT}

[Install]
WantedBy=multi-user.target
"""
_CLOUD = f"{_HEAD}network: {{config: disabled}}\n"


@dataclass(frozen=True)
class Plan:
    """Files and commands. ``switch``: used if devices change, and confirmed by the controller; ``apply``: suffices otherwise."""

    files: tuple[FileChange, ...] = ()
    switch: Switch = field(default_factory=lambda: Switch(()))
    devices: tuple[str, ...] = ()  # bridges that are created, changed or removed
    apply: tuple[str, ...] = ()
    rules: str = ""  # the nftables table; "" for none


def state_text(state: State) -> str:
    return json.dumps(
        {
            "networks": {name: _plain(network) for name, network in sorted(state.networks.items())},
            # `accept` and `reach` have files of their own.
            "guests": replace(state.guests, limits=[]).plain(),
            "originals": dict(sorted(state.originals.items())),
            "written": dict(sorted(state.written.items())),
            "adopted": sorted(state.adopted),
            "moved": sorted(state.moved),
            "advertised": sorted(state.advertised),
            "connection": state.connection,
        },
        indent=1,
        sort_keys=True,
    )


def _plain(network: Network) -> dict[str, Any]:
    """Leave out what few networks have, so that a host without it keeps its file, and an older version of ours can read it."""
    return {key: value for key, value in asdict(network).items() if key != "behind" or value}


def state_of(text: str) -> State:
    """Read the state back. An empty text is no state; raise ValueError for anything else."""
    if not text.strip():
        return State()
    try:
        plain = json.loads(text)
        networks = {
            name: Network(**{**one, **{key: tuple(one.get(key, ())) for key in ("addresses", "subnets", "behind")}})
            for name, one in plain["networks"].items()
        }
        guests = guests_of(plain["guests"])
        words = {key: tuple(plain[key]) for key in ("adopted", "moved", "advertised")}
        return State(networks, guests, plain["originals"], plain["written"], connection=str(plain["connection"]), **words)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is not as we wrote it: {error}") from None


def configured(reading: Reading) -> frozenset[str]:
    """Return the devices that the host's manager configures by its own files."""
    if reading.manager == IFUPDOWN:
        return ifupdown.configured(reading.originals)
    asked = {NETWORKD: networkd.configured, NETPLAN: netplan.configured, NETWORKMANAGER: networkmanager.configured}
    return asked[reading.manager](reading)


def make_plan(networks: Mapping[str, Network], guests: Guests | None, reading: Reading) -> Plan:
    """Plan the networks. ``guests``: None keeps the last ones. Raise NetworkError with everything that is wrong."""
    if not networks and not reading.state.networks:
        return Plan()
    if reading.manager not in (IFUPDOWN, NETWORKD, NETPLAN, NETWORKMANAGER):
        raise NetworkError(
            "the host's network is configured by none of ifupdown, systemd-networkd, netplan and NetworkManager: make the bridges"
            " yourself and set xen_host_manage_network: false"
        )
    guests = guests or reading.state.guests
    bridges, adopted, lines = settle(networks, reading, configured(reading))
    lines += refusals(networks, bridges, guests, reading)
    try:
        written = {**_writer(reading.manager)(bridges, reading), **_unmanaged(reading)} if networks else {}
    except NetworkError as error:
        lines, written = lines + error.lines, {}
    lines += _edited(written, reading)
    if lines:
        raise NetworkError(*lines)
    files = _managers_files(written, reading)
    devices = _devices(bridges, files, reading)
    running = sorted({name for bridge in reading.state.networks for name in reading.guests.get(bridge, ())})
    if devices and running and reading.manager == NETPLAN and netplan.renderer(reading.originals) == "NetworkManager":
        raise NetworkError(
            "xen_host_networks: netplan with the renderer NetworkManager takes the interfaces of running domains"
            f" ({', '.join(running)}) off their bridges at each change: stop these first, or use the renderer networkd"
        )
    state = _next_state(bridges, adopted, guests, written, reading)
    files += _common_files(networks, bridges, guests, state, reading)
    changed = tuple(one for one in files if one.before != one.after)
    loads = _loads(networks)
    switch = Switch(changed, _scripts(bridges, devices, reading, loads))
    return Plan(changed, switch, tuple(devices), tuple(loads), rules.table(networks, guests) if networks else "")


def _writer(manager: str):  # type: ignore[no-untyped-def]
    return {
        IFUPDOWN: ifupdown.write,
        NETWORKD: networkd.write,
        NETPLAN: netplan.write,
        NETWORKMANAGER: networkmanager.write,
    }[manager]


def _unmanaged(reading: Reading) -> dict[str, str]:
    """Return the files that keep the host's manager away from the domains' vifs."""
    by_networkmanager = reading.manager == NETWORKMANAGER
    if reading.manager == NETPLAN:
        by_networkmanager = netplan.renderer(reading.originals) == "NetworkManager"
    if by_networkmanager:
        return networkmanager.VIFS
    return networkd.VIFS if reading.manager in (NETWORKD, NETPLAN) else {}


def _mode(path: str) -> int:
    secret = path.startswith((netplan.FOLDER, networkmanager.FOLDER)) or path == STATE
    return 0o600 if secret else 0o644


def _edited(written: Mapping[str, str], reading: Reading) -> list[str]:
    """Return one line for each of the administrator's files whose edits would be lost.

    They were edited after we had moved addresses out of them. (ifupdown's text is taken as it is now, and stays.)
    """
    lines = []
    for path, original in reading.state.originals.items():
        if original is None or reading.files.get(path) in (None, original, reading.state.written.get(path)):
            continue
        if reading.manager == NETPLAN or path not in written:
            lines.append(
                f"{path}: was edited since the uplink's addresses moved out of it: put its text from before the networks back,"
                f" with the edit ({STATE} has it in originals)"
            )
    return lines


def _managers_files(written: Mapping[str, str], reading: Reading) -> list[FileChange]:
    paths = sorted({*written, *reading.state.written})
    changes = []
    for path in paths:
        # A file of our own is removed, whatever it contains now.
        ours = path in reading.state.originals and reading.state.originals[path] is None
        after = written.get(path, None if ours else reading.original(path))
        changes.append(FileChange(path, reading.files.get(path), after, _mode(path)))
    return changes


def _next_state(
    bridges: list[Bridge], adopted: list[Network], guests: Guests, written: Mapping[str, str], reading: Reading
) -> State:
    networks = {one.name: one for one in [*(bridge.network for bridge in bridges), *adopted]}
    originals = {path: reading.state.originals.get(path, reading.original(path)) for path in written}
    moved = tuple(one.name for one in bridges if one.moves)
    return State(
        networks,
        guests,
        originals,
        dict(written),
        adopted=tuple(one.name for one in adopted),
        moved=moved,
        advertised=_advertised(bridges, reading),
        connection=(reading.state.connection if set(moved) & set(reading.state.moved) else reading.connection) if moved else "",
    )


def _advertised(bridges: list[Bridge], reading: Reading) -> tuple[str, ...]:
    """Include those of an earlier run: just after a change the next advertisement may still be missing."""
    over = {one.port: one.name for one in bridges if one.moves}
    return tuple(sorted({over.get(device, device) for device in (*reading.advertised, *reading.state.advertised)}))


def _common_files(
    networks: Mapping[str, Network], bridges: list[Bridge], guests: Guests, state: State, reading: Reading
) -> list[FileChange]:
    out = ways(networks, bridges, reading)
    neighbours = rules.neighbours(networks, guests, out)
    texts: dict[str, str | None] = dict.fromkeys(COMMON)
    if networks:
        texts[STATE] = state_text(state)
        texts[NFT] = _HEAD + rules.table(networks, guests)
        texts[NEIGHBOURS] = "".join(" ".join(words) + "\n" for words in neighbours)
        texts[SYSCTL] = rules.sysctls(networks, out.values(), state.advertised)
        texts[UNIT] = _UNIT
        texts[CLOUD] = _CLOUD if reading.cloud_init else None
    return [FileChange(path, reading.files.get(path), text, _mode(path)) for path, text in texts.items()]


def _devices(bridges: list[Bridge], files: list[FileChange], reading: Reading) -> list[str]:
    """Return the bridges that are missing, to be removed, or changed together with their files since the last run."""
    before = {name: one for name, one in reading.state.networks.items() if name not in reading.state.adopted}
    # We don't know which file the manager reads for which bridge, so one changed file concerns all that may need it.
    edited = any(one.before != one.after for one in files)
    found = []
    for bridge in bridges:
        link = reading.links.get(bridge.name)
        if link is None or link.kind != "bridge" or (edited and before.get(bridge.name) != bridge.network):
            found.append(bridge.name)
    gone = [name for name in before if name not in {one.name for one in bridges} and name in reading.links]
    return [*found, *gone] or (["files"] if edited else [])


def _loads(networks: Mapping[str, Network]) -> list[str]:
    """Return the commands that apply the rules and Linux's switches."""
    if not networks:
        return [
            f"nft -f - <<END\n{rules.table({}, Guests())}END",
            "systemctl --no-reload disable --quiet unikernels-networks.service || true",
        ]
    lines = [
        # udev sets the switches of devices that appear later.
        f"/lib/systemd/systemd-sysctl {SYSCTL} || true",
        f"nft -f {NFT}",
        f"ip -force -batch {NEIGHBOURS} || true",
        f"mkdir -p {WANTED.rpartition('/')[0]} && ln -sf ../unikernels-networks.service {WANTED}",
        "systemctl daemon-reload || true",
    ]
    if not any(network.mode == ROUTED and network.proxy for network in networks.values()):
        lines.remove(f"ip -force -batch {NEIGHBOURS} || true")
    return lines


# -- the managers' commands ------------------------------------------------------------------------


def _scripts(bridges: list[Bridge], devices: list[str], reading: Reading, loads: list[str]) -> dict[str, list[str]]:
    """Return the shell lines of each stage of the switch."""
    here = {bridge.name: bridge for bridge in bridges}
    new = [name for name in devices if name in here and name not in reading.links]
    gone = [name for name in devices if name not in here and name in reading.links]
    live = [name for name in devices if name in here and name in reading.links]
    moved = [here[name].port for name in new if here[name].moves]
    returned = [_port_before(reading, name) for name in gone if _port_before(reading, name)]
    scripts = _managers_scripts(reading, new, gone, live, moved, returned, here)
    is_there = "ip link show dev {name} type bridge 2>/dev/null | grep -q ."
    there = [f"for i in $(seq {WITHIN * 5}); do {is_there.format(name=name)} && break; sleep 0.2; done" for name in new]
    there += [is_there.format(name=name) for name in new]
    back = [f"[ ! -e {NFT} ] && nft 'table inet {rules.TABLE}; delete table inet {rules.TABLE}'", f"[ -e {NFT} ] && nft -f {NFT}"]
    back += [f"[ -e {UNIT} ] || rm -f {WANTED}"]
    return {
        "down": scripts["down"],
        "up": [*scripts["up"], *there, *loads],
        "down-new": scripts["down-new"],
        "up-old": [*scripts["up-old"], *back],
        "boot": [*scripts.get("boot", []), f"[ -e {UNIT} ] || rm -f {WANTED}"],
    }


def _port_before(reading: Reading, name: str) -> str:
    before = reading.state.networks.get(name)
    return before.uplink if before and before.mode == BRIDGED and before.uplink and not before.vlan else ""


def _removed(names: list[str]) -> list[str]:
    return [f"ip link delete {name} 2>/dev/null || true" for name in names]


def _managers_scripts(
    reading: Reading,
    new: list[str],
    gone: list[str],
    live: list[str],
    moved: list[str],
    returned: list[str],
    here: Mapping[str, Bridge],
) -> dict[str, list[str]]:
    vlans = [here[name].port for name in new if here[name].vlan]
    if reading.manager == IFUPDOWN:
        changes, changes_back = _addresses(reading, live, here), _addresses(reading, live, here, back=True)
        return {
            "down": ifupdown.down([*gone, *moved]),
            "up": [*_removed(gone), *ifupdown.up([*new, *returned], moved), *changes],
            "down-new": [*ifupdown.down([*new, *moved, *returned]), *changes_back],
            "up-old": [*_removed([*new, *vlans]), *(f"ip address flush dev {name}" for name in returned),
                       *(ifupdown.up([*moved, *gone], []))],
        }  # fmt: skip
    if reading.manager == NETPLAN:
        return {
            "down": [],
            # Twice: the first frees the port, the second removes what NetworkManager has recreated meanwhile.
            "up": [*_conf(reading), "netplan generate", *_removed(gone), "netplan apply", *_removed(gone)],
            "down-new": _removed([*new, *vlans]),
            "up-old": ["netplan generate", "netplan apply", *_removed([*new, *vlans])],
            "boot": ["netplan generate"],
        }
    if reading.manager == NETWORKD:
        again = [f"networkctl reconfigure {name}" for name in live if here[name].mac]
        return {
            "down": [],
            "up": [
                *_removed(gone),
                "networkctl reload",
                *again,
                *(f"networkctl reconfigure {port}" for port in [*moved, *returned]),
            ],
            "down-new": _removed([*new, *vlans]),
            "up-old": ["networkctl reload", *(f"networkctl reconfigure {port}" for port in [*moved, *returned]), *again],
        }
    return _networkmanager_scripts(reading, new, gone, live, moved, returned, here)


def _conf(reading: Reading) -> list[str]:
    return ["nmcli general reload conf"] if _unmanaged(reading) is networkmanager.VIFS else []


def _networkmanager_scripts(
    reading: Reading,
    new: list[str],
    gone: list[str],
    live: list[str],
    moved: list[str],
    returned: list[str],
    here: Mapping[str, Bridge],
) -> dict[str, list[str]]:
    def up(name: str) -> str:
        return f"nmcli --wait {WITHIN} connection up uuid {networkmanager.connection_id(reading.host, name)}"

    # Reapply: activating a bridge again would drop the domains' vifs from it.
    again = [f"nmcli --wait {WITHIN} device reapply {name}" for name in live]
    ports = [here[name].port for name in new if here[name].port]
    return {
        "down": [],
        # A bridge that still waits for its port's carrier is not a failure.
        "up": [*_conf(reading), *_removed(gone), "nmcli connection reload",
               *(f"{up(name)} || true" for name in new), *map(up, ports), *again,
               *(f"nmcli --wait {WITHIN} device connect {port}" for port in returned)],
        "down-new": [],
        "up-old": ["nmcli connection reload", *_removed([*new, *(here[name].port for name in new if here[name].vlan)]),
                   *(f"nmcli --wait {WITHIN} device connect {port}" for port in moved),
                   *again, *(f"{up(name)} || true" for name in [*gone, *returned])],
    }  # fmt: skip


def _addresses(reading: Reading, live: list[str], here: Mapping[str, Bridge], back: bool = False) -> list[str]:
    """Change the addresses of existing bridges by ip(8): ifdown would remove a bridge under its domains."""
    lines = []
    for name in live:
        before, after = reading.state.networks.get(name), here[name].network
        if before is None:
            continue
        first, second = (after, before) if back else (before, after)
        lines += [f"ip address del {one} dev {name} || true" for one in first.addresses if one not in second.addresses]
        lines += [f"ip address replace {one} dev {name}" for one in second.addresses if one not in first.addresses]
        lines += [f"ip route replace {one} dev {name}" for one in second.routes]
        lines += [f"ip route del {one} dev {name} || true" for one in first.routes if one not in second.routes]
        lines += [f"ip route del {one} via {via} dev {name} || true" for one, via in first.ways if (one, via) not in second.ways]
        lines += [f"ip route replace {one} via {via} dev {name} onlink" for one, via in second.ways]
        if second.mtu != first.mtu:
            lines.append(f"ip link set dev {shlex.quote(name)} mtu {second.mtu or 1500}")
    return lines
