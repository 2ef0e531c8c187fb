"""From declared networks and a host's reading to files and commands, for each manager; and every refusal, in one list."""

import json

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.network.guests import Guests, Published
from ansible_collections.unikernels.xen.plugins.module_utils.network.ini import parse, render, values
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import read_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.networkd import file_of
from ansible_collections.unikernels.xen.plugins.module_utils.network.offered import STATE
from ansible_collections.unikernels.xen.plugins.module_utils.network.plan import (
    CLOUD,
    COMMON,
    NFT,
    make_plan,
    state_of,
    state_text,
)
from ansible_collections.unikernels.xen.plugins.module_utils.network.reading import (
    IFUPDOWN,
    MANAGERS,
    NETPLAN,
    NETWORKD,
    NETWORKMANAGER,
    Link,
    NetworkError,
    Reading,
    State,
    refusals,
)
from ansible_collections.unikernels.xen.plugins.module_utils.xen.networks import diffs
from hypothesis import given
from hypothesis import strategies as st

MAC = "52:54:00:00:00:01"
LINKS = {
    "lo": Link("lo", addresses=("127.0.0.1/8",)),
    "eth0": Link("eth0", MAC, addresses=("192.0.2.10/24", "2001:db8::10/64")),
    "eth1": Link("eth1", "52:54:00:00:00:02"),
    "bond0": Link("bond0", "52:54:00:00:00:03", "bond"),
    "eth2": Link("eth2", "52:54:00:00:00:03", master="bond0"),
    "bond1": Link("bond1", "52:54:00:00:00:04", "bond"),
    "br-own": Link("br-own", "52:54:00:00:00:05", "bridge", addresses=("10.5.0.1/24",)),
}
FILES = {
    IFUPDOWN: {
        "/etc/network/interfaces": "auto lo\niface lo inet loopback\nsource-directory interfaces.d\n",
        "/etc/network/interfaces.d/50-uplink": "auto eth0\niface eth0 inet static\n address 192.0.2.10/24\n mtu 1400\n",
    },
    NETWORKD: {
        "/etc/systemd/network/10-uplink.network": f"[Match]\nMACAddress={MAC}\n[Link]\nMTUBytes=1400\n"
        "[Network]\nDHCP=yes\nLLDP=no\n",
        "/etc/systemd/network/20-bond.network": "[Match]\nName=bond*\n[Network]\nDHCP=no\n",
    },
    NETPLAN: {
        "/etc/netplan/50-cloud-init.yaml": "network:\n  version: 2\n  ethernets:\n    nic:\n"
        "      match: {macaddress: '52:54:00:00:00:01'}\n      mtu: 1400\n      dhcp4: true\n"
        "      routes: [{to: 198.18.0.0/24, via: 192.0.2.1}]\n  bonds:\n    bond0: {interfaces: [eth2]}\n",
    },
    NETWORKMANAGER: {
        "/etc/NetworkManager/system-connections/up.nmconnection": "[connection]\nid=up\ntype=ethernet\ninterface-name=eth0\n"
        "[ethernet]\nmtu=1400\n[802-1x]\nidentity=me\npassword=secret\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=ignore\n",
    },
}
DECLARED = {
    "xenbr0": {"uplink": "auto"},
    "tagged": {"uplink": "bond0", "vlan": 100, "addresses": ["10.4.0.2/24"], "mtu": 9000},
    "inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "fd77::1/64"]},
    "routed": {"mode": "routed", "addresses": ["10.255.0.1/32"], "subnets": ["203.0.113.7", "2001:db8:7::/64"], "proxy": True},
}
GUESTS = Guests([Published("www", "tcp", 443, 443, "10.77.0.9", "inside")], {"routed": ["203.0.113.7"]})


def reading(style, **changes):
    options = {"host": "h", "links": LINKS, "default": "eth0", "files": FILES[style], **changes}
    return Reading(**{"manager": style, **options})


def plan(declared, host, guests=GUESTS):
    networks, lines = read_networks(declared)
    assert lines == []
    return make_plan(networks, guests, host)


def after(host, result):
    """Return the host as it is read after the plan was carried out."""
    files = dict(host.files)
    for change in result.files:
        assert host.files.get(change.path) == change.before
        if change.after is None:
            files.pop(change.path, None)
        else:
            files[change.path] = change.after
    state = state_of(files.get(STATE, ""))
    links = {name: link for name, link in LINKS.items()}
    for name, network in state.networks.items():
        moved = name in state.moved
        addresses = LINKS[network.port].addresses if moved else network.addresses
        links[name] = Link(name, "02:00:00:00:00:01", "bridge", addresses=addresses)
        if moved:
            links[network.port] = Link(network.port, LINKS[network.port].mac, LINKS[network.port].kind, master=name)
    default = next(iter(state.moved), "eth0")
    return Reading(
        host="h", manager=host.manager, links=links, default=default, files=files, state=state, cloud_init=host.cloud_init
    )


@pytest.mark.parametrize(
    ("manager", "four", "six"),
    [
        (IFUPDOWN, "post-up ip route replace 10.8.0.0/24 via 10.77.0.9 dev inside onlink",
         "post-up ip route replace fd08::/64 via fd77::9 dev inside onlink"),
        (NETWORKD, "Destination=10.8.0.0/24\nGateway=10.77.0.9\n", "Destination=fd08::/64\nGateway=fd77::9\n"),
        (NETPLAN, "via: 10.77.0.9", "via: fd77::9"),
        (NETWORKMANAGER, "route1=10.8.0.0/24,10.77.0.9", "route1=fd08::/64,fd77::9"),
    ],
)  # fmt: skip
def test_what_is_behind_a_domain_is_routed_by_each_managers_own_means(manager, four, six):
    declared = {"inside": {**DECLARED["inside"], "routes": ["10.8.0.0/24 via 10.77.0.9", "fd08::/64 via fd77::9"]}}
    host = reading(manager)
    result = plan(declared, host)
    written = "\n".join(one.after or "" for one in result.files if one.path not in (STATE, NFT))
    assert four in written and six in written
    then = after(host, result)
    assert not plan(declared, then).files, "a second run changes nothing"
    changed = plan({"inside": DECLARED["inside"]}, then)
    assert changed.devices == ("inside",), "a changed route passes the switch, which has a way back"
    if manager == IFUPDOWN:
        assert "ip route del 10.8.0.0/24 via 10.77.0.9 dev inside || true" in changed.switch.scripts["up"]
        assert "ip route replace 10.8.0.0/24 via 10.77.0.9 dev inside onlink" in changed.switch.scripts["down-new"]


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_second_run_changes_nothing_and_without_networks_all_is_as_before(manager):
    host = reading(manager, cloud_init=True)
    first = plan(DECLARED, host)
    assert first.devices == ("xenbr0", "tagged", "inside", "routed") and STATE in [one.path for one in first.files]
    then = after(host, first)
    assert then.files[CLOUD].endswith("network: {config: disabled}\n")
    again = plan(DECLARED, then)
    assert (again.files, again.devices) == ((), ())
    gone = plan({}, then, None)
    assert after(then, gone).files == host.files
    assert set(gone.devices) == set(DECLARED)


@pytest.mark.parametrize("manager", MANAGERS)
def test_what_guests_need_changes_no_device(manager):
    then = after(reading(manager), plan(DECLARED, reading(manager)))
    more = plan(DECLARED, then, Guests([*GUESTS.published, Published("www", "udp", 53, 53, "10.77.0.9", "inside")], {}))
    assert more.devices == () and {one.path for one in more.files} <= set(COMMON)
    # A run without guests keeps the last ones.
    assert plan(DECLARED, then, None).files == ()


@pytest.mark.parametrize("manager", MANAGERS)
def test_nothing_declared_is_nothing_to_do(manager):
    assert plan({}, reading(manager)).files == ()


def test_ifupdown_moves_the_addresses_and_keeps_the_device():
    texts = {one.path: one.after for one in plan(DECLARED, reading(IFUPDOWN)).files}
    uplink = texts["/etc/network/interfaces.d/50-uplink"]
    assert "iface eth0 inet manual\n mtu 1400\n" in uplink and "iface xenbr0 inet static\n    bridge_ports eth0\n" in uplink
    ours = texts["/etc/network/interfaces.d/unikernels-networks"]
    assert (
        "    pre-up ip link show dev bond0.100 >/dev/null 2>&1 || ip link add link bond0 name bond0.100 type vlan id 100\n"
        in ours
    )
    assert "    bridge_ports bond0.100\n" in ours and "auto inside\niface inside inet static\n    address 10.77.0.1/24\n" in ours
    assert "    post-up ip route replace 203.0.113.7/32 dev routed\n" in ours
    assert "iface inside inet6 static\n    address fd77::1/64\n    dad-attempts 0\n" in ours
    # That folder is read anyway.
    assert "/etc/network/interfaces" not in texts


def test_ifupdown_reads_our_file():
    files = {"/etc/network/interfaces": "auto eth0\niface eth0 inet dhcp\n"}
    texts = {one.path: one.after for one in plan({"inside": DECLARED["inside"]}, reading(IFUPDOWN, files=files)).files}
    assert texts["/etc/network/interfaces"].endswith("\nsource /etc/network/interfaces.d/unikernels-networks\n")


def test_networkd_leaves_the_administrators_files():
    result = plan(DECLARED, reading(NETWORKD))
    texts = {one.path.rpartition("/")[2]: one.after for one in result.files if "/systemd/network/" in one.path}
    assert all(one.before is None for one in result.files)
    # Only Xen configures the domains' devices, whatever other files match.
    assert values(parse(texts["00-unikernels-vif.network"]), "Link", "Unmanaged") == ["yes"]
    port, bridge = parse(texts["00-unikernels-port-eth0.network"]), parse(texts["00-unikernels-xenbr0.network"])
    assert values(port, "Network", "Bridge") == ["xenbr0"] and values(port, "Network", "LLDP") == ["no"]
    assert values(port, "Link", "MTUBytes") == ["1400"] and values(port, "Network", "DHCP") == []
    assert values(bridge, "Match", "Name") == ["xenbr0"] and values(bridge, "Network", "DHCP") == ["yes"]
    assert values(parse(texts["00-unikernels-xenbr0.netdev"]), "NetDev", "MACAddress") == [MAC]
    assert values(parse(texts["00-unikernels-bond0.100.netdev"]), "VLAN", "Id") == ["100"]
    # In a drop-in for the bond's own file.
    assert texts["unikernels.conf"].endswith("[Network]\nVLAN=bond0.100\n")
    routed = parse(texts["00-unikernels-routed.network"])
    assert values(routed, "Route", "Destination") == ["203.0.113.7/32", "2001:db8:7::/64"]


def test_netplan_takes_the_addresses_out_of_their_file():
    texts = {one.path: one.after for one in plan(DECLARED, reading(NETPLAN)).files if one.path.startswith("/etc/netplan")}
    uplink = yaml.safe_load(texts["/etc/netplan/50-cloud-init.yaml"])["network"]["ethernets"]["nic"]
    assert uplink["mtu"] == 1400 and uplink["dhcp4"] is False and "routes" not in uplink and uplink["match"]["macaddress"] == MAC
    ours = yaml.safe_load(texts["/etc/netplan/95-unikernels.yaml"])["network"]
    assert ours["bridges"]["xenbr0"]["interfaces"] == ["nic"] and ours["bridges"]["xenbr0"]["dhcp4"] is True
    assert ours["bridges"]["xenbr0"]["routes"] == [{"to": "198.18.0.0/24", "via": "192.0.2.1"}]
    assert ours["vlans"]["bond0.100"]["link"] == "bond0" and ours["bridges"]["tagged"]["interfaces"] == ["bond0.100"]
    assert ours["bridges"]["routed"]["routes"][0] == {"to": "203.0.113.7/32", "scope": "link"}


def test_networkmanager_keeps_the_connection_and_hides_its_password():
    result = plan(DECLARED, reading(NETWORKMANAGER))
    texts = {one.path.rpartition("/")[2]: one.after for one in result.files if "system-connections" in one.path}
    port, bridge = parse(texts["unikernels-eth0.nmconnection"]), parse(texts["unikernels-xenbr0.nmconnection"])
    assert values(port, "connection", "master") == ["xenbr0"] and values(port, "ethernet", "mtu") == ["1400"]
    assert values(port, "802-1x", "password") == ["secret"] and values(port, "ipv4", "method") == []
    assert values(bridge, "ipv4", "method") == ["auto"] and values(bridge, "bridge", "mac-address") == [MAC]
    assert values(parse(texts["unikernels-bond0.100.nmconnection"]), "vlan", "parent") == ["bond0"]
    assert all(one.mode == 0o600 for one in result.files if "system-connections" in one.path)
    assert "secret" not in json.dumps(diffs(result))


def test_passwords_of_any_manager_are_not_shown():
    text = "auto eth0\niface eth0 inet dhcp\n    wpa-psk hidden-words\n"
    result = plan(DECLARED, reading(IFUPDOWN, files={"/etc/network/interfaces": text}))
    shown = json.dumps(diffs(result))
    assert "hidden-words" not in shown and "(not shown)" in shown and "bridge_ports none" in shown


@pytest.mark.parametrize("manager", MANAGERS)
def test_bridges_have_macs_that_no_domain_changes(manager):
    text = "".join(one.after or "" for one in plan(DECLARED, reading(manager)).files if one.path != STATE)
    other = "".join(one.after or "" for one in plan(DECLARED, reading(manager, host="other")).files if one.path != STATE)
    # With ifupdown, bridge_hw takes the MAC from the named port.
    assert "02:" in text and (MAC in text or "bridge_hw eth0" in text) and text != other


@pytest.mark.parametrize("manager", MANAGERS)
def test_jumbo_frames_reach_the_port_and_the_bridge(manager):
    texts = [
        one.after or "" for one in plan({"xenbr0": {"uplink": "auto", "mtu": 9000}}, reading(manager)).files if one.path != STATE
    ]
    assert sum(text.count("9000") for text in texts) >= 2
    assert manager == IFUPDOWN or not any("1400" in text for text in texts)


@pytest.mark.parametrize(
    ("declared", "changes", "words"),
    [
        ({"a": {"uplink": "eth9"}}, {}, "a: uplink: the host has no device eth9 (it has bond0, bond1, eth0, eth1, eth2)"),
        ({"a": {"uplink": "bond1"}}, {}, "a: uplink: bond bond1 has no members"),
        ({"a": {"uplink": "br-own"}}, {}, "a: uplink: br-own is itself a bridge: name the network br-own"),
        ({"a": {"uplink": "eth2"}}, {}, "a: uplink: eth2 belongs to bond0"),
        ({"a": {"uplink": "auto"}}, {"default": ""}, "a: uplink: auto: the host has no default route"),
        ({"a": {"uplink": "auto"}, "b": {"uplink": "eth0"}}, {}, "b: uplink: eth0 is under a already"),
        ({"eth1": {"mode": "isolated"}}, {}, "eth1 is a device of this host and no bridge: choose another name"),
        ({"br-own": {"mode": "isolated", "addresses": ["10.6.0.1/24"]}}, {}, "was there before and has no address 10.6.0.1/24"),
        ({"a": {"mode": "nat", "addresses": ["192.0.2.129/25"]}}, {}, "a: 192.0.2.128/25 overlaps 192.0.2.0/24 on eth0"),
        ({"a": {"mode": "nat", "addresses": ["10.9.0.1/24"], "routes": ["192.0.2.0/24 via 10.9.0.9"]}}, {},
         "a: 192.0.2.0/24 overlaps 192.0.2.0/24 on eth0"),
        # The host's own subnet, which the bridge over the uplink will have, or has.
        ({"b": {"uplink": "auto"}, "a": {"mode": "nat", "addresses": ["10.9.0.1/24"], "routes": ["192.0.2.0/24 via 10.9.0.9"]}},
         {}, "a: 192.0.2.0/24 overlaps 192.0.2.0/24 on eth0"),
        ({"br-own": {}, "a": {"mode": "nat", "addresses": ["10.5.0.129/25"]}}, {},
         "a: 10.5.0.128/25 overlaps 10.5.0.0/24 on br-own"),
        ({"a": {"mode": "routed", "addresses": ["10.5.0.9/24"]}}, {}, "a: 10.5.0.0/24 overlaps 10.5.0.0/24 on br-own"),
        ({"inside": DECLARED["inside"]}, {"listening": frozenset({("tcp", "0.0.0.0", 443)})},
         "publish: tcp port 443 is taken by a program of the host itself, which listens on all addresses: publish another"),
        ({"a": {"uplink": "auto", "vlan": 100}}, {"default": "enp0s31f6np0", "links": {"enp0s31f6np0": LINKS["eth0"]}},
         "a: vlan: enp0s31f6np0.100 has 16 letters"),
        ({"inside": {"mode": "nat", "addresses": ["10.77.0.1/24"]}, "b": {"mode": "isolated"}}, {"guests_": "203.0.113.9"},
         "domain www: publish: address 203.0.113.9 is not the host's (it has 10.5.0.1, 10.77.0.1, 192.0.2.10"),
        ({"inside": DECLARED["inside"]}, {"manager": ""}, "is configured by none of ifupdown"),
        # An uplink that vanished, of any kind of network.
        ({"inside": {**DECLARED["inside"], "uplink": "eth9"}}, {}, "inside: uplink: the host has no device eth9 (it has bond0,"),
        ({"r": {**DECLARED["routed"], "uplink": "eth9"}}, {}, "r: uplink: the host has no device eth9"),
        ({"inside": DECLARED["inside"]}, {"default": ""}, "inside: uplink: auto: the host has no default route"),
        ({"inside": {**DECLARED["inside"], "uplink": "bond1"}}, {}, "inside: uplink: bond bond1 has no members"),
        ({"a": {"uplink": "bond1", "vlan": 5}}, {}, "a: uplink: bond bond1 has no members"),
        ({"a": {"uplink": "bond1.5"}}, {"links": {**LINKS, "bond1.5": Link("bond1.5", MAC, "vlan", lower="bond1")}},
         "a: uplink: bond bond1 has no members"),
        # Frames larger than those of the device under a VLAN, ours or the administrator's.
        ({"a": {"uplink": "eth1", "vlan": 5, "mtu": 9000}}, {"links": {**LINKS, "eth1": Link("eth1", MAC, mtu=1500)}},
         "a: mtu: is 9000, but eth1, which the VLAN is on, carries 1500: raise it where eth1 is configured"),
        ({"a": {"uplink": "eth1.5", "mtu": 9000}},
         {"links": {**LINKS, "eth1": Link("eth1", MAC, mtu=1500), "eth1.5": Link("eth1.5", MAC, "vlan", mtu=1500, lower="eth1")}},
         "a: mtu: is 9000, but eth1, which the VLAN is on, carries 1500"),
    ],
)  # fmt: skip
def test_what_the_host_can_not_offer_is_refused_in_one_line_each(declared, changes, words):
    with pytest.raises(NetworkError) as error:
        address = changes.pop("guests_", "")
        guests = Guests([Published("www", "tcp", 443, 443, "10.77.0.9", "inside", address)])
        plan(declared, reading(IFUPDOWN, **changes), guests)
    assert sum(words in line for line in error.value.lines) == 1, error.value.lines


@pytest.mark.parametrize(
    ("listener", "target", "address", "taken"),
    [
        ("0.0.0.0", "10.77.0.9", "", True),
        ("0.0.0.0", "10.77.0.9", "192.0.2.10", True),
        ("::", "10.77.0.9", "", True),
        ("::", "fd77::9", "2001:db8::10", True),
        ("192.0.2.10", "10.77.0.9", "", True),
        ("192.0.2.10", "10.77.0.9", "192.0.2.10", True),
        # Of the other family, or at another address of the host.
        ("0.0.0.0", "fd77::9", "", False),
        ("2001:db8::10", "10.77.0.9", "", False),
        ("192.0.2.11", "10.77.0.9", "192.0.2.10", False),
        ("2001:db8::11", "fd77::9", "2001:db8::10", False),
    ],
)
def test_a_port_is_taken_by_who_listens_where_it_is_published(listener, target, address, taken):
    guests = Guests([Published("www", "udp", 53, 53, target, "inside", address)])
    for listening, expected in (({("udp", listener, 53)}, taken), ({("tcp", listener, 53), ("udp", listener, 54)}, False)):
        lines = refusals({}, [], guests, reading(IFUPDOWN, listening=frozenset(listening)))
        assert any("udp port 53 is taken" in line for line in lines) == expected, lines
        assert sum("is taken" in line for line in lines) <= 1


def test_jumbo_frames_over_a_vlan_of_a_device_that_carries_them():
    small = {**LINKS, "eth1": Link("eth1", "52:54:00:00:00:02", mtu=1500)}
    large = {**LINKS, "eth1": Link("eth1", "52:54:00:00:00:02", mtu=9000)}
    declared = {"a": {"uplink": "eth1", "vlan": 5, "mtu": 9000}}
    assert plan(declared, reading(NETWORKD, links=large)).devices == ("a",)
    # A network over the device itself raises it.
    both = {**declared, "b": {"uplink": "eth1", "mtu": 9000}}
    assert set(plan(both, reading(NETWORKD, links=small)).devices) == {"a", "b"}


def test_all_refusals_come_at_once():
    with pytest.raises(NetworkError) as error:
        plan({"a": {"uplink": "eth9"}, "b": {"uplink": "bond1"}, "c": {"uplink": "eth2"}}, reading(NETWORKD))
    assert len(error.value.lines) == 3


def test_a_part_of_the_uplinks_subnet_may_be_routed():
    single = {"mode": "routed", "addresses": ["10.255.0.1/32"], "subnets": ["192.0.2.77"], "proxy": True}
    texts = {
        one.path: one.after for one in plan({"single": single}, reading(NETWORKD), Guests([], {"single": ["192.0.2.77"]})).files
    }
    assert texts["/etc/xen/unikernels-networks.neighbours"] == "neigh replace proxy 192.0.2.77 dev eth0\n"


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({}, "xen_host_networks: inside is gone, but domains run on it (www): move or remove these first"),
        ({"inside": {"mode": "isolated"}}, "inside: mode: is isolated, was nat, and domains run on it (www)"),
        ({"inside": {"uplink": "eth1"}}, "inside: mode: is bridged, was nat"),
    ],
)
def test_what_would_cut_running_domains_off_is_refused_with_their_names(declared, words):
    before = {"inside": DECLARED["inside"]}
    then = after(reading(NETWORKD), plan(before, reading(NETWORKD)))
    host = Reading(**{**then.__dict__, "guests": {"inside": ("www",)}})
    with pytest.raises(NetworkError, match="domains run on it") as error:
        plan(declared, host)
    assert any(words in line for line in error.value.lines), error.value.lines
    changed = {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24", "10.79.0.1/24"], "mtu": 1400}}
    assert plan(changed, host).devices == ("inside",)


def test_a_bridge_that_was_there_is_left_as_it_is():
    result = plan({"br-own": {"mode": "isolated"}, "inside": DECLARED["inside"]}, reading(IFUPDOWN))
    assert result.devices == ("inside",)
    gone = plan({}, after(reading(IFUPDOWN), result), None)
    assert gone.devices == ("inside",)


def edited(then, path, text="# mine\n"):
    return Reading(**{**then.__dict__, "files": {**then.files, path: then.files[path] + text}})


def test_an_edit_of_the_uplinks_file_is_not_lost():
    host = reading(IFUPDOWN)
    path = "/etc/network/interfaces.d/50-uplink"
    then = edited(after(host, plan(DECLARED, host)), path)
    assert [one for one in plan(DECLARED, then).files if one.path == path] == []
    # The original is no longer what the user has now.
    with pytest.raises(NetworkError, match="50-uplink: was edited since the uplink's addresses moved out of it"):
        plan({}, then)


def test_addresses_are_not_looked_for_where_they_moved_from():
    host = reading(NETPLAN)
    path = "/etc/netplan/50-cloud-init.yaml"
    then = after(host, plan(DECLARED, host))
    with pytest.raises(NetworkError, match=r"50-cloud-init\.yaml: was edited since the uplink's addresses moved out of it"):
        plan(DECLARED, edited(then, path))
    # cloud-init, or somebody, has restored the file: the addresses move again.
    back = Reading(**{**then.__dict__, "files": {**then.files, path: host.files[path]}})
    again = plan(DECLARED, back)
    assert {one.path: one.after for one in again.files}[path] == then.files[path]


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_change_by_hand_of_our_own_files_is_undone(manager):
    host = reading(manager)
    then = after(host, plan(DECLARED, host))
    for path in [path for path, original in then.state.originals.items() if original is None]:
        again = plan(DECLARED, edited(then, path))
        assert [(one.path, one.after) for one in again.files] == [(path, then.files[path])]
        assert path not in after(edited(then, path), plan({}, edited(then, path), None)).files


def test_the_state_comes_back_as_it_was_written():
    networks = read_networks(DECLARED)[0]
    state = State(networks, GUESTS, {"/a": "b", "/c": None}, {"/a": "d"}, ("x",), ("xenbr0",), ("eth0",), "/path")
    assert state_of(state_text(state)) == state and state_of("") == State()
    for text in ("{}", "[]", "{", '{"networks": 1}'):
        with pytest.raises(ValueError):
            state_of(text)


def test_the_first_file_that_matches_configures_a_device():
    files = {
        "/etc/systemd/network/10-a.network": "[Match]\nName=!eth0 eth*\n",
        "/usr/lib/systemd/network/05-b.network": "[Match]\nName=eth0\n[Network]\nDHCP=yes\n",
        "/etc/systemd/network/05-b.network": "",
        "/etc/systemd/network/20-c.network": "[Network]\nDHCP=yes\n",
        "/etc/systemd/network/30-d.network": "[Match]\nType=ether\n",
    }
    assert file_of("eth0", MAC, files) == "/etc/systemd/network/30-d.network"
    assert file_of("eth1", MAC, files) == "/etc/systemd/network/10-a.network"


# A trailing backslash continues a line.
LINE = st.from_regex(r"([A-Za-z]{1,6}=|#)[ -\[\]-~]{0,10}", fullmatch=True) | st.just("")


@given(st.lists(st.tuples(st.from_regex(r"[A-Za-z0-9-]{1,8}", fullmatch=True), st.lists(LINE, max_size=4)), max_size=4))
def test_a_file_of_sections_comes_back(sections):
    text = "".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections)
    once = render(parse(text))
    assert render(parse(once)) == once
    assert [one.name for one in parse(text)] == [name for name, _lines in sections]


def letters(text):
    return [letter for letter in text if not letter.isspace() and letter not in "[]"]


@given(st.text(max_size=60))
def test_any_text_of_sections_is_read_and_none_of_it_is_lost(text):
    assert letters(render(parse(text))) == letters(text.replace("\r\n", "\n").replace("\\\n", " "))
