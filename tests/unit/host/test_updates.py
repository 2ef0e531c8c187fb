"""When a host may be updated, what an update left undone, and why apt failed."""

import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host import audit_facts, updates

INFO = {"updates": [], "security_updates": [], "held_updates": [], "updates_remove": [], "updates_problem": ""}
INFO["updates_space"] = {"boot": 900, "root": 900, "boot_needs": 80}
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
    text = "Remv old [1]\nInst less [590-2] (590-2.1 Debian:12.11/stable [amd64])\n"
    monkeypatch.setattr(audit_facts, "simulated_upgrade", lambda: text)
    monkeypatch.setattr(audit_facts, "command_output", lambda *words: rows if words[0] == "dpkg-query" else "less\n")
    found = audit_facts.updates()
    assert found["updates_problem"] == "bridge-utils, xen-utils-4.17, man-db, broken: half installed"
    assert found["held_updates"] == ["less"] and found["updates_remove"] == ["old"]
    assert found["updates_space"]["root"] >= 0


def test_updates_that_would_take_away_what_a_host_needs():
    info = {
        **INFO,
        "updates": ["less"],
        "updates_remove": ["xen-utils-4.17", "openssh-server", "python3-pip", "systemd-timesyncd"],
    }
    (line,) = updates.refusals(info, "security", "refuse")
    assert line.startswith("xen-utils-4.17, openssh-server: would be removed by the updates")


@pytest.mark.parametrize(
    ("waiting", "space", "words"),
    [
        (["less"], {"boot": 0, "root": 0}, []),
        (["linux-image-amd64", "linux-image-6.1.0-42-amd64"], {}, []),
        (["linux-image-amd64"], {"boot": 79}, ["linux-image-amd64: /boot has 79 MiB free, 80 are needed: remove old kernels"]),
        ([XEN], {"boot": 10, "root": 10}, [f"{XEN}: /boot has 10 MiB free, 80 are needed"]),
        (["linux-image-amd64"], {"root": 499}, ["linux-image-amd64: / has 499 MiB free, 500 are needed"]),
    ],
)
def test_a_boot_without_room_for_it(waiting, space, words):
    info = {**INFO, "security_updates": waiting, "updates_space": {**INFO["updates_space"], **space}}
    lines = updates.refusals(info, "security", "refuse")
    assert len(lines) == len(words) and all(line.startswith(word) for line, word in zip(lines, words))
    assert updates.refusals(info, "all", "refuse") == []


def test_which_domains_a_reboot_stopped():
    def rows(**states):
        return [{"name": name, "state": state, "autostart": name != "by hand"} for name, state in states.items()]

    before = rows(**{"www": "running", "dns": "running", "by hand": "paused", "ended": "shutdown", "www~next": "running"})
    assert updates.stopped(before, rows(dns="running", www="shutdown")) == {"failed": ["www"], "left": ["by hand"]}
    assert updates.stopped(before, before) == updates.stopped([], []) == {"failed": [], "left": []}
