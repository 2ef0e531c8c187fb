# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a domain's vif may send, as nftables rules: its MAC and its addresses. Pure, and without another file of ours.

The role xen_host installs this very file beside Dom0's vif hook, so a declaration is checked by the same code that later makes
the rules. The tables for the rules are in roles/xen_host/files/antispoof.nft.

What a vif may send from is in ``ip=`` of its definition: libxl keeps that in xenstore, below the backend, where no guest can
write. It holds addresses and prefixes separated by spaces, or the single word ``UNFILTERED``.
"""

from __future__ import annotations

import ipaddress
import re

# A hook waits until this file is loaded: no unnecessary imports (dataclasses alone would double the time).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# In ip=: no filter, but still no access to Dom0's ports.
UNFILTERED = "unfiltered"
# A vif has about a dozen rules and one for each IPv6 address.
MAX_CLAIMS = 64
DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
# Never a domain's own: this host, loopback, multicast, reserved and broadcast; unspecified, loopback, IPv4-mapped, multicast.
_NOT_OWN = [
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "ff00::/8")
]  # fmt: skip


class ClaimError(ValueError):
    """One line: what a vif can't send from."""


class Vif:
    """A domain's vif. ``claims``: what it may send from; None: no filter. ``routed``: its script puts it on no bridge."""

    def __init__(self, device: str, mac: str, claims: tuple[Network, ...] | None = (), routed: bool = False) -> None:
        self.device, self.mac, self.claims, self.routed = device, mac, claims, routed


def reserved(network: Network) -> Network | None:
    """Return the prefix of `_NOT_OWN` that the network is in, or has in it; None if a domain may have it."""
    return next((other for other in _NOT_OWN if network.version == other.version and network.overlaps(other)), None)


def claim(word: str) -> Network:
    """Parse an address, with or without its network's prefix, or a network, as in 10.0.0.10, 10.0.0.10/24, 10.8.0.0/24."""
    try:
        interface = ipaddress.ip_interface(word)
    except ValueError:
        raise ClaimError(f"{word!r} is not an address or a network") from None
    address, network = interface.ip, interface.network
    if not network.prefixlen:
        raise ClaimError(f"{word!r} covers every address; for a domain that may send from any address set antispoofing: false")
    found = network if address == network.network_address else ipaddress.ip_network(address)
    other = reserved(found)
    if other:
        raise ClaimError(f"{word!r} can't be a domain's own: {other} is in it" if other.subnet_of(found)  # type: ignore[arg-type]
                         else f"{word!r} can't be a domain's own, no address of {other} can")  # fmt: skip
    return found


def claims(text: str) -> tuple[Network, ...] | None:
    """Parse ``ip=``."""
    if text == UNFILTERED:
        return None
    words = text.split()
    if len(words) > MAX_CLAIMS:
        raise ClaimError(f"has {len(words)} addresses and networks, must be at most {MAX_CLAIMS}")
    return tuple(dict.fromkeys(claim(word) for word in words))


def claims_text(networks: tuple[Network, ...] | None) -> str:
    """Return the canonical text for ``ip=``."""
    if networks is None:
        return UNFILTERED
    return " ".join(str(one.network_address) if _single(one) else str(one) for one in networks)


def own(addresses: list[str], more: str, antispoofing: bool = True) -> str:
    """Return ``ip=`` for an interface with these addresses (ADDRESS/PREFIX) and ``more`` that it may send from."""
    if not antispoofing:
        if more:
            raise ClaimError("states what the filter allows, and antispoofing is false: remove one of them")
        return ""
    if more == UNFILTERED:
        raise ClaimError("unfiltered is for definitions alone; declare antispoofing: false")
    beside = claims(more) or ()
    for network in beside:
        for address in map(ipaddress.ip_interface, addresses):
            if not _single(network) and network.version == address.version and address.network.subnet_of(network):  # type: ignore[arg-type]
                raise ClaimError(
                    f"{network} holds the whole network of {address}, the gateway and its neighbours too; name what the"
                    " domain itself has (or antispoofing: false)"
                )
    text = claims_text((*(claim(one.partition("/")[0]) for one in addresses), *beside))
    return claims_text(claims(text))


def _single(network: Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def link_local(mac: str) -> ipaddress.IPv6Network:
    """Return the link-local address that IPv6 derives from a MAC (RFC 4291, appendix A)."""
    parts = bytes.fromhex(mac.replace(":", ""))
    host = bytes([parts[0] ^ 2]) + parts[1:3] + b"\xff\xfe" + parts[3:]
    return ipaddress.IPv6Network((b"\xfe\x80" + bytes(6) + host, 128))


def vif(device: str, mac: str, text: str, routed: bool = False) -> Vif:
    """Return the vif that xenstore describes. Raise ClaimError if it can't be one."""
    mac = mac.lower()
    if not DEVICE.fullmatch(device):
        raise ClaimError(f"{device!r} is not the name of a network device")
    if not _MAC.fullmatch(mac):
        raise ClaimError(f"{device}: {mac!r} is not a MAC address")
    try:
        return Vif(device, mac, claims(text), routed)
    except ClaimError as error:
        raise ClaimError(f"{device}: ip: {error}") from None


def chain(device: str) -> str:
    return f"vif_{device}"


def added(one: Vif) -> str:
    """Return the transaction that creates or replaces a vif's chain. Its length doesn't depend on the number of vifs."""
    lines = [
        f"add chain bridge unikernels {chain(one.device)}",
        f"flush chain bridge unikernels {chain(one.device)}",
        *(f"add rule bridge unikernels {chain(one.device)} {rule}" for rule in _rules(one)),
        f'add element bridge unikernels guests {{ "{one.device}" : goto {chain(one.device)} }}',
    ]
    for name, needed in (("named", not one.device.startswith("vif")), ("routed", one.routed and one.claims is None)):
        for table in ("bridge", "inet") if name == "named" else ("inet",):
            lines.append(f'add element {table} unikernels {name} {{ "{one.device}" }}')
            if not needed:  # an earlier device of that name may have been in it
                lines.append(f'delete element {table} unikernels {name} {{ "{one.device}" }}')
    return "\n".join(lines) + "\n"


def removed(device: str) -> str:
    """Return the transaction that removes a vif's chain. It fails as a whole if there is none."""
    lines = [
        f'delete element bridge unikernels guests {{ "{device}" }}',
        f"delete chain bridge unikernels {chain(device)}",
    ]
    for table, name in (("bridge", "named"), ("inet", "named"), ("inet", "routed")):
        lines += [f'{what} element {table} unikernels {name} {{ "{device}" }}' for what in ("add", "delete")]
    return "\n".join(lines) + "\n"


def _rules(one: Vif) -> list[str]:
    if one.claims is None:
        return ["accept"]
    four = [network for network in one.claims if network.version == 4]
    six = [network for network in one.claims if network.version == 6]
    rules = [f"ether saddr != {one.mac} counter drop", "jump common"]
    if four:
        rules += _rules_ipv4(one.mac, four)
    if six:
        rules += _rules_ipv6(one.mac, [*six, *([link_local(one.mac)] if link_local(one.mac) not in six else [])])
    return [*rules, "counter drop"]


def _set(networks: Sequence[Network]) -> str:
    """Return an anonymous set, which may not contain an address twice or one within a prefix."""
    merged = ipaddress.collapse_addresses(networks)  # type: ignore[type-var]
    return "{ " + ", ".join(str(one.network_address) if _single(one) else str(one) for one in merged) + " }"


def _rules_ipv4(mac: str, networks: Sequence[Network]) -> list[str]:
    own = _set(networks)
    rules = [
        f"ether type arp arp saddr ether != {mac} counter drop",
        f"ether type arp arp saddr ip {own} accept",
        # A probe whether one of its own addresses is free (RFC 5227).
        f"ether type arp arp operation request arp saddr ip 0.0.0.0 arp daddr ip {own} accept",
        f"ether type ip ip saddr {own} accept",
    ]
    if not all(map(_single, networks)):
        # A vif with a prefix may get its address by DHCP. The request holds its MAC at byte 28 (RFC 2131).
        rules.append(
            "ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67"
            f" @th,288,48 0x{mac.replace(':', '')} accept"
        )
    return rules


def _rules_ipv6(mac: str, networks: Sequence[Network]) -> list[str]:
    """Neighbour discovery has an address after the first 8 bytes of ICMPv6, in 16 bytes, then an option with a MAC."""
    own, number = _set(networks), mac.replace(":", "")
    neighbour = "ether type ip6 icmpv6 type { 135, 136 } ip6 length 32"
    rules = [
        # An option with a MAC (1, 2: RFC 4861) must have its own; the only other one allowed is a nonce (14: RFC 3971).
        f"{neighbour} @th,192,8 != {{ 1, 2, 14 }} counter drop",
        f"{neighbour} @th,192,8 {{ 1, 2 }} @th,208,48 != 0x{number} counter drop",
    ]
    if all(map(_single, networks)):  # with a prefix it may be a router, which may call itself one
        rules.append("ether type ip6 icmpv6 type 136 @th,32,8 & 0x80 != 0 counter drop")
    for network in networks:
        target = f"@th,64,{network.prefixlen} 0x{int(network.network_address) >> (128 - network.prefixlen):x}"
        rules += [
            f"ether type ip6 ip6 saddr {own} icmpv6 type 136 {target} accept",
            f"ether type ip6 ip6 saddr :: icmpv6 type 135 {target} accept",
        ]
    return [
        *rules,
        "ether type ip6 icmpv6 type 136 counter drop",
        "ether type ip6 ip6 saddr :: icmpv6 type { 131, 132, 133, 143 } accept",
        f"ether type ip6 ip6 saddr {own} accept",
    ]


def present(listing: str) -> list[tuple[str, str, str, bool]]:
    """Parse ``xenstore-ls -f /local/domain/0/backend/vif`` into (device, MAC, ip, routed) of each vif."""
    found: dict[str, dict[str, str]] = {}
    for line in listing.splitlines():
        row = re.fullmatch(r'/local/domain/0/backend/vif/([0-9]+)/([0-9]+)/(mac|ip|vifname|script) = "(.*)"', line)
        if row:
            found.setdefault(f"vif{row.group(1)}.{row.group(2)}", {})[row.group(3)] = row.group(4)
    return [
        (
            values.get("vifname") or device,
            values["mac"],
            values.get("ip", ""),
            not values.get("script", "vif-bridge").endswith("/vif-bridge"),
        )
        for device, values in sorted(found.items())
        if values.get("mac")
    ]
