# Written by unikernels.xen (role xen_host); a change by hand is undone by the next run.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of the vifs of this host.

unikernels-antispoof rules DEVICE MAC IP SCRIPT   print what gives a vif its filter (for its hook)
unikernels-antispoof load                         the tables, with all vifs that are there, in one transaction
unikernels-antispoof keep [BRIDGE...]             load, unless all is as it should be; prints what was wrong
unikernels-antispoof check [BRIDGE...]            only print that
Both print too which of the bridges, and of those with vifs, another's packet filter cuts off.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import unikernels_antispoof as antispoof

if sys.argv[1:2] != ["rules"]:  # a domain's start waits for this command
    import json
    import subprocess

    import unikernels_netfilter as netfilter

TABLES = os.environ.get("ANTISPOOF_TABLES", "/etc/xen/unikernels-antispoof.nft")
# What may reach domains, and what they may reach: of tables of its own, where something is declared.
REACH = os.environ.get("ANTISPOOF_REACH", "/etc/xen/unikernels-reach.nft")
# What the host offers, written by the module xen_networks.
NETWORKS = "/var/lib/unikernels/networks.json"
# The vifs without addresses that were there before the filter came, and stay unfiltered until their domains end. The list goes
# with the next boot, as they do.
BEFORE = os.environ.get("ANTISPOOF_BEFORE", "/run/unikernels-antispoof.before")
BACKENDS = "/local/domain/0/backend/vif"
XEN = os.environ.get("ANTISPOOF_XEN", "/proc/xen/capabilities")
TABLE_NAMES = ("bridge unikernels", "inet unikernels")
REACH_NAMES = ("bridge unikernels_reach", "inet unikernels_reach")
SECONDS = 20


class Failure(Exception):
    """One line for the unit's journal, or for a run."""


def run(*words, text=""):
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure(f"{words[0]}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Failure(f"{' '.join(words)} failed: {lines[0]}")
    return done.stdout


def read(path):
    """Return a key's value in xenstore; "" if it is missing."""
    try:
        return run("xenstore-read", path).removesuffix("\n")
    except Failure:
        return ""


def vifs():
    """Return all vifs, as they should be filtered, and notes about them."""
    listing = antispoof.present(backends())
    before = before_the_filter(listing)
    found, notes = [], []
    for device, mac, ip, routed in listing:
        if not ip and [device, mac] in before:
            ip = antispoof.UNFILTERED
            notes.append(f"{device} was there before the filter and has no addresses: it is not filtered until its domain ends")
        try:
            found.append(antispoof.vif(device, mac, ip, routed))
        except antispoof.ClaimError as error:
            notes.append(f"{error}: it sends nothing")
    return found, notes


def backends():
    """Return what xenstore has of all vifs."""
    if not os.path.exists(XEN):
        return ""  # the role's first run, before Xen has booted
    if not read("/local/domain/0/name"):
        raise Failure("xenstore does not answer: which vifs are there?")
    there = subprocess.run(["xenstore-exists", BACKENDS], timeout=SECONDS, check=False)
    return run("xenstore-ls", "-f", BACKENDS) if not there.returncode else ""


def before_the_filter(listing):
    try:
        with open(BEFORE, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        pass
    found = [[device, mac] for device, mac, ip, _routed in listing if not ip]
    descriptor = os.open(f"{BEFORE}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(found, file)
    os.rename(f"{BEFORE}.new", BEFORE)
    return found


def whole_text(found):
    with open(TABLES, encoding="utf-8") as file:
        return file.read() + "".join(antispoof.added(one) for one in found) + contents(REACH)


def as_kernel_has_it(listing):
    """Return rules, chains and sets without handles and counters, with sets in a fixed order."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in ("handle", "index", "packets", "bytes")}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value

    def ordered(value):
        if isinstance(value, dict):
            items = {key: ordered(item) for key, item in value.items()}
            for key in ("set", "elem"):
                if isinstance(items.get(key), list):
                    items[key] = sorted(items[key], key=json.dumps)
            return items
        return [ordered(item) for item in value] if isinstance(value, list) else value

    rules, others = {}, []
    for entry in ordered(plain(json.loads(listing)["nftables"])):
        if "timeout" in entry.get("set", {}).get("flags", ()):
            entry["set"].pop("elem", None)  # what packets have put there
        if "rule" in entry:
            rule = entry["rule"]
            rules.setdefault(f"{rule['family']} {rule['chain']}", []).append(rule["expr"])
        elif "metainfo" not in entry:
            others.append(entry)
    return {"rules": rules, "others": sorted(others, key=json.dumps)}


def wrong(text):
    """One line for each thing that is not as the text would make it, in a network of its own."""
    names = TABLE_NAMES + (REACH_NAMES if contents(REACH) else ())
    # One after the other: nft finds the last of two tables only.
    listed = " && ".join(f"nft -j list table {name}" for name in names)
    try:
        now = run("sh", "-c", listed).strip().splitlines()
    except Failure:
        return ["the tables were not loaded"]
    wanted = run("unshare", "--net", "sh", "-c", f"nft -f - && {listed}", text=text).strip().splitlines()
    for name, is_now, should in zip(names, now, wanted):
        if as_kernel_has_it(is_now) != as_kernel_has_it(should):
            return [f"table {name} was not as it should be"]
    return []


def cut_off(bridges):
    """One line for each bridge whose domains another's packet filter cuts off."""
    ports = {name: f"/sys/class/net/{name}/brif" for name in os.listdir("/sys/class/net")}
    used = [
        name for name, path in ports.items() if os.path.isdir(path) and any(port.startswith("vif") for port in os.listdir(path))
    ]
    bridges = sorted({*used, *(name for name in bridges if os.path.isdir(ports.get(name, "/none")))})
    networks = json.loads(contents(NETWORKS) or "{}").get("networks", {})
    routed = sorted(name for name, network in networks.items() if network["mode"] in ("routed", "nat"))
    return netfilter.look(contents, run, bridges, routed)


def contents(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def main(words):
    command, arguments = (words[0], words[1:]) if words else ("", [])
    if command == "rules" and len(arguments) == 4:
        device, mac, ip, script = arguments
        print(antispoof.added(antispoof.vif(device, mac, ip, os.path.basename(script) != "vif-bridge")), end="")
    elif command in ("load", "keep", "check") and (command != "load" or not arguments):
        found, notes = vifs()
        text = whole_text(found)
        problems = wrong(text) if command != "load" else []
        if command == "load" or (command == "keep" and problems):
            run("nft", "-f", "-", text=text)
        for line in problems:
            print("wrong:", line)
        for line in notes:
            print("note:", line)
        for line in cut_off(arguments) if command != "load" else []:
            print("cut off:", line)
    else:
        raise Failure(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, OSError, ValueError) as failure:  # ClaimError is a ValueError
        sys.exit(f"unikernels-antispoof: {failure}")
