"""Boots that fail: each must return to the entry that worked, without manual help, and report one line.

The tests need only a machine under Xen, and change only its boot: tests/run boots.
"""

import json
import os
import random
import re
import subprocess

import pytest

from .conftest import Dom0, playbook, wait_until

# Seconds until an unreachable boot returns: longer than a good one takes, under emulation, to be confirmed.
CONFIRM = int(os.environ.get("BOOT_CONFIRM", "200"))
TRIAL = "/etc/systemd/system/unikernels-boot-trial.service"
MENU = "/boot/grub/grub.cfg"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
EARLY = "Xen or Dom0's kernel ended before a unit of it ran"
UNREACHED = f"it came up, but no run could reach and confirm it within {CONFIRM} s"
# Words of a line that GRUB's scripts or our own entries add.
OURS = ("placeholder", "BOOT_IMAGE=", "unikernels.boot=", "panic=", "no-real-mode", "edd=off")
# For an emulated machine on a busy controller.
BOOT_SECONDS = int(os.environ.get("BOOT_SECONDS", "900"))


def asked(host, command):
    """Return what a command prints; "" while the host can't be asked. A host that resets leaves ssh waiting for its answer."""
    try:
        return host(command, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return ""


@pytest.fixture(scope="module")
def dom0():
    """Dom0 with a shorter trial. At the end GRUB's menu of before is restored."""
    host = Dom0()
    wait_until(lambda: asked(host, "echo up") == "up\n", 300, "a shell in Dom0")
    text = host(f"cp -n {MENU} {MENU}.kept; cat {TRIAL}")
    host(f"sed -i -e 's/sleep [0-9]*; \\[/sleep {CONFIRM}; [/' -e 's/within [0-9]* s/within {CONFIRM} s/' {TRIAL}")
    host.ship_engine()
    yield host
    host(f"cat >{TRIAL}; mv {MENU}.kept {MENU}", data=text)


def lines(dom0):
    """The running command lines of Xen and Linux."""
    texts = dom0("xl info xen_commandline; cat /proc/cmdline").splitlines()
    return [[word for word in text.split() if not word.startswith(OURS)] for text in texts]


def declared(xen, linux):
    """Return shell that puts these words into Xen's entries of GRUB's menu, like update-grub but a hundred times faster."""
    script = f"s#^(\\s*multiboot2?\\s+\\S+ ).*#\\1placeholder {' '.join(xen)}#;"
    script += f"s#^(\\s*module2?\\s+\\S*/vmlinuz\\S+ ).*#\\1placeholder {' '.join(linux)}#"
    return f"sed -E '{script}' {MENU}.kept >{MENU}"


def entry(dom0, before):
    """Return which of our entries the host booted, after boot id ``before``; "" while it can't be asked."""
    text = asked(dom0, f"{BOOT_ID}; cat /proc/cmdline")
    found = re.search(r"unikernels\.boot=(\w+)", text)
    return "" if not text or before.strip() in text or not found else found[1]


PREPARE = """
import platform, re
boot, xl = load("host.boot"), load("xen.xl")
xen = re.search(r"^xen_commandline\\s*: (.*)$", xl.must("info"), re.MULTILINE)[1]
boot.prepare(xen, boot.read("/proc/cmdline").strip(), platform.release())
"""
RETURNED = 'print(load("host.boot").state()["returned"])'

# What breaks -> words for Xen, words for Linux, and what the host reports once it is back.
BROKEN = {
    "Xen does not boot": (["mem=64M"], [], EARLY),
    "Dom0 is too small": (["dom0_mem=48M,max:48M"], [], EARLY),
    "Dom0 has no root file system": ([], ["root=/dev/nonexistent"], EARLY),
    "Dom0 has no network": ([], ["module_blacklist=virtio_net"], UNREACHED),
    "Dom0 has no sshd": ([], ["systemd.mask=ssh.service"], UNREACHED),
    "the controller is lost": ([], [], UNREACHED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_boot_that_breaks_ends_on_the_entry_that_worked(name, dom0):
    """Nobody intervenes after the reboot. Xen uses the last of two words."""
    xen, linux, line = BROKEN[name]
    before, boot = lines(dom0), dom0(BOOT_ID)
    dom0(declared([*before[0], *xen], [*before[1], *linux]))
    dom0.engine(PREPARE, timeout=600)
    asked(dom0, "sync; systemctl reboot --force --force")
    wait_until(lambda: entry(dom0, boot) == "good", CONFIRM + 2 * BOOT_SECONDS, "the entry that worked")
    assert lines(dom0) == before
    stated = dom0.engine(RETURNED, timeout=600).strip()
    assert stated.startswith(line) and "\n" not in stated


def boots(tmp_path, command):
    """Declare another boot and let the role boot it. Return the result of ansible-playbook."""
    role = {"name": "unikernels.xen.xen_host", "rolespec_validate": False}
    tasks = [
        {"name": "Look", "ansible.builtin.include_role": {**role, "tasks_from": "preflight"}},
        {"name": "Declare another boot", "ansible.builtin.shell": {"cmd": command}},
        {"name": "Boot", "ansible.builtin.include_role": {**role, "tasks_from": "boot"}},
    ]
    path = tmp_path / "boot.yml"
    variables = {"xen_host_boot_confirm_within": CONFIRM, "xen_host_reboot_timeout": 2 * BOOT_SECONDS}
    path.write_text(json.dumps([{"hosts": "xen1", "gather_facts": False, "vars": variables, "tasks": tasks}]))
    return playbook(str(path), check=False, timeout=4 * BOOT_SECONDS)


def test_the_run_reports_a_boot_that_failed_in_one_line(dom0, tmp_path):
    xen, linux = lines(dom0)
    answer = boots(tmp_path, declared([*xen, "mem=64M"], linux))
    text = " ".join((answer.stdout + answer.stderr).split())
    assert f"xen1: the new boot failed, and the host has returned to the previous one (with Xen): {EARLY}" in text
    assert answer.counts["xen1"]["failed"] == 1


def changed_word(words, dice):
    """Change one word of a line like a typo: lost, cut, doubled, with another letter or number, or a new word."""
    place = dice.randrange(len(words))
    word = words[place]
    cut = dice.randrange(len(word))
    new = [
        "",
        word[:cut],
        word + word[-1],
        word[:cut] + dice.choice("0159axz=,") + word[cut + 1 :],
        word.upper(),
        f"{word} noapic",
    ]
    return words[:place] + dice.choice(new).split() + words[place + 1 :]


@pytest.mark.parametrize("seed", range(int(os.environ.get("BOOT_WORDS", "2"))))
def test_a_host_survives_any_other_word_on_its_lines(seed, dom0, tmp_path):
    """Either confirmed or returned, never lost. BOOT_WORDS=20 sets how many are tried."""
    dice = random.Random(seed)
    before, boot = lines(dom0), dom0(BOOT_ID)
    other = list(before)
    which = dice.randrange(2)
    other[which] = changed_word(before[which], dice)
    answer = boots(tmp_path, declared(*other))
    wanted = "good" if answer.counts["xen1"]["failed"] else "try"
    # A boot that lacks a declared word comes up but is not confirmed.
    wait_until(lambda: entry(dom0, boot) == wanted, CONFIRM + 2 * BOOT_SECONDS, f"the entry {wanted}")
    print(f"seed {seed}: {set(other[which]) ^ set(before[which])}: {'confirmed' if wanted == 'try' else 'the host returned'}")
    assert lines(dom0) == (before if wanted == "good" else other)
