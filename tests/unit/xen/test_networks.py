"""How a host's network is read, and how a plan is carried out, with our own files and answers of ip(8)."""

import json
import os
import sys

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.network.plan import Plan
from ansible_collections.unikernels.xen.plugins.module_utils.network.reading import (
    IFUPDOWN,
    NETPLAN,
    NETWORKD,
    NETWORKMANAGER,
    NetworkError,
)
from ansible_collections.unikernels.xen.plugins.module_utils.network.switch import FileChange
from ansible_collections.unikernels.xen.plugins.module_utils.xen import network, networks
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError

ROWS = [
    {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]},
    {"ifname": "eth0", "address": "52:54:00:00:00:01", "master": "xenbr0"},
    {"ifname": "xenbr0", "address": "52:54:00:00:00:01", "linkinfo": {"info_kind": "bridge"},
     "addr_info": [{"local": "192.0.2.10", "prefixlen": 24, "scope": "global"},
                   {"local": "fe80::1", "prefixlen": 64, "scope": "link"}]},
    {"ifname": "vif7.0", "master": "inside"},
    {"ifname": "vif8.1", "master": "inside"},
    {"ifname": "vif9.0"},
]  # fmt: skip


class Names:
    """A double of xenstore, as far as needed."""

    def __enter__(self):
        return self

    def __exit__(self, *_what):
        return False

    def read(self, paths):
        return [{"/local/domain/7/name": "www"}.get(path) for path in paths]


def test_links_and_guests(monkeypatch):
    links = networks._links(ROWS)
    assert set(links) == {"lo", "eth0", "xenbr0"} and links["xenbr0"].kind == "bridge" and links["eth0"].master == "xenbr0"
    assert links["xenbr0"].addresses == ("192.0.2.10/24", "fe80::1/64") and links["lo"].addresses == ()
    monkeypatch.setattr(networks, "Xenstore", Names)
    assert networks._guests(ROWS) == {"inside": ("8", "www")}


def test_guests_without_xenstore_have_numbers(monkeypatch):
    def none():
        raise ToolstackError("no xenstore")

    monkeypatch.setattr(networks, "Xenstore", none)
    assert networks._guests(ROWS) == {"inside": ("7", "8")}


@pytest.mark.parametrize(
    ("files", "tools", "active", "wanted"),
    [
        ({"/etc/netplan/a.yaml": ""}, {"netplan"}, {"systemd-networkd.service"}, NETPLAN),
        ({"/etc/netplan/a.yaml": ""}, set(), {"systemd-networkd.service"}, NETWORKD),
        ({"/etc/network/interfaces": "iface eth0 inet dhcp\n"}, {"ifup"}, {"systemd-networkd.service"}, IFUPDOWN),
        ({"/etc/network/interfaces": "iface xenbr0 inet dhcp\n"}, {"ifup"}, set(), IFUPDOWN),
        ({"/etc/network/interfaces": "iface lo inet loopback\n"}, {"ifup"}, {"NetworkManager.service"}, NETWORKMANAGER),
        ({"/etc/network/interfaces": "iface lo inet loopback\n"}, {"ifup"}, set(), IFUPDOWN),
        ({}, set(), set(), ""),
    ],
)
def test_which_program_configures_the_uplink(monkeypatch, files, tools, active, wanted):
    monkeypatch.setattr(networks.shutil, "which", lambda name: name if name in tools else None)
    monkeypatch.setattr(networks, "_active", lambda unit: unit in active)
    monkeypatch.setattr(networks, "_connection", lambda: ("xenbr0", ""))
    assert networks._manager("xenbr0", files, networks._links(ROWS)) == wanted


def test_ports_that_programs_of_dom0_listen_on(monkeypatch):
    head = "  sl  local_address rem_address   st\n"
    texts = {
        "/proc/net/tcp": head
        + "   0: 00000000:0016 00000000:0000 0A\n   1: 0100007F:0CEA 00000000:0000 0A\n   2: 0A000001:0050 01:1 01\n",
        "/proc/net/udp6": head + "   0: 00000000000000000000000000000000:0202 0:0 07\n broken\n",
    }
    monkeypatch.setattr(networks, "_text", texts.get)
    assert networks._listening() == {("tcp", "0.0.0.0", 22), ("udp", "::", 514)}


@pytest.mark.skipif(sys.byteorder == "big", reason="the addresses are as a little-endian host writes them")
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("3500007F", ""),  # 127.0.0.53, systemd-resolved
        ("00000000000000000000000001000000", ""),
        ("0000000000000000FFFF00000100007F", ""),
        ("00000000", "0.0.0.0"),
        ("0A0200C0", "192.0.2.10"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
        ("0000000000000000FFFF00000A0200C0", "192.0.2.10"),
        ("broken", "::"),
    ],
)
def test_where_a_program_listens_unless_it_is_the_loopback_alone(text, address):
    assert networks._listener(text) == address


def test_the_device_under_a_vlan_and_what_it_carries():
    (link,) = networks._links([{"ifname": "eth0.5", "link": "eth0", "mtu": 1500, "linkinfo": {"info_kind": "vlan"}}]).values()
    assert (link.kind, link.lower, link.mtu) == ("vlan", "eth0", 1500)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(networks, "flushed", lambda plan: False)
    monkeypatch.setattr(networks.bridge_switch, "start", lambda switch, seconds, what: made.append((seconds, what)))
    return made


def test_devices_are_changed_by_the_program_that_takes_them_back(calls):
    networks.carry_out(Plan((), devices=("inside", "shut")), 60)
    assert calls == [(60, "network inside, shut")]


def test_rules_alone_are_written_and_loaded_at_once(calls, tmp_path):
    gone = tmp_path / "gone"
    gone.write_text("x")
    files = (FileChange(str(tmp_path / "new/rules"), None, "text\n"), FileChange(str(gone), "x", None))
    networks.carry_out(Plan(files, apply=(f"touch {tmp_path}/loaded",)), 60)
    assert (tmp_path / "new/rules").read_text() == "text\n" and not gone.exists() and (tmp_path / "loaded").exists()
    assert calls == []
    with pytest.raises(NetworkError, match="rules of the networks: no such rule"):
        networks.carry_out(Plan((), apply=("echo no such rule >&2; exit 1",)), 60)


@pytest.fixture
def host(monkeypatch, calls):
    """A host with ifupdown and none of our networks."""
    reading = networks.Reading(
        "h", IFUPDOWN, networks._links(ROWS), "xenbr0", {"/etc/network/interfaces": "iface xenbr0 inet dhcp\n"}
    )
    monkeypatch.setattr(networks, "observe", lambda: reading)
    return calls


OPTIONS = {
    "networks": {"inside": {"mode": "nat", "addresses": ["10.77.0.1/24"]}},
    "guests": None,
    "rules_only": False,
    "confirm_within": 60,
}


def test_an_offer_is_carried_out_but_not_in_check_mode(host):
    assert networks.offer(OPTIONS, check=True)["changed"] and host == []
    result = networks.offer(OPTIONS, check=False)
    assert (
        result["waits"] and result["devices"] == ["inside"] and result["manager"] == IFUPDOWN and host == [(60, "network inside")]
    )
    assert any(diff["after_header"] == "/etc/network/interfaces.d/unikernels-networks" for diff in result["diff"])


def test_a_run_that_must_not_touch_devices_says_what_has_to_run_before(host):
    with pytest.raises(NetworkError, match="network inside: is not on the host as it is declared: run the role xen_host"):
        networks.offer({**OPTIONS, "rules_only": True}, check=False)
    assert host == []


def test_mistakes_come_before_the_host_is_read(monkeypatch):
    monkeypatch.setattr(networks, "observe", lambda: pytest.fail("the host was read"))
    with pytest.raises(NetworkError, match="mode: is 'x'"):
        networks.offer({**OPTIONS, "networks": {"inside": {"mode": "x"}}}, check=False)


def test_what_was_offered(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "STATE", str(tmp_path / "networks.json"))
    assert network.offered() == {}
    (tmp_path / "networks.json").write_text(json.dumps({"networks": {"routed": {"subnets": ["203.0.113.7/32"]}}}))
    assert network.offered() == {"routed": ["203.0.113.7/32"]}
    (tmp_path / "networks.json").write_text("[]")
    assert network.offered() == {}


def test_a_state_that_can_not_be_read_is_an_error(monkeypatch):
    monkeypatch.setattr(networks, "_text", lambda path: "{}")
    with pytest.raises(NetworkError, match=r"networks\.json: is not as we wrote it"):
        networks.observe()


LIMITS = [{"name": "www", "accept": [{"protocol": "tcp", "low": 443, "high": 443, "peers": []}], "reach": None,
           "own": ["10.0.0.11/32", "fd00::11/128"], "six": [[0, ""]]}]  # fmt: skip


@pytest.fixture
def nft(tmp_path, monkeypatch):
    """An nft that keeps what it was given, for the host and for a network of its own; and the folder that is the host's."""
    tools = tmp_path / "tools"
    tools.mkdir()
    keeps = f'state=${{NFT_STATE:-{tmp_path}/kernel}}\ncase "$1" in -f) cat >"$state" ;; *) cat "$state" 2>/dev/null ;; esac\n'
    scripts = {"nft": keeps, "unshare": f'export NFT_STATE={tmp_path}/other\nshift\nexec "$@"\n'}
    for name, text in scripts.items():
        (tools / name).write_text("#!/bin/sh\n" + text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(networks.reach_rules, "RULES", str(tmp_path / "rules.nft"))
    monkeypatch.setattr(networks.reach_rules, "WORDS", str(tmp_path / "words.json"))
    monkeypatch.setattr(networks, "observe", lambda: pytest.fail("the host was read"))
    return tmp_path


def limited(limits, check=False):
    guests = {"published": [], "proxied": {}, **({"limits": limits} if limits else {})}
    return networks.offer({**OPTIONS, "networks": {}, "guests": guests, "limits_only": True}, check)


def test_limits_come_change_and_go_without_a_look_at_the_networks(nft):
    shown = limited(LIMITS, check=True)
    assert shown["changed"] and not (nft / "kernel").exists() and not (nft / "rules.nft").exists()
    first = limited(LIMITS)
    assert first["diff"] == shown["diff"] and first["changed"]
    assert (first["diff"][0]["before"], first["diff"][0]["after"]) == ("", "www: accept: tcp/443\n")
    assert "fe80::" in (nft / "kernel").read_text() and (nft / "rules.nft").read_text().endswith((nft / "kernel").read_text())
    again = limited(LIMITS)
    assert not again["changed"] and again["diff"] == []
    (nft / "kernel").unlink()  # nft flush ruleset
    assert limited(LIMITS, check=True)["changed"] and limited(LIMITS)["changed"] and not limited(LIMITS)["changed"]
    other = limited([{**LIMITS[0], "reach": []}])
    assert other["diff"][0]["after"] == "www: accept: tcp/443\nwww: reach: nothing\n"
    gone = limited([])
    assert gone["changed"] and gone["diff"][0]["after"] == "" and "chain" not in (nft / "kernel").read_text()
    assert not (nft / "rules.nft").exists() and not (nft / "words.json").exists() and not limited([])["changed"]


def test_rules_that_nft_refuses_are_written_nowhere(nft):
    (nft / "tools/nft").write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    with pytest.raises(NetworkError, match="accept, reach: nft: no such thing"):
        limited(LIMITS)
    assert not (nft / "rules.nft").exists()


def test_the_host_is_asked_which_networks_are_cut_off(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(network, "bridges", lambda: [])
    monkeypatch.setattr(network.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(network.netfilter, "look", lambda read, run, names, routed: asked.append((names, routed)) or ["a line"])
    declared = {"public": {"uplink": "eth0"}, "inside": {"mode": "nat"}, "shut": {"mode": "isolated"}, "odd": None}
    assert network.cut_off("xenbr0", declared) == ["a line"] and network.cut_off("xenbr0", {}) == ["a line"]
    assert asked == [(["inside", "public", "shut"], ["inside"]), (["xenbr0"], [])]
    assert network._contents(str(tmp_path / "none")) == "" and network._printed("echo", "a") == "a\n"
    with pytest.raises(ToolstackError, match="sh -c echo no >&2; exit 1 failed: no"):
        network._printed("sh", "-c", "echo no >&2; exit 1")
    monkeypatch.setattr(network.shutil, "which", lambda tool: None)
    assert network.cut_off("xenbr0", declared) == [] and len(asked) == 2
