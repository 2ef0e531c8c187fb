"""Anti-spoofing at real vifs: our guest sends any frame on request, and only its own may pass."""

import json

import pytest

from tests.wire import frames

from .conftest import ROOT, wait_until

OWN = f"{frames.ADDRESS} {frames.ADDRESS6}"
BASE = {"memory": 16, "settle": 0, "shutdown_timeout": 0, "autostart": False}

pytestmark = pytest.mark.usefixtures("cleared")


@pytest.fixture
def puppet(images):
    def declare(name="try1", **interface):
        vif = {"bridge": "xenbr0", "mac": frames.GUEST, "ip": OWN, **interface}
        arguments = {"ipv4": f"{frames.ADDRESS}/24", "mode": "puppet", "name": name}
        return {**BASE, "name": name, "kernel": images["service"], "interfaces": [vif], "arguments": arguments}

    return declare


@pytest.fixture
def pulled(dom0):
    """For each frame: whether the guest's vif saw it, and where else it turned up."""

    starts = {}

    def is_ready(name):
        """The log has the lines of earlier starts too, so a new domain needs one more."""
        lines = dom0(f"cat /var/log/xen/console/guest-{name}.log", check=False).count(f"{name}: ready")
        domid, (before, counted) = dom0.domains().get(name), starts.get(name, (None, 0))
        if domid is None or lines <= (counted if domid != before else 0):
            return False
        starts[name] = (domid, lines)
        return True

    def pull(kinds, name="try1"):
        wait_until(lambda: is_ready(name), 60, f"{name}: ready")
        dom0("cat >/root/pull.py", data=(ROOT / "tests/wire/dom0.py").read_text())
        others = [f"vif{dom0.domains()['www']}.0", "$(ls /sys/class/net/xenbr0/brif | grep -v ^vif | head -n 1)"]
        uplink = dom0(f"echo {others[1]}").strip()
        asked = {
            "bridge": "xenbr0", "vif": f"vif{dom0.domains()[name]}.0", "others": [others[0], uplink], "mac": frames.GUEST,
            "address": frames.ADDRESS, "frames": {kind: frame.hex() for kind, frame in kinds.items()},
        }  # fmt: skip
        return json.loads(dom0("python3 /root/pull.py", data=json.dumps(asked), timeout=600))

    return pull


def nothing_passes(told):
    assert [kind for kind, (sent, _places) in told.items() if not sent] == []
    assert {kind: places for kind, (_sent, places) in told.items() if places} == {}


def all_pass(told):
    assert [kind for kind, (_sent, places) in told.items() if not places] == []


def test_nothing_but_its_own(declared, puppet, pulled, dom0):
    assert declared(puppet()).result["changed"]
    assert not declared(puppet()).result["changed"]
    nothing_passes(pulled(frames.hostile()))
    all_pass(pulled(frames.lawful()))
    assert "proto ra" not in dom0(f"ip -6 route show default via {frames.LINK_LOCAL}")

    # Restarted by Xen, and by hand.
    before = dom0.domains()["try1"]
    dom0("xl reboot try1")
    wait_until(lambda: dom0.domains().get("try1", before) != before, 60, "try1 again")
    some = dict(list(frames.hostile().items())[::8])
    nothing_passes(pulled(some))
    dom0("xl destroy try1; xl create /etc/xen/unikernels/try1.cfg")
    nothing_passes(pulled(some))

    # Opened by hand, and repaired by a run of the role.
    dom0("nft flush ruleset")
    assert "wrong: the tables were not loaded" in dom0("/etc/xen/scripts/unikernels-antispoof keep xenbr0")
    assert dom0("/etc/xen/scripts/unikernels-antispoof check xenbr0") == ""
    nothing_passes(pulled(some))
    all_pass(pulled(dict(list(frames.lawful().items())[::4])))

    # Both domains of a replacement at once.
    dom0("sed s/try1/try1~next/ /etc/xen/unikernels/try1.cfg | sed '/^uuid/d' >/root/next.cfg; xl create -p /root/next.cfg")
    nothing_passes(pulled(some))
    dom0("xl destroy try1~next")


def test_without_a_filter_dom0_stays_shut(declared, puppet, pulled, dom0):
    declared(puppet(ip=None, antispoofing=False))
    told = pulled(dict(list(frames.hostile().items())[6:60:6]))
    all_pass(told)
    shown = dom0("nft list chain bridge unikernels guest; nft list map bridge unikernels guests")
    assert f'"vif{dom0.domains()["try1"]}.0" : goto' in shown


def test_a_domain_whose_filter_can_not_be_set_does_not_run(declared, puppet, dom0):
    dom0("nft delete table bridge unikernels")
    done = declared(puppet(), check=False)
    assert done.result["failed"]
    assert "try1" not in dom0.domains()
    dom0("systemctl reload-or-restart unikernels-antispoof")
    declared(puppet())
    assert "try1" in dom0.domains()
