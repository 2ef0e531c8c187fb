"""Declarations of docs/services.md are taken as they stand: several servers on a host, and one address on two hosts."""

import copy
import pathlib
import re

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Resolved, compile_fleet

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/services.md").read_text()


def examples(title):
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def compiled(hosts, values):
    return compile_fleet({host: Resolved(copy.deepcopy(values)) for host in hosts}, Asked(), lambda service: f"/src/{service}")


def test_two_web_servers_and_a_resolver_on_one_host():
    (values,) = examples("Several on one host")
    fleet = compiled(["xen1"], values)
    assert fleet.problems == []
    here = fleet.hosts["xen1"]
    assert [(one["name"], one["image"]) for one in here.unikernels] == [("shop",) * 2, ("intranet",) * 2, ("resolver",) * 2]
    assert sorted((one.name, one.protocol, one.port, one.to) for one in here.guests.published) == [
        ("intranet", "tcp", 8080, 80), ("resolver", "tcp", 53, 53), ("resolver", "udp", 53, 53), ("shop", "tcp", 80, 80)
    ]  # fmt: skip


@pytest.mark.parametrize("values", examples("Anycast and VRRP"), ids=lambda values: next(iter(values["xen_host_networks"])))
def test_one_address_on_two_hosts(values):
    fleet = compiled(["xen1", "xen2"], values)
    assert fleet.problems == []
    addresses = [[one["interfaces"][0]["address"] for one in here.unikernels] for here in fleet.hosts.values()]
    assert addresses[0] == addresses[1] and len(addresses[0]) == 1
    (network,) = values["xen_host_networks"].values()
    if network["mode"] == "routed":
        del network["subnets"]
        assert len(compiled(["xen1", "xen2"], values).problems) > 0, "without the subnet of its own it is a clash"
