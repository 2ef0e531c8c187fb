"""Modules without root, because a play forgot become: one line, in check mode too, and no secret in it."""

import importlib
import json
import os

import pytest
from ansible.module_utils import basic

MODULES = {
    "xen_domain": {"name": "a", "kernel": "/k", "disks": [{"content": "secret"}]},
    "xen_domains": {"domains": [{"name": "a", "kernel": "/k", "disks": [{"content": "secret"}]}], "owner": "x"},
    "xen_domain_info": {},
    "xen_networks": {},
    "xen_bridge": {},
    "xen_boot": {"state": "tried"},
    "xen_host_audit": {},
    "xen_generation": {"domains": [{"name": "a", "disks": [{"content": "secret"}]}]},
    "xen_rollback": {},
    "xen_rollout": {"id": "1", "state": "reserved"},
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_it_is_one_line(name, check, monkeypatch, capsys):
    module = importlib.import_module(f"ansible_collections.unikernels.xen.plugins.modules.{name}")
    choices = getattr(module, "CHANGES", None)
    given = {**MODULES[name], **({"state": next(iter(choices))} if choices else {})}
    arguments = {**given, "_ansible_check_mode": check, "_ansible_verbosity": 3}
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit):
        module.main()
    text = capsys.readouterr().out
    result = json.loads(text)
    assert result["failed"] and "\n" not in result["msg"]
    assert result["msg"].startswith("only root can ") and result["msg"].endswith(" on this host: set become: true")
    assert "secret" not in text
