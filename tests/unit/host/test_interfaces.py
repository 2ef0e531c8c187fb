"""/etc/network/interfaces: the bridge gets what the uplink had; the rest stays as it was."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host.interfaces import InterfacesError, bridged, has, sources
from hypothesis import example, given
from hypothesis import strategies as st

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


UNUSUAL = """auto ens3 ens3:0 ens3.20
iface lo inet loopback

iface ens3 inet static
    address 192.0.2.10/32
    gateway 192.0.2.1
    mtu 9000
    hwaddress ether 00:11:22:33:44:55
    pointopoint 192.0.2.1
    up ip route add 192.0.2.1/32 dev ens3
    post-up ip -4 route add default \\
        via 192.0.2.1 dev ens3 onlink
    up /sbin/ethtool -K $IFACE tso off
    down ip link set dev ens3 down
    up logger done
iface ens3 inet6 static
    address 2001:db8::10/64
    mtu 9000
    gateway fe80::1
iface ens3:0 inet static
    address 192.0.2.11/32
    up ip addr add 192.0.2.12/32 dev ens3
iface ens3.20 inet manual
    vlan-raw-device ens3
"""


def test_what_is_the_devices_stays_and_what_is_the_addresses_moves():
    text = bridged(UNUSUAL, "ens3", "xenbr0")
    device, bridge = text[text.index("iface ens3 inet manual") :].split("iface xenbr0 ", 1)
    assert "auto xenbr0 xenbr0:0 ens3.20" in text
    for line in ("mtu 9000", "hwaddress ether 00:11:22:33:44:55", "ethtool -K $IFACE tso off", "ip link set dev ens3 down"):
        assert device.count(line) == 1 and line not in bridge
    for line in (
        "pointopoint 192.0.2.1",
        "up ip route add 192.0.2.1/32 dev xenbr0",
        "via 192.0.2.1 dev xenbr0 onlink",
        "up logger done",
    ):
        assert line in bridge and line not in device
    assert "gateway fe80::1" in bridge and "iface xenbr0:0 inet static" in bridge
    assert "up ip addr add 192.0.2.12/32 dev xenbr0" in bridge
    assert "iface ens3.20 inet manual\n    vlan-raw-device ens3" in text
    assert bridged(text, "ens3", "xenbr0") == text


def test_a_bond_keeps_its_members():
    text = bridged("auto bond0\niface bond0 inet dhcp\n bond-slaves ens3 ens4\n bond-mode 802.3ad\n", "bond0", "xenbr0")
    assert text.index("bond-slaves ens3 ens4") < text.index("bond-mode") < text.index("iface xenbr0 inet dhcp")
    assert "auto xenbr0" in text


def test_what_is_plugged_in_starts_its_bridge_with_the_host():
    text = bridged("allow-hotplug ens3 ens4\niface ens3 inet dhcp\n", "ens3", "xenbr0")
    assert text.startswith("auto xenbr0\nallow-hotplug ens4\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iface ens3\n", "lacks a family"),
        ("iface ens3 inet dhcp\nmapping ens3\n script x\n", "a mapping chooses"),
        ("iface ens3 inet dhcp\niface a inet dhcp inherits ens3\n", "inherits from ens3"),
        ("iface ens3 inet dhcp\n up /usr/local/bin/firewall ens3\n", "names ens3: is that the device"),
        ("iface ens3 inet dhcp\n custom ens3\n", "names ens3: is that the device"),
        ("iface br0 inet dhcp\n bridge-ports ens3\n", "no 'iface ens3' stanza"),
        ("", "no 'iface ens3' stanza"),
    ],
)
def test_one_line_for_what_it_can_not_know(text, message):
    with pytest.raises(InterfacesError) as refusal:
        bridged(text, "ens3", "xenbr0")
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


pieces = st.sampled_from(
    ["iface", "auto", "ens3", "xenbr0", "inet", "dhcp", "static", "ens3:0", "inherits", "mapping", "source", "up", "ip", "route",
     "dev", "\n", "\n", "\n", "\n\n", "\\\n", "#", "  ", "\t", "allow-hotplug", "bridge_ports", "mtu", "\r\n", "\f", "$IFACE"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=80), st.lists(pieces, max_size=40).map(" ".join)))
@example("iface ens3 inet dhcp\n\n  \n")
@example("\\")
@example(" \\\niface ens3 inet dhcp")
def test_any_text_is_changed_once_or_refused_in_one_line(text):
    for whole in (text, f"iface ens3 inet dhcp\n{text}", f"{text}\niface ens3 inet dhcp\n"):
        try:
            new = bridged(whole, "ens3", "xenbr0")
        except InterfacesError as error:
            assert "\n" not in str(error)
            continue
        assert bridged(new, "ens3", "xenbr0") == new
        assert has(new, "xenbr0")
        sources(new)
