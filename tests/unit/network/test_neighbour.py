"""A domain is asked from a neighbour's place on its network, where another program's rules cut it off and Dom0's checks pass."""

import json
import os
import subprocess
import sys

import pytest

from tests.networks.machine import ROOT


@pytest.fixture(scope="module")
def told():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    words = ["unshare", "--net", "sh", "-c", "ip link add x type veth && nft list ruleset"]
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if subprocess.run(words, capture_output=True, env={**os.environ, "PATH": path}, check=False).returncode:
        pytest.skip("this kernel makes no network namespaces with cables and nftables")
    done = subprocess.run(
        [sys.executable, "-m", "tests.networks.neighbour"],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / ".collections")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_neighbours_get_an_answer_and_nothing_is_left(told):
    assert told["open"]["healthy"] == ["four", "six"] and not told["open"].get("failed")
    assert told["left"] == [] and told["here again"] is True


def test_what_cuts_neighbours_off_is_found_though_dom0_is_answered(told):
    assert told["closed, from Dom0"]["healthy"] == ["four", "six"]
    assert told["closed"]["failed"] and told["closed"]["healthy"] == []
    assert "(asked from 10.77.0.254, fd77::ffff on network inside, as a neighbour)" in told["closed"]["msg"]


@pytest.mark.parametrize(("when", "address"), [("taken", "10.77.0.254"), ("taken, IPv6", "fd77::ffff")])
def test_nobodys_address_is_taken(told, when, address):
    line = f"network inside: {address}, the address to ask from, is in use: name an unused one in verify_neighbours"
    assert told[when]["msg"].startswith(line) and told[when]["failed"]


def test_a_named_address_is_used(told):
    assert told["named"]["healthy"] == ["four", "six"]


def test_without_the_filter_of_domains_nothing_is_asked(told):
    message = told["without a filter"]["msg"]
    assert message.startswith("the packet filter of domains does not take a port: nft -f -: ") and "\n" not in message
    assert message.endswith(": run the role xen_host") and told["left without a filter"] == []


def test_a_bridge_that_is_not_there(told):
    assert told["no bridge"]["msg"].startswith("network gone: ip link set vif-verify master gone up: ")


def test_one_that_was_killed_leaves_no_port_and_the_next_one_cleans_up(told):
    assert told["killed"] == {"there": ["vif-verify", "in the filter"], "after": ["in the filter"]}
    assert told["after a kill"]["healthy"] == ["four"] and told["left after a kill"] == []


def test_what_the_controller_does_not_reach_is_not_asked(told):
    assert told["controller"]["not_asked"] == [f"domain {name}: tcp/8443 is not published" for name in ("four", "six")]
