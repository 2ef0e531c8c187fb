"""playbooks/dns_keys.yml run by Ansible: from declarations of several hosts to keys, and from these to a valid declaration."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
ZONE = "$TTL 1h\n@ IN SOA ns h 1 1h 10m 7d 5m\n@ IN NS ns\nns A 192.0.2.53\n"


def interfaces(number):
    return [{"bridge": "xenbr0", "address": f"10.0.0.{number}/24"}]


@pytest.fixture
def run(tmp_path):
    hosts = {
        "xen1": {"dns_interfaces": interfaces(2)},
        "xen2": {"dns_servers": [{"name": "b", "interfaces": interfaces(3), "zones": {"B.example": "{{ text }}"}}]},
        "xen3": {},
    }
    shared = {"text": ZONE, "dns_sign": {"keys": "{{ inventory_dir }}/keys"}, "dns_zones": {"a.example": "{{ text }}"}}
    (tmp_path / "hosts.json").write_text(json.dumps({"xen_hosts": {"hosts": hosts, "vars": {**shared, "images": "standin"}}}))

    def playbook(name, *arguments):
        done = subprocess.run(
            ["ansible-playbook", "-i", "hosts.json", ROOT / "playbooks" / name, *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "10000",
                 "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")},
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr and "PRIVATE" not in done.stdout
        return done

    return playbook


def files(folder):
    return sorted(path.name for path in folder.glob("keys/*.pem"))


def test_keys_of_all_hosts_are_created_and_replaced(run, tmp_path):
    first = run("validate.yml")
    assert first.returncode != 0 and f"xen1: dns_sign: zone a.example has no key: {tmp_path}/keys/a.example.1.pem" in first.stdout
    check = run("dns_keys.yml", "--check")
    assert "would create" in check.stdout and files(tmp_path) == []
    made = run("dns_keys.yml")
    assert "a.example. IN DS " in made.stdout and "b.example. IN DS " in made.stdout and "changed=1" in made.stdout
    assert files(tmp_path) == ["a.example.1.pem", "b.example.1.pem"]
    assert "changed=0" in run("dns_keys.yml").stdout
    assert run("validate.yml").returncode == 0
    run("dns_keys.yml", "-e", "dns_new_key=B.example.")
    assert files(tmp_path) == ["a.example.1.pem", "b.example.1.pem", "b.example.2.pem"]
    run("dns_keys.yml", "-e", "dns_remove_key=b.example")
    assert files(tmp_path) == ["a.example.1.pem", "b.example.2.pem"]
    for arguments, words in (
        ("dns_new_key=c.example", "dns_new_key: c.example is not a zone that dns_sign of these hosts signs"),
        ("dns_remove_key=a.example dns_new_key=a.example", "dns_remove_key: a.example is to get a new key too"),
        ('{"dns_sign": {"keys": 1, "day": 2}}', "xen1: dns_sign: unknown key 'day'; known are keys, zones, days"),
        ('{"dns_sign": {"keys": "{{ nothing }}"}}', "nothing"),
    ):
        refused = run("dns_keys.yml", "-e", arguments)
        assert refused.returncode != 0 and words in refused.stdout + refused.stderr, refused.stdout
    assert files(tmp_path) == ["a.example.1.pem", "b.example.2.pem"]
    (tmp_path / "keys/a.example.1.pem").chmod(0o644)
    for name in ("dns_keys.yml", "validate.yml"):
        refused = run(name)
        assert refused.returncode != 0 and "a.example.1.pem: others than its owner may use this key" in refused.stdout


def test_what_the_play_itself_declares_counts_and_nothing_declared_is_said(run, tmp_path):
    task = {"unikernels.xen.dns_keys": {}, "run_once": True}
    (tmp_path / "mine.yml").write_text(json.dumps([{"hosts": "xen3", "gather_facts": False, "tasks": [task]}]))
    assert "no host of this play signs a zone: set dns_sign" in run(tmp_path / "mine.yml").stdout
    play = {"hosts": "xen3", "gather_facts": False, "vars": {"dns_interfaces": interfaces(4)}, "tasks": [task]}
    (tmp_path / "mine.yml").write_text(json.dumps([play]))
    assert "a.example. IN DS " in run(tmp_path / "mine.yml").stdout and files(tmp_path) == ["a.example.1.pem"]
