"""Networks of every kind on real Xen, with Xen's own vifs: made by site.yml, with guests of ours on them, and changed later.

The machine's one card is QEMU's user network, 10.0.2.0/24 behind 10.0.2.2, so the provider's part is QEMU's: a port of the
controller leads to an address there, as a client's packets would.
"""

import json
import pathlib
import socket

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.lab.machine import monitor

from tests.guests import service
from tests.wire import frames
from tests.wire.networks import (
    DNS,
    HOST,
    HTTP,
    MARK,
    NETWORKS,
    UPLINK,
    address_of,
    asked,
    mac,
    nothing_but_its_own,
    only_the_hosts_mac_leaves,
    places,
    unikernels,
)

from .conftest import ROOT, http, playbook, run, wait_until

PARTS = ("--tags", "provision,deploy")
ON_SHUT_AND_TAGGED = ("try4", "try5")
# As Dom0 sees them.
PAGES = """
import urllib.request
for address in {}:
    print(urllib.request.urlopen("http://" + address, timeout=60).read().decode().strip())
"""


class Site:
    """site.yml with networks and guests of ours."""

    def __init__(self, folder):
        self.folder = folder
        self.image = folder / "sender.xen"
        self.image.write_bytes(service())

    def __call__(self, *words, networks=NETWORKS, guests=None, check=True, book="site.yml"):
        variables = {
            "xen_host_networks": networks,
            "unikernels": unikernels() if guests is None else guests,
            "unikernel_images": {"sender": {"file": str(self.image)}},
        }
        path = self.folder / "variables.json"
        path.write_text(json.dumps(variables))
        return playbook(book, "-e", f"@{path}", *words, check=check)


@pytest.fixture(scope="module")
def networked(site, dom0, tmp_path_factory):
    """The site with all networks and a guest on each."""
    made = Site(tmp_path_factory.mktemp("networks"))
    made(*PARTS)
    return made


@pytest.fixture(scope="module")
def outside(networked):
    """outside(address, port, protocol) returns a port of the controller that leads there over QEMU's network."""
    folder = json.loads(run("ansible-inventory", "--host", "xen1").stdout)["lab_folder"]
    machine = pathlib.Path(folder) / "machines" / "xen1"

    def lead(address, port, protocol="tcp"):
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as free:
            free.bind(("127.0.0.1", 0))
            here = free.getsockname()[1]
        monitor(str(machine), f"hostfwd_add net {protocol}:127.0.0.1:{here}-{address}:{port}")
        return here

    return lead


def page(port):
    """QEMU itself answers connections, so only the page counts."""
    return run("curl", "-s", "-m", "20", f"http://127.0.0.1:{port}/", check=False).stdout


def resolved(port):
    dig = ("dig", "+short", "+time=5", "+tries=2", "@127.0.0.1", "-p", str(port), "try.example", "A")
    return [line for line in run(*dig, check=False).stdout.splitlines() if not line.startswith(";")]


@pytest.fixture(scope="module")
def pull(networked, dom0):
    """pull(number, network, frames, mark) returns where each frame that the guest sends turns up."""
    dom0("cat >/root/pull.py", data=(ROOT / "tests/wire/dom0.py").read_text())

    def ask(number, network, kinds, mark=b""):
        # Else a bridge shows its own device only what is for it.
        dom0(f"ip link set dev {network} promisc on")
        text = asked(number, network, f"vif{dom0.domains()[f'try{number}']}.0", kinds, mark)
        return places(dom0("python3 /root/pull.py", data=text, timeout=600))

    return ask


def test_every_kind_is_there_and_a_second_run_changes_nothing(networked, dom0):
    links = {one["ifname"]: one for one in json.loads(dom0("ip -j -d link"))}
    assert {name: links[name]["linkinfo"]["info_kind"] for name in NETWORKS} == dict.fromkeys(NETWORKS, "bridge")
    assert links[f"{UPLINK}.100"]["master"] == "tagged" and links[f"{UPLINK}.100"]["linkinfo"]["info_data"]["id"] == 100
    assert links[UPLINK]["master"] == "xenbr0"
    domains = dom0.domains()
    there = {one["name"]: links[f"vif{domains[one['name']]}.0"]["master"] for one in unikernels()}
    assert there == {one["name"]: one["interfaces"][0]["network"] for one in unikernels()}
    assert "It answers" in http(), "the site's own service, on the bridge that was there before"
    assert networked(*PARTS).counts["xen1"]["changed"] == 0


def test_clients_outside_reach_what_is_published_and_what_is_on_the_wire(outside, dom0):
    assert "try1: It answers" in page(outside(HOST, HTTP))
    assert "try3: It answers" in page(outside("10.0.2.120", 80)), "Dom0 answers for a single address on the provider's wire"
    # Published, but accepted from elsewhere alone.
    assert resolved(outside(HOST, DNS, "udp")) == []
    pages = dom0("python3 -", data=PAGES.format([address_of(number) for number in range(1, 6)])).splitlines()
    assert pages == [f"{one['name']}: It answers. A guest of our own" for one in unikernels()], "from Dom0"


def test_what_is_accepted_changes_under_a_running_domain(networked, outside, dom0):
    before = dom0.domains()
    networked("--tags", "deploy", guests=unikernels(accept=("tcp/80", "udp/53")))
    there = outside(HOST, DNS, "udp")
    assert wait_until(lambda: resolved(there), 60, "an answer of the published udp/53")
    assert dom0.domains() == before


def test_nothing_but_its_own_on_a_nat_and_on_a_routed_network(pull, tmp_path):
    nothing_but_its_own(pull, tmp_path)


def test_only_the_hosts_mac_leaves_and_only_where_a_guest_may_reach(pull, dom0):
    only_the_hosts_mac_leaves(pull, {one["ifname"]: one["address"] for one in json.loads(dom0("ip -j link"))})


def test_a_vlan_leaves_with_its_tag(pull):
    packet = frames.ip(frames.udp(data=MARK), source="10.0.5.5", target="10.0.5.255")
    frame = frames.ether(packet, source=mac(5), target=frames.ALL)
    assert f"{UPLINK} {mac(5)} vlan 100" in pull(5, "tagged", {"": frame}, MARK)[""]


def test_verify_asks_from_the_neighbours_places(networked):
    done = networked(book="playbooks/verify.yml")
    assert done.counts["xen1"]["failed"] == 0 and done.counts["xen1"]["changed"] == 0


def test_networks_go_while_domains_run_on_the_others(networked, outside, dom0):
    fewer = {name: one for name, one in NETWORKS.items() if name not in ("shut", "tagged")}
    refused = networked("--tags", "provision", networks=fewer, guests=unikernels()[:3], check=False)
    assert refused.returncode != 0
    words = " ".join(refused.stdout.split())
    for line in ("shut is gone, but domains run on it (try4)", "tagged is gone, but domains run on it (try5)"):
        assert line in words
    gone = [{"name": name, "state": "absent"} for name in ON_SHUT_AND_TAGGED]
    networked("--tags", "deploy", guests=[*unikernels()[:3], *gone])
    before = dom0.domains()
    assert networked("--tags", "provision", networks=fewer, guests=unikernels()[:3]).counts["xen1"]["changed"] >= 1
    there = dom0("ls /sys/class/net").split()
    assert not {"shut", "tagged", f"{UPLINK}.100"} & set(there)
    assert dom0.domains() == before
    assert "try1: It answers" in page(outside(HOST, HTTP))
    assert "try3: It answers" in page(outside("10.0.2.120", 80))
    assert "It answers" in http()
