"""The role's way from a declaration to keys, run by Ansible: this machine is the host, and controllers have other homes."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
HOSTS = """\
xen_hosts:
  hosts:
    xen1:
      vpn_interfaces: [{bridge: xenbr0, address: 10.0.0.12/24}]
      vpn_clients: [alice, bob]
    xen2:
      vpn_interfaces: [{bridge: xenbr0, address: 10.0.0.13/24}]
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "hosts.yml").write_text(HOSTS)
    path = str(tmp_path / "served")
    keys = {"ansible.builtin.include_role": {"name": "unikernels.xen.vpn", "tasks_from": "pki", "rolespec_validate": False},
            "vars": {"vpn_pkis": "{{ fleet.pkis }}"}}  # fmt: skip
    declared = {"unikernels.xen.declared": {}, "run_once": True, "register": "fleet"}
    kept = {"unikernels.xen.vpn_ca": {"endpoints": "{{ fleet.pkis }}", "host": "{{ inventory_hostname }}"}}
    play = {"hosts": "xen_hosts", "gather_facts": False, "connection": "local", "any_errors_fatal": True,
            "module_defaults": {"unikernels.xen.vpn_ca": {"path": path}}, "tasks": [declared, keys, declared, kept]}  # fmt: skip
    (tmp_path / "play.yml").write_text(json.dumps([play]))

    def playbook(home, *arguments):
        (tmp_path / home).mkdir(exist_ok=True)
        done = subprocess.run(
            ["ansible-playbook", "-i", "hosts.yml", "play.yml", "--limit", "xen1", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "10000", "HOME": str(tmp_path / home),
                 "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")},
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return playbook


def test_a_second_controller_makes_no_second_ca(run, tmp_path):
    first = run("a")
    folder = tmp_path / "a/.local/state/unikernels.xen/xen1/vpn"
    assert first.returncode == 0, first.stdout
    assert f"wrote {folder}/alice.ovpn, hand it to alice" in " ".join(first.stdout.split()) and "BEGIN" not in first.stdout
    assert not (folder.parents[1] / "xen2").exists(), "a host that the limit leaves out was not asked"
    second = run("a")
    assert "changed=0" in second.stdout, second.stdout
    for arguments in (["--check"], []):
        other = run("b", *arguments)
        assert other.returncode != 0 and "this host serves CA " in other.stdout and "has none: restore the folder" in other.stdout
        assert not (tmp_path / "b/.local").exists()
    meant = run("b", "-e", "vpn_new_ca=true")
    assert meant.returncode == 0, meant.stdout


def test_a_folder_that_does_not_fit_together_is_refused_before_a_host_is_asked(run, tmp_path):
    assert run("a").returncode == 0
    folder = tmp_path / "a/.local/state/unikernels.xen/xen1/vpn"
    (folder / "pki/private/server.key").write_text((folder / "pki/private/alice.key").read_text())
    refused = run("a")
    line = f"xen1: vpn_pki: {folder}/pki/private/server.key: does not belong to pki/issued/server.crt"
    assert refused.returncode != 0 and line in refused.stdout
    assert "TASK [unikernels.xen.vpn" not in refused.stdout and "PRIVATE KEY" not in refused.stdout
