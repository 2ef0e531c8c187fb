"""The module xen_domain on real Xen: each promise of its documentation, each fault really provoked."""

import json
import re

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain import boot_line

from .conftest import hold

pytestmark = pytest.mark.usefixtures("idle_services")


@pytest.fixture
def task(images, cleared):
    """A task that declares the domain `try`, which is removed after the test."""

    def one(more=None, /, **options):
        options = {"name": "try", "kernel": images["idle"], "memory": 32, "settle": 0, "shutdown_timeout": 0, **options}
        return {"unikernels.xen.xen_domain": options, **(more or {})}

    return one


@pytest.fixture
def domain(play, task):
    """Declare the domain `try` in its own play."""

    def declare(check=True, **options):
        return play(task(**options), check=check)

    return declare


def changed(done):
    return done.counts["xen1"]["changed"]


def test_a_solo5_image_runs_through_its_whole_life(task, results):
    """Reach each state, twice; compare what xl and the files say after each."""
    look = "xl domid try; xl list try; cat /etc/xen/auto/try.cfg; test -e /etc/xen/unikernels/try.cfg && echo defined"
    life = [
        task({"check_mode": True}), task(), task(), task(state="paused"), task(state="running"), task({"diff": True}, memory=40),
        task(memory=40, autostart=False), task(memory=40, state="stopped"), task(memory=40, state="stopped"),
        task(state="absent", kernel=None), task(state="absent", kernel=None),
    ]  # fmt: skip
    tasks = [one for step in life for one in (step, {"ansible.builtin.shell": look})]
    answers = results(*tasks).results
    changes = [one["changed"] for one in answers[::2]]
    assert not [one for one in answers[::2] if one.get("failed")]
    assert changes == [True, True, False, True, True, True, True, True, False, True, False]
    predicted, made, again, paused, unpaused, replaced, alone, stopped, _again, absent, _absent = (
        one["stdout"] for one in answers[1::2]
    )
    assert predicted == "", "check mode changed something"
    first = made.split()[0]
    assert again.split()[0] == paused.split()[0] == unpaused.split()[0] == first, "the same domain"
    assert re.search(r" -[b-]p--- ", paused) and not re.search(r" -[b-]p--- ", unpaused)
    assert replaced.split()[0] != first and "memory = 40" in replaced
    assert "try" in alone and "memory" not in alone and "defined" in alone, "it runs, is defined, and does not start by itself"
    assert stopped == "defined"
    assert absent == ""


def test_one_that_ends_by_itself_is_a_failure_and_the_former_one_runs(domain, dom0, images):
    domain()
    first = dom0.domains()["try"]
    failed = domain(kernel=images["ends"], settle=5, check=False)
    assert failed.returncode != 0
    assert "ended by itself" in failed.stdout
    assert "the old domain was put back and is running" in failed.stdout
    after = dom0.domains()
    assert after["try"] == first
    assert not [name for name in after if "~" in name]
    assert images["idle"] in dom0("cat /etc/xen/unikernels/try.cfg"), "the definition is still what runs"


def test_disks_and_interfaces_are_what_xen_reports(task, results, dom0):
    dom0("truncate -s 1M /root/disk.img")
    interfaces = [{"bridge": "xenbr0"}, {"bridge": "xenbr0"}]
    read, write = ({"disks": [{"path": "/root/disk.img", "access": access}], "interfaces": interfaces} for access in "rw")
    look = {"ansible.builtin.command": "xl list -l try"}
    answers = results(task(**read), task(**read), look, task(**write), task(**write)).results
    config = json.loads(answers.pop(2)["stdout"])[0]["config"]
    assert [one["changed"] for one in answers] == [True, False, True, False]
    assert config["disks"][0]["pdev_path"] == "/root/disk.img"
    assert len({nic["mac"] for nic in config["nics"]}) == 2


def test_hostile_arguments_reach_the_guest_as_they_are(task, results, dom0):
    words = ['--a="; on_crash="restart', "--b=$(touch /root/pwned) `id` \\ 'x'", "--c=ünï"]
    assert [one["changed"] for one in results(task(arguments=words), task(arguments=words)).results] == [True, False]
    config = json.loads(dom0("xl list -l try"))[0]["config"]
    assert boot_line.split(config["b_info"]["cmdline"]) == words
    assert config["on_crash"] == "preserve"
    dom0("test ! -e /root/pwned")


def test_a_domain_that_is_not_ours_is_never_touched(task, results, dom0, images):
    dom0("cat >/root/foreign.cfg", data=f'name = "try"\ntype = "pvh"\nkernel = "{images["idle"]}"\nmemory = 32\n')
    dom0("xl create /root/foreign.cfg")
    foreign = dom0.domains()["try"]
    answers = results(
        *(task(state=state) for state in ("running", "stopped", "absent")),
        {"ansible.builtin.command": "xl domid try"},
        task(adopt=True, on_crash="destroy"),
        task(on_crash="destroy"),
    ).results
    for refused in answers[:3]:
        assert refused["failed"] and "that this collection did not create" in refused["msg"]
    assert answers[3]["stdout"] == str(foreign)
    assert answers[4]["changed"] and dom0.domains()["try"] == foreign, "adopting what is as declared does not restart it"
    assert answers[5]["changed"] is False, "from now on it is ours"


BAD = [
    ({"name": "Domain-0"}, "name: must be"),
    ({"kernel": "/nosuch.xen"}, "/nosuch.xen does not exist on this host"),
    ({"kernel": "/root"}, "not a file"),
    ({"kernel": "/etc/passwd"}, "not an ELF file"),
    ({"interfaces": [{"bridge": "nobr0"}]}, "nobr0 is not a bridge of this host"),
    ({"interfaces": [{"bridge": "xenbr0", "address": "192.0.2.1/24"}]}, "outside the network of xenbr0 (10.0.2.0/24)"),
    ({"interfaces": [{"bridge": "xenbr0", "address": "10.0.2.15/24"}]}, "the host's own on xenbr0"),
    ({"memory": 100000}, "the host has"),
    ({"disks": [{"path": "/root/nosuch.img"}]}, "/root/nosuch.img does not exist"),
    ({"arguments": ["--hello=a\nb"]}, "must not contain a newline"),
]


def test_bad_input_is_one_line_and_changes_nothing(task, results, dom0):
    before = dom0.domains()
    done = results(*(task(**options) for options, _words in BAD))
    for refused, (options, words) in zip(done.results, BAD, strict=True):
        assert refused["failed"] and words in refused["msg"] and "\n" not in refused["msg"], (options, refused)
        assert refused.get("changed", False) is False
    assert dom0.domains() == before
    dom0("test ! -e /etc/xen/unikernels/try.cfg")


def test_a_second_run_at_once_waits_or_says_who_works(domain, dom0):
    end = hold(dom0, "/run/unikernels-xen/lock", 600)
    refused = domain(lock_timeout=1, check=False)
    assert "another run works on this host" in refused.stdout
    dom0(end)
    hold(dom0, "/run/unikernels-xen/lock", 20)
    assert changed(domain(lock_timeout=180)) == 1
