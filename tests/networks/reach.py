"""What reaches a domain, and what it reaches: ``python -m tests.networks.reach`` prints what came through, as JSON.

Dom0 is a network of its own with the product's rules; guests and the outside are others with Linux's own stack, behind cables.
Of each kind there is one on a bridge with the outside, and one for which Dom0 routes.
"""

import json
import pathlib
import subprocess
import sys

from ansible_collections.unikernels.xen.plugins.module_utils.network import antispoof
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach import on_host, read_limits, with_own
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach_rules import tables

from .machine import ROOT, alone, sh
from .packets import br_netfilter

OUTSIDE, OUTSIDE6, ELSEWHERE = "10.0.0.1", "fd00::1", "10.0.0.2"
DOM0, DOM0_6 = "10.0.0.254", "fd00::fe"
DECLARED = {
    # Accepts little, opens little.
    "web": {"accept": ["tcp/443", "tcp/8443", "udp/53", {"port": "tcp/22", "from": [ELSEWHERE, "fd00::2"]}, "icmp"],
            "reach": [f"udp/123 to {OUTSIDE} {OUTSIDE6}", {"port": "tcp/5432-5433", "to": [OUTSIDE, OUTSIDE6]}]},
    # Accepts nothing, opens everything.
    "work": {"accept": []},
    # Answers alone.
    "mute": {"accept": ["tcp/443", "tcp/8443"], "reach": []},
    "free": {},
}  # fmt: skip
PORTS = (22, 53, 123, 443, 5432)
WITHIN = 3  # seconds for an answer; all are asked at once
# Kind and place -> number of its vif and of its addresses.
PLACES = {
    f"{kind}{place}": 10 * number + index for number, place in ((1, ""), (2, "-routed")) for index, kind in enumerate(DECLARED)
}
SERVER = """
import select, socket
ends = {}
for port in %r:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        end = socket.socket(socket.AF_INET6, kind)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            end.listen(50)
        ends[end] = kind
held = []
print("ready", flush=True)
while True:
    for end in select.select([*ends, *held], [], [])[0]:
        if end in held:
            data = end.recv(9000)
            if data:
                end.sendall(data)
            else:
                held.remove(end)
        elif ends[end] == socket.SOCK_STREAM:
            held.append(end.accept()[0])
        else:
            end.sendto(*end.recvfrom(9000))
""" % (PORTS,)
CLIENT = (
    """
import json, socket, sys, threading
def asked(protocol, address, port, source, size):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = socket.getaddrinfo(address, port, family)[0][4]
    with socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as end:
        end.settimeout(%s)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if source:
                end.setsockopt(socket.SOL_SOCKET, 15, 1)
                end.bind(("", source))
            end.connect(place)
            end.sendall(b"x" * size)
            return len(end.recv(9000)) > 0
        except OSError:
            return False
found = {}
def put(name, words):
    found[name] = asked(*words)
threads = [threading.Thread(target=put, args=one) for one in json.loads(sys.argv[1])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(found))
"""
    % WITHIN
)


def addresses(name):
    number = PLACES[name]
    return ("198.51.100.", "2001:db8::") if name.endswith("-routed") else ("10.0.0.", "fd00::"), number


def own(name):
    (four, six), number = addresses(name)
    return f"{four}{number}", f"{six}{number}"


def mac(name):
    return f"00:16:3e:00:00:{PLACES[name]:02d}"


def limits():
    found = []
    for name in PLACES:
        kind, lines = name.partition("-")[0], []
        four, six = own(name)
        unikernel = {"name": name, "interfaces": [{"address": f"{four}/24", "address6": f"{six}/64"}], **DECLARED[kind]}
        read = read_limits(unikernel, lines.append)
        assert lines == [], lines
        found += [on_host(with_own(read, [(f"{four} {six}", mac(name))]), lambda _index: "")] if read else []
    return found


def cable(name, port, bridge, words, hardware=""):
    sh("ip", "netns", "add", name)
    sh(
        "ip",
        "link",
        "add",
        port,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        *(["address", hardware] if hardware else []),
        "netns",
        name,
    )
    sh("ip", "link", "set", port, "master", bridge, "up")
    for device in ("lo", "eth0"):
        sh("ip", "-n", name, "link", "set", device, "up")
    for one in words:
        sh("ip", "-n", name, *one)


def placed(name):
    four, six = own(name)
    gateways = ("198.51.100.254", "2001:db8::fe") if name.endswith("-routed") else (DOM0, DOM0_6)
    return [
        ("address", "add", f"{four}/24", "broadcast", "+", "dev", "eth0"),
        ("address", "add", f"{six}/64", "dev", "eth0", "nodad"),
        *(("route", "add", "default", "via", gateway) for gateway in gateways),
    ]


def build():
    for bridge, words in (("xenbr0", (f"{DOM0}/24", f"{DOM0_6}/64")), ("routed", ("198.51.100.254/24", "2001:db8::fe/64"))):
        sh("ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        sh("ip", "link", "set", bridge, "up")
        for address in words:
            sh("ip", "address", "add", address, "dev", bridge, *(["nodad"] if ":" in address else []))
    for name in PLACES:
        cable(name, f"vif{PLACES[name]}.0", "routed" if name.endswith("-routed") else "xenbr0", placed(name), mac(name))
    for number, name in ((1, "outside"), (2, "elsewhere")):
        words = [("address", "add", f"10.0.0.{number}/24", "broadcast", "+", "dev", "eth0"),
                 ("address", "add", f"fd00::{number}/64", "dev", "eth0", "nodad"),
                 ("route", "add", "default", "via", DOM0), ("route", "add", "default", "via", DOM0_6)]  # fmt: skip
        cable(name, f"uplink{number}", "xenbr0", words)
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        pathlib.Path("/proc/sys/net", switch).write_text("1")
    text = (ROOT / "roles/xen_host/files/antispoof.nft").read_text()
    text += "".join(antispoof.added(antispoof.vif(f"vif{PLACES[name]}.0", mac(name), " ".join(own(name)))) for name in PLACES)
    sh("nft", "-f", "-", text=text)


def served(names):
    servers = [
        subprocess.Popen(["ip", "netns", "exec", name, sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    for server in servers:
        server.stdout.readline()
    return servers


def probes():
    """Name of a probe -> who asks, protocol, address, port, source port, bytes."""
    found = {}
    for place in ("", "-routed"):
        for kind in ("web", "work", "mute", "free"):
            target = f"{kind}{place}"
            for version, address in zip((4, 6), own(target)):
                for port in ("tcp/22", "tcp/443", "udp/53", "udp/123"):
                    protocol, number = port.split("/")
                    for source in ("outside", "elsewhere", "free"):
                        if source != target and (source != "free" or place == ""):
                            found[f"{source} {target} {port} v{version}"] = (source, protocol, address, int(number), 0, 9)
                found[f"outside {target} udp/53 long v{version}"] = ("outside", "udp", address, 53, 0, 3000)
                # As if it were an answer.
                found[f"outside {target} tcp/22 from 5433 v{version}"] = ("outside", "tcp", address, 22, 5433, 9)
                found[f"outside {target} udp/22 from 54 v{version}"] = ("outside", "udp", address, 22, 54, 9)
            for version, address, other in ((4, OUTSIDE, ELSEWHERE), (6, OUTSIDE6, "fd00::2")):
                for port in ("tcp/22", "tcp/5432", "udp/53", "udp/123"):
                    protocol, number = port.split("/")
                    found[f"{target} outside {port} v{version}"] = (target, protocol, address, int(number), 0, 9)
                    found[f"{target} elsewhere {port} v{version}"] = (target, protocol, other, int(number), 0, 9)
                found[f"{target} outside tcp/22 from 8443 v{version}"] = (target, "tcp", address, 22, 8443, 9)
    return found


def asked(table):
    """All at once, one program in each place: what each got."""
    by_source = {}
    for name, (source, *words) in table.items():
        by_source.setdefault(source, []).append([name, words])
    running = [
        subprocess.Popen([*_inside(source), sys.executable, "-ISc", CLIENT, json.dumps(items)], stdout=subprocess.PIPE, text=True)
        for source, items in by_source.items()
    ]
    answers = {}
    for process in running:
        answers.update(json.loads(process.communicate(timeout=120)[0]))
    return answers


def _inside(name):
    return ["ip", "netns", "exec", name] if name else []


def pings():
    found = {}
    for place in ("", "-routed"):
        for kind in DECLARED:
            for version, address in zip((4, 6), own(f"{kind}{place}")):
                found[f"outside {kind}{place} v{version}"] = ("outside", address)
            found[f"{kind}{place} outside v4"] = (f"{kind}{place}", OUTSIDE)
            found[f"{kind}{place} outside v6"] = (f"{kind}{place}", OUTSIDE6)
    running = {
        name: subprocess.Popen(["ip", "netns", "exec", source, "ping", "-c", "1", "-W", "2", address], stdout=subprocess.DEVNULL)
        for name, (source, address) in found.items()
    }
    return {name: process.wait(timeout=60) == 0 for name, process in running.items()}


def by_link_local():
    """A neighbour asks by addresses that nobody has declared."""
    found = {}
    for kind in ("web", "work", "mute", "free"):
        parts = antispoof.link_local(mac(kind)).network_address
        for port in (22, 443):
            found[f"{kind} tcp/{port}"] = ("elsewhere", "tcp", f"{parts}%eth0", port, 0, 9)
    return asked(found)


LISTENER = """
import socket
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.bind(("", 7777))
end.settimeout(3)
print("ready", flush=True)
try:
    print(end.recv(9).decode(), flush=True)
except OSError:
    print("nothing", flush=True)
"""
SHOUT = """
import socket, sys
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
end.sendto(b"all", ("10.0.0.255", 7777))
"""


def shouted():
    """What is for all."""
    kinds = list(DECLARED)
    running = {
        kind: subprocess.Popen(["ip", "netns", "exec", kind, sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True)
        for kind in kinds
    }
    for process in running.values():
        process.stdout.readline()
    sh("ip", "netns", "exec", "outside", sys.executable, "-c", SHOUT)
    return {kind: process.communicate(timeout=60)[0].strip() for kind, process in running.items()}


HELD = """
import socket, sys
end = socket.create_connection((sys.argv[1], 443), timeout=5)
end.settimeout(5)
for line in sys.stdin:
    end.sendall(line.encode())
    print(end.recv(99).decode().strip(), flush=True)
"""


def held(text):
    """A connection, from before the rules to after a change of them."""
    command = ["ip", "netns", "exec", "outside", sys.executable, "-c", HELD]
    running = [subprocess.Popen([*command, own(name)[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for name in ("mute", "mute-routed")]  # fmt: skip

    def said(word):
        for process in running:
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
        return [process.stdout.readline().strip() for process in running]

    found = [said("before")]
    for word in ("loaded", "again"):
        sh("nft", "-f", "-", text=text)
        found.append(said(word))
    for process in running:
        process.stdin.close()
        process.wait(timeout=30)
    return found


def main():
    alone()
    br_netfilter("0")
    build()
    servers = served([*PLACES, "outside", "elsewhere"])
    try:
        table, text = probes(), tables(limits())
        told = {
            "without": asked(table),
            "held": held(text),
            "with": asked(table),
            "pings": pings(),
            "link local": by_link_local(),
        }
        told["shouted"] = shouted()
        told["dom0"] = asked({f"{name} {address}": ("", "tcp", address, 22, 0, 9) for name in PLACES for address in own(name)})
        br_netfilter("1")
        told["with br_netfilter"] = asked(table)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
