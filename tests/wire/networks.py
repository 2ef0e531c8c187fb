"""A host's networks of each kind with a guest on each: their declaration, what is sent there, and what must become of it.

Names and addresses are those of a machine of the lab, so that a test there can use them with Xen's own vifs.
``unshare --net --mount python -m tests.wire.networks FOLDER`` does without Xen: Dom0 is a network namespace with the product's
filter and rules, and guests are at the ends of cables.
"""

import importlib.util
import json
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time

from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Resolved, compile_fleet
from ansible_collections.unikernels.xen.plugins.module_utils.network import reach_rules, rules
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import read_networks

from . import frames

ROOT = pathlib.Path(__file__).resolve().parents[2]
# QEMU's user network of the lab is the provider's wire.
UPLINK, HOST, GATEWAY = "ens3", "10.0.2.15", "10.0.2.2"
NETWORKS = {
    "xenbr0": {"mode": "bridged", "uplink": "auto"},
    "inside": {"mode": "nat", "addresses": ["10.0.0.1/24", "fd00::1/64"]},
    "routed": {"mode": "routed", "addresses": ["10.0.1.9/29", "fd01::1/64"]},
    # A provider that locks MACs, and expects an additional address of the host's own subnet on the wire.
    "single": {"mode": "routed", "addresses": ["10.255.255.1/32"], "subnets": ["10.0.2.120"], "proxy": True},
    "shut": {"mode": "isolated", "addresses": ["10.0.4.1/24"]},
    "tagged": {"mode": "bridged", "uplink": UPLINK, "vlan": 100, "addresses": ["10.0.5.1/24"]},
}
HTTP, DNS = 8180, 8153  # published
MARK = b"the mark"


def mac(number):
    return f"00:16:3e:00:01:{number:02}"


def unikernels(accept=("tcp/80", "udp/53 from 192.0.2.0/24")):
    publish = [{"port": HTTP, "to": 80}, {"port": DNS, "to": 53, "protocol": "udp"}]
    limits = {"accept": list(accept), "reach": [f"udp/9 to {GATEWAY}"]}
    return [
        _guest(1, "inside", "10.0.0.11/24", interface={"ip": "fd00::11"}, publish=publish, **limits),
        _guest(2, "routed", "10.0.1.11/29", interface={"ip": "fd01::11"}),
        _guest(3, "single", "10.0.2.120/32"),
        _guest(4, "shut", "10.0.4.4/24"),
        _guest(5, "tagged", "10.0.5.5/24"),
    ]


def _guest(number, network, address, interface=None, **options):
    health = {"http": f"http://{address.partition('/')[0]}/", "contains": f"try{number}: It answers", "within": 180}
    return {
        "name": f"try{number}", "image": "sender", "memory": 16, "shutdown_timeout": 0, "health": health,
        "interfaces": [{"network": network, "address": address, "mac": mac(number), **(interface or {})}],
        "arguments": {"mode": "puppet", "name": f"try{number}"}, **options,
    }  # fmt: skip


def address_of(number):
    return unikernels()[number - 1]["interfaces"][0]["address"].partition("/")[0]


def asked(number, network, vif, kinds, mark=b""):
    """Return what tests/wire/dom0.py reads."""
    return json.dumps({
        "bridge": network, "vif": vif, "others": [UPLINK], "mac": mac(number), "address": address_of(number),
        "frames": {kind: frame.hex() for kind, frame in kinds.items()}, "mark": mark.hex(),
    })  # fmt: skip


def places(answer):
    """Return where each frame turned up, which the guest must have sent."""
    told = json.loads(answer)
    assert [kind for kind, (sent, _places) in told.items() if not sent] == []
    return {kind: found for kind, (_sent, found) in told.items()}


def frames_of(folder, number, four, six):
    """Return tests/wire/frames.py with the addresses of this guest."""
    text = (ROOT / "tests/wire/frames.py").read_text()
    for before, after in ((frames.GUEST, mac(number)), ("fe00:1", f"fe00:10{number}"), ("10.0.0.", four), ("fd00::", six)):
        assert before in text
        text = text.replace(before, after)
    path = pathlib.Path(folder) / f"frames_of_{number}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nothing_but_its_own(pull, folder):
    """``pull(number, network, frames, mark)``: make the guest send frames, and return where each turned up."""
    for number, network, prefixes in ((1, "inside", ("10.0.0.", "fd00::")), (2, "routed", ("10.0.1.", "fd01::"))):
        table = frames_of(folder, number, *prefixes)
        passed = {kind: found for kind, found in pull(number, network, table.hostile()).items() if found}
        assert passed == {}, f"{network}: passed: {passed}"
        dropped = [kind for kind, found in pull(number, network, table.lawful()).items() if not found]
        assert dropped == [], f"{network}: dropped: {dropped}"


def only_the_hosts_mac_leaves(pull, macs):
    """``macs``: of Dom0's devices."""

    def left(number, network, port=9, source=None):
        packet = frames.ip(frames.udp(5000, port, MARK), source=source or address_of(number), target=GATEWAY)
        frame = frames.ether(packet, source=mac(number), target=macs[network])
        return [one for one in pull(number, network, {"": frame}, MARK)[""] if one.startswith(UPLINK)]

    leaves = {
        "nat": left(1, "inside"), "nat, beside reach": left(1, "inside", port=10), "routed": left(2, "routed"),
        "routed, another's address": left(2, "routed", source="10.0.1.12"), "on the wire": left(3, "single"),
        "isolated": left(4, "shut"),
    }  # fmt: skip
    ours = f"{UPLINK} {macs['xenbr0']}"
    assert leaves == {
        "nat": [f"{ours} {HOST}"], "nat, beside reach": [], "routed": [f"{ours} 10.0.1.11"],
        "routed, another's address": [], "on the wire": [f"{ours} 10.0.2.120"], "isolated": [],
    }, leaves  # fmt: skip


class Dom0:
    """The networks but for the VLAN, which not every kernel has, with a cable in place of each vif."""

    def __init__(self, folder):
        from .host import Filter, sh

        self.sh, self.folder, self.filter = sh, folder, Filter(folder)
        self.networks = {name: one for name, one in read_networks(NETWORKS)[0].items() if name != "tagged"}
        values = {"xen_host_networks": NETWORKS, "unikernels": unikernels(), "unikernel_images": {"sender": {"file": "/x.xen"}}}
        fleet = compile_fleet({"h": Resolved(values)}, Asked(), lambda service: service)
        assert not fleet.problems, fleet.problems
        self.guests = fleet.hosts["h"].guests
        self._bridges()
        self._rules()
        for number, one in enumerate(unikernels()[:4], 1):
            self._cable(number, one["interfaces"][0])

    def _bridges(self):
        self.sh("mount", "-t", "sysfs", "none", "/sys")
        for family in ("default", "all"):
            pathlib.Path(f"/proc/sys/net/ipv6/conf/{family}/accept_dad").write_text("0")
        for path in pathlib.Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
            path.write_text("0")
        self.sh("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", "provider")
        for number, network in enumerate(self.networks.values()):
            bridge = ["type", "bridge", "forward_delay", "0", "mcast_snooping", "0"]
            self.sh("ip", "link", "add", network.name, "address", f"02:00:00:00:00:{number:02}", *bridge)
            self.sh("ip", "link", "set", network.name, "up")
            for address in network.addresses:
                self.sh("ip", "address", "add", address, "dev", network.name, *(["nodad"] if ":" in address else []))
            for route in network.routes:
                self.sh("ip", "route", "add", str(route), "dev", network.name)
        for device, more in ((UPLINK, ["master", "xenbr0"]), ("provider", [])):
            self.sh("ip", "link", "set", device, *more, "up")
        self.sh("ip", "address", "add", f"{HOST}/24", "dev", "xenbr0")
        self.sh("ip", "neighbour", "replace", GATEWAY, "lladdr", frames.GATEWAY, "dev", "xenbr0")

    def _rules(self):
        self.sh("nft", "-f", str(ROOT / "roles/xen_host/files/antispoof.nft"))
        self.sh("nft", "-f", "-", text=rules.table(self.networks, self.guests))
        self.sh("nft", "-f", "-", text=reach_rules.tables(self.guests.limits))
        for line in rules.sysctls(self.networks, ["xenbr0"]).splitlines():
            if not line.startswith("#"):
                key, _equals, value = line.lstrip("-").partition(" = ")
                pathlib.Path("/proc/sys/" + "/".join(part.replace("/", ".") for part in key.split("."))).write_text(value)

    def _cable(self, number, interface):
        vif, end, address = f"vif{number}.0", f"guest{number}", address_of(number)
        self.sh("ip", "link", "add", vif, "type", "veth", "peer", "name", end, "address", interface["mac"])
        for device in (vif, end):
            pathlib.Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")
        self.filter.vif(number, interface["mac"], " ".join([address, *([interface["ip"]] if "ip" in interface else [])]))
        assert self.filter.hook("online", number) == (0, "")
        self.sh("ip", "link", "set", vif, "master", interface["network"], "up")
        self.sh("ip", "link", "set", end, "arp", "off", "promisc", "on", "up")
        self.sh("ip", "neighbour", "replace", address, "lladdr", interface["mac"], "dev", interface["network"])
        threading.Thread(target=_puppet, args=(end, interface["mac"]), daemon=True).start()

    def macs(self):
        return {one["ifname"]: one["address"] for one in json.loads(self.sh("ip", "-j", "link").stdout)}

    def forwards(self):
        """Whether Linux has seen all carriers."""
        rows = json.loads(self.sh("bridge", "-j", "link", "show").stdout)
        return all(row["state"] == "forwarding" and "LOWER_UP" in row["flags"] for row in rows if "master" in row)

    def pull(self, number, network, kinds, mark=b""):
        self.sh("ip", "link", "set", "dev", network, "promisc", "on")
        words = [sys.executable, str(ROOT / "tests/wire/dom0.py")]
        text = asked(number, network, f"vif{number}.0", kinds, mark)
        return places(subprocess.run(words, input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=200).stdout)


def _puppet(device, own):
    """Send what a datagram to port 9 holds, and then answer, as tests/guests/service.c does."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    end.bind((device, 0))
    hardware = frames.mac(own)
    while True:
        data, (_device, _kind, way, *_rest) = end.recvfrom(65536)
        is_order = data[:6] == hardware and data[12:14] == b"\x08\x00" and data[23] == frames.UDP
        if way == socket.PACKET_OUTGOING or not is_order or struct.unpack("!H", data[36:38])[0] != 9:
            continue
        end.send(data[42:])
        here, there = socket.inet_ntoa(data[30:34]), socket.inet_ntoa(data[26:30])
        answer = frames.udp(9, struct.unpack("!H", data[34:36])[0], b"done")
        end.send((data[6:12] + hardware + b"\x08\x00" + frames.ip(answer, source=here, target=there)).ljust(60, b"\0"))


def main():
    dom0 = Dom0(sys.argv[1])
    until = time.monotonic() + 20
    while not dom0.forwards():
        assert time.monotonic() < until, "the bridges' ports do not forward"
        time.sleep(0.05)
    only_the_hosts_mac_leaves(dom0.pull, dom0.macs())
    nothing_but_its_own(dom0.pull, sys.argv[1])


if __name__ == "__main__":
    main()
