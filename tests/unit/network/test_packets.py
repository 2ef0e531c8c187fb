"""What passes between a host's networks: the product's rules with real packets, in network namespaces."""

import json
import sys

import pytest

from tests.networks.packets import PLACES

from .in_namespaces import output_of

OPEN = {"routed", "single"}
NAT = {"inside", "beside", "second"}
SHUT = {"shut", "shut2"}


@pytest.fixture(scope="module")
def host():
    return json.loads(output_of([sys.executable, "-m", "tests.networks.packets"]))


def wanted(source, target):
    if source in SHUT or target in SHUT:
        return {source, target} == SHUT
    if target in NAT:
        return {source, target} == {"inside", "beside"}
    return True


def test_each_network_reaches_and_is_reached_as_its_kind_says(host):
    """For both families: nat only outwards, routed both ways, isolated neither; neighbours reach each other."""
    places = [*PLACES, "outside"]
    expected = {f"{one} to {two}": [wanted(one, two)] * 2 for one in places for two in places if one != two}
    assert {pair: passed for pair, passed in host["passes"].items() if passed != expected[pair]} == {}
    assert len(host["passes"]) == len(expected) == 56


def test_what_is_published_is_reached_with_the_clients_own_address(host):
    published = host["published"]
    assert published["outside"] == ["192.0.2.1", "2001:db8::1"]
    assert published["routed"] == ["203.0.113.66", "2001:db8:7::10"]
    assert published["single"] == ["192.0.2.77", "2001:db8::77"]
    assert published["second"] == ["10.78.0.10", "fd78::10"]
    # The answer to a neighbour must return through Dom0.
    assert published["beside"] == ["10.77.0.1", "fd77::1"]
    assert published["shut"] == ["", ""]


def test_only_what_is_published_is_reached(host):
    assert host["directly"] == ["", ""]


def test_a_source_of_another_network_leaves_none(host):
    assert host["forged"] is False


def test_what_is_behind_a_domain_is_reached_as_the_domain_itself(host):
    """[reaches the world, is reached from there]: a nat network's only outwards, with the host's address."""
    assert host["behind"] == {"10.8.0.1": [True, False], "198.51.100.1": [True, True], "2001:db8:8::1": [True, True]}


def test_neighbours_reach_each_other_where_docker_sends_what_crosses_a_bridge_through_the_same_hooks(host):
    assert host["neighbours"] == [True] * 4
