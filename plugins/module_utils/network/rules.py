# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Dom0 forwards between its networks and the world, as one table of nftables. Pure.

The table is ``inet unikernels_networks``, replaced as a whole in one transaction: nobody else's rules are touched, and half of it
is never active. What a vif sends is filtered earlier, by the tables ``unikernels`` (antispoof.nft): packets here have the
domain's own source. Rules about which domain may be reached belong into the chain ``forward``, before its accepting rules.

dnat       a published port, on any address of the host, is translated to the domain's; the client's address stays
masquerade packets that leave a nat network get the host's address
forward    nat and routed networks reach the world; only routed ones, and published ports, are reached; isolated ones neither
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from .guests import Guests, Published
from .kinds import BRIDGED, ISOLATED, NAT, ROUTED, IPNetwork, Network

TABLE = "unikernels_networks"
# After conntrack and destination NAT; before the chains of Docker and firewalld, which still drop what they want.
FORWARD_PRIORITY = -5


def table(networks: Mapping[str, Network], guests: Guests) -> str:
    """Return the transaction. If no network needs the table, it removes it."""
    head = [f"table inet {TABLE}", f"delete table inet {TABLE}"]
    ours = [network for network in networks.values() if network.mode != BRIDGED]
    if not ours:
        return "\n".join(head) + "\n"
    body = [f"table inet {TABLE} {{", *_published(guests.published), *_translated(ours), *_forwarded(ours), "}"]
    return "\n".join([*head, *body]) + "\n"


def _names(networks: Iterable[Network]) -> str:
    return "{ " + ", ".join(f'"{network.name}"' for network in networks) + " }"


def _set(prefixes: Iterable[IPNetwork]) -> str:
    return "{ " + ", ".join(str(one) for one in ipaddress.collapse_addresses(prefixes)) + " }"  # type: ignore[type-var]


def _family(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _published(published: list[Published]) -> list[str]:
    if not published:
        return []
    lines = ["  chain published {", "    type nat hook prerouting priority -100; policy accept;"]
    for one in published:
        family = _family(one.version)
        place = f"{family} daddr {one.address}" if one.address else "fib daddr type local"
        target = f"{one.target}:{one.to}" if one.version == 4 else f"[{one.target}]:{one.to}"
        nfproto = "" if one.address else f"meta nfproto {'ipv4' if one.version == 4 else 'ipv6'} "
        lines.append(f"    {nfproto}{place} {one.protocol} dport {one.port} dnat {family} to {target}")
    return [*lines, "  }"]


def _translated(networks: list[Network]) -> list[str]:
    nat = [network for network in networks if network.mode == NAT and network.prefixes]
    if not nat:
        return []
    lines = ["  chain translated {", "    type nat hook postrouting priority 100; policy accept;"]
    # Not between networks of this host: they have routes back, and published domains see the client's address.
    out = f"oifname != {_names(networks)}"
    for network in nat:
        for version in (4, 6):
            prefixes = [one for one in network.carried if one.version == version]
            if prefixes:
                lines.append(f'    iifname "{network.name}" {out} {_family(version)} saddr {_set(prefixes)} masquerade')
        # A domain that connects to a published port of its own network: the answer must return through Dom0.
        lines.append(f'    iifname "{network.name}" oifname "{network.name}" ct status dnat masquerade')
    return [*lines, "  }"]


def _forwarded(networks: list[Network]) -> list[str]:
    closed = [network for network in networks if network.mode == ISOLATED]
    nat = [network for network in networks if network.mode == NAT]
    routed = [network for network in networks if network.mode == ROUTED]
    lines = ["  chain forward {", f"    type filter hook forward priority {FORWARD_PRIORITY}; policy accept;"]
    # With br_netfilter, packets that only cross a bridge pass through here too; neighbours are not filtered.
    lines += [f'    iifname "{network.name}" oifname "{network.name}" accept' for network in networks]
    if closed:
        lines += [f"    iifname {_names(closed)} counter drop", f"    oifname {_names(closed)} counter drop"]
    for network in (*nat, *routed):
        lines += [f'    iifname "{network.name}" goto from_{_chain(network)}']
    for network in (*nat, *routed):
        lines += [f'    oifname "{network.name}" goto to_{_chain(network)}']
    lines.append("  }")
    for network in (*nat, *routed):
        lines += [*_from(network, nat), *_to(network)]
    return lines


def _chain(network: Network) -> str:
    """Return a network's name for chains, which allow no dot and no leading dash; hexadecimal codes keep names distinct."""
    return "".join(letter if letter.isalnum() else f"_{ord(letter):02x}" for letter in network.name)


def _from(network: Network, nat: list[Network]) -> list[str]:
    """Drop packets with a source outside the network: forged ones, and those of a domain without a filter."""
    lines = [f"  chain from_{_chain(network)} {{"]
    lines += [
        f"    {_family(version)} saddr != {_set(prefixes)} counter drop"
        for version in (4, 6)
        for prefixes in [[one for one in network.carried if one.version == version]]
        if prefixes
    ]
    for version in (4, 6):
        if not any(one.version == version for one in network.carried):
            lines.append(f"    meta nfproto ipv{version} counter drop")
    lines.append("    ct state established,related accept")
    others = [one for one in nat if one.name != network.name]
    if others:
        lines.append(f"    oifname {_names(others)} ct status dnat accept")
        lines.append(f"    oifname {_names(others)} counter drop")
    return [*lines, "    accept", "  }"]


def _to(network: Network) -> list[str]:
    lines = [f"  chain to_{_chain(network)} {{", "    ct state established,related accept"]
    if network.mode == NAT:
        return [*lines, "    ct status dnat accept", "    counter drop", "  }"]
    lines += [
        f"    {_family(version)} daddr {_set(prefixes)} accept"
        for version in (4, 6)
        for prefixes in [[one for one in network.carried if one.version == version]]
        if prefixes
    ]
    return [*lines, "    counter drop", "  }"]


def sysctls(networks: Mapping[str, Network], ways: Iterable[str], keep_advertised: Iterable[str] = ()) -> str:
    """Return the text for sysctl.d.

    ``ways``: devices by which routed and nat networks reach the world; ``keep_advertised``: those of them whose own IPv6 route
    comes from router advertisements, which a Linux router ignores unless accept_ra is 2.
    """
    lines = ["# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run."]
    routing = [network for network in networks.values() if network.mode in (ROUTED, NAT)]
    for network in networks.values():
        if network.mode == BRIDGED:
            continue
        path = network.name.replace(".", "/")
        lines += [f"-net.ipv6.conf.{path}.{key} = 0" for key in ("accept_ra", "accept_redirects")]
        lines += [f"-net.ipv4.conf.{path}.{key} = 0" for key in ("accept_redirects", "secure_redirects", "send_redirects")]
    # By device: the host routes for its domains, but not between all its other networks.
    devices = [network.name for network in routing] + sorted(set(ways)) if routing else []
    lines += [f"-net.ipv4.conf.{device.replace('.', '/')}.forwarding = 1" for device in devices]
    if any(prefix.version == 6 for network in routing for prefix in network.carried):
        # accept_ra first: with forwarding on, the next advertisement would be ignored.
        lines += [f"-net.ipv6.conf.{device.replace('.', '/')}.accept_ra = 2" for device in sorted(set(keep_advertised))]
        lines.append("net.ipv6.conf.all.forwarding = 1")  # Linux has no switch by device for IPv6
        if any(network.proxy for network in routing):
            lines += [f"-net.ipv6.conf.{device.replace('.', '/')}.proxy_ndp = 1" for device in sorted(set(ways))]
    return "\n".join(lines) + "\n"


def neighbours(networks: Mapping[str, Network], guests: Guests, way: Mapping[str, str]) -> list[list[str]]:
    """Return the ``ip`` arguments for each address that Dom0 answers for (ARP, neighbour discovery) at its network's uplink."""
    return [
        ["neigh", "replace", "proxy", address, "dev", way[name]]
        for name, addresses in sorted(guests.proxied.items())
        if name in networks and networks[name].proxy and way.get(name)
        for address in addresses
    ]
