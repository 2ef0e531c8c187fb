"""/etc/network/interfaces: what the uplink had, the bridge gets; the rest stays as it was."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host.interfaces import InterfacesError, bridged

DHCP = "auto lo\niface lo inet loopback\n\nauto ens3\niface ens3 inet dhcp\n"
STATIC = """# the machine's own notes
auto lo ens3
iface lo inet loopback
allow-hotplug ens3
iface ens3 inet static
    address 192.0.2.10/24
    gateway 192.0.2.1
    # keep this
    dns-nameservers 192.0.2.53
iface ens3 inet6 static
    address 2001:db8::10/64
    gateway 2001:db8::1
iface ens4 inet manual
source /etc/network/interfaces.d/*
"""


def test_dhcp():
    assert bridged(DHCP, "ens3", "xenbr0") == (
        "auto lo\niface lo inet loopback\n\nauto xenbr0\niface ens3 inet manual\n\niface xenbr0 inet dhcp\n"
        "    bridge_ports ens3\n    bridge_hw ens3\n    bridge_stp off\n    bridge_fd 0\n"
    )


def test_static_and_ipv6_move_with_all_their_options():
    text = bridged(STATIC, "ens3", "xenbr0")
    lines = text.splitlines()
    assert "auto lo xenbr0" in lines
    assert "iface ens3 inet manual" in lines
    four, six = text.index("iface xenbr0 inet static"), text.index("iface xenbr0 inet6 static")
    assert four < text.index("address 192.0.2.10/24") < text.index("# keep this") < six < text.index("2001:db8::10/64")
    assert text.count("bridge_ports") == 1
    assert lines[0] == "# the machine's own notes"
    assert lines[-1] == "source /etc/network/interfaces.d/*"
    assert "iface ens4 inet manual" in lines
    assert "iface ens3 inet static" not in text


def test_a_second_time_changes_nothing():
    once = bridged(STATIC, "ens3", "xenbr0")
    assert bridged(once, "ens3", "xenbr0") == once


def test_what_it_does_not_understand_it_refuses():
    with pytest.raises(InterfacesError, match="no 'iface ens9' stanza"):
        bridged(DHCP, "ens9", "xenbr0")
    with pytest.raises(InterfacesError, match="is itself a bridge"):
        bridged("iface br0 inet dhcp\n bridge_ports ens3\n", "br0", "xenbr0")
