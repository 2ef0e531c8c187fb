"""What hardens a host, what would lock its administrator out, and what an audit reports."""

import json
import pathlib
import re
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host import hardening
from ansible_collections.unikernels.xen.plugins.module_utils.host.hardening import (
    management_refusals,
    ssh_refusals,
    xen_arguments,
)
from hypothesis import given
from hypothesis import strategies as st

SSH = {"sshd": True, "user": "admin", "key": True, "client": "192.0.2.7", "port": 22}


def test_xens_line():
    assert xen_arguments(1024, 0, [], True, True, True) == ["dom0_mem=1024M,max:1024M", "gnttab=max-ver:1", "ucode=scan"]
    assert xen_arguments(512, 2, ["console=com1"], False, False, False) == [
        "dom0_mem=512M,max:512M",
        "dom0_max_vcpus=2",
        "smt=off",
        "console=com1",
    ]
    # Named arguments win.
    named = ["gnttab=max-ver:2", "ucode=no", "smt=on"]
    assert xen_arguments(512, 0, named, True, True, False)[1:] == named


def test_what_the_machine_has_on_xens_line_stays():
    machine = ["com1=115200,8n1", "console=com1,vga", "dom0_mem=4G", "dom0_max_vcpus=2", "noreboot", "smt=off", 'x="$y"']
    assert xen_arguments(512, 0, [], True, True, True, machine=machine) == [
        "dom0_mem=512M,max:512M", "gnttab=max-ver:1", "ucode=scan", "com1=115200,8n1", "console=com1,vga", "smt=off",
    ]  # fmt: skip
    assert xen_arguments(512, 0, ["console=com2"], False, False, False, machine=machine)[1:] == [
        "com1=115200,8n1", "smt=off", "console=com2",
    ]  # fmt: skip
    assert xen_arguments(512, 0, ["sched_gran=core"], False, False, True, True, machine=["dom0-mem=1G", "reboot=w,n"]) == [
        "dom0_mem=512M,max:512M", "sched_gran=core",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "by_password", "words"),
    [
        ({}, False, None),
        ({"sshd": False, "key": False}, True, None),
        ({}, True, "this run itself connects by a password"),
        ({"key": False}, False, "the user admin has no key"),
    ],
)
def test_who_would_be_locked_out_by_keys(changes, by_password, words):
    lines = ssh_refusals({**SSH, **changes}, True, by_password)
    assert (not lines) if words is None else words in lines[0] and lines[0].startswith("xen_host_harden_sshd: ")
    assert ssh_refusals({**SSH, **changes}, False, by_password) == []


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ([], None),
        (None, None),
        (["192.0.2.0/24"], None),
        (["2001:db8::/32", "192.0.2.7"], None),
        ("192.0.2.0/24", "must be a list of networks"),
        (["192.0.2.1/24"], "'192.0.2.1/24' is an address in a network: write 192.0.2.0/24 for the network, or 192.0.2.1 for the"),
        (["2001:db8::1/64"], "write 2001:db8::/64 for the network, or 2001:db8::1 for the address alone"),
        (["::ffff:192.0.2.0/120"], "'::ffff:192.0.2.0/120' is IPv4 written as IPv6"),
        (["192.0.2.0/33"], "'192.0.2.0/33' is not a network"),
        ([22], "22 is not a network"),
        ([None], "None is not a network"),
        (["192.0.2.0/24", "fe80::1%x } accept; tcp dport { 1"], "'fe80::1%x } accept; tcp dport { 1' is not a network"),
        (["2001:db8::/32", "10.0.0.0/8"], "this run comes from 192.0.2.7, which is in none of 2001:db8::/32, 10.0.0.0/8"),
    ],
)
def test_who_would_be_locked_out_by_the_filter(networks, words):
    lines = management_refusals(networks, SSH)
    assert (not lines) if words is None else words in lines[0] and lines[0].startswith("xen_host_management_networks: ")


def test_each_network_that_is_none_is_named():
    lines = management_refusals(["192.0.2.0/24", "x", "192.0.2.1/24"], SSH)
    assert [line.split("'")[1] for line in lines] == ["x", "192.0.2.1/24"]


def test_a_run_that_comes_from_no_address_is_not_locked_out():
    assert management_refusals(["192.0.2.0/24"], {"client": "UNKNOWN"}) == []


def test_the_filter():
    text = hardening.management_table(["192.0.2.0/24", "2001:db8::/32", "198.51.100.0/24"], [2222, 22, 9100, 22])
    assert "    ip saddr { 192.0.2.0/24, 198.51.100.0/24 } tcp dport { 22, 2222, 9100 } accept\n" in text
    assert "    ip6 saddr { 2001:db8::/32 } tcp dport { 22, 2222, 9100 } accept\n" in text
    assert "policy drop" in text and text.count("{") == text.count("}")
    assert "ip6 saddr" not in hardening.management_table(["192.0.2.0/24"], [22])


def test_files_of_what_is_on_and_off():
    info = {"needs_router_advertisements": False, "ssh": SSH}
    wanted = hardening.files(info, True, True, 64, "security", True, "/srv/images", True)
    texts = {entry["path"]: entry["content"] for entry in wanted["files"]}
    assert "-net.ipv6.conf.*.accept_ra = 0\n" in texts[hardening.SYSCTL_FILE]
    assert "PasswordAuthentication no\n" in texts[hardening.SSHD_FILE]
    assert "SystemMaxUse=64M\n" in texts[hardening.JOURNAL_FILE]
    assert "install dccp /bin/false\n" in texts[hardening.MODULES_FILE]
    assert "-w /srv/images -p wa -k xen-images\n" in texts[hardening.AUDIT_FILE]
    assert wanted["absent"] == []
    off = hardening.files(info, False, False, 0, "none")
    assert off == {"folders": [], "files": [], "absent": [*texts, hardening.PASSWORD_FILE]}
    assert texts[hardening.UPDATES_FILE].startswith("// Written by") and "label=Debian-Security" in texts[hardening.UPDATES_FILE]
    assert 'label=Debian"' not in texts[hardening.UPDATES_FILE] and 'label=Debian"' in hardening.updates_text("all")
    assert 'Automatic-Reboot "false"' in hardening.updates_text("all")
    # A host that is reachable only through router advertisements must stay reachable.
    needs = hardening.files({**info, "needs_router_advertisements": True}, True, False, 0, "all")
    assert "accept_ra" not in needs["files"][0]["content"]


def seen(**changes):
    sysctls = {
        key: {key.replace(".", "/"): value} for key, value in {**hardening.SYSCTLS, **hardening.ROUTER_ADVERTISEMENTS}.items()
    }
    return {
        "under_xen": True,
        "xen_arguments": "placeholder dom0_mem=512M gnttab=max-ver:1 ucode=scan",
        "microcode": {"package": "intel-microcode", "installed": True, "available": True, "virtual": False},
        "boot": {"kept": True, "unconfirmed": False, "default": "unikernels-good", "cannot_try": ""},
        "pending_reboot": False,
        "sysctls": sysctls,
        "blocked_modules": list(hardening.MODULES),
        "sshd": {key.lower(): value for key, value in hardening.SSHD.items()},
        "console": {"bounded": True, "size": 64},
        "xenconsoled": "/usr/sbin/xenconsoled --log=guest --replace-escape",
        "journal": {"persistent": True, "storage": "persistent", "max_use": "512M"},
        "modes": {"/var/log/xen/console": (0o700, 0o700)},
        "management": False,
        "security_updates": [],
        "topology": {"threads_per_core": 1},
        "dom0_weight": 512,
        "guest_filter": True,
        "domain_limits": True,
        "boot_trial": True,
        "grub_password": False,
        "needless_packages": [],
        "listening": [],
        "automatic_updates": True,
        "audit_rules": True,
        **changes,
    }


def failed(**changes):
    return {control.name: control.seen for control in hardening.audit(seen(**changes)) if not control.passed}


def test_a_host_as_the_role_leaves_it_passes_but_for_what_only_its_administrator_knows():
    controls = hardening.audit(seen())
    assert failed() == {"input is filtered": "xen_host_management_networks is empty", "GRUB's password": "no"}
    lines = hardening.summary("xen1", controls)
    assert lines[0] == "xen1: open: GRUB's password: no; needed: xen_host_grub_password"
    assert lines[1].startswith("xen1: open: input is filtered: ")
    assert lines[-1] == f"xen1: {len(controls) - 2} of {len(controls)} controls hold, 0 of the default ones fail"
    assert json.dumps([control.as_dict() for control in controls])


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"under_xen": False}, "Xen runs", "no"),
        ({"xen_arguments": "gnttab=max-ver:2 ucode=scan"}, "grant tables v1", "gnttab=max-ver:2"),
        ({"xen_arguments": "gnttab=max-ver:1"}, "microcode at boot", "no ucode="),
        (
            {"microcode": {"package": "amd64-microcode", "installed": False, "available": False, "virtual": False}},
            "microcode package",
            "no apt source has the component non-free-firmware",
        ),
        ({"pending_reboot": True}, "no reboot pending", "pending"),
        (
            {"boot": {"kept": False, "unconfirmed": False, "default": "", "cannot_try": "GRUB can't write to btrfs"}},
            "boot that worked is kept",
            "GRUB can't write to btrfs",
        ),
        ({"sysctls": {"kernel.kptr_restrict": {"kernel/kptr_restrict": "0"}}}, "sysctl kernel.kptr_restrict", "= 0"),
        ({"sshd": {"passwordauthentication": "yes"}}, "sshd PasswordAuthentication", "yes"),
        ({"console": {"bounded": False, "size": 0}}, "consoles are bounded", "on /"),
        ({"xenconsoled": "xenconsoled --log=guest"}, "consoles without escape sequences", "--log=guest"),
        ({"journal": {"persistent": True, "storage": "", "max_use": ""}}, "journal is bounded", "a tenth"),
        ({"modes": {"/var/lib/unikernels/disks/a": (0o644, 0o600)}}, "modes", "disks/a is 0644, wanted 0600"),
        ({"blocked_modules": list(hardening.MODULES[1:])}, "modules that no host needs", "dccp"),
        ({"updates_problem": "pending updates are not known"}, "security updates", "are not known"),
        ({"topology": {"threads_per_core": 2}}, "cores are not shared", "2 threads a core"),
        ({"dom0_weight": 256}, "Dom0 comes first", "weight 256"),
        ({"dom0_weight": None}, "Dom0 comes first", "not known"),
        ({"guest_filter": False}, "packets of domains are filtered", "no"),
        ({"domain_limits": False}, "domains start and stop within limits", "no"),
        ({"boot_trial": False}, "a boot on trial returns", "no"),
        ({"needless_packages": ["avahi-daemon"]}, "packages that no host needs", "avahi-daemon"),
        ({"listening": ["rpcbind tcp 0.0.0.0:111"]}, "nothing else listens", "rpcbind"),
        ({"automatic_updates": False}, "updates are installed daily", "no"),
        ({"audit_rules": False}, "changes are logged", "no"),
        ({"security_updates": ["xen-hypervisor-4.17-amd64"]}, "security updates", "xen-hypervisor"),
    ],
)
def test_each_control_fails_for_what_it_is_for(changes, name, words):
    assert words in failed(**changes)[name]


def test_a_virtual_machine_and_one_without_sshd():
    virtual = {"package": "", "installed": False, "available": False, "virtual": True}
    assert set(failed(microcode=virtual, sshd={})) == {"input is filtered", "GRUB's password"}


def test_threads_that_one_domain_has_for_itself():
    words = "gnttab=max-ver:1 ucode=scan sched-gran=core"
    assert "cores are not shared" not in failed(topology={"threads_per_core": 2}, xen_arguments=words)


def test_what_listens_behind_the_filter_is_not_reached():
    assert "nothing else listens" not in failed(listening=["rpcbind tcp 0.0.0.0:111"], management=True)


def test_programs_that_the_network_reaches():
    text = """udp UNCONN 0 0 0.0.0.0:68 0.0.0.0:* users:(("dhclient",pid=4,fd=7))
udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=5,fd=3))
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=6,fd=3))
tcp LISTEN 0 128 [::]:111 [::]:* users:(("rpcbind",pid=7,fd=5),("systemd",pid=1,fd=9))
tcp LISTEN 0 20 [::1]:25 [::]:* users:(("exim4",pid=8,fd=5))
tcp LISTEN 0 64 *:2049 *:*
tcp LISTEN 0 64 [::ffff:127.0.0.1]:3 *:* users:(("x",pid=9,fd=1))

tcp LISTEN
"""
    assert hardening.listeners(text) == ["an unknown program tcp *:2049", "rpcbind tcp [::]:111"]
    assert hardening.listeners("") == []


def test_dom0s_weight():
    text = "Name                                ID Weight  Cap\nDomain-0                             0    512    0\n"
    assert hardening.weight_of(text) == 512
    assert hardening.weight_of("") is hardening.weight_of("www   1   256   0\n") is None


def test_what_sshd_prints():
    text = "port 22\npermitrootlogin without-password\npasswordauthentication no\n"
    assert hardening.parse_sshd(text)["permitrootlogin"] == "without-password"


@given(st.one_of(st.none(), st.text(), st.lists(st.one_of(st.text(), st.integers(), st.none()))))
def test_networks_of_any_kind_are_taken_or_refused_in_one_line(networks):
    lines = management_refusals(networks, {})
    assert all("\n" not in line for line in lines)
    if not lines and networks:
        assert hardening.management_table(networks, 22)


def test_xens_line_with_what_is_no_default():
    words = xen_arguments(512, 0, [], False, False, True, True, True)
    assert words == ["dom0_mem=512M,max:512M", "sched-gran=core", "dom0_vcpus_pin"]
    assert xen_arguments(512, 0, ["sched-gran=socket"], False, False, True, True)[1:] == ["sched-gran=socket"]


def test_grubs_password_is_no_text_of_the_shell(tmp_path):
    """The script prints what GRUB reads, since update-grub runs it."""
    script = tmp_path / "script"
    script.write_text(hardening.password_script("grub.pbkdf2.sha512.10000.AB.CD"))
    printed = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=True, timeout=20).stdout
    assert printed == 'set superusers="root"\npassword_pbkdf2 root grub.pbkdf2.sha512.10000.AB.CD\n'


def test_each_control_of_the_audit_is_in_the_documentation():
    page = (pathlib.Path(__file__).resolve().parents[3] / "docs/hardening.md").read_text()
    for control in hardening.audit(seen()):
        name = control.name.partition(" ")[0] if control.name.startswith(("sysctl ", "sshd ")) else control.name
        assert f"`{name}`" in page, f"docs/hardening.md lacks {name}"
    # And in the documentation's table no control that no audit reports.
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall("`([^`]+)`", row)}
    assert names and names <= {control.name for control in hardening.audit(seen())} | {"sysctl", "sshd"}
