"""What two domains can't both have, and what does not fit the host's networks."""

import dataclasses

from ansible_collections.unikernels.xen.plugins.module_utils.domain.checks import (
    clashes,
    outside_networks,
    shared_disks,
    strangers,
)
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Observed

from .test_declaration import declare


def test_a_running_stranger_clashes():
    stranger = Observed(3, "running", dataclasses.replace(declare().domain, name="other"))
    assert strangers([declare(name="new")], (stranger,)) == [
        "domain new: address 10.0.0.10 on xenbr0 is used by running domain other"
    ]
    mac = {"bridge": "xenbr0", "mac": stranger.domain.interfaces[0].mac}
    assert "mac" in strangers([declare(name="new", interfaces=[mac])], (stranger,))[0]
    assert strangers([declare(name="new"), declare(name="other", state="absent")], (stranger,)) == []


def test_what_xen_kept_of_a_domain_that_crashed_is_in_nobodys_way():
    """on_crash: rename-restart renames it to NAME-TIME, with another UUID, and starts another one of its name."""
    kept = dataclasses.replace(declare().domain, name="www-20261128T0130Z", uuid="6b1a2c54-9d96-4ee4-bd5d-42eb769bb076")
    assert strangers([declare()], (Observed(3, "shutdown", kept),)) == []
    assert len(strangers([declare()], (Observed(3, "paused", kept),))) == 2


def test_a_disk_has_one_writer():
    writer = Observed(3, "running", declare(name="db", interfaces=[], disks=[{"path": "/d", "access": "w"}]).domain)
    reader = declare(interfaces=[], disks=[{"path": "/d"}])
    assert shared_disks([reader], (writer,)) == [
        "domain www: disks: /d is used by domain db; only one domain may open a disk for writing"
    ]
    assert shared_disks([reader, declare(name="b", interfaces=[], disks=[{"path": "/d"}])], ()) == []
    both = [declare(name=name, interfaces=[], disks=[{"path": "/d", "access": "w"}]) for name in ("a", "b")]
    assert len(shared_disks(both, ())) == 2


def test_clashes_are_named():
    one, other = declare(), declare(name="www2")
    assert clashes([one, other]) == ["domains www and www2 have the same address 10.0.0.10 on xenbr0"]
    assert clashes([one, one]) == ["domain www: declared twice; a name is unique on its host"]
    mac = {"interfaces": [{"bridge": "xenbr0", "mac": "00:16:3e:00:00:01"}]}
    assert clashes([declare(**mac), declare(name="b", **mac)]) == ["domains www and b have the same MAC 00:16:3e:00:00:01"]
    assert clashes([one, declare(name="www2", state="absent")]) == []


def test_address_outside_the_bridge_network():
    assert outside_networks([declare()], {"xenbr0": ["10.0.0.1/24"]}) == []
    assert outside_networks([declare()], {}) == []
    assert outside_networks([declare()], {"xenbr0": ["10.9.0.1/24"]}) == [
        "domain www: address 10.0.0.10 is outside the network of xenbr0 (10.9.0.0/24)"
    ]
    assert "the host's own" in outside_networks([declare()], {"xenbr0": ["10.0.0.10/24"]})[0]
