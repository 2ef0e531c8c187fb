"""What a host answers is shown on one line, and moves no cursor."""

import pytest
from ansible_collections.unikernels.xen.plugins.filter import xen_host

EVIL = "vm\x1b[2J\x9b2J\u202e\n"
BOOT = {"cannot_try": EVIL, "returned": EVIL}
INFO = {
    "foreign_domains": [EVIL],
    "written_arguments": [],
    "boot_overrides": [],
    "boot": BOOT,
    "release": "13",
    "under_xen": True,
    "pending_reboot": True,
    "running": {"xen": f"4.1{EVIL}", "kernel": EVIL},
    "installed": {"xen": f"4.1{EVIL}", "kernel": EVIL},
    "package_lists_age": 30,
    "updates_problem": "",
    "updates": [EVIL],
    "security_updates": [EVIL],
    "held_updates": [EVIL],
    "updates_remove": [f"xen-{EVIL}"],
    "updates_space": {"boot": 0, "root": 0, "boot_needs": 1},
}


@pytest.mark.parametrize(
    "lines",
    [
        lambda: xen_host.host_boot_problems(INFO, True, True, False),
        lambda: xen_host.host_version_problems(INFO, "4.20"),
        lambda: xen_host.host_warnings(INFO),
        lambda: xen_host.update_refusals(INFO, "all", "refuse"),
        lambda: xen_host.update_leftovers({**INFO, "held_updates": []}, "all"),
        lambda: [xen_host.apt_reason({"stderr": f"E: {EVIL}"})],
    ],
)
def test_no_answer_of_a_host_moves_a_cursor(lines):
    found = lines()
    assert found
    assert all(line.isprintable() for line in found)
