"""The module xen_domain_info when something is wrong, as a user sees it."""

import json
import os

import pytest
from ansible.module_utils import basic
from ansible_collections.unikernels.xen.plugins.module_utils.xen import restarts
from ansible_collections.unikernels.xen.plugins.modules import xen_domain_info


@pytest.fixture
def refusal(monkeypatch, capsys):
    def call():
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": {}}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        with pytest.raises(SystemExit):
            xen_domain_info.main()
        return json.loads(capsys.readouterr().out)["msg"]

    return call


def test_without_root_it_is_one_line(refusal, monkeypatch):
    """Only root can read definitions."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert refusal() == "only root can look at the domains on this host: set become: true"


def test_a_file_that_can_not_be_read_is_one_line(refusal, monkeypatch):
    def fails(**_options):
        raise OSError(5, "Input/output error", "/etc/xen/unikernels/www.cfg")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(xen_domain_info, "available", lambda: True)
    monkeypatch.setattr(xen_domain_info, "observe", fails)
    assert refusal() == "[Errno 5] Input/output error: '/etc/xen/unikernels/www.cfg'"


def test_a_record_of_restarts_of_any_form_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(restarts, "FOLDER", str(tmp_path))
    record = {"count": [], "last": {}, "reason": 3, "gave_up": "x", "starts": [10**400, True, 5]}
    (tmp_path / "www.json").write_text(json.dumps(record))
    assert restarts.summary("www") == {"count": 0, "last": "{}", "reason": "3", "gave_up": False}
    assert restarts.past_of(restarts.read("www")).starts == (5.0,)
