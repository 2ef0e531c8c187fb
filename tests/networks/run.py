"""A host's networks with each manager's real programs: ``sudo python -m tests.networks.run ROOT [MANAGER...]``.

ROOT is a Debian with all four managers, made as README.md in this folder says. Each manager gets a machine of its own.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time

from .machine import Machine, alone, sh, until

NETWORKS = {
    "xenbr0": {"mode": "bridged", "uplink": "auto"},
    "inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"]},
    "routed": {
        "mode": "routed",
        "addresses": ["203.0.113.65/29", "fe80::1/64"],
        "subnets": ["198.51.100.7/32", "2001:db8:7::/64"],
    },
    "shut": {"mode": "isolated"},
}
GUESTS = {
    "published": [
        {"name": "www", "protocol": "tcp", "port": 443, "to": 8443, "target": "10.77.0.10", "network": "inside", "address": ""},
        {"name": "www", "protocol": "tcp", "port": 443, "to": 8443, "target": "fd77::10", "network": "inside", "address": ""},
    ],
    "proxied": {},
}
HOST = ["192.0.2.10/24", "2001:db8::10/64"]


def ifupdown(machine):
    machine.write("/etc/network/interfaces", "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n")
    machine.write(
        "/etc/network/interfaces.d/50-cloud-init",
        "auto eth0\niface eth0 inet static\n    address 192.0.2.10/24\n    gateway 192.0.2.1\n    mtu 1400\n"
        "    up ip route add 198.18.0.0/24 via 192.0.2.1 dev eth0\n"
        "iface eth0 inet6 static\n    address 2001:db8::10/64\n    gateway 2001:db8::1\n    dad-attempts 0\n",
    )
    machine.unmask("networking.service")


def networkd(machine):
    machine.write(
        "/etc/systemd/network/10-uplink.network",
        f"[Match]\nMACAddress=52:54:00:aa:00:01\n\n[Link]\nMTUBytes=1400\n\n[Network]\n{_lines()}\n"
        "[Route]\nDestination=198.18.0.0/24\nGateway=192.0.2.1\n",
    )
    machine.unmask("systemd-networkd.service")
    machine.unmask("systemd-networkd.socket")


def _lines():
    return "".join(f"Address={one}\n" for one in HOST) + "Gateway=192.0.2.1\nGateway=2001:db8::1\nIPv6AcceptRA=no\n"


def netplan(machine, renderer="networkd"):
    machine.write(
        "/etc/netplan/50-cloud-init.yaml",
        f"# by cloud-init\nnetwork:\n  version: 2\n  renderer: {renderer}\n  ethernets:\n    eth0:\n"
        "      mtu: 1400\n      accept-ra: false\n"
        f"      addresses: [{', '.join(HOST)}]\n      routes:\n      - {{to: default, via: 192.0.2.1}}\n"
        "      - {to: default, via: '2001:db8::1'}\n      - {to: 198.18.0.0/24, via: 192.0.2.1}\n",
        0o600,
    )
    machine.write("/etc/cloud/cloud.cfg.d/05_logging.cfg", "{}\n")
    # A stub: netplan makes udev check all devices again, and no container has udev.
    machine.write("/usr/local/sbin/udevadm", "#!/bin/sh\n", 0o755)
    if renderer == "networkd":
        machine.unmask("systemd-networkd.service")
        machine.unmask("systemd-networkd.socket")


def netplan_networkmanager(machine):
    netplan(machine, "NetworkManager")
    # For an MTU netplan writes a .link file, and restarts networkd, whoever manages the device.
    machine.unmask("systemd-networkd.service", start=False)
    machine.unmask("NetworkManager.service")


def networkmanager(machine):
    machine.write(
        "/etc/NetworkManager/system-connections/uplink.nmconnection",
        "[connection]\nid=uplink\nuuid=3b0b2e2e-31b2-4c9c-8d3c-0a6f1d3b7a10\ntype=ethernet\nautoconnect=true\n\n[ethernet]\nmtu=1400\n\n"
        "[ipv4]\nmethod=manual\naddress1=192.0.2.10/24,192.0.2.1\nroute1=198.18.0.0/24,192.0.2.1\n\n"
        "[ipv6]\nmethod=manual\naddress1=2001:db8::10/64,2001:db8::1\n",
        0o600,
    )
    machine.unmask("NetworkManager.service")


MANAGERS = {
    "ifupdown": ifupdown,
    "systemd-networkd": networkd,
    "netplan": netplan,
    "netplan/NetworkManager": netplan_networkmanager,
    "NetworkManager": networkmanager,
}
FOLDERS = (
    "etc/network", "etc/systemd/network", "etc/netplan", "etc/NetworkManager", "etc/sysctl.d", "etc/xen",
)  # fmt: skip


def files(machine):
    return {
        str(path.relative_to(machine.root)): path.read_text()
        for folder in FOLDERS
        for path in sorted((machine.root / folder).rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


class Scenario:
    def __init__(self, machine, manager):
        self.machine, self.manager, self.done = machine, manager, []

    def step(self, name):
        self.done.append(name)
        print(f"  {self.manager}: {name}", file=sys.stderr, flush=True)

    def up(self, device):
        machine = self.machine
        until(lambda: machine.addresses(device) == HOST and machine.reached() and machine.reached("2001:db8::10"),
              f"{device} has {HOST}, and answers; it has {machine.addresses(device)}")  # fmt: skip
        assert "198.18.0.0/24" in sh("ip", "-n", "host", "route").stdout, "the route through the provider"

    def run(self):
        machine = self.machine
        machine.boot()
        self.up("eth0")
        before = files(machine)
        self.step("boots with its own network")
        planned = machine.offer(NETWORKS, GUESTS, check=True)
        assert planned.get("changed") and planned["manager"] == self.manager.partition("/")[0], planned
        assert files(machine) == before
        self.step("check mode changes nothing")

        result = machine.offer(NETWORKS, GUESTS, within=25)
        assert result.get("waits"), result
        self.up("xenbr0")
        until(lambda: machine.state() == "put back", "nobody confirmed, so the old network returns")
        self.up("eth0")
        assert files(machine) == before and not {"xenbr0", "inside", "routed", "shut"} & set(machine.links())
        assert ruleset() == ""
        self.step("returns by itself without a confirmation")

        result = machine.offer(NETWORKS, GUESTS)
        assert result.get("devices") == ["xenbr0", "inside", "routed", "shut"], result
        self.up("xenbr0")
        assert machine.confirm() is True
        self.there()
        self.step("keeps the networks that were confirmed")
        again = machine.offer(NETWORKS, GUESTS)
        assert again.get("changed") is False, (again["devices"], again["diff"])
        self.step("a second run changes nothing")
        self.guests()
        self.reboot("xenbr0")
        self.there()
        assert machine.offer(NETWORKS, GUESTS).get("changed") is False
        self.step("has them after a reboot, with the rules")
        self.later()
        self.unconfirmed_reboot()
        self.removed(before)

    def reboot(self, device):
        self.machine.off()
        self.machine.boot()
        self.up(device)

    def there(self):
        machine = self.machine
        until(lambda: machine.addresses("inside") == ["10.77.0.1/24", "fd77::1/64"], f"inside has {machine.addresses('inside')}")
        until(lambda: machine.addresses("routed") == ["203.0.113.65/29"], f"routed has {machine.addresses('routed')}")
        until(lambda: "fe80::1/64" in sh("ip", "-n", "host", "address", "show", "dev", "routed").stdout, "fe80::1 on routed")
        routes = sh("ip", "-n", "host", "route").stdout + sh("ip", "-n", "host", "-6", "route").stdout
        assert "198.51.100.7 dev routed" in routes and "2001:db8:7::/64 dev routed" in routes, routes
        links = {link["ifname"]: link for link in json.loads(sh("ip", "-n", "host", "-j", "-d", "link").stdout)}
        assert links["inside"]["address"].startswith("02:") and links["xenbr0"]["address"] == links["eth0"]["address"]
        assert links["eth0"]["master"] == "xenbr0" and links["eth0"]["mtu"] == 1400
        assert all(not links[name]["linkinfo"]["info_data"]["stp_state"] for name in ("xenbr0", "inside", "routed", "shut"))
        assert machine.addresses("eth0") == [] and machine.addresses("shut") == []
        until(lambda: "dnat ip to 10.77.0.10:8443" in ruleset(), "the rules")

    def guests(self):
        machine = self.machine
        machine.guest("inside", 1, ["10.77.0.10/24", "fd77::10/64"], ["10.77.0.1", "fd77::1"])
        machine.guest("routed", 2, ["198.51.100.7/32", "2001:db8:7::7/64"], ["203.0.113.65", "fe80::1"])
        sh("ip", "route", "replace", "198.51.100.7/32", "via", "192.0.2.10")
        sh("ip", "-6", "route", "replace", "2001:db8:7::/64", "via", "2001:db8::10")
        for guest in ("guest1", "guest2"):
            for target in ("192.0.2.1", "2001:db8::1"):
                until(lambda guest=guest, target=target: pings(guest, target), f"{guest} reaches {target}")
        assert machine.reached("198.51.100.7") and machine.reached("2001:db8:7::7"), "routed guests are reached"
        sh("ip", "route", "replace", "10.77.0.0/24", "via", "192.0.2.10")
        assert not machine.reached("10.77.0.10"), "a nat guest is not reached but by what is published"
        for target in ("192.0.2.10", "2001:db8::10"):
            client = until(lambda target=target: published(target), f"tcp/443 of {target} leads to the guest")
            assert client == ("2001:db8::1" if ":" in target else "192.0.2.1"), f"the guest sees {client}"
        self.step("nat, routed (single /32, gateway fe80::1) and published guests reach and are reached")

    def later(self):
        """Change networks while guests run."""
        machine = self.machine
        more = {**NETWORKS, "more": {"mode": "nat", "addresses": ["10.78.0.1/24"]}}
        more["inside"] = {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64", "10.79.0.1/24"], "mtu": 1400}
        del more["shut"]
        result = machine.offer(more, GUESTS)
        assert set(result.get("devices", [])) == {"inside", "more", "shut"}, result
        assert machine.confirm() is True
        until(lambda: "10.79.0.1/24" in machine.addresses("inside"), "a network gets another address")
        assert machine.addresses("more") == ["10.78.0.1/24"] and "shut" not in machine.links()
        links = {link["ifname"]: link for link in json.loads(sh("ip", "-n", "host", "-j", "link").stdout)}
        assert links["inside"]["mtu"] == 1400
        self.up("xenbr0")
        self.step("adds, changes and removes networks later")
        machine.guest("inside", 3, ["10.77.0.11/24"], ["10.77.0.1"])
        refused = machine.offer({**NETWORKS, "inside": {"mode": "isolated"}}).get("refused", [])
        assert any("domains run on it (3)" in line for line in refused), refused
        refused = machine.offer({"xenbr0": NETWORKS["xenbr0"]}).get("refused", [])
        assert any("inside is gone, but domains run on it" in line for line in refused), refused
        if self.manager == "netplan/NetworkManager":
            refused = machine.offer(NETWORKS, GUESTS).get("refused", [])
            assert any("takes the interfaces of running domains (3) off their bridges" in line for line in refused), refused
            sh("ip", "-n", "host", "link", "delete", "vif3.0")
            assert machine.offer(NETWORKS, GUESTS).get("waits") and machine.confirm() is True
            self.step("refuses what would cut guests that run off")
            return
        changed = machine.offer(NETWORKS, GUESTS)
        assert changed.get("waits") and machine.confirm() is True, changed
        links = {link["ifname"]: link for link in json.loads(sh("ip", "-n", "host", "-j", "link").stdout)}
        assert links["vif3.0"].get("master") == "inside", "the guest's vif stays on its bridge"
        until(lambda: pings("guest3", "192.0.2.1"), "the guest still reaches the world")
        self.step("keeps guests that run, and refuses what would cut them off")
        sh("ip", "-n", "host", "link", "delete", "vif3.0")

    def unconfirmed_reboot(self):
        """Let the host die between the change and its confirmation."""
        machine = self.machine
        kept = files(machine)
        result = machine.offer({**NETWORKS, "more": {"mode": "nat", "addresses": ["10.78.0.1/24"]}}, GUESTS)
        assert result.get("waits"), result
        assert "more" in machine.links() and files(machine) != kept
        self.reboot("xenbr0")
        assert files(machine) == kept and "more" not in machine.links()
        until(lambda: machine.state() == "put back", "the boot put the old files back")
        self.there()
        self.step("boots with the old network when it dies before the confirmation")

    def removed(self, before):
        machine = self.machine
        for vif in ("vif1.0", "vif2.0"):
            sh("ip", "-n", "host", "link", "delete", vif)
        result = machine.offer({})
        assert result.get("waits"), result
        self.up("eth0")
        assert machine.confirm() is True
        assert files(machine) == before
        assert not {"xenbr0", "inside", "routed", "shut"} & set(machine.links())
        assert ruleset() == ""
        self.reboot("eth0")
        self.step("leaves everything as it was when all networks are removed")


def ruleset():
    return sh("ip", "netns", "exec", "host", "nft", "list", "ruleset").stdout


def pings(guest, target):
    return sh("ip", "netns", "exec", guest, "ping", "-c", "1", "-W", "1", target, check=False).returncode == 0


def published(target):
    """Return the client's address as a guest's program sees it."""
    server = (
        "import socket; s = socket.socket(socket.AF_INET6 if ':' in '{0}' else socket.AF_INET);"
        " s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('{0}', 8443)); s.listen(); s.settimeout(5);"
        " c, a = s.accept(); c.sendall(a[0].encode())"
    ).format("fd77::10" if ":" in target else "10.77.0.10")
    import socket
    import subprocess

    process = subprocess.Popen(["ip", "netns", "exec", "guest1", sys.executable, "-c", server], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((target, 443), timeout=2) as client:
                return client.recv(100).decode()
            time.sleep(0.1)
        return ""
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("managers", nargs="*", default=list(MANAGERS))
    parser.add_argument("--nspawn", default="systemd-nspawn")
    parser.add_argument("--libraries", default="")
    options = parser.parse_args()
    alone()
    manager = options.managers[0]
    machine = Machine(tempfile.mkdtemp(prefix="unikernels-"), options.root, options.nspawn, options.libraries)
    try:
        MANAGERS[manager](machine)
        scenario = Scenario(machine, manager)
        scenario.run()
        print(json.dumps({manager: scenario.done}))
    except BaseException:
        with contextlib.suppress(Exception):
            print(machine.run("journalctl -b --no-pager -n 60 -o cat; ip address; ip route", check=False).stdout, file=sys.stderr)
        raise
    finally:
        machine.close()


if __name__ == "__main__":
    main()
