"""The declared machines of a lab: what is read, and each refusal in one line."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.lab import machines
from hypothesis import given
from hypothesis import strategies as st


def test_what_is_declared_becomes_variables():
    read = machines.read(
        {
            "old": None,
            "new-1": {
                "suite": "trixie",
                "memory": 3072,
                "recipe": "disk.sh",
                "base": "/abs.qcow2",
                "forwards": [{"port": 1, "to_port": 2}],
            },
        },
        "/inventory",
    )
    assert list(read) == ["old", "new-1"] and read["old"] == {}
    assert read["new-1"]["recipe"] == "/inventory/disk.sh" and read["new-1"]["base"] == "/abs.qcow2"
    assert read["new-1"]["forwards"] == [{"protocol": "tcp", "to_address": "10.0.2.15", "port": 1, "to_port": 2}]


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        ([], "machines: must be a mapping of names, such as {xen1: {suite: bookworm}}"),
        ({str(n): {} for n in range(10)}, "machines: has 10 machines, at most 9 are possible"),
        ({"Xen_1": {}}, "machines: 'Xen_1' is not the name of a machine: lower case letters, digits and hyphens, such as xen1"),
        ({"a": []}, "machines.a: must be a mapping of options, such as {suite: bookworm}"),
        ({"a": {"memory": "2G"}}, "machines.a.memory: is '2G', must be a number of at least 512"),
        ({"a": {"cpus": True}}, "machines.a.cpus: is True, must be a number of at least 1"),
        ({"a": {"disks": "4G"}}, "machines.a.disks: is '4G', must be a list"),
        ({"a": {"disks": [4]}}, "machines.a.disks[0]: is 4, must be text that is not empty"),
        ({"a": {"suite": ""}}, "machines.a.suite: is '', must be text that is not empty"),
        ({"a": {"groups": ["a b"]}}, "machines.a.groups[0]: 'a b' is not the name of a group: letters, digits and underscores"),
        ({"a": {"forwards": [{"port": 1, "to_port": 70000}]}}, "machines.a.forwards[0].to_port: is 70000, must be 1..65535"),
        (
            {"a": {"forwards": [{"port": 1, "to_port": 2, "protocol": "x"}]}},
            "machines.a.forwards[0].protocol: is 'x', must be tcp or udp",
        ),
        (
            {"a": {"forwards": [{"port": 1}]}},
            "machines.a.forwards[0]: must be such as {port: 8443, to_port: 443}, with protocol and to_address where needed",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(declared, line):
    with pytest.raises(ValueError) as raised:
        machines.read(declared, "/")
    assert str(raised.value) == line


def test_an_unknown_option_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"machines.a: has no option 'ram'; there are base, .*memory"):
        machines.read({"a": {"ram": 1}}, "/")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(machines.KEYS) | st.text(max_size=3), inner, max_size=3)
    ),
)


@given(ANY | st.dictionaries(st.from_regex(machines.NAME, fullmatch=True), ANY, max_size=3))
def test_anything_is_read_or_refused_in_one_line(declared):
    try:
        read = machines.read(declared, "/f")
    except ValueError as error:
        assert str(error).startswith("machines") and "\n" not in str(error)
    else:
        assert set(read) == set(declared) and all(set(options) <= set(machines.KEYS) for options in read.values())


def listed(tmp_path, text):
    file = tmp_path / "my-lab.yml"
    file.write_text("plugin: unikernels.xen.lab\n" + text)
    command = ["ansible-inventory", "-i", str(file), "--list"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_inventory_has_the_machines_with_their_variables(tmp_path):
    done = listed(
        tmp_path,
        """
machines:
  old: {disks: [4G], groups: [storage], networks: [san]}
  new: {suite: trixie, user: debian, user_data: "#cloud-config", base: cloud.qcow2, forwards: [{port: 8443, to_port: 443}]}
""",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["storage"]["hosts"] == ["old"] and sorted(found["lab"]["hosts"]) == ["new", "old"]
    old, new = (found["_meta"]["hostvars"][name] for name in ("old", "new"))
    assert old["lab_disks"] == ["4G"] and old["lab_networks"] == ["san"] and old["ansible_user"] == "root"
    assert old["lab_forwards"] == [], "the ports of the three services are for the lab of this collection"
    assert (new["lab_suite"], new["ansible_user"], new["ansible_become"]) == ("trixie", "debian", True)
    assert new["lab_base"] == str(tmp_path / "cloud.qcow2") and new["ansible_port"] == old["ansible_port"] + 100
    assert new["lab_forwards"][0]["to_address"] == "10.0.2.15"


def test_packages_of_the_environment_are_those_of_every_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_PACKAGES", "qemu-utils,make")
    done = listed(tmp_path, "machines: {old: {}, new: {packages: [lvm2]}}\n")
    assert done.returncode == 0, done.stderr
    machines = json.loads(done.stdout)["_meta"]["hostvars"]
    assert machines["old"]["lab_packages"] == ["qemu-utils", "make"] and machines["new"]["lab_packages"] == ["lvm2"]


def test_a_mistake_in_the_inventory_names_file_and_place(tmp_path):
    done = listed(tmp_path, "machines: {old: {memory: 2G}}\n")
    assert "my-lab.yml: machines.old.memory: is '2G', must be a number of at least 512" in " ".join(done.stderr.split())
