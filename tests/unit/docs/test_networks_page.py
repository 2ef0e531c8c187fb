"""The declarations in docs/networks.md are valid as written, and become files for each network manager."""

import pathlib
import re

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Resolved, compile_fleet
from ansible_collections.unikernels.xen.plugins.module_utils.network.kinds import MODES, read_networks
from ansible_collections.unikernels.xen.plugins.module_utils.network.plan import make_plan
from ansible_collections.unikernels.xen.plugins.module_utils.network.reading import MANAGERS, Link, Reading

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/networks.md").read_text()
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(xen_host_networks:.*?)```", PAGE, re.DOTALL)]
FILES = {
    "/etc/network/interfaces": "auto eth0\niface eth0 inet static\n address 192.0.2.10/24\n",
    "/etc/systemd/network/10-eth0.network": "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.10/24\n",
    "/etc/netplan/50-eth0.yaml": "network: {version: 2, ethernets: {eth0: {addresses: [192.0.2.10/24]}}}\n",
}
LINKS = {
    "eth0": Link("eth0", "52:54:00:00:00:01", addresses=("192.0.2.10/24", "2001:db8:7::2/64")),
    "bond0": Link("bond0", "52:54:00:00:00:02", "bond"),
    "eth1": Link("eth1", "52:54:00:00:00:02", master="bond0"),
}


def test_each_provider_has_its_declaration():
    assert len(EXAMPLES) == PAGE.count("xen_host_networks:\n") >= 8
    assert {network["mode"] for example in EXAMPLES for network in example["xen_host_networks"].values()} == set(MODES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: "-".join(example["xen_host_networks"]))
def test_an_example_is_right_and_every_manager_takes_it(example):
    values = {**example, "unikernel_images": {"web": {"file": "/web.xen"}}}
    fleet = compile_fleet({"h": Resolved(values)}, Asked(), lambda service: f"/src/{service}")
    assert [problem.line for problem in fleet.problems] == []
    networks, _lines = read_networks(example["xen_host_networks"])
    for manager in MANAGERS:
        plan = make_plan(networks, fleet.hosts["h"].guests, Reading("h", manager, LINKS, "eth0", FILES))
        assert set(plan.devices) == set(networks)
    for unikernel in fleet.hosts["h"].unikernels:
        for interface in unikernel["interfaces"]:
            network = networks[interface["bridge"]]
            # Every network that leads outside gives its interfaces a gateway.
            assert (
                network.mode == "isolated" or network.name == "storage" or interface.get("gateway") or interface.get("gateway6")
            )


def test_the_options_of_networks_are_those_that_are_read():
    rows = re.findall(r"^\| (`[a-z0-9`, ]+`)? \| ([a-z, ]+) \|", PAGE.split("| option | of |")[1].split("\n\n")[0], re.MULTILINE)
    named = {word for names, _modes in rows for word in re.findall(r"`([a-z0-9]+)`", names or "")}
    for mode in MODES:
        refused = read_networks({"x": {"mode": mode, "nosuch": 1}})[1][0]
        assert set(refused.rpartition("it has ")[2].split(", ")) - {"mode"} <= named


def test_the_example_of_what_may_reach_what_is_right():
    text = PAGE.split("## What may reach a unikernel, and what it may reach")[1]
    values = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    for number, (service, variables) in enumerate(re.findall(r"^\| (web|dns|vpn) \| (.*?) \|", text, re.MULTILINE), 10):
        values[f"{service}_interfaces"] = [{"bridge": "xenbr0", "address": f"10.0.0.{number}/24"}]
        values[f"{service}_image"] = {"file": f"/{service}.xen"}
        for variable in re.findall(r"`(.*?)`", variables):
            values.update(yaml.safe_load(variable))
    values["web_name"] = "site"
    fleet = compile_fleet({"h": Resolved({**values, "unikernel_images": {"web": {"file": "/web.xen"}}})}, Asked(), str)
    assert [problem.line for problem in fleet.problems] == []
    assert len(fleet.hosts["h"].guests.limits) == 5
