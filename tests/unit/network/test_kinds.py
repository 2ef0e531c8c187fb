"""The declared networks of a host: what is valid, and one line for each mistake."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import MODES, read_networks
from hypothesis import given
from hypothesis import strategies as st

DECLARED = {
    "xenbr0": {"mode": "bridged", "uplink": "auto"},
    "public": {"mode": "bridged", "uplink": "bond0", "vlan": 100},
    "routed": {"mode": "routed", "addresses": ["203.0.113.65/27", "2001:db8:7::1/64"]},
    "inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"]},
    "shut": {"mode": "isolated"},
}


def test_the_declaration_of_the_documentation():
    networks, lines = read_networks(DECLARED)
    assert lines == [] and list(networks) == list(DECLARED)
    assert networks["public"].port == "bond0.100" and networks["inside"].port == ""
    assert [str(one) for one in networks["routed"].prefixes] == ["203.0.113.64/27", "2001:db8:7::/64"]


def routed(*routes):
    return {"a": {"mode": "nat", "addresses": ["10.0.0.1/24"], "routes": list(routes)}}


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_nothing_declared(nothing):
    assert read_networks(nothing) == ({}, [])


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        (["inside"], "xen_host_networks: must be a mapping of name to network"),
        ({"inside": "nat"}, "xen_host_networks.inside: must be a mapping"),
        ({"a name": {"mode": "nat"}}, "the name must be 1..15 letters"),
        ({"sixteen-letters-": {}}, "the name must be 1..15 letters"),
        ({"inside": {"mode": "NAT"}}, "inside: mode: is 'NAT', must be one of bridged, routed, nat, isolated"),
        (
            {"inside": {"mode": "nat", "vlan": 3, "addresses": ["10.0.0.1/24"]}},
            "vlan: is no option of a nat network; it has mode",
        ),
        ({"inside": {"mode": "nat"}}, "addresses: is required"),
        ({"inside": {"mode": "nat", "addresses": ["10.0.0.1"]}}, "'10.0.0.1' is not ADDRESS/PREFIX"),
        ({"inside": {"mode": "nat", "addresses": ["10.0.0.0/24"]}}, "the network or broadcast address of 10.0.0.0/24"),
        ({"inside": {"mode": "nat", "addresses": ["10.0.0.1/32"]}}, "leaves no address for a domain: give its prefix"),
        ({"inside": {"mode": "nat", "addresses": ["10.0.0.1/24", "10.0.0.1/24"]}}, "is listed twice"),
        ({"inside": {"mode": "nat", "addresses": ["ff02::1/64"]}}, "multicast, loopback or zero"),
        ({"inside": {"mode": "nat", "addresses": [["10.0.0.1/24"]]}}, "must be a list of texts"),
        ({"inside": {"mode": "isolated", "mtu": 100}}, "mtu: is 100, must be a whole number 1280..65535"),
        ({"inside": {"mode": "isolated", "mtu": True}}, "mtu: is True, must be a whole number"),
        ({"public": {"uplink": "eth0", "vlan": 4095}}, "vlan: is 4095, must be a whole number 1..4094"),
        ({"public": {"vlan": 5}}, "vlan: needs the uplink that it is on"),
        ({"public": {"uplink": "enp0s31f6np0", "vlan": 100}}, "enp0s31f6np0.100 has 16 letters, a device has at most 15"),
        ({"public": {"uplink": "eth 0"}}, "uplink: is 'eth 0', must be the name of a network device"),
        ({"eth0": {"uplink": "eth0"}}, "uplink: has the name of the network"),
        ({"public": {"uplink": "eth0", "gateway": "192.0.2.1/24"}}, "gateway: is '192.0.2.1/24', must be an IPv4 address"),
        ({"public": {"uplink": "eth0", "gateway6": "192.0.2.1"}}, "gateway6: is '192.0.2.1', must be an IPv6 address"),
        ({"public": {"uplink": "eth0", "addresses": ["192.0.2.1/24"], "gateway": "192.0.2.1"}}, "is Dom0's own address there"),
        (
            {"r": {"mode": "routed", "addresses": ["192.0.2.1/32"], "subnets": ["192.0.2.9/29"]}},
            "'192.0.2.9/29' is not a network",
        ),
        ({"r": {"mode": "routed", "addresses": ["192.0.2.1/32"], "subnets": ["::/0"]}}, "::/0 can't be domains' own"),
        ({"r": {"mode": "routed", "addresses": ["192.0.2.1/32"], "proxy": "maybe"}}, "proxy: is 'maybe', must be true or false"),
        # Names that mean something else, and what YAML makes of a word without quotes.
        ({"all": {"mode": "isolated"}}, "all: the name has another meaning for Linux or its programs"),
        ({"default": {"mode": "isolated"}}, "the name has another meaning"),
        ({"lo": {"mode": "isolated"}}, "the name has another meaning"),
        ({"auto": {"mode": "isolated"}}, "the name has another meaning"),
        ({"vif1.0": {"mode": "isolated"}}, "vif1.0: the name is one of domains' interfaces"),
        ({"tap1.0": {"mode": "isolated"}}, "tap1.0: the name is one of domains' interfaces"),
        ({"bonding_masters": {"mode": "isolated"}}, "bonding_masters: the name has another meaning for Linux"),
        ({"100": {"mode": "isolated"}}, "100: the name is a number, which Linux's programs take for a device's index"),
        ({True: {"mode": "isolated"}}, "the name is True, as YAML reads it: put it in quotes"),
        ({1: {"mode": "isolated"}, "1": {"mode": "isolated"}}, "1: is listed twice, as a number and as a text"),
        ({"a": {"uplink": "lo"}}, "uplink: lo leads nowhere"),
        ({"a": {"uplink": "vif1.0"}}, "uplink: vif1.0 is a domain's interface"),
        (
            {"a": {"uplink": "all", "vlan": 5}},
            "uplink: all leads nowhere: name a network device, or auto for that of the default",
        ),
        (
            {"a": {"mode": "nat", "addresses": ["10.0.0.1/24"], "uplink": "tap3.0-emu"}},
            "uplink: tap3.0-emu is a domain's interface",
        ),
        ({"a": {"uplink": "7"}}, "uplink: 7 leads nowhere"),
        # What is behind a domain.
        (routed("10.8.0.0/24"), "routes: '10.8.0.0/24' is not PREFIX via ADDRESS, as in 10.8.0.0/24 via 10.77.0.10"),
        (routed("10.8.0.1/24 via 10.0.0.9"), "routes: '10.8.0.1/24 via 10.0.0.9' is not PREFIX via ADDRESS"),
        (
            routed("10.8.0.0/24 via 10.0.1.9"),
            "routes: 10.0.1.9 is not on the network (10.0.0.0/24): name the address of a domain",
        ),
        (routed("10.8.0.0/24 via 10.0.0.1"), "routes: 10.0.0.1 is Dom0's own address there"),
        (routed("10.8.0.0/24 via 10.0.0.255"), "routes: 10.0.0.255 is a network or broadcast address"),
        (routed("169.254.0.0/16 via 10.0.0.9"), "routes: 169.254.0.0/16 is link-local, which nobody routes"),
        (routed({"to": "10.8.0.0/24"}), "routes: must be a list of texts, as in [10.8.0.0/24 via 10.77.0.10]"),
        (routed("fd08::/64 via 10.0.0.9"), "routes: fd08::/64 via 10.0.0.9: one is of IPv4, the other of IPv6"),
        (routed("0.0.0.0/0 via 10.0.0.9"), "routes: 0.0.0.0/0 can't be behind a domain: no address of 0.0.0.0/8 can"),
        (routed("10.0.0.128/25 via 10.0.0.9"), "routes: 10.0.0.128/25 overlaps 10.0.0.0/24, which is on the network"),
        (
            routed("10.8.0.0/24 via 10.0.0.9", "10.8.0.0/25 via 10.0.0.8"),
            "routes: 10.8.0.0/25 overlaps 10.8.0.0/24, which is on the",
        ),
        ({"a": {"mode": "isolated", "routes": []}}, "routes: is no option of a isolated network"),
        # Addresses that nobody can have, in any spelling.
        ({"a": {"mode": "nat", "addresses": ["10.0.0.1/0"]}}, "the prefix is too short: 0.0.0.0/0 holds 0.0.0.0/8"),
        ({"a": {"mode": "nat", "addresses": ["10.0.0.1/1"]}}, "the prefix is too short"),
        ({"a": {"mode": "nat", "addresses": ["0.0.0.1/8"]}}, "0.0.0.1 can't be a host's own: no address of 0.0.0.0/8 can"),
        ({"a": {"mode": "nat", "addresses": ["240.0.0.1/24"]}}, "240.0.0.1 can't be a host's own"),
        ({"a": {"mode": "nat", "addresses": ["::ffff:10.0.0.1/120"]}}, "one of IPv6: write 10.0.0.1/PREFIX"),
        ({"a": {"mode": "nat", "addresses": ["fe80::1%eth0/64"]}}, "'fe80::1%eth0/64' is not ADDRESS/PREFIX"),
        ({"a": {"mode": "nat", "addresses": ["fd00::/64"]}}, "fd00:: is the network or broadcast address of fd00::/64"),
        ({"a": {"mode": "nat", "addresses": ["fd00::1/128"]}}, "give its prefix, as in fd00::1/64"),
        ({"a": {"mode": "nat", "addresses": ["fd00::1/64", "FD00:0::1/64"]}}, "fd00::1/64 is listed twice"),
        ({"a": {"mode": "nat", "addresses": ["10.0.0.1/24", "10.0.0.1/25"]}}, "10.0.0.1/25 is listed twice"),
        ({"a": {"mode": "nat", "addresses": ["10.0.0.1/24", "10.0.0.2/16"]}}, "10.0.0.0/16 overlaps 10.0.0.0/24: give both"),
        ({"a": {"mode": "nat", "addresses": ["fe80::1/64"]}}, "addresses: are link-local, which nobody routes"),
        ({"a": {"mode": "routed", "addresses": ["10.0.0.1/32"]}}, "subnets: is required, as in [203.0.113.7]"),
        ({"a": {"mode": "routed", "addresses": ["fe80::1/64"], "subnets": ["fe80::/64"]}}, "fe80::/64 is link-local"),
        ({"a": {"mode": "routed", "addresses": ["10.0.0.1/32"], "subnets": ["10.0.0.1"]}}, "10.0.0.1/32 is Dom0's own address"),
        ({"a": {"subnets": ["::ffff:10.0.0.0/120"]}}, "::ffff:a00:0/120 can't be domains' own: no address of ::ffff:0:0/96 can"),
        ({"a": {"subnets": ["0.0.0.0/1"]}}, "subnets: 0.0.0.0/1 can't be domains' own"),
        ({"a": {"gateway": "255.255.255.255"}}, "gateway: is '255.255.255.255', must be an IPv4 address of a router"),
        ({"a": {"gateway6": "::ffff:192.0.2.1"}}, "gateway6: is '::ffff:192.0.2.1', must be an IPv6 address of a router"),
        ({"a": {"gateway6": "fe80::1%eth0"}}, "without a prefix or zone"),
        ({"a": {"subnets": ["192.0.2.0/24"], "gateway": "192.0.2.255"}}, "192.0.2.255 is the network or broadcast address of"),
    ],
)
def test_each_mistake_is_one_line(networks, words):
    lines = read_networks(networks)[1]
    assert any(words in line for line in lines), lines


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"mode": "nat", "addresses": ["10.77.0.129/25"]}, "xen_host_networks.b: 10.77.0.128/25 overlaps 10.77.0.0/24 of a"),
        ({"mode": "isolated", "subnets": ["10.0.0.0/8"]}, "10.0.0.0/8 overlaps 10.77.0.0/24 of a"),
        ({"mode": "bridged", "uplink": "a"}, "xen_host_networks.b: uplink: a is a network itself"),
        ({"mode": "nat", "addresses": ["10.79.0.1/24"], "uplink": "a"}, "b: uplink: a is itself a network of mode nat"),
        (
            {"mode": "nat", "addresses": ["10.79.0.1/24"], "routes": ["10.77.0.128/25 via 10.79.0.9"]},
            "xen_host_networks.b: 10.77.0.128/25 overlaps 10.77.0.0/24 of a",
        ),
        (
            {"mode": "routed", "addresses": ["10.77.0.9/32"], "subnets": ["192.0.2.7"]},
            "b: addresses: 10.77.0.9 is in 10.77.0.0/24 of a",
        ),
    ],
)
def test_two_networks_that_claim_the_same(second, words):
    lines = read_networks({"a": {"mode": "nat", "addresses": ["10.77.0.1/24"]}, "b": second})[1]
    assert any(words in line for line in lines), lines


def test_a_device_is_under_one_bridge():
    lines = read_networks({"a": {"uplink": "eth1"}, "b": {"uplink": "eth1"}})[1]
    assert lines == ["xen_host_networks.b: uplink: eth1 is under a already; a device is in one bridge: use a vlan"]
    assert read_networks({"a": {"uplink": "eth1"}, "b": {"uplink": "eth1", "vlan": 5}})[1] == []


def test_a_vlan_carries_no_larger_frames_than_the_device_under_it():
    both = {"a": {"uplink": "eth1", "mtu": 1500}, "b": {"uplink": "eth1", "vlan": 5, "mtu": 9000}}
    assert read_networks(both)[1] == ["xen_host_networks.b: mtu: is 9000, but eth1, which the VLAN is on, carries 1500 (a)"]
    assert read_networks({**both, "a": {"uplink": "eth1", "mtu": 9000}})[1] == []


@pytest.mark.parametrize("prefix", ["10.0.0.1/31", "10.0.0.0/31", "2001:db8::/127", "2001:db8::1/127"])
def test_a_link_of_two_has_no_address_that_is_nobodys(prefix):
    assert read_networks({"a": {"mode": "routed", "addresses": [prefix]}})[1] == []


def test_dom0_may_have_the_hosts_own_address_on_a_routed_network_too():
    declared = {
        "xenbr0": {"uplink": "auto", "subnets": ["192.0.2.0/24"]},
        "single": {"mode": "routed", "addresses": ["192.0.2.10/32"], "subnets": ["198.51.100.7"]},
    }
    assert read_networks(declared)[1] == []


def test_the_uplink_of_a_routed_network_is_that_of_the_default_route_unless_it_is_named():
    networks = {"a": {"mode": "nat", "addresses": ["10.0.0.1/24"], "uplink": ""}}
    assert read_networks(networks)[0]["a"].uplink == "auto"


def test_where_the_bridges_are_made_by_somebody_else_their_kinds_are_enough():
    assert read_networks({"xenbr1": {"mode": "nat"}}, managed=False)[1] == []


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12) | st.sampled_from(
        ["10.0.0.1/24", "fe80::1%eth0", "auto", "nat", "0.0.0.0/0", "::1/0", "1" * 30]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from(["mode", "uplink", "vlan", "addresses", "subnets", "gateway", "gateway6", "proxy", "mtu", "routes", "x"])


@given(st.dictionaries(st.text(max_size=17), st.dictionaries(KEYS, ANY, max_size=5) | ANY, max_size=3) | ANY)
def test_any_value_is_read_or_refused_in_lines(value):
    networks, lines = read_networks(value)
    assert all(line.startswith("xen_host_networks") for line in lines)
    for network in networks.values():
        assert network.mode in MODES and len(network.name) <= 15
        assert all(prefix.prefixlen >= 0 for prefix in network.prefixes)
