"""When a host may be updated, what an update left undone, and why apt failed."""

import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host import audit_facts, updates

INFO = {"updates": [], "security_updates": [], "held_updates": [], "updates_problem": ""}
XEN = "xen-hypervisor-4.17-amd64"


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"update_which": "security", "update_held": "leave"}, []),
        ({"update_which": "Security"}, ["update_which: is 'Security', must be security or all"]),
        ({"update_which": None, "update_held": True}, ["update_which: is None, must be security or all",
                                                       "update_held: is True, must be refuse or leave"]),
        ({"update_which": ["all"]}, ["update_which: is ['all'], must be security or all"]),
    ],
)  # fmt: skip
def test_variables(values, lines):
    assert updates.variable_refusals(values) == lines


def test_a_held_package_is_refused_before_anything_changes_or_left_by_request():
    info = {**INFO, "updates": [XEN, "less"], "security_updates": [XEN], "held_updates": [XEN]}
    (line,) = updates.refusals(info, "security", "refuse")
    assert line.startswith(f"{XEN}: held (apt-mark hold)") and "update_held=leave" in line
    assert updates.refusals(info, "security", "leave") == []
    # Then a held package without a security update doesn't matter.
    info = {**info, "held_updates": ["less"]}
    assert updates.refusals(info, "security", "refuse") == [] and len(updates.refusals(info, "all", "refuse")) == 1


def test_a_broken_package_is_named():
    info = {**INFO, "updates_problem": "pending updates are not known: E: Unmet dependencies"}
    (line,) = updates.refusals(info, "security", "leave")
    assert "E: Unmet dependencies" in line and "dpkg --audit" in line
    assert updates.leftovers(info, "all") == ["pending updates are not known: E: Unmet dependencies"]


def test_what_was_left():
    info = {**INFO, "updates": [XEN, "less"], "security_updates": [XEN], "held_updates": ["less"]}
    assert updates.leftovers(info, "security") == [f"{XEN}: not updated, though nothing holds them: see 'apt-get dist-upgrade'"]
    assert updates.leftovers({**info, "held_updates": [XEN]}, "security") == []
    many = [f"p{number}" for number in range(14)]
    assert "p9 and 4 more" in updates.leftovers({**INFO, "updates": many}, "all")[0]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"msg": "'/usr/bin/apt-get dist-upgrade' failed: E: Sub-process /usr/bin/dpkg returned an error code (1)\n",
          "stderr": "dpkg: error processing package xen (--configure):\n x\nE: Sub-process dpkg returned an error code (1)\n"},
         "dpkg: error processing package xen (--configure)"),
        ({"stderr": "E: Unable to fetch some archives\n"}, "Unable to fetch some archives"),
        ({"msg": "Failed to lock apt for exclusive operation"}, "Failed to lock apt for exclusive operation"),
        ({}, "it printed nothing"),
    ],
)  # fmt: skip
def test_why_apt_failed(result, reason):
    assert updates.apt_reason(result) == reason


def test_what_apt_would_install_with_where_it_comes_from():
    text = (
        "Inst xen-utils-4.17 [4.17.3-1] (4.17.5-1 Debian-Security:12/stable-security [amd64])\n"
        "Inst less [590-2] (590-2.1~deb12u2 Debian:12.11/stable [amd64])\n"
        "Conf less (590-2.1~deb12u2 Debian:12.11/stable [amd64])\n"
    )
    assert audit_facts.updates_of(text) == {"xen-utils-4.17": True, "less": False}


def test_apt_that_fails_is_no_host_without_updates(monkeypatch):
    def fails(command, **_options):
        assert command[0] == "apt-get" and "-s" in command
        return subprocess.CompletedProcess(command, 100, "", "W: x\nE: Unmet dependencies. Try 'apt --fix-broken install'.\n")

    monkeypatch.setattr(subprocess, "run", fails)
    monkeypatch.setattr(audit_facts, "command_output", lambda *_words: "")
    found = audit_facts.updates()
    assert found["security_updates"] == [] and "E: Unmet dependencies" in found["updates_problem"]


def test_a_package_that_is_half_installed_is_a_problem(monkeypatch):
    rows = "less ii \nbridge-utils iF \nxen-utils-4.17 iU \nold rc \nman-db it \nheld hi \nbroken iHR\n"
    assert audit_facts.half_installed(rows) == ["bridge-utils", "xen-utils-4.17", "man-db", "broken"]
    assert audit_facts.half_installed("") == []
    monkeypatch.setattr(audit_facts, "waiting_updates", lambda: {"less": False})
    monkeypatch.setattr(audit_facts, "command_output", lambda *words: rows if words[0] == "dpkg-query" else "less\n")
    found = audit_facts.updates()
    assert found["updates_problem"] == "bridge-utils, xen-utils-4.17, man-db, broken: half installed"
    assert found["held_updates"] == ["less"]
