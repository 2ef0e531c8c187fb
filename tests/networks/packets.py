"""Which packets pass between a host's networks: ``python -m tests.networks.packets`` prints the results as JSON.

Dom0 is one network namespace with the product's rules and switches; guests and the outside are others, connected by cables.
"""

import json
import pathlib
import subprocess
import sys

from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import Guests, Published
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import read_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.rules import neighbours, sysctls, table

from .machine import alone, sh

NETWORKS = read_networks(
    {
        "inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"], "routes": ["10.8.0.0/24 via 10.77.0.10"]},
        "second": {"mode": "nat", "addresses": ["10.78.0.1/24", "fd78::1/64"]},
        "routed": {
            "mode": "routed",
            "addresses": ["203.0.113.65/29", "2001:db8:7::1/64"],
            "routes": ["198.51.100.0/24 via 203.0.113.66", "2001:db8:8::/64 via 2001:db8:7::10"],
        },
        "single": {"mode": "routed", "addresses": ["10.255.0.1/32"], "subnets": ["192.0.2.77", "2001:db8::77"], "proxy": True},
        "shut": {"mode": "isolated", "addresses": ["10.88.0.1/24", "fd88::1/64"]},
    }
)[0]
HOST, OUTSIDE = ("192.0.2.10", "2001:db8::10"), ("192.0.2.1", "2001:db8::1")
# Guest -> its network, addresses and gateways.
PLACES = {
    "inside": ("inside", ("10.77.0.10/24", "fd77::10/64"), ("10.77.0.1", "fd77::1")),
    "beside": ("inside", ("10.77.0.11/24", "fd77::11/64"), ("10.77.0.1", "fd77::1")),
    "second": ("second", ("10.78.0.10/24", "fd78::10/64"), ("10.78.0.1", "fd78::1")),
    "routed": ("routed", ("203.0.113.66/29", "2001:db8:7::10/64"), ("203.0.113.65", "2001:db8:7::1")),
    "single": ("single", ("192.0.2.77/32", "2001:db8::77/128"), ("10.255.0.1", "fe80::1")),
    "shut": ("shut", ("10.88.0.10/24", "fd88::10/64"), ("10.88.0.1", "fd88::1")),
    "shut2": ("shut", ("10.88.0.11/24", "fd88::11/64"), ("10.88.0.1", "fd88::1")),
}
GUESTS = Guests(
    [Published("a", "tcp", 443, 8443, address, "inside") for address in ("10.77.0.10", "fd77::10")],
    {"single": ["192.0.2.77", "2001:db8::77"]},
)
SERVER = (
    "import socket\ns = socket.socket(socket.AF_INET6)\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
    "s.bind(('::', 8443))\ns.listen(30)\nprint('ready', flush=True)\n"
    "while True:\n    c, a = s.accept()\n    c.sendall(a[0].encode())\n    c.close()\n"
)
CLIENT = (
    "import socket, sys\ntry:\n    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=4)\n"
    "    print(s.recv(99).decode().removeprefix('::ffff:'))\nexcept OSError:\n    pass\n"
)


def cable(name, bridge, addresses, gateways):
    sh("ip", "netns", "add", name)
    sh("ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
    if bridge:
        sh("ip", "link", "set", f"v-{name}", "master", bridge)
    sh("ip", "link", "set", f"v-{name}", "up")
    for device in ("lo", "eth0"):
        sh("ip", "-n", name, "link", "set", device, "up")
    for address in addresses:
        sh("ip", "-n", name, "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    for gateway in gateways:
        sh("ip", "-n", name, "route", "add", "default", "via", gateway, "dev", "eth0", *(["onlink"] if "." in gateway else []))


def build():
    for network in NETWORKS.values():
        sh("ip", "link", "add", network.name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        sh("ip", "link", "set", network.name, "up")
        for address in [*network.addresses, *(["fe80::1/64"] if network.name == "single" else [])]:
            sh("ip", "address", "add", address, "dev", network.name, *(["nodad"] if ":" in address else []))
        for route in network.routes:
            sh("ip", "route", "add", str(route), "dev", network.name)
        for prefix, router in network.ways:
            sh("ip", "route", "add", str(prefix), "via", str(router), "dev", network.name, "onlink")
    cable("outside", "", [f"{OUTSIDE[0]}/24", f"{OUTSIDE[1]}/64"], [HOST[0], HOST[1]])
    sh("ip", "link", "set", "v-outside", "name", "uplink")
    for address in (f"{HOST[0]}/24", f"{HOST[1]}/64"):
        sh("ip", "address", "add", address, "dev", "uplink", *(["nodad"] if ":" in address else []))
    for name, place in PLACES.items():
        cable(name, *place)
    for line in sysctls(NETWORKS, ["uplink"]).splitlines():
        if not line.startswith("#"):
            key, _equals, value = line.lstrip("-").partition(" = ")
            with open("/proc/sys/" + "/".join(part.replace("/", ".") for part in key.split(".")), "w", encoding="ascii") as file:
                file.write(value)
    sh("nft", "-f", "-", text=table(NETWORKS, GUESTS))
    for words in neighbours(NETWORKS, GUESTS, {"single": "uplink"}):
        sh("ip", *words)


def at_once(pairs, *words):
    """Run ``words`` with TARGET in the network of each (source, target), all at once. Return their output; "" for a failure."""
    running = [
        subprocess.Popen(
            ["ip", "netns", "exec", source, *(target if word == "TARGET" else word for word in words)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for source, target in pairs
    ]  # fmt: skip
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    return ["" if process.returncode else output for process, output in zip(running, outputs)]


def reach(pairs):
    return [bool(output) for output in at_once(pairs, "ping", "-c", "2", "-i", "0.3", "-W", "2", "TARGET")]


def asked(pairs, port):
    """For each pair return the client's address as the published server sees it; "" for no answer."""
    return at_once(pairs, sys.executable, "-c", CLIENT, "TARGET", str(port))


def br_netfilter(value):
    """Switch br_netfilter as Docker does."""
    for path in pathlib.Path("/proc/sys/net/bridge").glob("bridge-nf-call-ip*tables"):
        path.write_text(value)


def behind():
    """Return which networks behind guests reach the world, and which it reaches: (guest, an address behind it) of both."""
    found = {}
    for guest, address in (("inside", "10.8.0.1"), ("routed", "198.51.100.1"), ("routed", "2001:db8:8::1")):
        outside = OUTSIDE[":" in address]
        sh("ip", "-n", guest, "address", "add", address, "dev", "lo")
        out = sh("ip", "netns", "exec", guest, "ping", "-c", "2", "-i", "0.3", "-W", "2", "-I", address, outside, check=False)
        (back,) = reach([("outside", address)])
        found[address] = [out.returncode == 0, back]
    return found


def main():
    alone()
    br_netfilter("0")
    build()
    ends = {**{name: [one.partition("/")[0] for one in place[1]] for name, place in PLACES.items()}, "outside": OUTSIDE}
    pairs = [(source, target) for source in ends for target in ends if source != target]
    answers = reach([(source, address) for source, target in pairs for address in ends[target]])
    passes = {f"{source} to {target}": answers[2 * index : 2 * index + 2] for index, (source, target) in enumerate(pairs)}
    server = subprocess.Popen(["ip", "netns", "exec", "inside", sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        server.stdout.readline()
        sources = [source for source in ends if source != "inside"]
        answers = asked([(source, address) for source in sources for address in HOST], 443)
        published = {source: answers[2 * index : 2 * index + 2] for index, source in enumerate(sources)}
        directly = asked([("outside", address) for address in ends["inside"]], 8443)
    finally:
        server.kill()
        server.wait()
    routers = behind()
    br_netfilter("1")
    neighbours_then = reach([("inside", "10.77.0.11"), ("beside", "fd77::10"), ("shut", "10.88.0.11"), ("shut", "fd88::11")])
    # What a domain without a filter might try: a source in another network.
    sh("ip", "-n", "routed", "address", "add", "198.18.0.1/32", "dev", "lo")
    sh("ip", "-n", "outside", "route", "add", "198.18.0.0/24", "via", HOST[0])
    sh("ip", "route", "add", "198.18.0.1/32", "dev", "routed")
    forged = sh("ip", "netns", "exec", "routed", "ping", "-c", "1", "-W", "1", "-I", "198.18.0.1", OUTSIDE[0], check=False)
    print(json.dumps({"passes": passes, "published": published, "directly": directly, "forged": forged.returncode == 0,
                      "neighbours": neighbours_then, "behind": routers}))  # fmt: skip


if __name__ == "__main__":
    main()
