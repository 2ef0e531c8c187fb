# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`accept` and `reach` of all unikernels of a host as nftables text, in tables of our own. Pure.

inet unikernels_reach    what Dom0 routes: conntrack knows which packet is an answer
bridge unikernels_reach  what crosses a bridge, where conntrack would let anybody outside fill Dom0's table of connections. An
                         answer of TCP is a segment that opens nothing; one of UDP comes from a port that was accepted, or that
                         may be reached. Only for a domain that may open everything, Dom0 remembers for a minute what it asked
                         by UDP: so many at once that one domain can't crowd out the others.

A packet takes two look-ups in maps, of its source and of its destination, however many domains there are. What Dom0 itself
sends, its health checks, is never forwarded, and so is not judged here.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence

from .reach import ACCEPT, REACH, IPNetwork, Limits, Rule
from .switch import FileChange

TABLE = "unikernels_reach"
FAMILIES = ("bridge", "inet")
# The text, which the unit of the packet filter loads at boot; and the same in a user's words.
RULES, WORDS = "/etc/xen/unikernels-reach.nft", "/var/lib/unikernels/reach.json"
_HEAD = "# Written by unikernels.xen; a change by hand is undone by the next run.\n"
# The mark of antispoof.nft on what a guest sends.
_OF_A_GUEST = "meta mark 0x756e"
_NO_SYN = "meta l4proto tcp tcp flags & (syn | ack) != syn"
# Errors that belong to a connection; of IPv6 also neighbours and listeners, without which there is none.
_NEEDED = ("icmp type { 3, 11, 12 }", "icmpv6 type { 1, 2, 3, 4, 131, 132, 133, 135, 136, 143 }")
# Without its first part none is ever put together; of TCP, a later part could make a SYN of what has passed (RFC 1858).
_LATER_PARTS = (
    "ip frag-off & 0x1fff != 0 ip protocol { udp, icmp, esp, sctp }",
    "frag frag-off != 0 frag nexthdr { 17, 50, 58, 132 }",
)
_ASKED = {4: "ip {0} . meta l4proto . th {1} . ip {2} . th {3}", 6: "ip6 {0} . meta l4proto . th {1} . ip6 {2} . th {3}"}


def removal() -> str:
    return "".join(f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in FAMILIES)


def tables(limits: Sequence[Limits]) -> str:
    """The transaction for a host, in place of what was there."""
    lines = [removal().rstrip("\n")]
    if not limits:
        return "\n".join(lines) + "\n"
    for family in FAMILIES:
        bridge = family == "bridge"
        lines += [f"table {family} {TABLE} {{", *(_memory() if bridge else [])]
        for one in limits:
            lines += _chain(f"from_{_name(one)}", _from(one, bridge)) + _chain(f"to_{_name(one)}", _to(one, bridge))
        lines += [*_maps(limits), *(_accepting(limits) if bridge else [])]
        lines += ["  chain forward {", f"    type filter hook forward priority {0 if bridge else -6}; policy accept;"]
        lines += [f"    {rule}" for rule in (_BRIDGED if bridge else _ROUTED)]
        lines += ["  }", "}"]
    return "\n".join(lines) + "\n"


def files(limits: Sequence[Limits], now: Mapping[str, str | None]) -> tuple[FileChange, ...]:
    """What differs from what the host has. Without limits there are no files."""
    words = {one.name: one.words() for one in limits}
    wanted = {
        RULES: _HEAD + tables(limits) if limits else None,
        WORDS: json.dumps(words, indent=1, sort_keys=True) + "\n" if limits else None,
    }
    changes = [FileChange(path, now.get(path), text) for path, text in wanted.items()]
    return tuple(one for one in changes if one.before != one.after)


def words_of(text: str | None) -> dict[str, dict[str, list[str] | None]]:
    """What stands in WORDS: unikernel -> its options. What is broken there is as if it weren't there."""
    try:
        plain = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    found: dict[str, dict[str, list[str] | None]] = {}
    for name, options in plain.items() if isinstance(plain, dict) else ():
        if isinstance(options, dict):
            values = {option: options.get(option) for option in (ACCEPT, REACH)}
            found[name] = {key: [str(one) for one in value] if isinstance(value, list) else None for key, value in values.items()}
    return found


_LOOKED_UP = ("ip saddr vmap @from4", "ip6 saddr vmap @from6", "ip daddr vmap @to4", "ip6 daddr vmap @to6")
_ROUTED = (
    "ct state related accept",
    # Who asked is judged with each packet, so that a shorter list counts at once.
    "ct state established ct direction reply accept",
    # Never routed; with br_netfilter what only crosses a bridge comes by here, too.
    "icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 143 } accept",
    *_LOOKED_UP,
)
_BRIDGED = (
    f"ether type arp {_OF_A_GUEST} arp saddr ip @accepting4 update @closed {{ iifname }}",
    *_LOOKED_UP,
    # What is for all (broadcast, multicast) is for a domain that accepts some things alone, too.
    "oifname @closed ether type ip counter drop",
    "oifname @closed icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 143 } accept",
    "oifname @closed ether type ip6 counter drop",
)


def _memory() -> list[str]:
    asked = {version: _asked(version, "saddr", "sport", "daddr", "dport") for version in (4, 6)}
    kind = "type {0} . inet_proto . inet_service . {0} . inet_service; flags dynamic,timeout; timeout 1m; size 65536;"
    return [
        f"  set asked4 {{ {kind.format('ipv4_addr')} }}",
        f"  set asked6 {{ {kind.format('ipv6_addr')} }}",
        "  set asking { type ifname; flags dynamic,timeout; timeout 1m; size 1024; }",
        "  # vifs of domains that accept some things alone",
        "  set closed { type ifname; flags dynamic,timeout; timeout 1d; size 4096; }",
        *_chain(
            "asks",
            [f"{asked[version]} @asked{version} update @asked{version} {{ {asked[version]} }} return" for version in (4, 6)]
            + [
                f"{_OF_A_GUEST} ether type {family} update @asking {{ iifname limit rate 100/second burst 500 packets }}"
                f" add @asked{version} {{ {asked[version]} }}"
                for family, version in (("ip", 4), ("ip6", 6))
            ],
        ),
    ]


def _asked(version: int, *words: str) -> str:
    return _ASKED[version].format(*words)


def _chain(name: str, rules: Iterable[str]) -> list[str]:
    return [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]


def _name(one: Limits) -> str:
    """Names of chains take letters, digits and _; bytes as hexadecimal keep two names apart."""
    return "".join(letter if letter.isascii() and letter.isalnum() else f"_{ord(letter):02x}" for letter in one.name)


def _from(one: Limits, bridge: bool) -> list[str]:
    """What a domain sends: returns from the chain where it may."""
    rules = [f"{_OF_A_GUEST} update @closed {{ iifname }}"] if bridge and one.accept is not None else []
    if one.reach is None:
        return [*rules, *(["meta l4proto { udp, sctp } jump asks"] if bridge and one.accept is not None else [])]
    rules += [f"{match} return".lstrip() for rule in one.reach for match in _matches(rule, "daddr", "dport")]
    if bridge:
        rules += [f"{match} return" for match in (*_NEEDED, *_LATER_PARTS)]
        rules += [f"{match} return".lstrip() for rule in one.accept or () for match in _answers(rule, "daddr", "sport")]
    return [*rules, "counter drop"]


def _to(one: Limits, bridge: bool) -> list[str]:
    """What is sent to a domain."""
    if one.accept is None:
        return []
    rules = [f"{match} accept".lstrip() for rule in one.accept for match in _matches(rule, "saddr", "dport")]
    if not bridge:
        return [*rules, "counter drop"]
    rules += [f"{match} accept" for match in (*_NEEDED, *_LATER_PARTS)]
    if one.reach is None:
        rules += [f"{_NO_SYN} accept", "icmp type echo-reply accept", "icmpv6 type echo-reply accept"]
        rules += [f"{_asked(version, 'daddr', 'dport', 'saddr', 'sport')} @asked{version} accept" for version in (4, 6)]
    else:
        rules += [f"{match} accept".lstrip() for rule in one.reach for match in _answers(rule, "saddr", "sport")]
    return [*rules, "counter drop"]


def _matches(rule: Rule, side: str, port: str) -> list[str]:
    """What opens a connection that the rule allows."""
    if rule.protocol == "icmp":
        return _with_peers(rule, side, {4: "icmp type echo-request", 6: "icmpv6 type echo-request"})
    return _with_peers(rule, side, _protocol(rule, port))


def _answers(rule: Rule, side: str, port: str) -> list[str]:
    """What answers it."""
    replies = _with_peers(rule, side, {4: "icmp type echo-reply", 6: "icmpv6 type echo-reply"})
    if rule.protocol == "icmp":
        return replies
    if rule.protocol == "any":
        more = [match for text in (_NO_SYN, "meta l4proto { udp, sctp, esp }") for match in _with_peers(rule, side, text)]
        return replies + more
    opens_nothing = " tcp flags & (syn | ack) != syn" if rule.protocol == "tcp" else ""
    return [match + opens_nothing for match in _with_peers(rule, side, _protocol(rule, port))]


def _protocol(rule: Rule, port: str) -> str:
    if rule.protocol == "any":
        return ""
    if rule.every_port:
        return f"meta l4proto {rule.protocol}"
    return f"{rule.protocol} {port} {rule.low}" + (f"-{rule.high}" if rule.high != rule.low else "")


def _with_peers(rule: Rule, side: str, match: str | dict[int, str]) -> list[str]:
    found = []
    networks = [ipaddress.ip_network(one) for one in rule.peers]
    for version, family in ((4, "ip"), (6, "ip6")):
        mine = [one for one in networks if one.version == version]
        text = match if isinstance(match, str) else match[version]
        if mine:
            found.append(f"{family} {side} {_set(mine)} {text}".rstrip())
        elif not networks and (isinstance(match, dict) or version == 4):
            found.append(text)
    return found


def _set(networks: list[IPNetwork]) -> str:
    return "{ " + ", ".join(map(_plain, ipaddress.collapse_addresses(networks))) + " }"  # type: ignore[type-var]


def _plain(network: IPNetwork) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def areas(limits: Sequence[Limits]) -> list[tuple[IPNetwork, Limits]]:
    """Whose each address is, without an overlap: one inside of another's prefix is its own domain's."""
    owners: dict[IPNetwork, Limits] = {}
    for one in limits:
        for text in one.own:
            owners.setdefault(ipaddress.ip_network(text), one)
    found: list[tuple[IPNetwork, Limits]] = []
    for network, one in owners.items():
        parts = [network]
        for inner in owners:
            if inner != network and inner.version == network.version and inner.subnet_of(network):  # type: ignore[arg-type]
                parts = [part for whole in parts for part in _without(whole, inner)]
        found += [(part, one) for part in parts]
    return sorted(found, key=lambda pair: (pair[0].version, int(pair[0].network_address)))


def _without(whole: IPNetwork, inner: IPNetwork) -> list[IPNetwork]:
    if whole.subnet_of(inner):  # type: ignore[arg-type]
        return []
    return list(whole.address_exclude(inner)) if inner.subnet_of(whole) else [whole]  # type: ignore[arg-type]


def _maps(limits: Sequence[Limits]) -> list[str]:
    lines = []
    for version in (4, 6):
        mine = [(_plain(network), one) for network, one in areas(limits) if network.version == version]
        for way, elements in (
            ("from", [f"{place} : jump from_{_name(one)}" for place, one in mine]),
            ("to", [f"{place} : jump to_{_name(one)}" for place, one in mine if one.accept is not None]),
        ):
            held = f" elements = {{ {', '.join(elements)} }}" if elements else ""
            lines.append(f"  map {way}{version} {{ type ipv{version}_addr : verdict; flags interval;{held} }}")
    return lines


def _accepting(limits: Sequence[Limits]) -> list[str]:
    mine = [_plain(network) for network, one in areas(limits) if network.version == 4 and one.accept is not None]
    held = f" elements = {{ {', '.join(mine)} }}" if mine else ""
    return [f"  set accepting4 {{ type ipv4_addr; flags interval; auto-merge;{held} }}"]
