# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`accept` and `reach` of a unikernel: what may reach it, and what it may open itself. Pure: from values to rules or refusals.

Both count for all addresses of a unikernel, which `antispoof` holds it to; so nothing has to be loaded when one of its vifs
comes, and both domains of a replacement have the same. The nftables text is made in reach_rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Union

from .antispoof import claims, link_local, reserved

IPNetwork = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

ACCEPT, REACH = "accept", "reach"
WITH_PORTS, WITHOUT_PORTS = ("tcp", "udp", "sctp"), ("icmp", "esp", "any")
# Of one option; a chain is walked from its begin.
MAX_RULES = 64
MAX_PEERS = 256
_PEERS = {ACCEPT: "from", REACH: "to"}
_EXAMPLE = {
    ACCEPT: "[tcp/443, {port: tcp/22, from: [192.0.2.0/24]}]",
    REACH: "[udp/53 to 9.9.9.9, {port: tcp/5432, to: [10.0.0.5]}]",
}
_MAX_PORT = 65535


@dataclass(frozen=True)
class Rule:
    """``low``, ``high``: ports; 0 and 65535 for all. ``peers``: with whom; none for anybody."""

    protocol: str
    low: int = 0
    high: int = _MAX_PORT
    peers: tuple[str, ...] = ()

    @property
    def every_port(self) -> bool:
        return (self.low, self.high) == (0, _MAX_PORT)

    def text(self, option: str) -> str:
        """As a user may write it."""
        ports = "" if self.every_port else f"/{self.low}" + (f"-{self.high}" if self.high != self.low else "")
        return f"{self.protocol}{ports}" + (f" {_PEERS[option]} {' '.join(self.peers)}" if self.peers else "")


@dataclass(frozen=True)
class Limits:
    """Of one unikernel. None: what its network lets through. ``own``: the prefixes that it may send from. ``six``: index and MAC
    of each interface with IPv6, whose link-local address is its own, too; no MAC where the host derives it from its name."""

    name: str
    accept: tuple[Rule, ...] | None = None
    reach: tuple[Rule, ...] | None = None
    own: tuple[str, ...] = ()
    six: tuple[tuple[int, str], ...] = ()

    def words(self) -> dict[str, list[str] | None]:
        """Both options, as a user may write them."""
        return {
            option: None if rules is None else [rule.text(option) for rule in rules]
            for option, rules in ((ACCEPT, self.accept), (REACH, self.reach))
        }

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def limits_of(plain: Mapping[str, Any]) -> Limits:
    """The way back from `Limits.plain`."""

    def rules(option: str) -> tuple[Rule, ...] | None:
        value = plain.get(option)
        return None if value is None else tuple(Rule(**{**one, "peers": tuple(one["peers"])}) for one in value)

    six = tuple((int(index), str(mac)) for index, mac in plain.get("six", ()))
    return Limits(str(plain["name"]), rules(ACCEPT), rules(REACH), tuple(plain.get("own", ())), six)


def with_own(limits: Limits, interfaces: Sequence[tuple[str, str]]) -> Limits:
    """``interfaces``: of each what it may send from, as it stands in ``ip=``, and its MAC, "" where the host derives it."""
    own: list[str] = []
    six = []
    for index, (text, mac) in enumerate(interfaces):
        networks = claims(text) or ()
        own += [str(network) for network in networks]
        six += [(index, mac)] if any(network.version == 6 for network in networks) else []
    return replace(limits, own=tuple(dict.fromkeys(own)), six=tuple(six))


def on_host(limits: Limits, derived: Callable[[int], str]) -> Limits:
    """With the link-local addresses. ``derived``: index of an interface -> the MAC that this host gives it."""
    local = [str(link_local((mac or derived(index)).lower())) for index, mac in limits.six]
    return replace(limits, own=tuple(dict.fromkeys((*limits.own, *local))), six=())


def shared(limits: Sequence[Limits]) -> list[str]:
    """One line for each prefix that two of them have: whose rules would count?"""
    holders: dict[str, str] = {}
    lines = []
    for one in limits:
        for prefix in one.own:
            if holders.setdefault(prefix, one.name) != one.name:
                option = ACCEPT if one.accept is not None else REACH
                lines.append(f"domain {one.name}: {option}: {prefix} is domain {holders[prefix]}'s too, with rules of its own")
    return lines


def listing(words: Mapping[str, Mapping[str, Sequence[str] | None]]) -> str:
    """``words``: unikernel -> `Limits.words`. A line for each option: what --diff shows."""
    lines = []
    for name, options in sorted(words.items()):
        for option, texts in options.items():
            if texts is not None:
                lines.append(f"{name}: {option}: {', '.join(texts) or 'nothing'}")
    return "".join(f"{line}\n" for line in lines)


# -- from what a user wrote --------------------------------------------------------------------------


class _Mistake(ValueError):
    """One line, without the place."""


def read_limits(unikernel: dict[str, Any], problem: Callable[[str], None]) -> Limits | None:
    """Takes both options out of ``unikernel``. None where there are none, or a mistake, which was reported."""
    values = {option: unikernel.pop(option, None) for option in (ACCEPT, REACH)}
    if unikernel.get("state") == "absent" or all(value is None for value in values.values()):
        return None
    name = unikernel.get("name")
    where = f"domain {name}" if isinstance(name, str) else "a domain without a name"
    found: dict[str, tuple[Rule, ...] | None] = {}
    before: list[str] = []
    versions = _versions(unikernel)
    for option, value in values.items():
        found[option] = None if value is None else _rules(option, value, versions, before)
    first = next(option for option, value in values.items() if value is not None)
    before += [f"{first}: {line}" for line in _interface_mistakes(unikernel)]
    if values[REACH] is not None:
        before += _answers(values[ACCEPT], found[ACCEPT])
    accept = found[ACCEPT]
    if accept is not None and not before:
        before += _unheard(unikernel.get("publish"), accept)
    for line in dict.fromkeys(before):
        problem(f"{where}: {line}")
    return None if before or not isinstance(name, str) else Limits(name, found[ACCEPT], found[REACH])


def _interfaces(unikernel: Mapping[str, Any]) -> list[Any]:
    value = unikernel.get("interfaces")
    return value if isinstance(value, list) else []


def _versions(unikernel: Mapping[str, Any]) -> set[int]:
    """IP versions of its addresses."""
    found: set[int] = set()
    for interface in _interfaces(unikernel):
        for option in ("address", "address6") if isinstance(interface, dict) else ():
            text = interface.get(option)
            try:
                found.add(ipaddress.ip_interface(text if isinstance(text, str) else "").version)
            except ValueError:
                continue
    return found


def _interface_mistakes(unikernel: Mapping[str, Any]) -> list[str]:
    if not _interfaces(unikernel):
        return ["the domain has no interfaces"]
    lines = []
    for index, interface in enumerate(_interfaces(unikernel)):
        if not isinstance(interface, dict):
            continue
        if str(interface.get("antispoofing", True)).strip().lower() in ("false", "no", "off", "0"):
            lines.append(
                f"interfaces[{index}] has antispoofing: false, so accept and reach can't know its addresses: remove that"
            )
        elif interface.get("script"):
            lines.append(
                f"interfaces[{index}] has a script of its own, so Dom0 can't filter it: remove script, or accept and reach"
            )
        elif not (interface.get("address") or interface.get("address6")):
            lines.append(f"interfaces[{index}] has no address for the rules: declare address or address6")
    return lines


def _answers(value: Any, accept: tuple[Rule, ...] | None) -> list[str]:
    """On a bridge an answer of UDP is known by its port: so the ports must be known."""
    if value is None:
        return ["reach: needs accept too: name the ports, as in accept: [tcp/443], or accept: [] to accept no connections"]
    return [
        f"accept: {rule.text(ACCEPT)} accepts every port from everybody, so reach could not tell a connection from an answer:"
        " name the ports, or the addresses that may connect"
        for rule in accept or ()
        if rule.every_port and not rule.peers and rule.protocol in ("udp", "sctp", "any", "esp")
    ]


def _unheard(publish: Any, accept: tuple[Rule, ...]) -> list[str]:
    """What is published, and not accepted. A mistake in `publish` itself is reported elsewhere."""
    lines = []
    for index, one in enumerate(publish if isinstance(publish, list) else []):
        port = str(one.get("to", one.get("port"))) if isinstance(one, dict) else ""
        protocol = one.get("protocol", "tcp") if isinstance(one, dict) else ""
        if not (port.isascii() and port.isdigit() and len(port) < 6 and protocol in WITH_PORTS):
            continue
        if not any(rule.protocol in (protocol, "any") and rule.low <= int(port) <= rule.high for rule in accept):
            lines.append(f"publish[{index}]: leads to {protocol}/{port}, which accept does not have: nobody would reach it")
    return lines


def _rules(option: str, value: Any, versions: set[int], before: list[str]) -> tuple[Rule, ...] | None:
    if not isinstance(value, list):
        before.append(f"{option}: is {value!r}, must be a list, as in {_EXAMPLE[option]}; [] for nothing")
        return None
    if len(value) > MAX_RULES:
        before.append(f"{option}: has {len(value)} entries, must be at most {MAX_RULES}")
        return None
    found: dict[Rule, int] = {}
    for index, item in enumerate(value):
        try:
            rule = _rule(option, item)
            _judge_peers(rule, option, versions)
        except _Mistake as mistake:
            before.append(f"{option}[{index}]: {mistake}")
            continue
        if rule in found:
            before.append(f"{option}[{index}]: {rule.text(option)} is listed twice (as {option}[{found[rule]}])")
        found.setdefault(rule, index)
    return tuple(found)


def _rule(option: str, item: Any) -> Rule:
    key = _PEERS[option]
    if isinstance(item, dict):
        unknown = sorted(str(one) for one in item if one not in ("port", key))
        if unknown:
            raise _Mistake(f"unknown key {', '.join(map(repr, unknown))}; known are port, {key}")
        if item.get("port") is None:
            raise _Mistake(f"port: is required, as in {{port: tcp/443, {key}: [192.0.2.0/24]}}")
        if key in item:
            return _made(item["port"], _peers(key, item[key]))
        return _made(item["port"], ())
    if not isinstance(item, str):
        raise _Mistake(f"is {item!r}, must be a protocol and a port, as in tcp/443, or a mapping with port and {key}")
    words = item.split()
    if len(words) < 2:
        return _made(item, ())
    if words[1] != key or len(words) == 2:
        raise _Mistake(f"is {item!r}, must be as in tcp/443 {key} 192.0.2.0/24")
    return _made(words[0], _peers(key, " ".join(words[2:]).replace(",", " ").split()))


def _made(text: Any, peers: tuple[str, ...]) -> Rule:
    if not isinstance(text, str):
        raise _Mistake(f"is {text!r}, must be a protocol and a port, as in tcp/443")
    protocol, slash, ports = text.partition("/")
    if protocol not in (*WITH_PORTS, *WITHOUT_PORTS):
        raise _Mistake(f"is {text!r}: the protocol must be one of {', '.join((*WITH_PORTS, *WITHOUT_PORTS))}, as in tcp/443")
    if not slash:
        return Rule(protocol, peers=peers)
    if protocol in WITHOUT_PORTS:
        raise _Mistake(f"is {text!r}, but {protocol} has no ports: write {protocol}")
    first, dash, last = ports.partition("-")
    low, high = _port(first, text), _port(last if dash else first, text)
    if low > high:
        raise _Mistake(f"is {text!r}, a range from the higher port to the lower: write {protocol}/{high}-{low}")
    return Rule(protocol, low, high, peers)


def _port(word: str, text: str) -> int:
    if word.isascii() and word.isdigit() and str(int(word[:6])) == word and 1 <= int(word) <= _MAX_PORT:
        return int(word)
    raise _Mistake(f"is {text!r}: a port is a number 1..{_MAX_PORT}, or a range of two, as in tcp/443 or tcp/8000-8099")


def _peers(key: str, value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items or len(items) > MAX_PEERS:
        raise _Mistake(f"{key}: is {value!r}, must be a list of 1..{MAX_PEERS} addresses and networks, as in [192.0.2.0/24]")
    found: list[str] = []
    for item in items:
        peer = _peer(key, item)
        if peer in found:
            raise _Mistake(f"{key}: {peer} is listed twice")
        found.append(peer)
    return tuple(found)


def _peer(key: str, item: Any) -> str:
    try:
        interface = ipaddress.ip_interface(item if isinstance(item, str) and "%" not in item else "")
    except ValueError:
        quotes = "; write an IPv6 address in quotes" if not isinstance(item, str) else ""
        raise _Mistake(f"{key}: {item!r} is not an address or a network, as in 192.0.2.0/24 or 2001:db8::/64{quotes}") from None
    network = interface.network
    if interface.ip != network.network_address:
        raise _Mistake(f"{key}: {item} has bits behind its prefix: write {network} for the network, or {interface.ip} alone")
    other = reserved(network)
    if other and network.subnet_of(other):  # type: ignore[arg-type]
        mapped = getattr(interface.ip, "ipv4_mapped", None)
        right = f": write {mapped}" if mapped else ""
        raise _Mistake(f"{key}: {item} is nobody's address, no address of {other} is{right}")
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _judge_peers(rule: Rule, option: str, versions: set[int]) -> None:
    peers = {ipaddress.ip_network(one).version for one in rule.peers}
    if versions and peers and not peers & versions:
        version, other = next(iter(peers)), next(iter(versions))
        raise _Mistake(f"{_PEERS[option]}: has only IPv{version} addresses, and the domain has only IPv{other}")
