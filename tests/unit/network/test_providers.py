"""What each kind of provider needs, from the declaration to a host's files, rules and a domain's boot arguments."""

import dataclasses

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declarations_of
from ansible_collections.unikernels.xen.plugins.module_utils.network.antispoof import added, vif
from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import on_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import read_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.plan import NEIGHBOURS, NFT, SYSCTL, make_plan
from ansible_collections.unikernels.xen.plugins.module_utils.network.reading import (
    IFUPDOWN,
    MANAGERS,
    NETPLAN,
    NETWORKD,
    NETWORKMANAGER,
    Link,
    Reading,
)

MAC, MINE = "52:54:00:00:00:01", "00:16:3e:00:00:07"
# As such hosts come: one address, a gateway, and for IPv6 fe80::1.
LINKS = {"eth0": Link("eth0", MAC, addresses=("192.0.2.10/26", "2001:db8:7::2/64"), mtu=1500)}
FILES = {
    IFUPDOWN: {
        "/etc/network/interfaces": "auto eth0\niface eth0 inet static\n  address 192.0.2.10/26\n  gateway 192.0.2.1\n"
        "iface eth0 inet6 static\n  address 2001:db8:7::2/64\n  gateway fe80::1\n"
    },
    NETWORKD: {
        "/etc/systemd/network/10-eth0.network": "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.10/26\nGateway=192.0.2.1\n"
        "Address=2001:db8:7::2/64\nGateway=fe80::1\n"
    },
    NETPLAN: {
        "/etc/netplan/50-cloud-init.yaml": "network:\n  version: 2\n  ethernets:\n    eth0:\n"
        "      addresses: [192.0.2.10/26, '2001:db8:7::2/64']\n"
        "      routes: [{to: default, via: 192.0.2.1}, {to: default, via: 'fe80::1'}]\n"
    },
    NETWORKMANAGER: {
        "/etc/NetworkManager/system-connections/up.nmconnection": "[connection]\nid=up\ntype=ethernet\ninterface-name=eth0\n"
        "[ipv4]\nmethod=manual\naddress1=192.0.2.10/26,192.0.2.1\n[ipv6]\nmethod=manual\naddress1=2001:db8:7::2/64,fe80::1\n"
    },
}
SINGLE = {
    "single": {"mode": "routed", "addresses": ["10.255.255.1/32"], "subnets": ["192.0.2.40", "198.51.100.7"], "proxy": True}
}
ROUTED = {"routed": {"mode": "routed", "addresses": ["203.0.113.65/29"]}}
SIX = {"six": {"mode": "routed", "addresses": ["fe80::1/64"], "subnets": ["2001:db8:7:0:1::/80"]}}
LOCKED = {"xenbr0": {"mode": "bridged", "uplink": "auto", "subnets": ["192.0.2.0/26", "198.51.100.7"], "gateway": "192.0.2.1"}}


def offered(declared, interface, manager):
    """Return (texts by path, plan, the domain's options) of a host with one domain."""
    networks, lines = read_networks(declared)
    unikernel = {"name": "www", "kernel": "/web.xen", "memory": 32, "interfaces": [dict(interface)]}
    guests = on_networks(networks, [unikernel], 22, lines.append)
    assert lines == []
    plan = make_plan(networks, guests, Reading("h", manager, LINKS, "eth0", FILES[manager]))
    return {one.path: one.after for one in plan.files if one.after is not None}, plan, unikernel


def domain(unikernel):
    (found,) = declarations_of([unikernel], "h")
    return found.domain


def boot_arguments(unikernel):
    return domain(unikernel).arguments


def frames_allowed(unikernel):
    """Return the rules of the domain's vif."""
    return added(vif("vif7.0", MINE, domain(unikernel).interfaces[0].ip))


def bridges_over_the_uplink(texts):
    port = ("bridge_ports eth0", "Bridge=", "master=", "interfaces: [eth0]", "- eth0\n")
    return [path for path, text in texts.items() if any(word in text for word in port)]


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("address", ["192.0.2.40/32", "198.51.100.7/32"])
def test_a_single_additional_address_with_a_gateway_of_the_hosts_subnet(manager, address):
    """Of the host's own subnet or of another: no foreign MAC leaves, Dom0 answers for it at the uplink and is its gateway."""
    texts, plan, unikernel = offered(SINGLE, {"network": "single", "address": address}, manager)
    assert plan.devices == ("single",) and bridges_over_the_uplink(texts) == []
    ip = address.partition("/")[0]
    assert texts[NEIGHBOURS] == f"neigh replace proxy {ip} dev eth0\n"
    assert "-net.ipv4.conf.eth0.forwarding = 1" in texts[SYSCTL] and "-net.ipv4.conf.single.forwarding = 1" in texts[SYSCTL]
    assert "masquerade" not in texts[NFT] and "ip daddr { 192.0.2.40, 198.51.100.7 } accept" in texts[NFT].replace("/32", "")
    assert boot_arguments(unikernel) == f"--ipv4={address} --ipv4-gateway=10.255.255.1"
    assert f"ip saddr {{ {ip} }} accept" in frames_allowed(unikernel)


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_routed_29(manager):
    texts, plan, unikernel = offered(ROUTED, {"network": "routed", "address": "203.0.113.66/29"}, manager)
    assert plan.devices == ("routed",) and texts[NEIGHBOURS] == "" and bridges_over_the_uplink(texts) == []
    folders = ("/etc/network/", "/etc/systemd/network/", "/etc/netplan/", "/etc/NetworkManager/")
    assert any("203.0.113.65/29" in text for path, text in texts.items() if path.startswith(folders))
    assert 'iifname "routed" goto from_routed' in texts[NFT] and "ip saddr != { 203.0.113.64/29 } counter drop" in texts[NFT]
    assert boot_arguments(unikernel) == "--ipv4=203.0.113.66/29 --ipv4-gateway=203.0.113.65"


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_routed_64_of_ipv6_whose_gateway_is_fe80_1(manager):
    """The uplink keeps the provider's fe80::1; the domains have Dom0's own, and nothing of IPv4."""
    texts, plan, unikernel = offered(SIX, {"network": "six", "address": "2001:db8:7:0:1::10/80"}, manager)
    assert plan.devices == ("six",)
    ours = "".join(text for path, text in texts.items() if "six" in text and not path.startswith("/var"))
    assert "fe80::1/64" in ours and "2001:db8:7:0:1::/80" in ours
    for path, text in FILES[manager].items():
        kept = texts.get(path, text)
        assert "2001:db8:7::2/64" in kept and "fe80::1" in kept
    assert "net.ipv6.conf.all.forwarding = 1" in texts[SYSCTL]
    assert "meta nfproto ipv4 counter drop" in texts[NFT] and "ip6 daddr { 2001:db8:7:0:1::/80 } accept" in texts[NFT]
    assert boot_arguments(unikernel) == "--ipv6=2001:db8:7:0:1::10/80 --ipv6-gateway=fe80::1"
    # Besides its address, its own link-local one, with which it looks for its neighbours.
    assert "ip6 saddr { 2001:db8:7:0:1::10, fe80::216:3eff:fe00:7 } accept" in frames_allowed(unikernel)


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_switch_that_is_locked_to_macs_of_the_providers(manager):
    """A bridge over the uplink has the uplink's own MAC, and the domain the one that the provider gave; no other passes."""
    interface = {"network": "xenbr0", "address": "198.51.100.7/32", "gateway": "192.0.2.1", "mac": MINE}
    texts, plan, unikernel = offered(LOCKED, interface, manager)
    assert plan.devices == ("xenbr0",)
    assert bridges_over_the_uplink(texts)
    text = "".join(text for path, text in texts.items() if not path.startswith("/var"))
    assert MAC in text or "bridge_hw eth0" in text
    assert "02:" not in "".join(line for line in text.splitlines() if "mac" in line.lower() or "hw" in line)
    assert boot_arguments(unikernel) == "--ipv4=198.51.100.7/32 --ipv4-gateway=192.0.2.1"
    rules = frames_allowed(unikernel)
    assert f"ether saddr != {MINE} counter drop" in rules and f"arp saddr ether != {MINE} counter drop" in rules


def test_a_lock_without_a_mac_of_the_providers_needs_a_routed_network():
    """Nothing of a routed or nat network is bridged to the uplink, whatever it is made of: no MAC but the host's leaves."""
    for declared in (SINGLE, ROUTED, SIX, {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24"]}}):
        (network,) = read_networks(declared)[0].values()
        assert network.port == "" and dataclasses.replace(network, uplink="eth0").port == ""
