"""Whatever word of a boot line changes: it is tried once, and the entry that worked stays the default with its own files."""

import os
import re
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.host import boot, boot_entries
from ansible_collections.unikernels.xen.plugins.module_utils.host.boot_menu import differing_arguments, other_arguments
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from .test_boot_menu import LINUX, MENU, XEN

RELEASE = "6.1.0-56-amd64"
FILES = ("xen-4.17-amd64.gz", f"vmlinuz-{RELEASE}", f"initrd.img-{RELEASE}")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A /boot in a folder whose menu's entry runs; ``environment()`` is GRUB's."""

    class Machine:
        menu = tmp_path / "grub.cfg"
        own = tmp_path / "unikernels-xen.cfg"
        values = None

        @staticmethod
        def declare(xen, linux):
            head = 'source "${prefix}/unikernels-xen.cfg"\n'
            text = MENU.replace(f"/boot/xen-4.17-amd64.gz {XEN}", f"/boot/xen-4.17-amd64.gz {xen}")
            Machine.menu.write_text(head + text.replace(f"/boot/vmlinuz-{RELEASE} {LINUX}", f"/boot/vmlinuz-{RELEASE} {linux}"))

        @staticmethod
        def own_entries():
            return {kind: boot_entries.part_of(Machine.own.read_text(), kind) for kind in (boot_entries.GOOD, boot_entries.TRY)}

    def editenv(command, **_options):
        assert command[0] == "grub-editenv" and command[2] == "set"
        Machine.values.update(word.split("=", 1) for word in command[3:])
        return subprocess.CompletedProcess(command, 0, "", "")

    Machine.values = {}
    for name in FILES:
        (tmp_path / name).write_text(name)
    (tmp_path / "wanted").write_text("")
    monkeypatch.setattr(subprocess, "run", editenv)
    monkeypatch.setattr(boot, "MENU", str(Machine.menu))
    monkeypatch.setattr(boot, "OWN_MENU", str(Machine.own))
    monkeypatch.setattr(boot, "WANTED", str(tmp_path / "wanted"))
    monkeypatch.setattr(boot, "RETURNED", str(tmp_path / "returned"))
    monkeypatch.setattr(boot, "environment_refusal", lambda: "")
    monkeypatch.setattr(boot, "environment", lambda _text: Machine.values)
    monkeypatch.setattr(boot, "_second_name", lambda source, _target: os.stat(tmp_path / os.path.basename(source)))
    monkeypatch.setattr(boot.os, "makedirs", lambda *_arguments, **_options: None)
    monkeypatch.setattr(boot.os, "listdir", lambda _path: [])
    monkeypatch.setattr(boot.os, "sync", lambda: None)
    Machine.declare(XEN, LINUX)
    return Machine


WORDS = st.from_regex(r"\A[A-Za-z0-9_=,.:/+-]{1,20}\Z")


@st.composite
def one_other_word(draw):
    """Change one word in the menu's two lines: lost, doubled, cut, replaced or added."""
    lines = [XEN.split(), LINUX.split()]
    which = draw(st.integers(0, 1))
    place = draw(st.integers(1, len(lines[which]) - 1))
    word = lines[which][place]
    kind = draw(st.sampled_from(["lost", "cut", "other", "added"]))
    new = {"lost": [], "cut": [word[: draw(st.integers(1, len(word)))]], "other": [draw(WORDS)], "added": [word, draw(WORDS)]}[
        kind
    ]
    lines[which][place : place + 1] = new
    return " ".join(lines[0]), " ".join(lines[1])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one_other_word())
def test_a_boot_with_another_word_is_tried_once(machine, lines):
    xen, linux = lines
    machine.values.clear()
    machine.own.unlink(missing_ok=True)
    machine.declare(xen, linux)
    assume(not re.search(r"(^| )(unikernels\.boot|BOOT_IMAGE|initrd)=", linux))
    boot.prepare(XEN, f"{LINUX}", RELEASE)
    # GRUB boots the new entry once, then again what ran.
    assert machine.values == {"saved_entry": "unikernels-good", "next_entry": "unikernels-try"}
    entries = machine.own_entries()
    (good,), (tried,) = (boot_entries.entries(entries[kind]) for kind in (boot_entries.GOOD, boot_entries.TRY))
    assert boot_entries.plain_words(good.linux_line) == boot_entries.plain_words(LINUX)
    assert boot_entries.plain_words(good.xen_line) == boot_entries.plain_words(XEN)
    assert [os.path.basename(path) for path in good.files] == list(FILES)
    assert all("/unikernels-" in path for path in good.files)
    # Only the entry on trial has the new word; each has its mark, and panic= that reboots.
    assert boot_entries.plain_words(tried.linux_line) == boot_entries.plain_words(linux)
    assert boot_entries.plain_words(tried.xen_line) == boot_entries.plain_words(xen)
    for kind, entry in ((boot_entries.GOOD, good), (boot_entries.TRY, tried)):
        assert boot_entries.booted(entry.linux_line) == kind
        assert any(word.startswith("panic=") for word in entry.linux_line.split())
    assert 'set fallback="unikernels-good 0"' in machine.own.read_text()


@settings(max_examples=200, deadline=None)
@given(one_other_word())
def test_another_word_is_a_pending_reboot(lines):
    xen, linux = lines
    added = boot_entries._NOT_DECLARED
    changed = {*XEN.split(), *LINUX.split()} - added != {*xen.split(), *linux.split()} - added
    menu = MENU.replace(f"amd64.gz {XEN}", f"amd64.gz {xen}").replace(f"{RELEASE} {LINUX}", f"{RELEASE} {linux}")
    if other_arguments(menu, XEN, LINUX):
        assert changed or set(XEN.split()) & set(linux.split()) or set(LINUX.split()) & set(xen.split())
    elif changed:
        # A word that GRUB's scripts or our own entries add.
        assert {*xen.split(), *linux.split()} ^ {*XEN.split(), *LINUX.split()} <= {
            word for word in [*xen.split(), *linux.split()] if word in added or word.startswith(("BOOT_IMAGE=", "initrd="))
        }


@pytest.mark.parametrize("word", ["clocksource=xen", "spec-ctrl=no", "dom0_mem=512M,max:512M"])
def test_a_word_that_is_declared_and_does_not_run_takes_a_boot(word):
    info = {"xen_arguments": XEN, "linux_arguments": LINUX, "written_arguments": []}
    assert differing_arguments(info, [*XEN.split(), word], LINUX.split()) == [word]


def test_a_second_trial_keeps_what_worked_first(machine):
    """A run dies after the trial was selected, and another one comes with another word."""
    machine.declare(f"{XEN} one=1", LINUX)
    boot.prepare(XEN, LINUX, RELEASE)
    good = machine.own_entries()[boot_entries.GOOD]
    machine.declare(f"{XEN} two=2", LINUX)
    boot.prepare(XEN, LINUX, RELEASE)
    entries = machine.own_entries()
    assert entries[boot_entries.GOOD] == good
    assert "two=2" in entries[boot_entries.TRY] and "one=1" not in entries[boot_entries.TRY]


def test_without_the_unit_that_goes_back_nothing_is_tried(machine, tmp_path):
    os.unlink(tmp_path / "wanted")
    with pytest.raises(boot.BootError, match="which returns the machine to the old boot"):
        boot.prepare(XEN, LINUX, RELEASE)
    assert "next_entry" not in machine.values
