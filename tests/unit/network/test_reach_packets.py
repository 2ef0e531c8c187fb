"""What reaches a domain, and what it reaches: the product's rules on real packets, on a bridge and where Dom0 routes."""

import json
import sys

import pytest

from tests.networks.reach import DECLARED

from .in_namespaces import output_of

# From the tables of DECLARED: who may ask what, and who may be asked.
MAY_ASK = {
    "web": {"tcp/443", "udp/53"},
    "work": set(),
    "mute": {"tcp/443"},
    "free": {"tcp/22", "tcp/443", "udp/53", "udp/123"},
}
MAY_OPEN = {
    "web": {("outside", "tcp/5432"), ("outside", "udp/123")},
    "work": {(place, port) for place in ("outside", "elsewhere") for port in ("tcp/22", "tcp/5432", "udp/53", "udp/123")},
    "mute": set(),
}
MAY_OPEN["free"] = MAY_OPEN["work"]


@pytest.fixture(scope="module")
def host():
    return json.loads(output_of([sys.executable, "-m", "tests.networks.reach"], 500))


def expected(name):
    """Of a probe's name: source, target, protocol and port, what is special."""
    source, target, port, *more = name.split()
    if target in ("outside", "elsewhere"):
        kind = source.partition("-")[0]
        special = more[:1] == ["from"]
        return ((target, port) in MAY_OPEN[kind] and not special) or (special and kind in ("work", "free"))
    kind = target.partition("-")[0]
    if more[:1] == ["from"]:
        return kind == "free"
    return port in MAY_ASK[kind] or (kind, source, port) == ("web", "elsewhere", "tcp/22")


def test_without_rules_all_pass(host):
    """Else the table would show nothing."""
    assert [name for name, passed in host["without"].items() if not passed] == []


@pytest.mark.parametrize("when", ["with", "with br_netfilter"])
def test_each_probe_passes_as_declared(host, when):
    """Both ways, IPv4 and IPv6, bridged and routed: what is no answer passes only where a list has it."""
    assert len(host[when]) > 300
    assert {name: passed for name, passed in host[when].items() if passed is not expected(name)} == {}


def test_ping_is_an_entry_like_others(host):
    for name, passed in host["pings"].items():
        first, second, _version = name.split()
        kind = (second if first == "outside" else first).partition("-")[0]
        wanted = kind in ("web", "free") if first == "outside" else kind in ("work", "free")
        assert passed is wanted, name


def test_the_link_local_address_is_no_way_around(host):
    assert {name for name, passed in host["link local"].items() if passed} == {"web tcp/443", "mute tcp/443", "free tcp/22",
                                                                                "free tcp/443"}  # fmt: skip


def test_what_is_for_all_is_not_for_a_domain_that_accepts_some_things_alone(host):
    assert host["shouted"] == {kind: "all" if kind == "free" else "nothing" for kind in DECLARED}


def test_connections_survive_the_first_rules_and_each_change(host):
    assert host["held"] == [[word] * 2 for word in ("before", "loaded", "again")]


def test_dom0_reaches_every_port(host):
    """Its health checks are not in a user's list."""
    assert len(host["dom0"]) == 16 and all(host["dom0"].values())
