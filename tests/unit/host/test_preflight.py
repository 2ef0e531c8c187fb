"""Which machine may become a host, and what fits on it."""

import datetime

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.host.preflight import (
    boot_refusals,
    host_refusals,
    pinning_refusals,
    placement_refusals,
    twin_refusals,
    xen_support_warning,
)
from ansible_collections.unikernels.xen.plugins.module_utils.host.preflight import warnings as warnings_on

INFO = {
    "distribution": "debian",
    "release": "12",
    "machine": "x86_64",
    "hardware_virtualization": True,
    "under_xen": False,
    "pvh_capable": False,
    "secure_boot": False,
    "memory": 2560,
    "dom0_memory": 0,
    "free_disk": 7000,
    "uplink": "ens3",
    "networks": {"ens3": ["10.0.2.15/24"]},
    "bridges": {},
    "network_style": "ifupdown",
}


def refusals(**changes):
    return host_refusals({**INFO, **changes}, 1024, "xenbr0", True)


def test_a_good_machine():
    assert refusals() == []
    assert refusals(release="13") == []
    assert refusals(bridges={"xenbr0": []}, network_style="netplan") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distribution": "fedora", "release": "42"}, "runs fedora 42; xen_host supports Debian 12 and 13"),
        ({"release": "11"}, "runs debian 11"),
        ({"machine": "aarch64"}, "is a aarch64 machine"),
        ({"hardware_virtualization": False}, "has no VT-x or AMD-V: enable virtualization"),
        ({"under_xen": True, "pvh_capable": False}, "without hardware virtualization"),
        ({"secure_boot": True}, "Secure Boot enabled"),
        ({"grub": False}, "has no GRUB (update-grub is missing)"),
        ({"memory": 1024}, "too little is left for domains"),
        ({"memory": 1024, "under_xen": True, "pvh_capable": True}, "too little is left for domains"),
        ({"free_disk": 200}, "has 200 MiB free"),
        ({"free_disk": 20, "under_xen": True, "pvh_capable": True}, "has 20 MiB free on / of Dom0"),
        ({"uplink": ""}, "has no default route"),
        ({"cut_off": ["bridge xenbr0: chain FORWARD of table ip filter drops"]}, "bridge xenbr0: chain FORWARD"),
    ],
)
def test_each_refusal_says_what_to_do(changes, words):
    (line,) = refusals(**changes)
    assert words in line


def placement(memory=64, address="10.0.2.101/24", **info):
    options = {"name": "www", "kernel": "/k", "memory": memory, "interfaces": [{"bridge": "xenbr0", "address": address}]}
    return placement_refusals([declaration_of(options, "h")], {**INFO, **info}, 1024, "xenbr0")


def test_placement():
    assert placement() == []
    assert "the host has 1376 MiB beside Dom0" in placement(2000)[0]
    # Dom0's declared memory counts, not what the last boot gave it.
    assert "the host has 1376 MiB beside Dom0" in placement(2000, dom0_memory=300)[0]
    # The bridge doesn't exist yet: it will have the uplink's network.
    assert "outside the network of xenbr0 (10.0.2.0/24)" in placement(address="10.9.0.2/24")[0]
    assert placement(address="10.9.0.2/24", bridges={"xenbr0": ["10.9.0.1/16"]}) == []


def test_what_xen_takes_of_a_large_machine():
    def large(memory):
        domain = declaration_of({"name": "www", "kernel": "/k", "memory": memory}, "h")
        return placement_refusals([domain], {**INFO, "memory": 65536}, 1024, "xenbr0")

    assert "the host has 63900 MiB beside Dom0" in large(64000)[0]
    assert large(63800) == []


SIBLINGS = {"cpus": 4, "cpu_numbers": 4, "cpus_without_smt": "0,2", "cpus_of_nodes": {"0": "0-1", "1": "2-3"}}


@pytest.mark.parametrize(
    ("cpus", "mask", "smt", "allowed"),
    [
        ("1,3", "", True, None),
        ("1-2", "", False, None),
        ("0", 0, False, None),
        ("", "2", True, None),
        ("1,3", "", False, "0,2"),
        ("0", "all,^0", True, "1-3"),
        ("0-1", "nodes:1", True, "2-3"),
        ("3", "nodes:1", False, "2"),
        ("9", None, True, "0-3"),
        # What is wrong with the mask itself has its own line.
        ("0", "1,3", False, None),
        ("0", "x", True, None),
    ],
)
def test_domains_without_a_cpu_after_the_next_boot(cpus, mask, smt, allowed):
    declared = [
        declaration_of({"name": "www", "kernel": "/k", "cpus": cpus, "state": state}, "h") for state in ("running", "stopped")
    ]
    assert pinning_refusals(declared, SIBLINGS, mask, smt) == (
        [f"domain www: cpus: is {cpus}, but this host's domains may run on {allowed} only (xen_host_domain_cpus, xen_host_smt)"]
        if allowed
        else []
    )


def test_dom0_has_room_for_its_domains():
    many = [declaration_of({"name": f"d{number}", "kernel": "/k", "memory": 8}, "h") for number in range(113)]
    assert placement_refusals(many[:112], {**INFO, "memory": 65536}, 512, "xenbr0") == []
    (line,) = placement_refusals(many, {**INFO, "memory": 65536}, 512, "xenbr0")
    assert line.startswith("113 domains: need about 513 MiB in Dom0") and "xen_host_dom0_memory" in line


def test_two_machines_of_one_name():
    assert twin_refusals({"a": "xen1", "b": "xen2"}) == []
    (line,) = twin_refusals({"a": "xen1", "b": "xen2", "c": "xen1"})
    assert line.startswith("a, c: all have the host name 'xen1'") and "hostnamectl set-hostname" in line


def test_a_host_with_other_peoples_domains_is_taken_over_knowingly():
    info = {"foreign_domains": ["billing", "mail"], "written_arguments": [], "boot": {"cannot_try": ""}, "boot_overrides": []}
    (line,) = boot_refusals(info, True, True, False)
    assert line.startswith("runs domains that this collection did not create (billing, mail): a reboot would stop them")
    (line,) = boot_refusals(info, False, True, False)
    assert "defaults" in line and "xen_host_take_over: true" in line
    assert boot_refusals(info, True, True, True) == []
    ours = {**info, "written_arguments": ["dom0_mem=1024M"]}
    assert boot_refusals(ours, False, True, False) == []
    assert len(boot_refusals(ours, True, True, False)) == 1


def test_a_host_that_can_not_try_a_boot_once():
    info = {"foreign_domains": [], "written_arguments": [], "boot_overrides": []}
    info["boot"] = {"cannot_try": "GRUB can't write to btrfs"}
    (line,) = boot_refusals(info, True, True, False)
    assert "xen_host_boot_try_once: false" in line and "btrfs" in line
    assert boot_refusals(info, True, False, False) == boot_refusals(info, False, True, False) == []


def test_a_file_of_grub_that_undoes_ours():
    info = {"foreign_domains": [], "written_arguments": [], "boot": {"cannot_try": ""}, "boot_overrides": ["GRUB_CMDLINE_XEN"]}
    (line,) = boot_refusals(info, False, True, False)
    assert line.startswith("has GRUB_CMDLINE_XEN in a file of /etc/default/grub.d that GRUB reads after unikernels-xen.cfg")
    assert "xen_host_xen_arguments" in line


def warnings(info, today=datetime.date(2026, 11, 28)):
    return warnings_on(info, today)


@pytest.mark.parametrize(
    ("running", "installed", "release", "today", "words"),
    [
        ("4.17.6", "4.17.6-1", "12", "2026-11-28", ""),
        ("4.17.6-pre", "", "12", "2027-06-16", "has Xen 4.17, for which Xen's developers fix vulnerabilities until 2027-12-12"),
        (
            "4.17.6",
            "",
            "12",
            "2027-12-13",
            "has Xen 4.17, for which Xen's developers have fixed no vulnerabilities since 2027-12-12",
        ),
        # What runs counts, not what its release has.
        ("4.16.7", "4.20.4-1", "13", "2026-11-28", "has Xen 4.16, for which Xen's developers no longer fix vulnerabilities"),
        ("", "4.14.6-1", "12", "2026-11-28", "has Xen 4.14, for which"),
        ("", "", "13", "2030-03-06", "has Xen 4.20, for which Xen's developers have fixed no vulnerabilities since 2030-03-05"),
        ("", "", "11", "2026-11-28", ""),
        ("5.0.0", "", "13", "2026-11-28", ""),
        ("4.100.1", "", "13", "2036-11-28", ""),
        ("unstable", "", "13", "2026-11-28", ""),
    ],
)
def test_a_xen_that_nobody_fixes(running, installed, release, today, words):
    info = {"running": {"xen": running}, "installed": {"xen": installed}, "release": release}
    line = xen_support_warning(info, datetime.date.fromisoformat(today))
    assert line.startswith(words) and bool(line) == bool(words)


def test_what_somebody_should_know():
    versions = {"xen": "4.20.4", "kernel": "6.12.57-1", "microcode": ""}
    info = {"release": "13", "under_xen": True, "pending_reboot": False, "running": versions, "installed": versions}
    info.update(package_lists_age=0, boot={"returned": ""})
    assert warnings(info) == []
    installed = {**versions, "xen": "4.20.4+63-g1-1"}
    assert "installed are 4.20.4+63-g1-1" in warnings({**info, "pending_reboot": True, "installed": installed})[0]
    assert "30 days old" in warnings({**info, "package_lists_age": 30})[0]
    assert "returned from a boot that failed: why" in warnings({**info, "boot": {"returned": "why"}})[0]
