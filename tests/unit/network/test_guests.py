"""A host's unikernels on its networks: what an interface gets, what is published, and every refusal."""

import copy

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import Guests, guests_of, on_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import read_networks
from hypothesis import given
from hypothesis import strategies as st

NETWORKS = {
    "xenbr0": {"uplink": "auto", "subnets": ["192.0.2.0/24", "198.51.100.16/28"], "gateway": "192.0.2.1", "gateway6": "fe80::1"},
    "routed": {"mode": "routed", "addresses": ["10.255.255.1/32", "fe80::1/64"], "proxy": True,
               "subnets": ["203.0.113.7", "2001:db8:7::/64"]},
    "inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"], "mtu": 9000},
    "shut": {"mode": "isolated", "addresses": ["10.88.0.1/24"]},
    "open": {"uplink": "eth1"},
}  # fmt: skip


def placed(*unikernels, ssh=22):
    lines = []
    found = copy.deepcopy([{"name": f"u{index}", **one} for index, one in enumerate(unikernels)])
    networks, wrong = read_networks(NETWORKS)
    assert wrong == []
    guests = on_networks(networks, found, ssh, lines.append)
    return found, guests, lines


def interface(**options):
    found, _guests, lines = placed({"interfaces": [options]})
    assert lines == []
    return found[0]["interfaces"][0]


def test_a_nat_network_is_the_gateway_of_its_domains_and_gives_them_its_mtu():
    assert interface(network="inside", address="10.77.0.10/24", address6="fd77::10/64") == {
        "bridge": "inside", "address": "10.77.0.10/24", "address6": "fd77::10/64", "gateway": "10.77.0.1", "gateway6": "fd77::1",
        "mtu": 9000,
    }  # fmt: skip


def test_a_single_routed_address_has_dom0_as_its_gateway():
    assert interface(network="routed", address="203.0.113.7/32", address6="2001:db8:7::7/64") == {
        "bridge": "routed", "address": "203.0.113.7/32", "gateway": "10.255.255.1", "address6": "2001:db8:7::7/64",
        "gateway6": "fe80::1",
    }  # fmt: skip


def test_another_subnet_on_the_wire_reaches_its_gateway():
    assert interface(network="xenbr0", address="198.51.100.17/28") == {
        "bridge": "xenbr0", "address": "198.51.100.17/28", "gateway": "192.0.2.1", "gateway_on_link": True,
    }  # fmt: skip


def test_what_the_user_declares_stays():
    assert interface(network="xenbr0", address="192.0.2.9/24", gateway="192.0.2.254", mtu=1400)["gateway"] == "192.0.2.254"
    assert interface(network="shut", address="10.88.0.9/24") == {"bridge": "shut", "address": "10.88.0.9/24"}
    assert interface(bridge="inside", address="10.77.0.9/24") == {"bridge": "inside", "address": "10.77.0.9/24"}
    assert interface(bridge="br7", address="10.0.0.9/24") == {"bridge": "br7", "address": "10.0.0.9/24"}


def test_only_ipv6():
    assert interface(network="inside", address="fd77::9/64")["gateway"] == "fd77::1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "inisde"}, "interfaces[0]: network: 'inisde' is not in xen_host_networks (known: inside, open, "),
        ({"network": 7}, "network: 7 is not in xen_host_networks"),
        ({"network": "inside", "bridge": "inside"}, "network: is given beside bridge: remove one of them"),
        ({"network": "inside", "address": "10.78.0.9/24"}, "address: 10.78.0.9 is outside network inside (10.77.0.0/24)"),
        ({"bridge": "inside", "address": "10.78.0.9/24"}, "is outside network inside"),
        ({"network": "inside", "address": "10.77.0.1/24"}, "address: 10.77.0.1 is the host's own on inside"),
        ({"network": "inside", "address": "10.77.0.9/8"}, "/8 is wider than network inside (10.77.0.0/24): write 10.77.0.9/24"),
        ({"network": "shut", "address": "fd00::9/64"}, ""),
        ({"network": "inside", "address": "10.77.0.9/24", "gateway": "10.77.0.2"}, "10.77.0.2 is not Dom0's address on the"),
        ({"network": "open", "address": "10.1.0.9/24", "gateway": "10.2.0.1"}, "10.2.0.1 can't be reached: it is not"),
        ({"network": "inside", "address": "10.77.0.9/24", "ip": "10.77.0.0/16"}, "10.77.0.0/16 holds the whole network"),
        ({"network": "inside", "mtu": 9001}, "mtu: is 9001, but network inside carries 9000"),
        ({"network": "inside", "mtu": "9001"}, "mtu: is 9001, but network inside carries 9000"),
        ({"network": "shut", "mtu": 9000}, "mtu: is 9000, but network shut carries 1500: set the network's mtu"),
        ({"network": "open", "mtu": 9000}, ""),
        ({"network": "inside", "address": "10.77.0.255/32"}, "10.77.0.255 is the network or broadcast address of 10.77.0.0/24"),
        ({"network": "inside", "address6": "fd77::/64"}, "fd77:: is the network or broadcast address of fd77::/64"),
        ({"network": "inside", "address6": "FD77:0::1/64"}, "address6: fd77::1 is the host's own on inside"),
        ({"network": "xenbr0", "address": "192.0.2.1/24"}, "address: 192.0.2.1 is the gateway of network xenbr0"),
        ({"network": "xenbr0", "address": "192.0.2.0/32"}, "192.0.2.0 is the network or broadcast address of 192.0.2.0/24"),
        ({"network": "inside", "address": "10.77.0.9/24", "ip": "10.77.0.1"}, "ip: is 10.77.0.1, the host's own on inside"),
        ({"network": "inside", "address": "10.77.0.200/24", "ip": "10.77.0.0/25"}, "10.77.0.0/25 holds 10.77.0.1, the host's"),
        ({"network": "xenbr0", "address": "192.0.2.9/24", "ip": "192.0.2.1"}, "ip: is 192.0.2.1, the gateway of xenbr0"),
        ({"network": "xenbr0", "address": "192.0.2.9/24", "ip": "192.0.2.128/25"}, ""),
        ({"network": "xenbr0", "address": "192.0.2.9/24", "ip": "10.8.0.0/24"}, ""),
        ({"network": "inside", "address": "10.77.0.9/24", "ip": "10.77.0.32/28 fe80::9"}, ""),
        ({"network": "inside", "address": "10.77.0.9/24", "ip": "10.8.0.0/24"},
         "ip: 10.8.0.0/24 is beside network inside, and Dom0 has no route to it: add '10.8.0.0/24 via 10.77.0.9' to"),
        ({"network": "inside", "address": "10.77.0.9/24", "ip": "fd08::/64"},
         "ip: fd08::/64 is beside network inside, and Dom0 has no route to it: add 'fd08::/64 via ADDRESS' to the network's"),
    ],
)  # fmt: skip
def test_each_mistake_of_an_interface_is_one_line(options, words):
    lines = placed({"interfaces": [options]})[2]
    assert (words and any(words in line for line in lines)) or not (words or lines), lines


def test_what_is_behind_a_domain_needs_a_route_of_its_network():
    declared = {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24"], "routes": ["10.8.0.0/23 via 10.77.0.9"]}}
    networks, lines = read_networks(declared)
    interface = {"network": "inside", "address": "10.77.0.9/24", "ip": "10.8.1.0/24"}
    on_networks(networks, [{"name": "a", "interfaces": [interface]}], 22, lines.append)
    assert lines == []


def test_an_address_of_a_family_that_the_network_does_not_have():
    lines = []
    networks = read_networks({"inside": {"mode": "nat", "addresses": ["10.77.0.1/24"]}})[0]
    on_networks(networks, [{"name": "a", "interfaces": [{"network": "inside", "address": "fd00::1/64"}]}], 22, lines.append)
    assert lines == ["domain a: interfaces[0]: address: network inside has no IPv6 subnet: add one to it"]


def test_each_address_that_is_routed_to_the_host_may_be_a_domains():
    lines = []
    networks = read_networks({"r": {"mode": "routed", "addresses": ["10.255.0.1/32"], "subnets": ["203.0.113.64/29"]}})[0]
    edges = [{"name": f"u{last}", "interfaces": [{"network": "r", "address": f"203.0.113.{last}/32"}]} for last in (64, 71)]
    on_networks(networks, edges, 22, lines.append)
    assert lines == []


def test_a_family_without_a_gateway_is_refused_where_dom0_routes():
    lines = []
    networks = read_networks({"r": {"mode": "routed", "addresses": ["10.255.0.1/32"], "subnets": ["2001:db8:7::/64"]}})[0]
    on_networks(networks, [{"name": "a", "interfaces": [{"network": "r", "address6": "2001:db8:7::9/64"}]}], 22, lines.append)
    assert lines == [
        "domain a: interfaces[0]: address6: Dom0 has no IPv6 address on network r to send through: add one to its addresses,"
        " as in fe80::1/64"
    ]


KEYS = ["network", "bridge", "address", "address6", "gateway", "mtu", "ip", "port", "to", "protocol"]
INSIDE = {"interfaces": [{"network": "inside", "address": "10.77.0.10/24", "address6": "fd77::10/64"}]}


def test_a_port_is_published_for_each_family_of_the_domain():
    found, guests, lines = placed(
        {**INSIDE, "publish": [{"port": 443, "to": 8443}, {"port": 53, "protocol": "udp", "address": "192.0.2.9"}]}
    )
    assert lines == [] and "publish" not in found[0]
    assert [(one.protocol, one.port, one.to, one.target, one.address) for one in guests.published] == [
        ("tcp", 443, 8443, "10.77.0.10", ""),
        ("tcp", 443, 8443, "fd77::10", ""),
        ("udp", 53, 53, "10.77.0.10", "192.0.2.9"),
    ]
    assert guests_of(guests.plain()) == guests


@pytest.mark.parametrize(
    ("publish", "words"),
    [
        ({"port": 443}, "publish: must be a list of mappings"),
        ([{"to": 443}], "publish[0]: port: is None, must be a port 1..65535"),
        ([{"port": 70000}], "publish[0]: port: is 70000"),
        ([{"port": "http"}], "port: is 'http', must be a port"),
        ([{"port": 80, "protocol": "icmp"}], "protocol: is 'icmp', must be one of tcp, udp"),
        ([{"port": 80, "adress": "192.0.2.1"}], "unknown key 'adress'; known are port, to, protocol, address, network"),
        ([{"port": 80, "address": "here"}], "address: is 'here', must be an address of the host"),
        ([{"port": 80, "address": "::ffff:192.0.2.2"}], "address: is '::ffff:192.0.2.2', must be an address of the host"),
        ([{"port": 80, "address": "fe80::1%eth0"}], "address: is 'fe80::1%eth0', must be"),
        ([{"port": 80, "address": "fe80::1"}], "address: is 'fe80::1', must be"),
        ([{"port": 80, "address": "127.0.0.1"}], "address: is '127.0.0.1', must be"),
        ([{"port": 80, "address": "0.0.0.0"}], "address: is '0.0.0.0', must be"),
        ([{"port": 80, "address": "::"}], "address: is '::', must be"),
        ([{"port": 80, "address": True}], "address: is True, must be"),
        ([{"port": 80, "address": 3221225986}], "address: is 3221225986, must be"),
        ([{"port": "8000-8010"}], "port: is '8000-8010', must be a port"),
        ([{"port": 80, "to": "9000-9010"}], "to: is '9000-9010', must be a port"),
        ([{"port": 22}], "tcp port 22 is the host's own sshd's: publish another"),
        ([{"port": 80}, {"port": 80, "to": 81}], "tcp port 80 is published for it already"),
        ([{"port": 80, "network": "outside"}], "network: 'outside' is not in xen_host_networks"),
        ([{"port": 80, "network": "shut"}], "has no address on a nat network shut"),
    ],
)
def test_each_mistake_of_publish_is_one_line(publish, words):
    lines = placed({**INSIDE, "publish": publish})[2]
    assert sum(words in line for line in lines) == len(lines) == 1, lines


def test_a_port_is_published_for_one_domain():
    other = {"interfaces": [{"network": "inside", "address": "10.77.0.11/24"}]}
    lines = placed({**INSIDE, "publish": [{"port": 80}]}, {**other, "publish": [{"port": 80}]})[2]
    assert lines == ["domain u1: publish: tcp port 80 is published for domain u0 already"]
    both = placed({**INSIDE, "publish": [{"port": 80}]}, {**other, "publish": [{"port": 80, "protocol": "udp"}]})
    assert both[2] == []
    gone = placed({**INSIDE, "publish": [{"port": 80}]}, {**other, "state": "absent", "publish": [{"port": 80}]})
    assert gone[2] == [] and len(gone[1].published) == 2
    assert placed({**INSIDE, "publish": [{"port": 22}]}, ssh=2222)[2] == []


def test_a_published_port_is_taken_in_its_own_family_and_in_each_spelling_of_an_address():
    six = {"interfaces": [{"network": "inside", "address6": "fd77::11/64"}]}
    four = {"interfaces": [{"network": "inside", "address": "10.77.0.11/24"}]}
    assert placed({**four, "publish": [{"port": 80}]}, {**six, "publish": [{"port": 80}]})[2] == []
    same = [{"port": 80, "address": "2001:db8::1"}], [{"port": "80", "address": "2001:DB8:0::1"}]
    lines = placed({**INSIDE, "publish": same[0]}, {**six, "publish": same[1]})[2]
    assert lines == ["domain u1: publish: tcp port 80 is published for domain u0 already"]


def test_another_port_than_sshs_is_a_port():
    (line,) = placed({**INSIDE, "publish": [{"port": 60022}]}, ssh=60022)[2]
    assert line.endswith("publish another, as in 60021")


def test_what_is_on_no_nat_network_needs_no_publish():
    lines = placed({"interfaces": [{"network": "xenbr0", "address": "192.0.2.9/24"}], "publish": [{"port": 80}]})[2]
    assert lines == ["domain u0: publish[0]: domain u0 has no address on a nat network; others need no publish"]


def test_dom0_answers_for_the_addresses_that_the_provider_expects_on_its_wire():
    routed = {"interfaces": [{"network": "routed", "address": "203.0.113.7/32", "address6": "2001:db8:7::7/64"}]}
    assert placed(routed)[1].proxied == {"routed": ["203.0.113.7", "2001:db8:7::7"]}
    assert placed({**routed, "state": "absent"})[1] == Guests()


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["name", "interfaces", "publish", "state"]),
            st.none() | st.text(max_size=5) | st.integers()
            | st.lists(
                st.dictionaries(
                    st.sampled_from(KEYS),
                    st.none() | st.integers() | st.sampled_from(["inside", "10.77.0.9/24", "::/0", "fe80::1", "tcp", "x y"]),
                )
                | st.integers(),
                max_size=2,
            ),
        ),
        max_size=3,
    )
)  # fmt: skip
def test_any_unikernel_is_placed_or_refused_in_lines(unikernels):
    found, guests, lines = placed(*unikernels)
    assert all("\n" not in line for line in lines)
    assert all("publish" not in one for one in found)
    for interfaces in [one["interfaces"] for one in found if isinstance(one.get("interfaces"), list)]:
        assert all("network" not in one or lines for one in interfaces if isinstance(one, dict) and one.get("bridge"))
    assert all(1 <= one.port <= 65535 for one in guests.published)
