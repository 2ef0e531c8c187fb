"""Anti-spoofing with frames of every kind, sent through a bridge with the role's own files in a network namespace."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.wire import frames
from tests.wire.host import ROOT

HOSTILE, LAWFUL = frames.hostile(), frames.lawful()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What passed in each situation."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace with a bridge needs root")
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for tool in ("nft", "ip", "bridge", "unshare"):
        if not shutil.which(tool, path=path):
            pytest.skip(f"{tool} is not installed")
    if subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "x", "type", "bridge"], capture_output=True, check=False
    ).returncode:
        pytest.skip("this kernel makes no bridge in a network namespace")
    command = [
        "unshare",
        "--net",
        "--mount",
        sys.executable,
        "-m",
        "tests.wire.host",
        str(tmp_path_factory.mktemp("host") / "dom0"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / ".collections")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def passed(kinds):
    return {name: where for name, where in kinds.items() if where}


def test_without_a_filter_nearly_all_pass(host):
    """Otherwise the test would show nothing: a bridge itself drops frames for bridges, and those from a group address."""
    kept = set(HOSTILE) - set(passed(host["unfiltered"]))
    assert kept == {"a source MAC of a group", "all as source MAC", "PAUSE", "LACP", "EAPOL", "LLDP"}
    assert frames.NOBODY in host["learnt without a filter"]
    assert "proto ra" in host["routes without tables"]


@pytest.mark.parametrize(
    "when", ["hostile", "hostile with a twin", "hostile after a flush", "hostile with a name", "not of a router"]
)
def test_nothing_hostile_passes(host, when):
    assert len(HOSTILE) > 90
    assert len(host[when]) == (len(HOSTILE) if when.startswith("hostile") else len(frames.of_a_router()[1]))
    assert passed(host[when]) == {}


@pytest.mark.parametrize("when", ["lawful", "lawful after a flush", "of a router"])
def test_what_is_its_own_passes(host, when):
    assert [name for name, where in host[when].items() if not where] == []
    assert len(LAWFUL) > 20


def test_the_bridge_learns_nothing_false(host):
    assert host["learnt"] == [frames.GUEST]


@pytest.mark.parametrize("when", ["dom0", "dom0 without a filter"])
def test_no_guest_reaches_a_port_of_dom0_and_dom0_reaches_guests(host, when):
    told = host[when]
    assert (told["tcp"], told["tcp6"], told["ping"]) == ([], [], [])
    assert (told["arp"], told["neighbour"], told["asks"], told["asks6"]) == (["ARP"], ["advertisement"], "yes", "yes")
    before = host["dom0 without tables"]
    assert (before["tcp"], before["tcp6"], before["ping"]) == (["IPv4 6"], ["IPv6 6"], ["IPv4 1"])


@pytest.mark.parametrize("when", ["routes", "routes without a filter"])
def test_dom0_takes_no_guest_for_a_router(host, when):
    assert host[when] == ""


def test_what_is_in_no_map_sends_nothing(host):
    assert host["in no map"] is True
    assert host["named, in no map"] is True


def test_a_domain_without_tables_or_with_a_bad_claim_does_not_run(host):
    for when, reason in (("no tables", "No such file"), ("bad MAC", "is not a MAC"), ("bad address", "is not an address")):
        code, text = host[when]
        assert code == 1 and text.startswith("fatal: unikernels-antispoof: ") and reason in text and "\n" not in text


def test_antispoofing_false_lets_pass_what_the_bridge_does(host):
    assert set(passed(host["without a filter"])) == set(passed(host["unfiltered"]))


def test_what_was_there_before_the_filter_is_told(host):
    assert (
        host["load"]
        == "note: vif3.0 was there before the filter and has no addresses: it is not filtered until its domain ends\n"
    )


def test_a_run_puts_right_what_was_changed_by_hand(host):
    check, keep, second = ([line for line in text.splitlines() if line.startswith("wrong")] for text in host["tampered"])
    assert check == keep == ["wrong: table bridge unikernels was not as it should be"]
    assert second == []
    assert not host["kept"].startswith("wrong")
    assert host["flushed"][0].startswith("wrong: the tables were not loaded")
    assert not host["flushed"][1].startswith("wrong")
    assert host["named, put right"][0].startswith("wrong") and not host["named, put right"][1].startswith("wrong")
    assert host["named, gone"] == [0, ""]


def test_what_may_reach_domains_is_loaded_with_the_filter_and_put_right(host):
    changed = ["wrong: table inet unikernels_reach was not as it should be"]
    assert host["limits"] == [["wrong: the tables were not loaded"], [], [], changed, changed, []]


def test_a_bridge_is_led_to_a_guest_and_stays_so(host):
    told = host["switch"]
    assert told["before"] == [["guest2"], ["guest1", "guest2"]]  # another guest took its MAC; and both get frames to unknown MACs
    assert told["led"] == [["guest1"], ["guest2"]]
    assert told["gone with the port"] == ["guest1", "guest2"]


def test_neighbours_take_the_announcement(host):
    assert host["heard"] == {"10.0.0.77": frames.OTHER, "fd00::77": frames.OTHER}


def test_a_host_that_routes_for_its_domains_routes_what_is_theirs(host):
    assert host["routed"] == {"its own": 1, "another's": 0, "its own, IPv6": 1, "another's, IPv6": 0}
