"""Boots that break: each ends with the host back on the entry that worked, without a hand, and with one line.

They need nothing but a machine that runs under Xen, and change its boot alone: tests/run boots.
"""

import json
import os
import random
import re

import pytest

from .conftest import Dom0, playbook, wait_until

# Seconds until a boot that nobody can reach goes back: more than a good one takes under emulation to be confirmed.
CONFIRM = 200
TRIAL = "/etc/systemd/system/unikernels-boot-trial.service"
# Read after the role's own part, so that it wins; what the role declares stays as it is.
PART = "/etc/default/grub.d/zz-broken-boots.cfg"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
RETURNED = "the new boot failed, and the host has returned to the previous one (with Xen): "
EARLY = "Xen or Dom0's kernel ended before a unit of it ran"
UNREACHED = f"it came up, but no run could reach and confirm it within {CONFIRM} s"


@pytest.fixture(scope="module")
def dom0():
    """Dom0 with a shorter time for a trial; at the end its boot is declared by nobody but the role."""
    host = Dom0()
    wait_until(lambda: host("echo up", check=False) == "up\n", 300, "a shell in Dom0")
    text = host(f"cat {TRIAL}")
    host(f"sed -i -e 's/sleep [0-9]*; \\[/sleep {CONFIRM}; [/' -e 's/within [0-9]* s/within {CONFIRM} s/' {TRIAL}")
    yield host
    host(f"cat >{TRIAL}", data=text)
    host(f"rm -f {PART}; update-grub 2>&1")


def lines(dom0):
    """Xen's and Linux' words of what runs."""
    xen = re.search(r"^xen_commandline\s*: (.*)$", dom0("xl info"), re.MULTILINE)[1].split()
    return xen, dom0("cat /proc/cmdline").split()


def declared(dom0, xen=(), linux=(), without=()):
    """Shell that makes the next boot of GRUB's menu one with these words as well, or without some."""
    ours = ("placeholder", "BOOT_IMAGE=", "unikernels.boot=", "panic=")
    rows = [[word for word in words if not word.startswith(ours) and word not in without] for words in lines(dom0)]
    # GRUB's script writes root= itself.
    texts = [" ".join([*rows[0], *xen]), " ".join([*(word for word in rows[1] if not word.startswith("root=")), *linux])]
    part = f'GRUB_CMDLINE_XEN=\\"{texts[0]}\\"\\nGRUB_CMDLINE_LINUX_XEN_REPLACE=\\"{texts[1]}\\"\\n'
    return f'printf "{part}" >{PART} && update-grub 2>&1'


def boots(tmp_path, command, controlled=True, compared=False):
    """Try the next boot as the role does; without ``controlled`` nobody waits for it. What ansible-playbook answered.

    ``compared``: with what the role declares, which is asked only of a boot that comes up.
    """
    role = {"name": "unikernels.xen.xen_host", "rolespec_validate": False}
    tasks = [{"name": "Declare another boot", "ansible.builtin.shell": {"cmd": command}}]
    if compared:
        tasks.insert(0, {"name": "Look", "ansible.builtin.include_role": {**role, "tasks_from": "preflight"}})
    if controlled:
        tasks.append({"name": "Boot", "ansible.builtin.include_role": {**role, "tasks_from": "boot"}})
    else:
        tasks += [
            {"name": "Try", "unikernels.xen.xen_boot": {"state": "tried"}},
            {"name": "Reboot, and be gone", "ansible.builtin.shell": {"cmd": "(sleep 1; systemctl reboot) >/dev/null 2>&1 &"}},
        ]
    path = tmp_path / "boot.yml"
    book = {"hosts": "xen1", "gather_facts": False, "vars": {"xen_host_boot_confirm_within": CONFIRM}, "tasks": tasks}
    path.write_text(json.dumps([book]))
    return playbook(str(path), check=False)


def refusal(answer):
    """What the run printed of the boot, as its reader sees it."""
    text = re.sub(r"\s+", " ", answer.stdout + answer.stderr)
    start = text.find("xen1: the new boot failed")
    assert start >= 0, answer.stdout[-4000:]
    return text[start : start + 600]


def back(dom0, before):
    """The host runs under Xen with the lines and the entry that it had before."""
    xen, linux = lines(dom0)
    assert "unikernels.boot=good" in linux

    def plain(words):
        return {word for word in words if not word.startswith(("unikernels.boot=", "panic=", "BOOT_IMAGE="))}

    assert (plain(xen), plain(linux)) == tuple(map(plain, before))


# What breaks -> words for Xen, words for Linux, and what the run prints of it.
BROKEN = {
    "Xen does not boot": (["mem=64M"], [], EARLY),
    "Dom0 has no root file system": ([], ["root=/dev/nonexistent"], EARLY),
    "Dom0 is too small": (["dom0_mem=48M,max:48M"], [], EARLY),
    "Dom0 has no network": ([], ["module_blacklist=virtio_net"], UNREACHED),
    "Dom0 has no sshd": ([], ["systemd.mask=ssh.service"], UNREACHED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_boot_that_breaks_ends_on_the_entry_that_worked(name, dom0, tmp_path):
    xen, linux, line = BROKEN[name]
    before, boot = lines(dom0), dom0(BOOT_ID)
    answer = boots(tmp_path, declared(dom0, xen, linux))
    assert RETURNED + line in refusal(answer)
    assert answer.counts["xen1"]["failed"] == 1
    assert dom0(BOOT_ID) != boot
    back(dom0, before)


def test_a_boot_that_no_controller_confirms_ends_on_the_entry_that_worked(dom0, tmp_path):
    """The controller is lost as soon as the host reboots."""
    before, boot = lines(dom0), dom0(BOOT_ID)
    answer = boots(tmp_path, declared(dom0, linux=["systemd.log_level=info"]), controlled=False)
    assert answer.counts["xen1"]["failed"] == 0, answer.stdout[-4000:]

    def entry():
        text = dom0(f"{BOOT_ID}; cat /proc/cmdline", check=False, timeout=30)
        return "" if not text or boot.strip() in text else text

    wait_until(lambda: "unikernels.boot=try" in entry(), 600, "the boot on trial")
    wait_until(lambda: "unikernels.boot=good" in entry(), CONFIRM + 600, "the entry that worked")
    back(dom0, before)
    path = tmp_path / "info.yml"
    path.write_text(json.dumps([{
        "hosts": "xen1", "gather_facts": False,
        "tasks": [{"unikernels.xen.xen_host_info": {}, "register": "seen"}, {"ansible.builtin.debug": {"var": "seen.host.boot"}}],
    }]))  # fmt: skip
    assert UNREACHED in playbook(str(path)).stdout


def changed_word(words, dice):
    """One word of a line changed as a slip of the pen would: lost, cut, doubled, with another letter or number, or a new one."""
    place = dice.randrange(len(words))
    word = words[place]
    cut = dice.randrange(len(word))
    return place, dice.choice(
        ["", word[:cut], word + word[-1], word[:cut] + dice.choice("0159axz=,") + word[cut + 1 :], word.upper(), f"{word} noapic"]
    )


@pytest.mark.parametrize("seed", range(int(os.environ.get("BOOT_WORDS", "2"))))
def test_a_host_survives_any_other_word_on_its_lines(seed, dom0, tmp_path):
    """Confirmed or back: never lost. BOOT_WORDS=20 for as many."""
    dice = random.Random(seed)
    before = lines(dom0)
    which = dice.randrange(2)
    skipped = ("placeholder", "BOOT_IMAGE=", "unikernels.boot=", "panic=")
    words = [word for word in before[which] if not word.startswith(skipped)]
    place, new = changed_word(words, dice)
    more = {"xen" if which == 0 else "linux": new.split()}
    answer = boots(tmp_path, declared(dom0, without=[words[place]], **more), compared=True)
    kept = not answer.counts["xen1"]["failed"]
    wanted = "unikernels.boot=try" if kept else "unikernels.boot=good"
    # One that lacks a declared word comes up, and is not confirmed.
    wait_until(lambda: wanted in dom0("cat /proc/cmdline", check=False, timeout=30), CONFIRM + 600, wanted)
    print(f"seed {seed}: {words[place]!r} became {new!r}: {'confirmed' if kept else 'the host returned'}")
    if not kept:
        back(dom0, before)
