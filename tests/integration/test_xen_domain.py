"""The module on real Xen: each promise of its documentation, each fault really produced."""

import json
import re
import shlex

import pytest


@pytest.fixture
def domain(play, images, cleared):
    """Declare the domain `try`; gone after the test."""

    def declare(check=True, arguments=(), arguments_of_the_domain=None, **options):
        if arguments_of_the_domain is not None:
            options["arguments"] = arguments_of_the_domain
        options = {"name": "try", "kernel": images["idle"], "memory": 32, "settle": 0, "shutdown_timeout": 0, **options}
        return play({"unikernels.xen.xen_domain": options}, check=check, arguments=arguments)

    return declare


def changed(done):
    return done.counts["xen1"]["changed"]


def test_a_solo5_image_runs_through_its_whole_life(domain, dom0):
    assert changed(domain(arguments=["--check"])) == 1
    assert "try" not in dom0.domains(), "check mode changed something"
    assert changed(domain()) == 1
    first = dom0.domains()["try"]
    assert changed(domain()) == 0
    assert dom0.domains()["try"] == first

    assert changed(domain(state="paused")) == 1
    assert re.search(r" -[b-]p--- ", dom0("xl list try"))
    assert changed(domain(state="running")) == 1
    assert not re.search(r" -[b-]p--- ", dom0("xl list try"))
    assert dom0.domains()["try"] == first, "pausing does not make a new domain"

    assert changed(domain(memory=40, arguments=["--diff"])) == 1
    assert dom0.domains()["try"] != first
    assert "memory = 40" in dom0("cat /etc/xen/auto/try.cfg")

    assert changed(domain(memory=40, autostart=False)) == 1
    dom0("test ! -e /etc/xen/auto/try.cfg && test -e /etc/xen/unikernels/try.cfg")

    assert changed(domain(memory=40, state="stopped")) == 1
    assert "try" not in dom0.domains()
    assert changed(domain(memory=40, state="stopped")) == 0
    dom0("test ! -e /etc/xen/auto/try.cfg && test -e /etc/xen/unikernels/try.cfg")

    assert changed(domain(state="absent", kernel=None)) == 1
    assert changed(domain(state="absent", kernel=None)) == 0
    dom0("test ! -e /etc/xen/unikernels/try.cfg")


def test_one_that_ends_by_itself_is_a_failure_and_the_former_one_runs(domain, dom0, images):
    domain()
    first = dom0.domains()["try"]
    failed = domain(kernel=images["ends"], settle=5, check=False)
    assert failed.returncode != 0
    assert "ended by itself" in failed.stdout
    assert "the former domain was put back and runs" in failed.stdout
    after = dom0.domains()
    assert after["try"] == first
    assert not [name for name in after if "~" in name]
    assert images["idle"] in dom0("cat /etc/xen/unikernels/try.cfg"), "the definition is still what runs"


def test_disks_and_interfaces_are_what_xen_reports(domain, dom0):
    dom0("truncate -s 1M /root/disk.img")
    options = {"disks": [{"path": "/root/disk.img"}], "interfaces": [{"bridge": "xenbr0"}, {"bridge": "xenbr0"}]}
    assert changed(domain(**options)) == 1
    assert changed(domain(**options)) == 0
    config = json.loads(dom0("xl list -l try"))[0]["config"]
    assert config["disks"][0]["pdev_path"] == "/root/disk.img"
    assert len({nic["mac"] for nic in config["nics"]}) == 2
    options["disks"][0]["access"] = "w"
    assert changed(domain(**options)) == 1
    assert changed(domain(**options)) == 0


def test_hostile_arguments_reach_the_guest_as_they_are(domain, dom0):
    words = ['--a="; on_crash="restart', "--b=$(touch /root/pwned) `id` \\ 'x'", "--c=ünï"]
    assert changed(domain(arguments_of_the_domain=words)) == 1
    config = json.loads(dom0("xl list -l try"))[0]["config"]
    assert shlex.split(config["b_info"]["cmdline"]) == words
    assert config["on_crash"] == "preserve"
    dom0("test ! -e /root/pwned")
    assert changed(domain(arguments_of_the_domain=words)) == 0


def test_a_domain_that_is_not_ours_is_never_touched(domain, dom0, images):
    dom0("cat >/root/foreign.cfg", data=f'name = "try"\ntype = "pvh"\nkernel = "{images["idle"]}"\nmemory = 32\n')
    dom0("xl create /root/foreign.cfg")
    foreign = dom0.domains()["try"]
    for state in ("running", "stopped", "absent"):
        refused = domain(state=state, check=False)
        assert refused.returncode != 0
        assert "that this collection did not make" in refused.stdout
    assert dom0.domains()["try"] == foreign
    assert changed(domain(adopt=True, on_crash="destroy")) == 1
    assert dom0.domains()["try"] == foreign, "adopting what is as declared does not restart it"
    assert changed(domain(on_crash="destroy")) == 0, "from now on it is ours"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "Domain-0"}, "name: must be"),
        ({"kernel": "/nosuch.xen"}, "/nosuch.xen does not exist on this host"),
        ({"kernel": "/root"}, "not a file"),
        ({"kernel": "/etc/passwd"}, "not an ELF file"),
        ({"interfaces": [{"bridge": "nobr0"}]}, "nobr0 is not a bridge of this host"),
        ({"interfaces": [{"bridge": "xenbr0", "address": "192.0.2.1/24"}]}, "outside the network of xenbr0 (10.0.2.0/24)"),
        ({"interfaces": [{"bridge": "xenbr0", "address": "10.0.2.15/24"}]}, "the host's own on xenbr0"),
        ({"memory": 100000}, "the host has"),
        ({"disks": [{"path": "/root/nosuch.img"}]}, "/root/nosuch.img does not exist"),
        ({"arguments_of_the_domain": ["--hello=a\nb"]}, "must not contain a newline"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(domain, dom0, options, words):
    before = dom0.domains()
    refused = domain(check=False, **options)
    assert refused.returncode != 0
    assert words in refused.stdout.replace("\n    ", " ").replace("    ", "")
    assert "Traceback" not in refused.stdout + refused.stderr
    assert dom0.domains() == before
    dom0("test ! -e /etc/xen/unikernels/try.cfg")


def test_a_second_run_at_once_waits_or_says_who_works(domain, dom0):
    holder = "flock /run/unikernels-xen.lock sleep 60 >/dev/null 2>&1 &"
    dom0(f"nohup sh -c '{holder}' >/dev/null 2>&1; sleep 1")
    refused = domain(lock_timeout=1, check=False)
    assert "another run works on this host" in refused.stdout
    assert changed(domain(lock_timeout=180)) == 1
