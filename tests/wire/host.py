"""A host's bridge in a network namespace: ``unshare --net --mount python -m tests.wire.host FOLDER`` prints what passes.

vif1.0 and vif2.0 are guests' ports, made by Xen's script; "uplink" is the way out. What is sent at the guest's end of a cable is
looked for at all other ends and on the bridge itself, which is Dom0. After each frame the guest sends one that may pass: once
that has arrived, nothing else is in flight.
"""

import json
import os
import pathlib
import select
import shutil
import socket
import struct
import subprocess
import sys
import time

from ansible_collections.unikernels.xen.plugins.module_utils.network.ports import announcement, led
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach import Limits, Rule
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach_rules import tables

from . import frames

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = 0x5FE4
PASSED_WITHIN = 5
MACS = {"guest1": frames.GUEST, "guest2": frames.OTHER, "outside": frames.GATEWAY}


def sh(*words, text=None, check=True):
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return done


def build():
    sh("ip", "link", "set", "lo", "up")
    for table in pathlib.Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        table.write_text("0")  # a host without Docker
    for family in ("default", "all"):
        pathlib.Path(f"/proc/sys/net/ipv6/conf/{family}/disable_ipv6").write_text("0")
        pathlib.Path(f"/proc/sys/net/ipv6/conf/{family}/accept_dad").write_text("0")
    sh(
        "ip",
        "link",
        "add",
        "xenbr0",
        "address",
        "52:54:00:00:00:01",
        "type",
        "bridge",
        "forward_delay",
        "0",
        "mcast_snooping",
        "0",
    )
    for port, end in (("vif1.0", "guest1"), ("vif2.0", "guest2"), ("uplink", "outside")):
        sh("ip", "link", "add", port, "type", "veth", "peer", "name", end, "address", MACS[end])
        for device in (port, end):
            pathlib.Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")
        sh("ip", "link", "set", port, "master", "xenbr0", "up")
        sh("ip", "link", "set", end, "arp", "off", "promisc", "on", "up")
    sh("ip", "link", "set", "xenbr0", "up")
    sh("ip", "address", "add", f"{frames.DOM0}/24", "dev", "xenbr0")
    sh("ip", "address", "add", f"{frames.DOM0_6}/64", "dev", "xenbr0", "nodad")
    forwarding()
    for address in (frames.ADDRESS, frames.ADDRESS6):
        sh("ip", "neigh", "replace", address, "lladdr", frames.GUEST, "dev", "xenbr0")


def forwarding():
    """Wait until a port forwards, which it does once Linux has seen its carrier."""
    until = time.monotonic() + PASSED_WITHIN
    while time.monotonic() < until:
        rows = json.loads(sh("bridge", "-j", "link", "show").stdout)
        if all(row["state"] == "forwarding" and "LOWER_UP" in row["flags"] for row in rows if row.get("master") == "xenbr0"):
            return
        time.sleep(0.05)
    raise RuntimeError("the bridge's ports do not forward")


class Ends:
    """Every place where a frame can turn up."""

    def __init__(self, names=("guest1", "guest2", "outside", "xenbr0")):
        self.sockets = {name: self._open(name) for name in names}
        self.fences = 0

    @staticmethod
    def _open(device):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        end.bind((device, 0))
        end.setblocking(False)
        return end

    def send(self, frame, end="guest1"):
        self.sockets[end].send(frame)

    def drain(self):
        for end in self.sockets.values():
            while self._receive(end) is not None:
                pass

    @staticmethod
    def _receive(end):
        """Return a frame that has come in, b"" for one that Dom0 itself has sent, None if there is none."""
        try:
            data, (_device, _kind, way, *_rest) = end.recvfrom(65536)
        except BlockingIOError:
            return None
        return b"" if way == socket.PACKET_OUTGOING else data

    def passed(self, frame, end="guest1", at=("guest2", "outside", "xenbr0")):
        """Return where the frame turned up."""
        self.drain()
        self.fences += 1
        fence = frames.ether(
            frames.ip(frames.udp(FENCE, FENCE, struct.pack("!I28x", self.fences)), target="10.0.0.255"), target=frames.ALL
        )
        self.send(frame, end)
        self.send(fence, end)
        found, open_ends = set(), set(at)
        until = time.monotonic() + PASSED_WITHIN
        while open_ends:
            if time.monotonic() > until:
                raise RuntimeError(f"what may pass did not arrive at {open_ends}: is the filter too narrow?")
            select.select([self.sockets[name] for name in open_ends], [], [], 0.2)
            for name in list(open_ends):
                while (data := self._receive(self.sockets[name])) is not None:
                    if data[14:] == fence[14:]:
                        open_ends.discard(name)
                        break
                    if data[6:12] == frame[6:12]:  # nobody else sends
                        found.add(name)
        return sorted(found)


class Filter:
    """The role's own files, with a xenstore made of files."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.store = self.folder / "store"
        scripts = self.folder / "scripts"
        scripts.mkdir(parents=True)
        role = ROOT / "roles/xen_host/files"
        program = scripts / "unikernels-antispoof"
        program.write_text("#!/usr/bin/python3 -ISB\n" + (role / "antispoof_program.py").read_text())
        program.chmod(0o755)
        for name in ("antispoof", "netfilter"):
            shutil.copy(ROOT / f"plugins/module_utils/network/{name}.py", scripts / f"unikernels_{name}.py")
        shutil.copy(role / "antispoof.hook", scripts / "antispoof.hook")
        tools = self.folder / "tools"
        tools.mkdir()
        reader = f'#!/bin/sh\ncat "{self.store}$1" 2>/dev/null\n'
        exists = f'#!/bin/sh\ntest -e "{self.store}$1"\n'
        lister = f'#!/bin/sh\ncd "{self.store}$2" && find * -type f | while read f; do echo "$2/$f = \\"$(cat $f)\\""; done\n'
        for name, text in (("xenstore-read", reader), ("xenstore-exists", exists), ("xenstore-ls", lister)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.put("/local/domain/0/name", "Domain-0")
        os.environ.update(
            PATH=f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin",
            ANTISPOOF_TABLES=str(role / "antispoof.nft"),
            ANTISPOOF_BEFORE=str(self.folder / "before"),
            ANTISPOOF_REACH=str(self.folder / "reach.nft"),
            ANTISPOOF_XEN="/",
        )
        self.program = str(program)

    def put(self, path, value):
        file = self.store / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value)

    def vif(self, number, mac, ip, **more):
        for key, value in {"mac": mac, "ip": ip, **more}.items():
            self.put(f"/local/domain/0/backend/vif/{number}/0/{key}", value)

    def run(self, *words):
        return sh(self.program, *words, check=False)

    def hook(self, command, number, script="vif-bridge", device=None):
        """Run the hook like vif-bridge: sourced, with its variables and its way to fail."""
        text = f"""
        set -e
        XEN_SCRIPT_DIR={self.folder}/scripts
        xenstore_read_default() {{ xenstore-read "$1" 2>/dev/null || echo "$2"; }}
        fatal() {{ echo "fatal: $*"; exit 1; }}
        trap 'fatal error detected' ERR
        command={command} dev={device or f"vif{number}.0"} XENBUS_PATH=/local/domain/0/backend/vif/{number}/0
        . {self.folder}/scripts/antispoof.hook
        """
        done = sh("bash", "-c", text, f"/etc/xen/scripts/{script}", check=False)
        return done.returncode, (done.stdout + done.stderr).strip()


def sweep(ends, kinds):
    return {name: swept(ends, frame) for name, frame in kinds.items()}


def swept(ends, frame):
    """Let the others send first: if an earlier frame had misled the bridge, this one might not arrive for that reason alone."""
    ends.send(frames.arp(sender=frames.OTHERS, sender_mac=frames.OTHER, source=frames.OTHER), "guest2")
    ends.send(frames.arp(sender=frames.THE_GATEWAY, sender_mac=frames.GATEWAY, source=frames.GATEWAY), "outside")
    return ends.passed(frame)


def forwarding_table():
    rows = [row.split() for row in sh("bridge", "fdb", "show", "br", "xenbr0").stdout.splitlines()]
    return {row[0] for row in rows if row[1:3] == ["dev", "vif1.0"] and "permanent" not in row}


def main(folder):
    build()
    ends, the_filter, told = Ends(), Filter(folder), {}
    told["unfiltered"] = sweep(ends, frames.hostile())
    told["learnt without a filter"] = sorted(forwarding_table())
    told["routes without tables"] = sh("ip", "-6", "route", "show", "default").stdout
    sh("ip", "-6", "route", "flush", "proto", "ra")
    told["dom0 without tables"] = dom0(ends)
    sh("ip", "link", "set", "vif1.0", "nomaster")
    sh("ip", "link", "set", "vif1.0", "master", "xenbr0")
    forwarding()

    the_filter.vif(2, frames.OTHER, f"{frames.OTHERS} {frames.OTHERS6}")
    the_filter.vif(3, frames.NOBODY, "")
    told["no tables"] = the_filter.hook("online", 2)
    told["load"] = the_filter.run("load").stdout
    # A vif in no map sends nothing; not even its allowed frame passes.
    told["in no map"] = silent(ends)
    the_filter.vif(1, frames.GUEST, f"{frames.ADDRESS} {frames.ADDRESS6}")
    told["online"] = the_filter.hook("online", 1)
    told["hostile"] = sweep(ends, frames.hostile())
    told["learnt"] = sorted(forwarding_table())
    told["lawful"] = sweep(ends, frames.lawful())
    told["dom0"] = dom0(ends)
    told["routes"] = sh("ip", "-6", "route", "show", "default").stdout

    told["routed"] = routed()

    # Both domains of a replacement at once, with one MAC.
    the_filter.vif(2, frames.GUEST, f"{frames.ADDRESS} {frames.ADDRESS6}")
    told["twin"] = the_filter.hook("online", 2)
    told["hostile with a twin"] = sweep(ends, frames.hostile())
    told["kept"] = the_filter.run("keep").stdout
    sh("nft", "delete", "element", "bridge", "unikernels", "guests", '{ "vif1.0" }')
    told["tampered"] = [the_filter.run("check").stdout, the_filter.run("keep").stdout, the_filter.run("keep").stdout]
    sh("nft", "flush", "ruleset")
    told["flushed"] = [the_filter.run("keep").stdout, the_filter.run("check").stdout]
    told["hostile after a flush"] = sweep(ends, frames.hostile())
    told["lawful after a flush"] = sweep(ends, frames.lawful())

    the_filter.vif(1, frames.GUEST, f"{frames.ADDRESS} {frames.ADDRESS6} {frames.BEHIND} {frames.BEHIND6}")
    told["online as a router"] = the_filter.hook("online", 1)
    passing, refused = frames.of_a_router()
    told["of a router"], told["not of a router"] = sweep(ends, passing), sweep(ends, refused)

    the_filter.vif(2, frames.OTHER, f"{frames.OTHERS} {frames.OTHERS6}")
    told["online again"] = the_filter.hook("online", 2)
    the_filter.vif(1, frames.GUEST, "unfiltered")
    told["online without a filter"] = the_filter.hook("online", 1)
    told["without a filter"] = sweep(ends, frames.hostile())
    told["dom0 without a filter"] = dom0(ends)
    told["routes without a filter"] = sh("ip", "-6", "route", "show", "default").stdout

    # A vif with a name of its own.
    sh("ip", "link", "set", "vif1.0", "down")
    sh("ip", "link", "set", "vif1.0", "name", "shop-front", "up")
    forwarding()
    the_filter.vif(1, frames.GUEST, f"{frames.ADDRESS} {frames.ADDRESS6}", vifname="shop-front")
    told["offline"] = the_filter.hook("offline", 1)
    told["named"] = the_filter.hook("online", 1, device="shop-front")
    told["hostile with a name"] = sweep(ends, frames.hostile())
    sh("nft", "delete", "element", "bridge", "unikernels", "guests", '{ "shop-front" }')
    told["named, in no map"] = silent(ends)
    told["named, put right"] = [the_filter.run("keep").stdout, the_filter.run("check").stdout]
    told["named, gone"] = the_filter.hook("offline", 1, device="shop-front")

    told["limits"] = limits(the_filter)
    told["switch"] = switch(ends)
    told["heard"] = announced(ends)

    the_filter.vif(1, "no MAC", "")
    told["bad MAC"] = the_filter.hook("online", 1)
    the_filter.vif(1, frames.GUEST, "10.0.0.999")
    told["bad address"] = the_filter.hook("online", 1)
    json.dump(told, sys.stdout)


def limits(the_filter):
    """The same program loads what may reach domains: at boot, and where somebody took it away."""
    file = the_filter.folder / "reach.nft"
    file.write_text(tables([Limits("other", (Rule("tcp", 443, 443),), (), ("10.9.9.9",))]))
    found = [the_filter.run("keep").stdout, the_filter.run("check").stdout]
    sh("nft", "add", "element", "bridge", "unikernels_reach", "closed", '{ "vif7.0" }')  # as a packet does
    found.append(the_filter.run("check").stdout)
    sh("nft", "flush", "chain", "inet", "unikernels_reach", "to_other")
    found += [the_filter.run("check").stdout, the_filter.run("keep").stdout, the_filter.run("check").stdout]
    file.unlink()
    return [[line for line in text.splitlines() if line.startswith("wrong")] for text in found]


def switch(ends):
    """A port is bound to its guest, and stays so when another guest, without a filter, takes the MAC."""
    sh("nft", "flush", "ruleset")
    to_guest = frames.ether(frames.ip(frames.udp(), source=frames.THE_GATEWAY), source=frames.GATEWAY, target=frames.GUEST)
    unknown = frames.ether(frames.ip(frames.udp(), source=frames.THE_GATEWAY), source=frames.GATEWAY, target="02:00:00:00:00:55")
    stolen = frames.ether(frames.ip(frames.udp()), source=frames.GUEST, target=frames.ALL)
    told = {}
    for name, commands in (("before", []), ("led", led("shop-front", frames.GUEST, frames.ADDRESS))):
        for command in commands:
            sh(*command)
        ends.send(stolen, "guest2")
        told[name] = [arrived(ends, to_guest), arrived(ends, unknown)]
    sh("ip", "link", "set", "shop-front", "nomaster")
    sh("ip", "link", "set", "shop-front", "master", "xenbr0")
    forwarding()
    told["gone with the port"] = arrived(ends, unknown)
    return told


def arrived(ends, frame):
    """Return the guests at which a frame from outside turns up."""
    ends.drain()
    ends.send(frame, "outside")
    ends.send(frames.arp(sender=frames.THE_GATEWAY, sender_mac=frames.GATEWAY, source=frames.GATEWAY), "outside")
    found = []
    for name in ("guest1", "guest2"):
        until = time.monotonic() + PASSED_WITHIN
        while time.monotonic() < until:
            select.select([ends.sockets[name]], [], [], 0.2)
            data = ends._receive(ends.sockets[name])
            if data == frame:
                found.append(name)
            if data and data[12:14] == b"\x08\x06":
                break
    return found


def announced(ends):
    """Return the MAC in Dom0's neighbour table after the announcement of a new domain."""
    told = {}
    for address in ("10.0.0.77", "fd00::77"):
        sh("ip", "neigh", "replace", address, "lladdr", frames.NOBODY, "nud", "stale", "dev", "xenbr0")
        ends.send(announcement(frames.OTHER, f"{address}/24"), "outside")
        ends.passed(
            frames.arp(sender=frames.THE_GATEWAY, sender_mac=frames.GATEWAY, source=frames.GATEWAY),
            "outside",
            ("guest2", "xenbr0"),
        )
        told[address] = sh("ip", "neigh", "show", address, "dev", "xenbr0").stdout.split()[2]
    return told


def routed():
    """Return what Dom0 routes for its domains, if an administrator enables it: theirs, and nothing else."""
    sh("ip", "link", "add", "wan", "type", "veth", "peer", "name", "provider")
    sh("ip", "link", "set", "provider", "up")
    sh("ip", "link", "set", "wan", "up")
    far, far6, here = "192.0.2.9", "2001:db8::9", "52:54:00:00:00:01"
    sh("ip", "address", "add", "192.0.2.1/24", "dev", "wan")
    sh("ip", "address", "add", "2001:db8::1/64", "dev", "wan", "nodad")
    for address in (far, far6):
        sh("ip", "neigh", "replace", address, "lladdr", frames.NOBODY, "dev", "wan")
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        pathlib.Path("/proc/sys/net", switch).write_text("1")
    kinds = {
        "its own": frames.ether(frames.ip(frames.udp(), target=far), target=here),
        "another's": frames.ether(frames.ip(frames.udp(), source=frames.OTHERS, target=far), target=here),
        "its own, IPv6": frames.ether6(frames.ip6(frames.udp(addresses=(frames.ADDRESS6, far6)), 17, target=far6), target=here),
        "another's, IPv6": frames.ether6(
            frames.ip6(frames.udp(addresses=(frames.OTHERS6, far6)), 17, frames.OTHERS6, far6), target=here
        ),
    }
    last = frames.ether(frames.ip(frames.udp(5000, FENCE), target=far), target=here)
    ends, told = Ends(("guest1", "provider")), {}
    for name, frame in kinds.items():
        ends.send(frame)
        ends.send(last)
        told[name], until = 0, time.monotonic() + PASSED_WITHIN
        while time.monotonic() < until:
            select.select([ends.sockets["provider"]], [], [], 0.2)
            data = ends._receive(ends.sockets["provider"])
            if data and data[:6] == frames.mac(frames.NOBODY):
                if data[36:38] == last[36:38]:
                    break
                told[name] += 1
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        pathlib.Path("/proc/sys/net", switch).write_text("0")
    sh("ip", "link", "delete", "wan")
    return told


def silent(ends):
    """True if not even legitimate frames pass; the uplink's own frame marks the end."""
    ends.drain()
    for frame in frames.lawful().values():
        ends.send(frame)
    fence = frames.ether(frames.ip(frames.udp(FENCE, FENCE), source=frames.THE_GATEWAY), source=frames.GATEWAY, target=frames.ALL)
    ends.send(fence, "outside")
    until, found = time.monotonic() + PASSED_WITHIN, []
    while time.monotonic() < until:
        select.select([ends.sockets["guest2"]], [], [], 0.2)
        while (data := ends._receive(ends.sockets["guest2"])) is not None:
            if data[14:] == fence[14:]:
                return found == []
            if data[6:12] == frames.mac(frames.GUEST):
                found.append(data.hex())
    raise RuntimeError("the uplink's frame did not arrive")


def dom0(ends):
    """Return what the guest gets from Dom0 (a port's answer, or none), and what Dom0 gets when it queries the guest."""
    told = {}
    with socket.create_server((frames.DOM0, 2222)), socket.create_server((frames.DOM0_6, 2222), family=socket.AF_INET6):
        told["tcp"] = replies(
            ends,
            frames.ether(
                frames.ip(frames.tcp(5000, 2222, addresses=(frames.ADDRESS, frames.DOM0)), frames.TCP, target=frames.DOM0),
                target="52:54:00:00:00:01",
            ),
        )
        told["tcp6"] = replies(
            ends,
            frames.ether6(
                frames.ip6(frames.tcp(5000, 2222, addresses=(frames.ADDRESS6, frames.DOM0_6)), frames.TCP, target=frames.DOM0_6),
                target="52:54:00:00:00:01",
            ),
        )
        told["ping"] = replies(
            ends, frames.ether(frames.ip(frames.icmp(), frames.ICMP, target=frames.DOM0), target="52:54:00:00:00:01")
        )
        told["arp"] = replies(ends, frames.arp(asked=frames.DOM0))
        told["neighbour"] = replies(ends, frames.ether6(frames.neighbour(135, frames.DOM0_6, option=frames.link_option(1))))
    for name, family, here, there in (
        ("asks", socket.AF_INET, frames.DOM0, frames.ADDRESS),
        ("asks6", socket.AF_INET6, frames.DOM0_6, frames.ADDRESS6),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.bind((here, 0))
            asking.settimeout(PASSED_WITHIN)
            asking.sendto(b"?", (there, 53))
            answer = frames.udp(53, asking.getsockname()[1], b"yes", (there, here))
            packet = (
                frames.ip(answer, source=there, target=here) if name == "asks" else frames.ip6(answer, frames.UDP, there, here)
            )
            ends.send(frames.ether(packet, 0x0800 if name == "asks" else 0x86DD, target="52:54:00:00:00:01"))
            try:
                told[name] = asking.recv(10).decode()
            except TimeoutError:
                told[name] = "no answer"
    return told


def replies(ends, frame):
    """Return what Dom0 answers to the guest; its answer to an ARP request after the frame marks the end."""
    ends.drain()
    ends.send(frame)
    ends.send(frames.arp(asked=frames.DOM0))
    wanted, found, until = 1 + (frame == frames.arp(asked=frames.DOM0)), [], time.monotonic() + PASSED_WITHIN
    while time.monotonic() < until and [data[12:14] for data in found].count(b"\x08\x06") < wanted:
        select.select([ends.sockets["guest1"]], [], [], 0.2)
        while (data := ends._receive(ends.sockets["guest1"])) is not None:
            if data[6:12] == frames.mac("52:54:00:00:00:01"):
                found.append(data)
    mine = [data for data in found if data[:6] == frames.mac(frames.GUEST)]
    return sorted({kind(data) for data in mine[:-1]} - {"solicitation"})


def kind(data):
    if data[12:14] == b"\x08\x06":
        return "ARP" if data[21] == 2 else "solicitation"
    six = data[12:14] == b"\x86\xdd"
    protocol, inner = (data[20], data[54:]) if six else (data[23], data[34:])
    return (
        f"{'IPv6' if six else 'IPv4'} {protocol}"
        if protocol != frames.ICMP6
        else {135: "solicitation", 136: "advertisement"}.get(inner[0], "ICMPv6")
    )


if __name__ == "__main__":
    main(sys.argv[1])
