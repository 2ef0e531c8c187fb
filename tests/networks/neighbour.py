"""A domain asked from outside Dom0: ``python -m tests.networks.neighbour`` prints the results as JSON.

Dom0 is one network namespace with a bridge and the filter of domains; the domain is another, with a server on tcp/8443.
"""

import json
import pathlib
import signal
import subprocess
import sys

from ansible_collections.unikernels.xen.plugins.module_utils.health.waiting import service_health
from ansible_collections.unikernels.xen.plugins.module_utils.xen.neighbour import DEVICE, network_health

from .machine import ROOT, alone, sh, until
from .packets import SERVER, br_netfilter, cable

ADDRESSES = ("10.77.0.10/24", "fd77::10/64")
DOMAINS = [
    {
        "name": name,
        "interfaces": [{"bridge": "inside", "address": ADDRESSES[0], "address6": ADDRESSES[1]}],
        "health": {"tcp": f"{address}:8443", "within": 2},
    }
    for name, address in (("four", "10.77.0.10"), ("six", "[fd77::10]"))
]
OPTIONS = {
    "networks": {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"]}},
    "guests": {},
    "domains": DOMAINS,
    "seen_from": "neighbour",
    "places": {},
}
# What another program's rules may do to what crosses a bridge, and never to what Dom0 itself sends.
CLOSED = "table bridge another { chain forward { type filter hook forward priority 10; policy drop; }\n}\n"
KILLED = (
    "import json, sys, os\n"
    "from ansible_collections.unikernels.xen.plugins.module_utils.network.outside import Place\n"
    "from ansible_collections.unikernels.xen.plugins.module_utils.xen.neighbour import standing\n"
    "with standing(Place('inside', ('10.77.0.200/24',))):\n    print('ready', flush=True)\n    sys.stdin.read()\n"
)


def left():
    """Return what is left of a neighbour in Dom0."""
    links = [one["ifname"] for one in json.loads(sh("ip", "-j", "link").stdout)]
    return [
        *(name for name in links if name == DEVICE),
        *(["in the filter"] if DEVICE in sh("nft", "list", "ruleset").stdout else []),
    ]


def killed():
    """Return what is left of one that was killed: neither its port nor its namespace, and a chain that the next one replaces."""
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    there = left()
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: DEVICE not in left(), "the kernel has taken the namespace down", 10)
    return {"there": there, "after": left()}


def main():
    alone()
    br_netfilter("0")
    sh("ip", "link", "add", "inside", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    sh("ip", "link", "set", "inside", "up")
    for address in OPTIONS["networks"]["inside"]["addresses"]:
        sh("ip", "address", "add", address, "dev", "inside", *(["nodad"] if ":" in address else []))
    cable("domain", "inside", ADDRESSES, ("10.77.0.1", "fd77::1"))
    told = {"without a filter": network_health(OPTIONS), "left without a filter": left()}
    sh("nft", "-f", "-", text=(pathlib.Path(ROOT) / "roles/xen_host/files/antispoof.nft").read_text())
    server = subprocess.Popen(["ip", "netns", "exec", "domain", sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        server.stdout.readline()
        told["open"], told["left"] = network_health(OPTIONS), left()
        told["here again"] = sh("ip", "-j", "link", "show", "dev", "inside").returncode == 0
        sh("nft", "-f", "-", text=CLOSED)
        told["closed"], told["closed, from Dom0"] = network_health(OPTIONS), service_health(DOMAINS)
        sh("nft", "delete", "table", "bridge", "another")
        # A domain that nobody has declared has the address that would be free.
        for address in ("10.77.0.254/24", "fd77::ffff/64"):
            sh("ip", "-n", "domain", "address", "add", address, "dev", "eth0", "nodad")
        told["taken"] = network_health(OPTIONS)
        told["taken, IPv6"] = network_health({**OPTIONS, "places": {"inside": ["fd77::ffff/64"]}})
        told["named"] = network_health({**OPTIONS, "places": {"inside": ["10.77.0.200/24", "fd77::200/64"]}})
        told["no bridge"] = network_health({**OPTIONS, "domains": _on("gone"), "places": {"gone": ["10.77.0.200/24"]}})
        told["controller"] = network_health({**OPTIONS, "seen_from": "controller", "host": "192.0.2.10"})
        told["killed"] = killed()
        told["after a kill"], told["left after a kill"] = (
            network_health({**OPTIONS, "places": {"inside": ["10.77.0.200/24"]}}),
            left(),
        )
    finally:
        server.kill()
        server.wait()
    print(json.dumps(told))


def _on(bridge):
    return [{**DOMAINS[0], "interfaces": [{**DOMAINS[0]["interfaces"][0], "bridge": bridge}]}]


if __name__ == "__main__":
    main()
