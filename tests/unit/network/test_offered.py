"""Which networks a host offers: the declared ones, or the default bridge if it has to be created."""

import pytest
from ansible_collections.unikernels.xen.plugins.filter.networks import FilterModule
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import read_networks

FILTERS = FilterModule().filters()
HOST = {"bridges": {}, "network_style": "ifupdown", "offered": {}}
ONE = {"xenbr0": {"mode": "bridged", "uplink": "auto"}}


@pytest.mark.parametrize(
    ("host", "uplink", "wanted"),
    [
        (HOST, "", {}),
        ({**HOST, "network_style": "ifupdown in interfaces.d"}, "", {}),
        ({**HOST, "network_style": "netplan"}, "", ONE),
        ({**HOST, "network_style": "netplan", "bridges": {"xenbr0": []}}, "", {}),
        ({**HOST, "network_style": "netplan", "bridges": {"xenbr0": []}, "offered": {"xenbr0": []}}, "", ONE),
        (
            {**HOST, "bridges": {"xenbr0": []}, "offered": {"inside": []}},
            "eth1",
            {"xenbr0": {"mode": "bridged", "uplink": "eth1"}},
        ),
    ],
)
def test_the_one_bridge_is_offered_where_it_has_to_be_made(host, uplink, wanted):
    found = FILTERS["offered_networks"]({}, host, "xenbr0", uplink)
    assert found == wanted and read_networks(found)[1] == []


def test_what_is_declared_is_offered():
    assert FILTERS["offered_networks"]({"shut": {"mode": "isolated"}}, HOST, "xenbr0", "") == {"shut": {"mode": "isolated"}}


@pytest.mark.parametrize(
    ("networks", "wanted"),
    [
        ({}, "br7"),
        ({"public": {"uplink": "auto", "vlan": 5}, "main": {"uplink": "auto"}}, "main"),
        ({"inside": {"mode": "nat", "uplink": "auto"}, "odd": None}, ""),
    ],
)
def test_the_bridge_with_the_uplinks_addresses(networks, wanted):
    assert FILTERS["main_bridge"](networks, "br7") == wanted
