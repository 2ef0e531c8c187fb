"""What is asked from outside Dom0, and from where."""

import ipaddress

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Health
from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import Guests, Published
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import read_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.outside import PlaceError, as_neighbours, from_controller
from ansible_collections.unikernels.xen.plugins.module_utils.network.reach import Limits, Rule
from hypothesis import given
from hypothesis import strategies as st

NETWORKS = read_networks(
    {
        "xenbr0": {"uplink": "auto", "subnets": ["192.0.2.0/24"], "gateway": "192.0.2.1"},
        "inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"]},
        "routed": {"mode": "routed", "addresses": ["10.255.0.1/32", "fe80::1/64"], "subnets": ["203.0.113.7", "2001:db8:7::/64"]},
        "shut": {"mode": "isolated", "addresses": ["10.88.0.1/30"]},
    }
)[0]


def domain(name, bridge, *addresses, **more):
    options = dict(zip(("address", "address6"), addresses))
    return {"name": name, "interfaces": [{"bridge": bridge, **options, **more}]}


def check(address, port=80, kind="tcp", **more):
    return Health(kind=kind, target=f"{address}:{port}", address=address, port=port, **more)


WWW = domain("www", "inside", "10.77.0.254/24", "fd77::10/64")


def neighbours(domains, checks, guests=None, places=None):
    return as_neighbours(NETWORKS, checks, domains, guests or Guests(), places or {})


def test_a_neighbour_stands_at_a_free_address_of_the_network():
    (one,), skipped = neighbours([WWW], [("www", check("10.77.0.254"))])
    assert skipped == [] and one.place.network == "inside"
    # 10.77.0.254 is the domain's.
    assert one.place.addresses == ("10.77.0.253/24", "fd77::ffff/64") and one.place.gateways == ("10.77.0.1", "fd77::1")
    assert one.checks == (("www", check("10.77.0.254", within=10)),)


def test_what_a_domain_may_send_from_is_not_free():
    claiming = domain("vpn", "inside", "10.77.0.9/24", ip="10.77.0.128/25")
    (one,), _skipped = neighbours([claiming], [("vpn", check("10.77.0.9"))])
    assert one.place.addresses[0] == "10.77.0.127/24"


def test_each_network_is_asked_from_a_place_of_its_own():
    routed = domain("r", "routed", "203.0.113.7/32", "2001:db8:7::9/64")
    rounds, skipped = neighbours(
        [WWW, routed], [("www", check("fd77::10")), ("r", check("2001:db8:7::9")), ("r", check("203.0.113.7"))]
    )
    assert [(one.place.network, len(one.checks)) for one in rounds] == [("inside", 1), ("routed", 1)]
    # Of a single address none is left.
    assert skipped == ["domain r: network routed has no IPv4 address to ask from"]
    assert rounds[1].place.addresses == ("2001:db8:7::ffff/64",) and rounds[1].place.gateways == ("fe80::1",)


def test_no_foreign_mac_is_shown_to_a_provider_unasked():
    there = domain("www", "xenbr0", "192.0.2.20/24")
    rounds, skipped = neighbours([there], [("www", check("192.0.2.20"))])
    assert rounds == []
    assert skipped == ["domain www: network xenbr0 has no address to ask from: name one that nobody has in verify_neighbours"]
    (one,), skipped = neighbours([there], [("www", check("192.0.2.20"))], places={"xenbr0": ["192.0.2.250/24"]})
    assert one.place.addresses == ("192.0.2.250/24",) and one.place.gateways == ("192.0.2.1",) and skipped == []


def test_a_bridge_that_nobody_declared_is_asked_from_where_the_user_says():
    there = domain("www", "br7", "192.0.2.20/24")
    (one,), _skipped = neighbours([there], [("www", check("192.0.2.20"))], places={"br7": ["192.0.2.250/24"]})
    assert one.place.gateways == ()


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (check("10.77.0.9"), "10.77.0.9 is not an address of one of its interfaces"),
        (check("www.example.org"), "www.example.org is not an address of one of its interfaces"),
        (check("", kind="command"), "a check of kind command is made in Dom0 alone"),
    ],
)
def test_what_can_not_be_asked_from_there_is_named(health, words):
    assert neighbours([WWW], [("www", health)]) == ([], [f"domain www: {words}"])


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        ((Rule("tcp", 80, 80),), True),
        ((Rule("any"),), True),
        ((Rule("tcp", 80, 80, ("10.77.0.0/24",)),), True),
        ((Rule("tcp", 80, 80, ("192.0.2.0/24", "2001:db8::/64")),), False),
        ((Rule("udp", 80, 80),), False),
        ((Rule("tcp", 443, 443),), False),
        ((), False),
    ],
)
def test_what_accept_refuses_is_not_asked(rules, asked):
    rounds, skipped = neighbours([WWW], [("www", check("10.77.0.254"))], Guests(limits=[Limits("www", rules)]))
    assert bool(rounds) is asked
    assert skipped == ([] if asked else ["domain www: accept does not let 10.77.0.253 of network inside in"])


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ("192.0.2.250/24", "verify_neighbours.xenbr0: must be a list of ADDRESS/PREFIX"),
        ([], "must be a list"),
        ([5], "must be a list"),
        (["192.0.2.250"], "'192.0.2.250' is not ADDRESS/PREFIX"),
        (["fe80::1%eth0/64"], "is not ADDRESS/PREFIX"),
        (["192.0.2.1/24"], "192.0.2.1 is Dom0's, the gateway's or a domain's"),
        (["192.0.2.20/24"], "192.0.2.20 is Dom0's, the gateway's or a domain's"),
        (["10.0.0.9/24"], "10.0.0.9 is outside network xenbr0 (192.0.2.0/24)"),
        (["192.0.2.250/24", "192.0.2.251/24"], "has two addresses of IPv4"),
    ],
)
def test_a_place_that_is_somebody_elses_is_refused(addresses, words):
    there = domain("www", "xenbr0", "192.0.2.20/24")
    with pytest.raises(PlaceError) as error:
        neighbours([there], [("www", check("192.0.2.20"))], places={"xenbr0": addresses})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_controller_asks_as_clients_do():
    routed, shut = domain("r", "routed", "203.0.113.7/32"), domain("s", "shut", "10.88.0.2/30")
    published = [Published("www", "tcp", 8443, 443, address, "inside") for address in ("fd77::10", "10.77.0.254")]
    asked, skipped = from_controller(
        NETWORKS,
        [
            ("www", check("10.77.0.254", 443, "http", tls=True, ca="/etc/ca.pem", host="www.example.org")),
            ("www", check("10.77.0.254", 53, "dns")),
            ("r", check("203.0.113.7", 1194, "openvpn", transport="tcp", key="/k")),
            ("r", check("203.0.113.7", 1194, "openvpn", transport="udp", key="/k")),
            ("s", check("10.88.0.2")),
        ],
        [WWW, routed, shut],
        Guests(published),
        "host.example.org",
    )
    assert [(name, one.kind, one.address, one.port) for name, one in asked] == [
        ("www", "http", "host.example.org", 8443),
        ("r", "tcp", "203.0.113.7", 1194),
    ]
    # The certificate's authorities are a file of the host.
    assert (asked[0][1].ca, asked[0][1].insecure, asked[0][1].host) == ("", True, "www.example.org")
    assert skipped == [
        "domain www: udp/53 is not published",
        "domain r: a check of kind openvpn is made on the host alone",
        "domain s: network shut is isolated: nobody outside reaches it",
    ]


def test_a_port_that_is_published_at_one_address_is_asked_there():
    published = [Published("www", "tcp", 80, 80, "10.77.0.254", "inside", "192.0.2.9")]
    asked, _skipped = from_controller(NETWORKS, [("www", check("10.77.0.254"))], [WWW], Guests(published), "host")
    assert asked[0][1].address == "192.0.2.9"


ADDRESS = st.sampled_from(["10.77.0.9/24", "10.77.0.254/24", "fd77::ffff/64", "10.88.0.2/30", "x", "10.77.0.128/25"])
DOMAINS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("abc")},
        optional={
            "interfaces": st.none()
            | st.lists(
                st.fixed_dictionaries(
                    {"bridge": st.sampled_from(["inside", "shut", "gone"])}, optional={"address": ADDRESS, "ip": ADDRESS}
                )
                | st.none()
            )
        },
    ),
    max_size=4,
)


@given(DOMAINS, st.lists(st.tuples(st.sampled_from("abc"), ADDRESS), max_size=4))
def test_each_check_is_asked_or_named_and_never_from_an_address_that_somebody_has(domains, asked):
    checks = [(name, check(address.partition("/")[0])) for name, address in asked]
    rounds, skipped = neighbours(domains, checks)
    assert sum(len(one.checks) for one in rounds) + len(skipped) == len(checks)
    held = {
        one["address"].partition("/")[0] for item in domains for one in item.get("interfaces") or [] if one and "address" in one
    }
    own = {str(one.ip) for network in NETWORKS.values() for one in network.own}
    for one in rounds:
        for place in map(ipaddress.ip_interface, one.place.addresses):
            assert str(place.ip) not in held | own
            assert any(place.ip in prefix for prefix in NETWORKS[one.place.network].prefixes if prefix.version == place.version)
