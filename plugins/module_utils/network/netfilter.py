# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does another's packet filter cut the domains of a bridge off? Pure, and without another file of ours (see antispoof.py).

With br_netfilter (Docker loads it) a packet that only crosses a bridge meets iptables' FORWARD as well. Where that drops, domains
reach nobody and nobody reaches them, while Dom0's own checks of them, which FORWARD never sees, all pass.
"""

from __future__ import annotations

import re
from typing import Any

# Switch in /proc/sys/net/bridge -> the nftables families that bridged packets pass through with it.
SWITCHES = {"bridge-nf-call-iptables": ("ip", "inet"), "bridge-nf-call-ip6tables": ("ip6", "inet")}
_REMEDY = (
    "let it accept them (iptables -I FORWARD -i {bridge} -o {bridge} -j ACCEPT; with Docker in DOCKER-USER), or set"
    " net.bridge.{switch}=0"
)


def cut_off(ruleset: dict[str, Any], legacy: dict[str, str], switches: dict[str, str], bridges: list[str]) -> list[str]:
    """One line for each bridge and chain that drops what crosses the bridge.

    ``ruleset``: output of ``nft -j list ruleset``; ``legacy``: switch -> output of ``iptables-legacy -S FORWARD``, if it is used;
    ``switches``: switch -> "1" if it is on.
    """
    lines = []
    for switch, families in SWITCHES.items():
        if switches.get(switch, "").strip() != "1":
            continue
        for bridge in bridges:
            where = [name for name in _dropping(ruleset, families, bridge)]
            where += ["FORWARD of iptables-legacy"] if _legacy_drops(legacy.get(switch, ""), bridge) else []
            lines += [
                f"bridge {bridge}: br_netfilter sends its packets through {name}, which drops them: its domains are cut off;"
                f" {_REMEDY.format(bridge=bridge, switch=switch)}"
                for name in where
            ]
    return lines


def _dropping(ruleset: dict[str, Any], families: tuple[str, ...], bridge: str) -> list[str]:
    """Chains in forward that drop what no rule speaks of, where no rule anywhere in their table lets the bridge through."""
    entries = [entry for entry in ruleset.get("nftables", []) if isinstance(entry, dict)]
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
        passes = any(_lets_through(rule, bridge) for rule in mine) or any(
            _verdict(rule) == "accept" and not _matches(rule) for rule in own
        )
        if drops and not passes:
            found.append(f"chain {chain.get('name')} of table {table[0]} {table[1]}")
    return found


def _expressions(rule: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in rule.get("expr") or [] if isinstance(one, dict)]


def _verdict(rule: dict[str, Any]) -> str:
    return next((key for one in _expressions(rule) for key in one if key in ("accept", "drop", "reject")), "")


def _matches(rule: dict[str, Any]) -> bool:
    return any("match" in one or "xt" in one for one in _expressions(rule))


def _lets_through(rule: dict[str, Any], bridge: str) -> bool:
    for one in _expressions(rule):
        match, extension = one.get("match"), one.get("xt")
        if isinstance(match, dict) and match.get("left") in ({"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}):
            text = str(match.get("right"))
            if match.get("op") == "==" and (text == bridge or (text.endswith("*") and bridge.startswith(text[:-1]))):
                return _verdict(rule) == "accept"
        if isinstance(extension, dict) and extension.get("name") == "physdev":
            return _verdict(rule) == "accept"
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
