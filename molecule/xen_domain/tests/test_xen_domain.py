"""The domain that converge.yml declared, as Xen reports it."""

import json


def test_it_runs_with_what_was_declared(host):
    config = json.loads(host.check_output("xl list -l molecule"))[0]["config"]
    assert config["b_info"]["max_memkb"] == 32 * 1024
    assert config["nics"][0]["bridge"] == "xenbr0"
    assert config["c_info"]["uuid"].startswith("756e696b")


def test_it_does_not_start_with_the_host(host):
    assert not host.file("/etc/xen/auto/molecule.cfg").exists
    assert host.file("/etc/xen/unikernels/molecule.cfg").exists
