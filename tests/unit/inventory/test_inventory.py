"""The inventory of domains: hosts are asked through Ansible, and no answer can do harm."""

import json
import os
import pathlib
import subprocess

import pytest
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.unikernels.xen.plugins.inventory.xen_domains import _MARK, InventoryModule, _trusted, answer_of
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parents[3]
LIST = (
    "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\n"
    "www                                          1   160     1     -b----      33.4 756e696b-f910-8c7c-8d70-d5b08255d57b  -\n"
)
UUID = "756e696b-f910-8c7c-8d70-d5b08255d57b"
DIGEST = "ab" * 32
HOSTS = """\
xen_hosts:
  hosts:
    xen-a: {}
    www: {ansible_host: 192.0.2.1, place: elsewhere}
    odd: {place: odd}
    dead: {reach: ssh, ansible_host: 127.0.0.1, ansible_port: 1}
"""


def entry(**b_info):
    return {
        "domid": 1,
        "config": {"c_info": {"name": "www", "type": "pvh", "uuid": UUID}, "b_info": {"max_memkb": 16384, **b_info}},
    }


def answer(listing, images="", definitions=""):
    return f"\n{_MARK}\n".join([LIST.rstrip(), json.dumps(listing), definitions, "", images])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["domid", "config", "c_info", "b_info", "name", "uuid", "type", "kernel", "cmdline", "nics", "disks", "mac", "bridge",
             "sha256", "standin", "max_memkb", "type.pvh"]
        ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON, JSON)
def test_any_answer_is_read_or_refused(listing, image):
    for text in (answer(listing, json.dumps(image) + "\n"), answer([entry(kernel=listing, cmdline=image)]), json.dumps(listing)):
        try:
            for domain in answer_of(text):
                assert isinstance(domain["xen_domain"], str)
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("listing", [1, [1], "x", {"domid": 1}, [{"domid": []}], [{"domid": 1, "config": []}], [[]]])
def test_an_answer_of_another_shape_is_refused_in_a_line(listing):
    with pytest.raises(ValueError, match="its answer is not what xl and the collection print"):
        answer_of(answer(listing))
    deep = answer([]).replace("[]", "[" * 100000, 1)
    with pytest.raises(ValueError, match="its answer is not"):
        answer_of(deep)


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ("--ipv4=10.0.2.101/24", "10.0.2.101"),
        ("--management-ipv4=10.0.2.101/24 --x", "10.0.2.101"),
        ("--ipv6=2001:db8::1/64", "2001:db8::1"),
        ("--ipv4=1.2.3/24", None),
        ("--ipv4=dead.beef", None),
        ("", None),
    ],
)
def test_an_address_is_one(arguments, address):
    (domain,) = answer_of(answer([entry(cmdline=arguments)]))
    assert domain.get("ansible_host") == address


@pytest.fixture
def fleet(tmp_path):
    """Doubles of sudo and xl, a folder for each value of the variable `place`; the hosts' variables are templates."""
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "group_vars/xen_hosts.yml").write_text(
        "reach: local\nansible_connection: '{{ reach }}'\nplace: usual\n"
        f"ansible_become: true\nansible_become_exe: '{tmp_path}/sudo-{{{{ place }}}}'\n"
        f"unikernel_images_store: '{tmp_path}/store of {{{{ place }}}}'\n"
    )
    store = tmp_path / "store of usual"
    store.mkdir()
    (store / "web.json").write_text(json.dumps({"sha256": DIGEST, "name": "site", "standin": True}))
    listings = {"usual": [entry(kernel=f"/s/{DIGEST}.xen", cmdline="--ipv4=6.6.6.6/24")], "elsewhere": [], "odd": 1}
    for place, listing in listings.items():
        folder = tmp_path / place
        folder.mkdir()
        (folder / "list").write_text(LIST if listing else LIST.splitlines()[0] + "\n")
        (folder / "json").write_text(json.dumps(listing))
        (folder / "xl").write_text(f'#!/bin/sh\n[ "$2" = -v ] && exec cat {folder}/list\nexec cat {folder}/json\n')
        (folder / "xl").chmod(0o755)
        sudo = tmp_path / f"sudo-{place}"
        sudo.write_text(f'#!/bin/sh\nwhile [ "$1" != /bin/sh ]; do shift; done\nPATH={folder}:$PATH exec "$@"\n')
        sudo.chmod(0o755)

    def inventory(*lines):
        source = tmp_path / "zz.xen_domains.yml"
        source.write_text("\n".join(["plugin: unikernels.xen.xen_domains", "timeout: 20", *lines]))
        command = ["ansible-inventory", "-i", "hosts.yml", "-i", source.name, "--list"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_BECOME_ALLOW_SAME_USER": "1"},
        )  # fmt: skip
        return json.loads(done.stdout), " ".join(done.stderr.split())

    return inventory


def test_hosts_are_asked_with_their_variables_and_templates(fleet):
    inventory, warnings = fleet()
    www = inventory["_meta"]["hostvars"]["www.xen-a"]
    assert (www["ansible_host"], www["xen_host"]) == ("6.6.6.6", "xen-a")
    assert (www["xen_image_name"], www["xen_standin"]) == ("site", True), "the folder is the host's own variable"
    assert inventory["xen_domains"]["hosts"] == ["www.xen-a"]
    assert "odd could not be asked for its domains: its answer is not what xl and the collection print" in warnings
    assert "dead could not be asked for its domains" in warnings


def test_a_host_that_names_no_connection_is_asked_over_ssh(fleet, tmp_path):
    """As ansible-playbook would: a host without sshd is reported in ssh's words."""
    (tmp_path / "group_vars/xen_hosts.yml").write_text("ansible_host: 127.0.0.1\nansible_port: 1\n")
    _inventory, warnings = fleet()
    assert "xen-a could not be asked for its domains: " in warnings and "Connection refused" in warnings


def test_a_domain_never_takes_the_place_of_a_host(fleet):
    inventory, warnings = fleet('name: "{domain}"')
    assert inventory["_meta"]["hostvars"]["www"]["ansible_host"] == "192.0.2.1"
    assert "xen_domain" not in inventory["_meta"]["hostvars"]["www"]
    assert "www" not in inventory.get("xen_domains", {}).get("hosts", [])
    assert "xen-a: its domain www is skipped, because www is a host of the inventory" in warnings


def test_no_group_becomes_part_of_what_a_host_answers(fleet):
    inventory, warnings = fleet("name: xen_hosts")
    assert (
        "xen_hosts" not in str(inventory.get("xen_domains")) and inventory["_meta"]["hostvars"]["xen-a"].get("xen_domain") is None
    )
    assert "xen-a: its domain www is skipped, because xen_hosts is a group of the inventory" in warnings


def test_no_domain_becomes_the_controller(monkeypatch):
    """Tasks for localhost, which no inventory has to name, would connect to the domain."""
    plugin, warnings = InventoryModule(), []
    plugin.inventory = InventoryData()
    plugin.inventory.add_group("xen_domains")
    monkeypatch.setattr(plugin, "get_option", {"name": "{domain}"}.get)
    monkeypatch.setattr(plugin.display, "warning", warnings.append)
    for name in ("localhost", "127.0.0.1", "www"):
        plugin._add("xen-a", {"xen_domain": name, "xen_state": "running", "ansible_host": "6.6.6.6"}, frozenset())
    assert list(plugin.inventory.hosts) == ["www"]
    assert warnings == [
        f"xen-a: its domain {name} is skipped, because {name} is the controller" for name in ("localhost", "127.0.0.1")
    ]


@pytest.mark.parametrize(
    "text",
    ["{{ 6 * 7 }}", "{% if true %}42{% endif %}", "#jinja2:variable_start_string:'[[',variable_end_string:']]'\n[[ 6 * 7 ]]"],
)
def test_nothing_that_a_host_says_is_a_template(text):
    assert Templar(loader=DataLoader(), variables={}).template(_trusted(text)) == text
