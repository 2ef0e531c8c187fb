"""playbooks/audit.yml on a machine that site.yml has turned into a host: tests/run boots."""

import json

import pytest

from .conftest import Dom0, playbook, wait_until

# What depends on the day, and on what the tests before this one did to the machine's boot.
NOT_NOW = {"security updates", "no reboot pending"}


@pytest.fixture(scope="module")
def dom0():
    host = Dom0()
    wait_until(lambda: host("echo up", check=False) == "up\n", 300, "a shell in Dom0")
    return host


def test_every_default_control_passes_and_nothing_is_changed(dom0, tmp_path):
    report = tmp_path / "audit.json"
    answer = playbook("playbooks/audit.yml", "-e", f"audit_json={report}")
    assert answer.counts["xen1"]["changed"] == answer.counts["xen1"]["failed"] == 0
    (controls,) = json.loads(report.read_text()).values()
    seen = {control["control"]: control for control in controls}
    print("\n".join(f"{name}: {control['seen']}" for name, control in seen.items() if not control["passed"]))
    assert seen["Xen runs"]["passed"] and seen["Dom0 comes first"]["seen"] == "weight 512"
    failed = {line.split(": ")[2] for line in answer.stdout.splitlines() if "xen1: FAIL: " in line}
    assert failed <= NOT_NOW, answer.stdout[-6000:]


def test_what_somebody_undoes_is_named(dom0):
    dom0("sysctl -q kernel.kptr_restrict=0; xl sched-credit2 -d 0 -w 256; chmod 0755 /var/lib/unikernels/disks")
    try:
        answer = playbook("playbooks/audit.yml")
    finally:
        dom0("sysctl -q kernel.kptr_restrict=2; xl sched-credit2 -d 0 -w 512; chmod 0700 /var/lib/unikernels/disks")
    text = " ".join(answer.stdout.split())
    assert "xen1: FAIL: sysctl kernel.kptr_restrict: kernel/kptr_restrict = 0; needed: 2" in text
    assert "xen1: FAIL: Dom0 comes first: weight 256" in text
    assert "xen1: FAIL: modes: /var/lib/unikernels/disks is 0755, wanted 0700" in text
