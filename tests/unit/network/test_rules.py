"""What Dom0 forwards: nft accepts every text, and packets pass as each kind of network requires."""

import ipaddress
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import Guests, Published
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import Network, read_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.rules import neighbours, sysctls, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NETWORKS = read_networks(
    {
        "xenbr0": {"uplink": "auto"},
        "routed": {
            "mode": "routed",
            "addresses": ["203.0.113.65/27", "2001:db8:7::1/64"],
            "subnets": ["198.51.100.7"],
            "proxy": True,
        },
        "inside": {
            "mode": "nat",
            "addresses": ["10.77.0.1/24", "fd77::1/64"],
            "routes": ["10.8.0.0/24 via 10.77.0.9", "fd08::/64 via fd77::9"],
        },
        "in-side": {"mode": "nat", "addresses": ["10.78.0.1/24"]},
        "in.side": {"mode": "nat", "addresses": ["10.79.0.1/24"]},
        "shut": {"mode": "isolated"},
    }
)[0]
GUESTS = Guests(
    [
        Published("www", "tcp", 443, 8443, "10.77.0.10", "inside"),
        Published("www", "tcp", 443, 8443, "fd77::10", "inside"),
        Published("dns", "udp", 53, 53, "10.77.0.11", "inside", "192.0.2.9"),
    ],
    {"routed": ["198.51.100.7", "2001:db8:7::7"], "inside": ["10.77.0.10"]},
)


def nft(text):
    if not shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin:/bin"):
        pytest.skip("nft is not installed")
    done = subprocess.run(["unshare", "--net", "nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip(f"nft -c needs a network namespace: {done.stderr.strip()}")
    return done.stderr


def test_nft_takes_the_whole_text():
    assert nft(table(NETWORKS, GUESTS)) == ""
    assert nft(table(NETWORKS, Guests())) == ""


def test_without_a_network_that_needs_it_the_table_goes():
    text = table({"xenbr0": NETWORKS["xenbr0"]}, Guests())
    assert text == "table inet unikernels_networks\ndelete table inet unikernels_networks\n" and nft(text) == ""


def test_no_other_table_is_touched():
    lines = [line for line in table(NETWORKS, GUESTS).splitlines() if not line.startswith(" ") and line not in ("", "}")]
    assert {" ".join(line.replace("{", "").split()[-2:]) for line in lines} == {"inet unikernels_networks"}


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True)
FOUR = st.builds(
    lambda high, length: ipaddress.ip_network((high << 16, length)), st.integers(0x0A00, 0xDFFF), st.integers(16, 32)
)
SIX = st.builds(
    lambda part, length: ipaddress.ip_network((0x20010DB8 << 96 | part << 64, length)), st.integers(0, 9), st.integers(64, 128)
)
PREFIXES = st.lists((FOUR | SIX).map(str), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(["nat", "routed", "isolated"]), PREFIXES), min_size=1, max_size=4))
def test_nft_takes_any_names_and_prefixes(networks):
    found = {name: Network(name, mode, subnets=tuple(prefixes)) for name, (mode, prefixes) in networks.items()}
    assert nft(table(found, Guests())) == ""


def test_the_host_routes_for_its_domains_alone():
    text = sysctls(NETWORKS, ["xenbr0", "xenbr0"], ["xenbr0"])
    assert "net.ipv4.ip_forward" not in text and "net.ipv4.conf.all" not in text
    assert text.count("-net.ipv4.conf.xenbr0.forwarding = 1") == 1 and "-net.ipv4.conf.in/side.forwarding = 1" in text
    # A Linux router ignores advertisements: a host whose own route comes from one would lose it.
    assert text.index("net.ipv6.conf.xenbr0.accept_ra = 2") < text.index("net.ipv6.conf.all.forwarding = 1")
    assert "-net.ipv6.conf.xenbr0.proxy_ndp = 1" in text and "-net.ipv6.conf.inside.accept_ra = 0" in text
    alone = sysctls({"shut": NETWORKS["shut"], "xenbr0": NETWORKS["xenbr0"]}, [])
    assert "forwarding" not in alone and "-net.ipv6.conf.shut.accept_ra = 0" in alone


def test_dom0_answers_at_the_uplink_for_what_is_proxied_alone():
    assert neighbours(NETWORKS, GUESTS, {"routed": "xenbr0", "inside": "xenbr0"}) == [
        ["neigh", "replace", "proxy", "198.51.100.7", "dev", "xenbr0"],
        ["neigh", "replace", "proxy", "2001:db8:7::7", "dev", "xenbr0"],
    ]
