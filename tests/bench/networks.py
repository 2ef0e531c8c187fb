"""What the filter of domains costs, in network namespaces: packets a second and round trips from a guest to the uplink, with and
without it, with 1 and 100 vifs; and the time that a vif's filter adds to a domain's start.

python -m tests.bench.networks [--rounds N] [--packets N]

Cables are in place of vifs. The rules and the hook are the product's own (roles/xen_host/files, network/antispoof,
network/reach_rules). All ways are measured by turns in one run, the best of all rounds each; ratios are to the bridge without
rules. CPU time, the system call's and the kernel's path to the uplink included, does not depend on what else the machine does.
Needs root; sends nothing outside of its namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator

from ansible_collections.unikernels.xen.plugins.module_utils.network import antispoof
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach import Limits, Rule
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach_rules import removal, tables

from tests.networks.machine import alone
from tests.wire.host import Filter, sh

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLES = (ROOT / "roles/xen_host/files/antispoof.nft").read_text()
GUEST, OUTSIDE, PORT = "10.0.0.2", "10.1.0.1", 9000
MAC = "02:00:00:00:00:{:02x}"
VIFS = (1, 100)
WAYS = ("no rules", "the filter", "the filter, accept and reach")
BATCH = 64


class _Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr of Linux on 64 bits."""

    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("parts", ctypes.POINTER(_Part)), ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t), ("flags", ctypes.c_int), ("sent", ctypes.c_uint),
    )  # fmt: skip


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Open sockets in another network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as home, open(f"/run/netns/{namespace}", "rb") as there:
        if libc.setns(there.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(home.fileno(), 0x40000000)


def build() -> None:
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "xenbr0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    sh("ip", "link", "set", "xenbr0", "up")
    for number, (name, port, address) in enumerate((("guest", "vif1.0", GUEST), ("outside", "uplink", OUTSIDE)), 1):
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "address", MAC.format(number), "netns", name)
        sh("ip", "link", "set", port, "master", "xenbr0", "up")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        sh("ip", "-n", name, "address", "add", f"{address}/8", "dev", "eth0")
    for name, address, number in (("guest", OUTSIDE, 2), ("outside", GUEST, 1)):
        sh("ip", "-n", name, "neigh", "replace", address, "lladdr", MAC.format(number), "dev", "eth0")


def more_vifs(count: int) -> None:
    for number in range(2, count + 1):
        sh("ip", "link", "add", f"vif{number}.0", "type", "veth", "peer", "name", f"end{number}")
        sh("ip", "link", "set", f"vif{number}.0", "master", "xenbr0", "up")


def rules(way: str, vifs: int) -> str:
    """Return the transaction that makes this way the only one."""
    off = "".join(f"table {family} unikernels\ndelete table {family} unikernels\n" for family in ("bridge", "inet")) + removal()
    if way == WAYS[0]:
        return off
    text = TABLES
    for number in range(1, vifs + 1):
        address = GUEST if number == 1 else f"10.0.1.{number}"
        text += antispoof.added(antispoof.vif(f"vif{number}.0", MAC.format(1 if number == 1 else number + 100), address))
    if way == WAYS[1]:
        return removal() + text
    accept, reach = (Rule("udp", PORT, PORT), Rule("tcp", 443, 443)), (Rule("udp", PORT, PORT),)
    limits = [
        Limits(f"u{number}", accept, reach, (GUEST if number == 1 else f"10.0.1.{number}",)) for number in range(1, vifs + 1)
    ]
    return text + tables(limits)


def arrived() -> int:
    (link,) = json.loads(sh("ip", "-j", "-s", "link", "show", "dev", "uplink").stdout)
    return int(link["stats64"]["tx"]["packets"])


def send_many(end: socket.socket, packets: int) -> float:
    """Return the microseconds of CPU for a packet that arrives at the uplink."""
    data = ctypes.create_string_buffer(b"x" * 22, 22)  # a frame of 64 bytes
    part = _Part(ctypes.cast(data, ctypes.c_void_p), 22)
    batch = (_Message * BATCH)(*(_Message(None, 0, ctypes.pointer(part), 1, None, 0, 0, 0) for _ in range(BATCH)))
    libc, before, sent = ctypes.CDLL(None, use_errno=True), arrived(), 0
    began = time.process_time()
    while sent < packets:
        done = libc.sendmmsg(end.fileno(), batch, BATCH, 0)
        if done < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        sent += done
    used, count = time.process_time() - began, arrived() - before
    if count < 0.9 * packets:
        raise RuntimeError(f"{count} of {packets} packets arrived at the uplink")
    return used / count * 1e6


def round_trip(guest: socket.socket, outside: socket.socket, trips: int) -> float:
    """Return the median in microseconds, both ends in this process: no scheduler is measured."""
    times = []
    for _ in range(trips):
        began = time.perf_counter()
        guest.send(b"?")
        outside.recv(9)
        outside.send(b"!")
        guest.recv(9)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def measured(rounds: int, packets: int) -> dict[tuple[int, str], list[float]]:
    """Return (vifs, way) -> microseconds of CPU a packet, and of a round trip."""
    found: dict[tuple[int, str], list[float]] = {}
    ends = {}
    for name, own, peer in (("guest", GUEST, OUTSIDE), ("outside", OUTSIDE, GUEST)):
        with inside(name):
            ends[name] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ends[name].bind((own, PORT))
        ends[name].connect((peer, PORT))
        ends[name].settimeout(5)
    # What is only sent goes to a port where nobody listens behind the uplink, and would be answered: drop it there, unread.
    sh("ip", "netns", "exec", "outside", "nft", "-f", "-", text=_SINK)
    with inside("guest"):
        flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flood.bind((GUEST, PORT + 1))
    flood.connect((OUTSIDE, PORT))
    for vifs in VIFS:
        more_vifs(vifs)
        for _round in range(rounds):
            for way in WAYS:
                sh("nft", "-f", "-", text=rules(way, vifs))
                cpu = send_many(flood, packets)
                trip = round_trip(ends["guest"], ends["outside"], packets // 20)
                best = found.setdefault((vifs, way), [cpu, trip])
                found[vifs, way] = [min(best[0], cpu), min(best[1], trip)]
    return found


_SINK = f"""table netdev sink {{
  chain ingress {{
    type filter hook ingress device eth0 priority 0; policy accept;
    udp sport {PORT + 1} drop
  }}
}}
"""


def starts(rounds: int, others: int) -> float:
    """Return the milliseconds of CPU that the hook adds for one more vif beside others: bash with it, less bash alone."""
    with tempfile.TemporaryDirectory() as folder:
        the_filter = Filter(pathlib.Path(folder) / "dom0")
        sh("nft", "-f", "-", text=rules(WAYS[1], others))
        the_filter.vif(200, MAC.format(200), "10.0.2.1 fd00::1")
        with_hook, alone_ = [], []
        for _round in range(rounds):
            began = _children()
            code, text = the_filter.hook("online", 200)
            with_hook.append(_children() - began)
            if code:
                raise RuntimeError(text)
            began = _children()
            sh("bash", "-c", ":")
            alone_.append(_children() - began)
            the_filter.hook("offline", 200)
    return (min(with_hook) - min(alone_)) * 1e3


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packets", type=int, default=10000)
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    alone()
    for path in pathlib.Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        path.write_text("0")
    build()
    found = measured(options.rounds, options.packets)
    print("| vifs | | packets a second of one CPU | CPU a packet | ratio | round trip | ratio |\n|---|---|---|---|---|---|---|")
    for (vifs, way), (cpu, trip) in found.items():
        base = found[vifs, WAYS[0]]
        print(
            f"| {vifs} | {way} | {1e6 / cpu:,.0f} | {cpu:.2f} us | {cpu / base[0]:.2f} | {trip:.1f} us | {trip / base[1]:.2f} |"
        )
    times = {vifs: starts(options.rounds, vifs) for vifs in VIFS}
    print("\n| vifs before | CPU added to a start | ratio |\n|---|---|---|")
    for vifs, milliseconds in times.items():
        print(f"| {vifs} | {milliseconds:.0f} ms | {milliseconds / times[VIFS[0]]:.2f} |")


if __name__ == "__main__":
    main()
