# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does another's packet filter cut domains off? Pure, and without another file of ours (see antispoof.py).

What Dom0 routes, for routed and nat networks, meets every chain in forward; with br_netfilter (Docker loads it) so does a packet
that only crosses a bridge. Where one drops (Docker, firewalld, ufw), domains reach nobody and nobody reaches them, while Dom0's
own checks of them, which forward never sees, all pass.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# Switch in /proc/sys/net/bridge -> the nftables families that bridged packets pass through with it.
SWITCHES = {"bridge-nf-call-iptables": ("ip", "inet"), "bridge-nf-call-ip6tables": ("ip6", "inet")}
_TOOLS = {"bridge-nf-call-iptables": "iptables", "bridge-nf-call-ip6tables": "ip6tables"}
_OFF = "sysctl -w net.bridge.{switch}=0"


def look(read: Callable[[str], str], run: Callable[..., str], bridges: list[str], routed: list[str]) -> list[str]:
    """One line for each bridge and chain. ``read``: a file, "" where there is none; ``run``: what a command prints.

    ``bridges``: those with vifs, or to have some; ``routed``: those of them for which Dom0 routes.
    """
    switches = {name: read(f"/proc/sys/net/bridge/{name}") for name in SWITCHES}
    crossed = [one for one in bridges if one not in routed] if "1" in [value.strip() for value in switches.values()] else []
    if not crossed and not routed:
        return []
    legacy = {}
    for name, tool in _TOOLS.items():
        # Where it is in use: asking would load it.
        if "filter" in read(f"/proc/net/{tool.replace('tables', '_tables')}_names").split():
            legacy[name] = run(f"{tool}-legacy", "-S", "FORWARD")
    ruleset = json.loads(run("nft", "-j", "list", "ruleset"))
    return cut_off(ruleset, legacy, switches, crossed) + not_routed(ruleset, legacy, routed)


def cut_off(ruleset: dict[str, Any], legacy: Mapping[str, str], switches: Mapping[str, str], bridges: list[str]) -> list[str]:
    """One line for each bridge and chain that drops what crosses the bridge.

    ``ruleset``: output of ``nft -j list ruleset``; ``legacy``: switch -> output of ``iptables-legacy -S FORWARD``, if it is used;
    ``switches``: switch -> "1" if it is on.
    """
    lines = []
    for switch, families in SWITCHES.items():
        if switches.get(switch, "").strip() != "1":
            continue
        for bridge in bridges:
            lines += [
                f"bridge {bridge}: br_netfilter sends its packets through {place}, which drops them: its domains are cut off;"
                f" type {remedy}, or {_OFF.format(switch=switch)}"
                for place, remedy in _closed(ruleset, legacy, switch, families, bridge)
            ]
    return lines


def not_routed(ruleset: dict[str, Any], legacy: Mapping[str, str], bridges: list[str]) -> list[str]:
    """One line for each bridge and chain that drops what Dom0 would route for the bridge's domains."""
    lines: list[str] = []
    for switch, families in SWITCHES.items():
        for bridge in bridges:
            lines += [
                f"bridge {bridge}: {place} drops what Dom0 routes for it: its domains are cut off; type {remedy}"
                for place, remedy in _closed(ruleset, legacy, switch, families, bridge)
            ]
    return list(dict.fromkeys(lines))


def _closed(
    ruleset: dict[str, Any], legacy: Mapping[str, str], switch: str, families: tuple[str, ...], bridge: str
) -> list[tuple[str, str]]:
    """Chains that drop, and what to type."""
    found = [
        (f"chain {chain} of table {family} {table}", _remedy(ruleset, family, table, chain, bridge))
        for family, table, chain in _dropping(ruleset, families, bridge)
    ]
    if _legacy_drops(legacy.get(switch, ""), bridge):
        found.append(("FORWARD of iptables-legacy", _iptables(f"{_TOOLS[switch]}-legacy", "FORWARD", bridge)))
    return found


def _remedy(ruleset: dict[str, Any], family: str, table: str, name: str, bridge: str) -> str:
    """What to type, in the words of the program whose table it is."""
    chains = {
        str(entry["chain"].get("name"))
        for entry in _entries(ruleset)
        if isinstance(entry.get("chain"), dict) and (entry["chain"].get("family"), entry["chain"].get("table")) == (family, table)
    }
    if table == "firewalld":
        return f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
    if any(chain.startswith(("ufw-", "ufw6-")) for chain in chains):
        return f"ufw route allow in on {bridge} && ufw route allow out on {bridge}"
    if family in ("ip", "ip6") and table == "filter" and name == "FORWARD":
        place = "DOCKER-USER" if "DOCKER-USER" in chains else "FORWARD"
        return _iptables("iptables" if family == "ip" else "ip6tables", place, bridge)
    rule = f"nft insert rule {family} {table} {name}"
    return f"{rule} iifname {bridge} accept && {rule} oifname {bridge} accept"


def _iptables(tool: str, chain: str, bridge: str) -> str:
    return f"{tool} -I {chain} -i {bridge} -j ACCEPT && {tool} -I {chain} -o {bridge} -j ACCEPT"


def _entries(ruleset: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in ruleset.get("nftables", []) if isinstance(entry, dict)]


def _dropping(ruleset: dict[str, Any], families: tuple[str, ...], bridge: str) -> list[tuple[str, str, str]]:
    """Family, table and name of chains in forward that drop what no rule speaks of, where no rule anywhere in their table lets
    the bridge through."""
    entries = _entries(ruleset)
    rules = [entry["rule"] for entry in entries if isinstance(entry.get("rule"), dict)]
    found = []
    for entry in entries:
        chain = entry.get("chain")
        if not isinstance(chain, dict) or chain.get("hook") != "forward" or chain.get("family") not in families:
            continue
        table = (chain.get("family"), chain.get("table"))
        mine = [rule for rule in rules if (rule.get("family"), rule.get("table")) == table]
        own = [rule for rule in mine if rule.get("chain") == chain.get("name")]
        drops = chain.get("policy") == "drop" or (bool(own) and _verdict(own[-1]) in ("drop", "reject") and not _matches(own[-1]))
        # Chains that let through all that is sent to them, as firewalld's of its zone trusted.
        open_chains = {str(rule.get("chain")) for rule in mine if _verdict(rule) == "accept" and not _matches(rule)}
        passes = any(_lets_through(rule, bridge, open_chains) for rule in mine) or str(chain.get("name")) in open_chains
        if drops and not passes:
            found.append((str(table[0]), str(table[1]), str(chain.get("name"))))
    return found


def _expressions(rule: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in rule.get("expr") or [] if isinstance(one, dict)]


def _verdict(rule: dict[str, Any]) -> str:
    return next((key for one in _expressions(rule) for key in one if key in ("accept", "drop", "reject")), "")


def _target(rule: dict[str, Any]) -> str:
    """The chain that it goes on in."""
    verdicts = [one[key] for one in _expressions(rule) for key in ("jump", "goto") if isinstance(one.get(key), dict)]
    return next((str(one.get("target")) for one in verdicts), "")


def _matches(rule: dict[str, Any]) -> bool:
    return any("match" in one or "xt" in one for one in _expressions(rule))


def _lets_through(rule: dict[str, Any], bridge: str, open_chains: set[str]) -> bool:
    accepts = _verdict(rule) == "accept" or _target(rule) in open_chains
    for one in _expressions(rule):
        match, extension = one.get("match"), one.get("xt")
        if isinstance(match, dict) and match.get("left") in ({"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}):
            text = str(match.get("right"))
            if match.get("op") == "==" and (text == bridge or (text.endswith("*") and bridge.startswith(text[:-1]))):
                return accepts
        if isinstance(extension, dict) and extension.get("name") == "physdev":
            return accepts
    return False


def _legacy_drops(text: str, bridge: str) -> bool:
    """True if the output of ``iptables-legacy -S FORWARD`` drops the bridge's packets."""
    if not re.search(r"^-P FORWARD DROP$", text, re.MULTILINE):
        return False
    return not re.search(
        rf"^-A FORWARD (?:.* )?(?:-[io] {re.escape(bridge)}|-m physdev)(?: .*)? -j ACCEPT$|^-A FORWARD -j ACCEPT$",
        text,
        re.MULTILINE,
    )
