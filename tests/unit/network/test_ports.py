"""How a bridge and its neighbours learn where a domain is."""

from ansible_collections.unikernels.xen.plugins.module_utils.network.antispoof import UNFILTERED
from ansible_collections.unikernels.xen.plugins.module_utils.network.ports import announcement, led

from tests.wire import frames

MAC = "00:16:3e:00:00:01"


def test_an_unfiltered_vif_may_have_other_macs_behind_it():
    assert [command[1] for command in led("vif1.0", MAC, "10.0.0.1")] == ["fdb", "link"]
    assert [command[1] for command in led("vif1.0", MAC, "")] == ["fdb", "link"]
    assert [command[1] for command in led("vif1.0", MAC, UNFILTERED)] == ["fdb"]
    assert led("vif1.0", MAC, "")[0][-2:] == ["static", "sticky"]


def test_ipv4_is_announced_by_arp():
    wanted = frames.arp(1, frames.ADDRESS, MAC, frames.ADDRESS)
    assert announcement(MAC, frames.ADDRESS + "/24") == wanted[:42]


def test_ipv6_is_announced_by_a_neighbour_advertisement_to_all():
    wanted = frames.ether6(frames.neighbour(136, frames.ADDRESS6, option=frames.link_option(2, MAC)))
    assert announcement(MAC, frames.ADDRESS6 + "/64") == wanted
    assert announcement(MAC, frames.ADDRESS6) == wanted
