"""The variables of a host, checked as Xen, xl and GRUB will read them."""

import pathlib
import re

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.domain.cpus import cpu_mask
from ansible_collections.unikernels.xen.plugins.module_utils.host import facts, variables
from ansible_collections.unikernels.xen.plugins.module_utils.host.preflight import limit_refusals
from ansible_collections.unikernels.xen.plugins.module_utils.host.variables import cpus_refusal, variable_refusals
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("value", [512, "512", 1024, "1024", 16 << 20])
def test_memory_that_xen_reads_as_it_is_meant(value):
    assert variable_refusals({"xen_host_dom0_memory": value}) == []


@pytest.mark.parametrize(
    "value",
    [
        0,
        1,
        64,
        511,
        -1,
        10**9,
        10**30,
        "1024M",
        "1G",
        "1e3",
        "1024.0",
        1024.5,
        1024.0,
        "0768",
        "0x400",
        " 1024",
        "1024 ",
        "1024\n",
        "+1024",
        "1_024",
        "",
        None,
        True,
        "True",
        [],
        {},
        "١٠٢٤",
        "1024,max:2048",
        "max",
    ],
)
def test_memory_that_xen_would_read_as_something_else(value):
    (line,) = variable_refusals({"xen_host_dom0_memory": value})
    assert line == f"xen_host_dom0_memory: is {value!r}, must be a whole number 512..16777216 (MiB)"


@given(st.one_of(st.integers(), st.text(max_size=12), st.floats(), st.booleans(), st.none()))
def test_every_number_is_taken_as_it_stands_or_refused_in_one_line(value):
    lines = variable_refusals({"xen_host_dom0_memory": value, "xen_host_dom0_vcpus": value})
    assert all("\n" not in line and line.startswith("xen_host_dom0_") for line in lines)
    if len(lines) < 2:
        assert str(int(value)) == str(value)


@pytest.mark.parametrize(
    "value", ["", None, "all", "1", 1, 0, "0-3", "0-3,^1,8", "4095", "all,^0", "nodes:0", "node:0-1,^2", "^0,1"]
)
def test_cpus_that_xl_reads_as_they_are_meant(value):
    assert variable_refusals({"xen_host_domain_cpus": value}) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *[(bad, "must be a set of CPUs, as in 2-15, 0-3,^1, all,^0 or nodes:0, or empty for all") for bad in
          ("^all", "^nodes:all", "nodes:", "nodes:1-0", "node:nodes:0", "all-1", "al", "all ,^0", "3-1",
           "0,,1", "-", ",", "0-", "-1", "!", "0, 1", "1;2", "0-9999", "²", "0\n", -1, 1.5, True, [0, 1], {})],
        ("^0", "leaves no CPU for domains"),
        ("0-3,^0-3", "leaves no CPU for domains"),
        ("all,^0-4095", "leaves no CPU for domains"),
    ],
)  # fmt: skip
def test_cpus_that_would_stop_every_domain(value, words):
    (line,) = variable_refusals({"xen_host_domain_cpus": value})
    assert line.startswith("xen_host_domain_cpus: is ")
    assert words in line


@given(
    st.lists(st.sampled_from(["all", "nodes:", "node:", "^", "0", "1", "2", "9", "-", ",", " "]), max_size=8), st.integers(1, 12)
)
def test_what_is_not_refused_chooses_some_of_the_hosts_cpus(parts, cpus):
    text, every = "".join(parts), set(range(cpus))
    if text and not cpus_refusal(text, every, {0: every, 1: set()}):
        chosen = cpu_mask(text, every, {0: every, 1: set()})
        assert chosen and chosen <= every
    if text and not cpus_refusal(text, every):
        assert not cpus_refusal(text), "what a host takes is not refused before it is known"


def test_masks_as_xl_reads_them():
    """Parts apply in their order; a node means all its CPUs."""
    every, nodes = {0, 1, 2, 3}, {0: {0, 1}, 1: {2, 3}}
    for text, chosen in (
        ("all,^0", {1, 2, 3}),
        ("^0,all", every),
        ("nodes:0", {0, 1}),
        ("node:1,^3", {2}),
        ("nodes:0-1,^node:0", {2, 3}),
        ("nodes:all,^nodes:1,3", {0, 1, 3}),
    ):
        assert cpu_mask(text, every, nodes) == chosen
    assert cpus_refusal("nodes:1-2", every, nodes) == (
        "xen_host_domain_cpus: is 'nodes:1-2': the host has no NUMA node 2, only 0-1"
    )
    assert "leaves no CPU" in cpus_refusal("nodes:1,^2-3", every, nodes)


@pytest.mark.parametrize("name", ["xen_host_xen_arguments", "xen_host_linux_arguments"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('console="hvc0"', "has '\"', may have letters"),
        ("quiet\n", "has '\\n', may have letters"),
        ("a$(reboot)", "has '$', '(', ')', may have letters"),
        (["quiet"], "is ['quiet'], must be one text"),
        (True, "is True, must be one text"),
        ("a" * 2000, "has 2000 characters, must have at most"),
    ],
)
def test_lines_that_would_not_arrive(name, value, words):
    (line,) = variable_refusals({name: value})
    assert line.startswith(f"{name}: {words}")


def test_what_another_variable_decides():
    (line,) = variable_refusals({"xen_host_xen_arguments": "com1=115200,8n1 dom0_mem=64M"})
    assert line == "xen_host_xen_arguments: has dom0_mem=64M, which xen_host_dom0_memory decides: set that instead"
    # Xen reads hyphens as underscores, and no-NAME as NAME=no.
    for word, name in (
        ("dom0-mem=64M", "dom0_memory"),
        ("sched_gran=core", "core_scheduling"),
        ("no-dom0-vcpus-pin", "dom0_pinned"),
    ):
        (line,) = variable_refusals({"xen_host_xen_arguments": word})
        assert line == f"xen_host_xen_arguments: has {word}, which xen_host_{name} decides: set that instead"
    assert variable_refusals({"xen_host_linux_arguments": "console=hvc0 clocksource=xen", "xen_host_xen_arguments": None}) == []


def test_what_the_machine_is_too_small_for():
    info = {"cpus": 4}
    assert limit_refusals(info, 4, "0-3") == limit_refusals(info, 0, "") == []
    assert limit_refusals(info, 5, "99") == [
        "xen_host_domain_cpus: is '99', but the host's CPUs are 0-3",
        "xen_host_dom0_vcpus: is 5, but the host has 4 CPUs: set at most 4, or 0 for all",
    ]


@pytest.mark.parametrize(
    ("console", "memory", "line"),
    [
        (64, 512, ""),
        ("128", "512", ""),
        (129, 512, "xen_host_console_size: is 129, must be at most 128, a quarter of Dom0's memory"),
        ("4096", 1024, "xen_host_console_size: is '4096', must be at most 256, a quarter of Dom0's memory"),
    ],
)
def test_consoles_that_would_fill_dom0s_memory(console, memory, line):
    lines = variable_refusals({"xen_host_console_size": console, "xen_host_dom0_memory": memory})
    assert [found.startswith(line) for found in lines] == ([True] if line else [])


def test_the_highest_cpu_where_threads_are_off():
    """Xen 4.17 with smt=off on two cores of two threads each: the CPUs are 0 and 2."""
    info = {"nr_cpus": "2", "max_cpu_id": "3", "xen_commandline": "placeholder smt=off ucode=scan"}
    assert facts.of_xen(info)["cpu_numbers"] == 4
    assert limit_refusals({"cpus": 2, "cpu_numbers": 4}, 0, "2") == []
    assert "the host's CPUs are 0-3" in limit_refusals({"cpus": 2, "cpu_numbers": 4}, 0, "4")[0]
    # Elsewhere the highest number may be of a CPU that could be plugged in.
    assert facts.of_xen({**info, "max_cpu_id": "127", "xen_commandline": "smt=on nosmt=off"})["cpu_numbers"] == 2
    assert facts.of_xen({})["cpu_numbers"] == 0


SIBLINGS = {"cpus": 4, "cpu_numbers": 4, "cpus_without_smt": "0,2", "cpus_of_nodes": {"0": "0-1", "1": "2-3"}}


def test_cpus_that_go_away_when_smt_is_turned_off():
    assert limit_refusals(SIBLINGS, 4, "1,3") == limit_refusals(SIBLINGS, 2, "1-2", smt=False) == []
    assert limit_refusals(SIBLINGS, 2, "all,^0", smt=False) == limit_refusals(SIBLINGS, 0, "nodes:1", smt=False) == []
    assert limit_refusals(SIBLINGS, 3, "1,3", smt=False) == [
        "xen_host_domain_cpus: is '1,3', which leaves no CPU for domains: without SMT the host's CPUs are 0,2",
        "xen_host_dom0_vcpus: is 3, but without SMT the host has 2 CPUs: set at most 2, or 0 for all",
    ]
    assert "the host's CPUs are 0,2" in limit_refusals(SIBLINGS, 0, "9", smt=False)[0]
    # The administrator's own argument stays.
    assert "leaves no CPU" in limit_refusals({**SIBLINGS, "machine_xen_arguments": ["com1=9600", "smt=off"]}, 2, "1,3")[0]
    # Off now, on after the next boot: those that are off come back.
    off = {"cpus": 2, "cpu_numbers": 4, "cpus_without_smt": "0,2"}
    assert limit_refusals(off, 0, "3") == []
    assert "leaves no CPU" in limit_refusals(off, 0, "3", smt=False)[0]


@pytest.mark.parametrize("name", ["xen_host_bridge", "xen_host_uplink"])
@pytest.mark.parametrize(
    "value", ["xen br0", "br0/../all", "br0\n-net.ipv4.ip_forward = 1", "-x", "x" * 16, 1, True, None, ["x"]]
)
def test_a_device_without_a_devices_name_is_refused(name, value):
    lines = variable_refusals({name: value})
    assert len(lines) == (0 if value is None and name == "xen_host_uplink" else 1)
    assert all(line.startswith(f"{name}: is {value!r}, must be ") and "\n" not in line for line in lines)


def test_devices():
    assert variable_refusals({"xen_host_bridge": "xenbr0", "xen_host_uplink": ""}) == []
    assert variable_refusals({"xen_host_bridge": "br.12", "xen_host_uplink": "enp3s0f0np0"}) == []
    assert variable_refusals({"xen_host_bridge": ""}) != []


@pytest.mark.parametrize(
    "value", ["lo", "all", "default", "auto", "none", "bonding_masters", "vif1.0", "vifs", "tap1.0-emu", "12"]
)
def test_a_name_that_linux_or_xen_reads_as_something_else_is_refused(value):
    (line,) = variable_refusals({"xen_host_bridge": value, "xen_host_uplink": ""})
    assert line.startswith(f"xen_host_bridge: is {value}: the name ")
    (line,) = variable_refusals({"xen_host_bridge": "xenbr0", "xen_host_uplink": value})
    assert line.startswith(f"xen_host_uplink: {value} ") and line.endswith("or leave it empty for that of the default route")


@pytest.mark.parametrize("value", [None, 0, False, {}])
def test_networks_that_are_set_to_nothing(value):
    (line,) = variable_refusals({"xen_host_management_networks": value})
    assert line.startswith(f"xen_host_management_networks: is {value!r}, must be a list of networks")
    assert variable_refusals({"xen_host_management_networks": []}) == []


FLAGS = [name for name in variables.HOST_VARIABLES if name in variables._FLAGS]


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["maybe", "flase", "", None, 2, -1, 1.0, [], {}, ["true"], "true ", "y", "enabled", "none"])
def test_what_is_neither_yes_nor_no_is_refused(name, value):
    assert variable_refusals({name: value}) == [f"{name}: is {value!r}, must be true or false"]


@pytest.mark.parametrize("value", [True, "true", "True", "yes", "on", "1"])
def test_what_a_command_line_gives_means_what_it_says(value):
    """-e NAME=false gives a text, which is true for Python and Jinja."""
    assert variable_refusals({"xen_host_reboot": value}) == [] and variables.is_on(value)
    no = {True: False, "1": "0", "true": "false", "True": "False", "yes": "no", "on": "off"}[value]
    assert variable_refusals({"xen_host_reboot": no}) == [] and not variables.is_on(no)


def test_no_task_takes_the_text_false_for_true():
    names = "|".join(FLAGS)
    for path in [*ROOT.glob("roles/xen_host/*/*"), *ROOT.glob("playbooks/*.yml")]:
        for line in path.read_text().splitlines():
            for match in re.finditer(rf"(?:when: |\bif |\bnot |\band |\bor )({names})\b(?!( \| default\(true\))? \| bool)", line):
                raise AssertionError(f"{path}: {match[1]} without '| bool': {line.strip()}")


@pytest.mark.parametrize("value", ["Security", "", None, False, True, 0, ["all"], "security,all"])
def test_updates_are_one_of_three(value):
    assert variable_refusals({"xen_host_updates": value}) == [
        f"xen_host_updates: is {value!r}, must be one of security, all, none"
    ]


@pytest.mark.parametrize(
    "value", ["", None, "images", "/", "/var/lib/unikernels/../x", "/srv/a b", "/srv/$(id)", 5, ["/srv"], "/srv/\n"]
)
def test_the_folder_of_images_is_a_plain_path(value):
    (line,) = variable_refusals({"xen_host_images": value})
    assert line.startswith(f"xen_host_images: is {value!r}, must be the absolute path of a folder")
    assert variable_refusals({"xen_host_images": "/srv/unikernels.d/images-1"}) == []


@pytest.mark.parametrize("value", [4.17, 4, "4", "newest", "4.17; reboot", "4.17.5\n", True, ["4.17.5"], "v4.17"])
def test_a_lowest_version_is_a_version(value):
    (line,) = variable_refusals({"xen_host_min_xen": value})
    assert line.startswith("xen_host_min_xen: is ") and "must be a version in quotes" in line
    assert variable_refusals({"xen_host_min_xen": "4.17.5+23-ga4e5191dc0-1+deb12u1"}) == []


@pytest.mark.parametrize("value", ["secret", "grub.pbkdf2.sha512.10000.AB", "grub.pbkdf2.sha512.10000.A'B.CD", 5, True, ["x"]])
def test_grubs_password_is_a_hash_and_is_not_shown(value):
    (line,) = variable_refusals({"xen_host_grub_password": value})
    assert line == "xen_host_grub_password: must be what grub-mkpasswd-pbkdf2 prints (grub.pbkdf2.sha512...), or empty"
    assert variable_refusals({"xen_host_grub_password": f"grub.pbkdf2.sha512.10000.{'AB' * 64}.{'CD' * 64}"}) == []


@pytest.mark.parametrize(
    "value", [9100, "9100", None, "", [0], [65536], [-1], ["ssh"], [True], [22.0], [[22]], {}, ["9100 } accept"]]
)
def test_ports_are_a_list_of_numbers(value):
    (line,) = variable_refusals({"xen_host_management_ports": value})
    assert line == f"xen_host_management_ports: is {value!r}, must be a list of TCP ports 1..65535, as in [9100], or []"
    assert variable_refusals({"xen_host_management_ports": [9100, "9200"]}) == []


def test_what_does_not_go_together():
    (line,) = variable_refusals({"xen_host_core_scheduling": True, "xen_host_smt": "false"})
    assert line.startswith("xen_host_core_scheduling: ")
    (line,) = variable_refusals(
        {"xen_host_grub_password": f"grub.pbkdf2.sha512.10000.{'AB' * 64}.{'CD' * 64}", "xen_host_boot_try_once": False}
    )
    assert line.startswith("xen_host_grub_password: GRUB would ask for it at every boot")


def test_each_variable_of_the_role_is_checked():
    defaults = yaml.safe_load((ROOT / "roles/xen_host/defaults/main.yml").read_text())
    assert "unikernel_images_store" in defaults["xen_host_images"], "one variable moves the image store"
    defaults["xen_host_images"] = "/var/lib/unikernels/images"
    # Networks are checked together with the domains on them.
    assert sorted({*defaults} - {"xen_host_networks"}) == sorted(variables.HOST_VARIABLES)
    assert variable_refusals(defaults) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *[("xen_host_xen_arguments", word) for word in (
            "noreboot", "noreboot=1", "noreboot=true", "reboot=n", "reboot=no", "reboot=w,n",
        )],
        *[("xen_host_linux_arguments", word) for word in (
            "panic=0", "panic=00", "panic=", "panic", "panic=x", "panic=3x", "init=/bin/sh", "rdinit=/bin/sh", "emergency", "-b",
            "systemd.unit=emergency.target", "systemd.unit=emergency", "systemd.mask=unikernels-boot-trial.service",
            "systemd.unit=poweroff.target", "systemd.unit=my.service", "systemd.mask=sysinit.target", "panic=08", "panic=1000",
            "panic=99999999999", "panic=-08", "systemd.confirm_spawn", "systemd.confirm-spawn=1",
            "systemd.confirm_spawn=/dev/hvc0", "systemd.volatile=yes", "systemd.volatile", "systemd.run=/bin/true",
        )],
    ],
)  # fmt: skip
def test_words_with_which_a_host_would_not_come_back(name, word):
    assert variable_refusals({name: f"quiet {word} loglevel=3"}) == [
        f"{name}: has {word}, with which the host would not return by itself from a boot that fails: leave it out"
    ]


def test_words_with_which_it_does():
    words = "panic=10 panic=-1 init=/sbin/init init=/lib/systemd/systemd systemd.unit=rescue.target panic_on_warn=1 panic=999"
    words += " systemd.confirm_spawn=no systemd.volatile=overlay systemd.run_success_action=none"
    assert variable_refusals({"xen_host_linux_arguments": words}) == []
    assert variable_refusals({"xen_host_xen_arguments": "noreboot=no reboot=t,w console=com1 noreboots"}) == []
