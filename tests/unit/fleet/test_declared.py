"""playbooks/validate.yml on inventories: what can't be rendered is reported with its place, and nothing vanishes."""

import json
import os
import pathlib
import subprocess

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import UNRESOLVED
from ansible_collections.unikernels.xen.plugins.plugin_utils import resolve

ROOT = pathlib.Path(__file__).resolve().parents[3]
INVENTORY = """\
xen_hosts:
  hosts:
    deep: {}
    hidden: {unikernels: "{{ base | default([]) }}"}
    chained: {middle: "{{ base | default([]) }}", unikernels: "{{ middle + [] }}"}
    of-a-host: {unikernels: "{{ hostvars[inventory_hostname].base | default([]) }}"}
    of-hosts: {unikernels: "{{ ['deep'] | map('extract', hostvars, 'base') | flatten | default([]) }}"}
    of-vars: {unikernels: "{{ vars['base'] | default([]) }}"}
    looked-up: {unikernels: "{{ lookup('vars', 'base', default=[]) }}"}
    service:
      unikernels: []
      web_interfaces: [{bridge: xenbr0, address: "{{ nosuch.address }}/24"}]
      web_content: /srv/www
    secret: {key: s3cr3t, unikernels: [{name: a, image: x, memory: "{{ key | from_json }}"}]}
    shapes: {unikernels: {a: 1}, unikernel_images: {null: {}, x: 1, "..": {file: /x}}, dns_interfaces: null}
    fine:
      unikernels: [{name: a, image: x, memory: "{{ '32' }}", autostart: "{{ 'yes' }}", live: "{{ nosuch | default(omit) }}"}]
    rolled: {unikernels: [], rollout: {bake: "{{ nosuch_bake }}"}}
    rolled-out: {unikernels: [], rollout: "{{ nosuch_rollout }}", rollout_copy_at_once: some}
    rolled-wrong: {unikernels: [], rollout: {waves: [0, "100%"]}}
    run:
      unikernels: []
      unikernel_purge: "{{ nosuch_purge }}"
      unikernel_generations_folder: "{{ nosuch_folder }}/generations"
      unikernel_parallel: 0
      rollout_journal: "{{ nosuch_journal }}/x"
  vars:
    base: [{name: q, image: x, arguments: {token: "{{ vault_token }}"}}]
    unikernel_images: {x: {file: /x.xen}}
    unikernels:
      - name: one
        image: x
        arguments: {token: "{{ vault_token }}"}
"""


def playbook(*arguments, folder):
    command = ["ansible-playbook", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "10000"},
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inventory")
    (folder / "hosts.yml").write_text(INVENTORY)
    # By its path and from another folder, as people call it.
    done = playbook("-i", "hosts.yml", ROOT / "playbooks/validate.yml", folder=folder)
    assert done.returncode != 0
    return {line.strip() for line in done.stdout.splitlines()}, done.stdout + done.stderr


def test_a_variable_that_is_not_defined_deep_in_a_list_is_named_with_its_place(refused):
    lines, _output = refused
    assert "deep: unikernels[0].arguments.token: 'vault_token' is not defined (hosts.yml:33)" in lines
    assert "service: web_interfaces[0].address: 'nosuch' is not defined (hosts.yml:12)" in lines
    for host in ("hidden", "chained", "of-a-host", "of-hosts", "of-vars", "looked-up"):
        assert any(host in line.partition(": unikernels")[0] and "'vault_token' is not defined" in line for line in lines)


def test_a_rollout_that_is_not_defined_does_not_pass_for_none(refused):
    """site.yml would deploy to all hosts at once."""
    lines, _output = refused
    assert "rolled: rollout.bake: 'nosuch_bake' is not defined (hosts.yml:18)" in lines
    assert "rolled-out: rollout: 'nosuch_rollout' is not defined (hosts.yml:19)" in lines
    assert "rolled-out: rollout_copy_at_once: is 'some', must be a number of hosts; 0: all" in lines
    assert any(line.startswith("rolled-wrong: rollout: waves[0]: is 0, must be") for line in lines)


def test_neither_does_a_variable_of_the_run_that_a_default_in_a_play_would_hide(refused):
    lines, _output = refused
    assert "run: unikernel_purge: 'nosuch_purge' is not defined (hosts.yml:23)" in lines
    assert "run: unikernel_generations_folder: 'nosuch_folder' is not defined (hosts.yml:24)" in lines
    assert "run: unikernel_parallel: is 0, must be a number of domains, 1..64" in lines
    assert "run: rollout_journal: 'nosuch_journal' is not defined (hosts.yml:26)" in lines


@pytest.mark.parametrize("task", ["rollout", "fleet_status"])
def test_journals_are_never_looked_for_in_another_folder_than_the_declared_one(tmp_path, task):
    (tmp_path / "hosts.yml").write_text("xen_hosts: {hosts: {a: }, vars: {rollout_journal: '{{ nosuch }}/x'}}")
    options = {"journal": "{{ rollout_journal | default('') }}"}
    options |= {"step": "plan", "abort": "20261127T080000Z-1a2b3c"} if task == "rollout" else {}
    tasks = [{f"unikernels.xen.{task}": options, "run_once": True}]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "xen_hosts", "gather_facts": False, "tasks": tasks}]))
    done = playbook("-i", "hosts.yml", "play.yml", folder=tmp_path)
    printed = done.stdout.replace("''", "'")  # ansible-core 2.17 prints the result as YAML
    assert "a: rollout_journal: 'nosuch' is not defined (hosts.yml:1)" in printed


def test_every_other_mistake_is_in_the_same_list(refused):
    lines, output = refused
    assert "shapes: unikernels must be a list, not dict" in lines
    assert "shapes: unikernel_images: its key None is not text: put it in quotes" in lines
    assert any(line.startswith("shapes: dns_interfaces: is set to nothing") for line in lines)
    assert not any(line.startswith("fine:") for line in lines)
    assert "mistakes in the declaration" in output


def test_no_value_of_a_template_that_fails_is_shown(refused):
    lines, output = refused
    assert any(line.startswith("secret: unikernels[0].memory: can't be rendered") for line in lines)
    assert "s3cr3t" not in output


def test_what_is_right_is_read_once_and_not_shown(tmp_path):
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "play.yml").write_text(
        json.dumps(
            [
                {"ansible.builtin.import_playbook": "unikernels.xen.validate"},
                {"ansible.builtin.import_playbook": "unikernels.xen.validate"},
                {"hosts": "xen_hosts", "gather_facts": False, "connection": "local",
                 "vars_files": [str(ROOT / "playbooks/vars/declared.yml")],
                 "tasks": [{"ansible.builtin.assert": {"that": "declared_unikernels == wanted"},
                            "vars": {"wanted": [{"name": "a", "image": "x", "memory": "32", "autostart": True}]}}]},
            ]
        )
    )  # fmt: skip
    done = playbook("-vvv", "-i", "hosts.yml", "play.yml", "--limit", "fine", "-e", "key=1", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "/x.xen" not in done.stdout.split("ASSERT", maxsplit=1)[0].split("TASK [ansible.builtin.assert]")[0]


def test_a_core_that_renders_lists_at_once_hides_nothing(monkeypatch):
    """As with ansible-core before 2.19: the variables in a template are checked too, since `default` would hide errors."""
    monkeypatch.setattr(resolve, "Origin", None)
    trust = getattr(__import__("ansible.template", fromlist=["x"]), "trust_as_template", str)
    lines = []
    variables = {
        "base": [{"token": trust("{{ vault_token }}")}],
        "middle": trust("{{ base | default([]) }}"),
        "unikernels": trust("{{ middle }}"),
        "loop": trust("{{ loop | default(1) }}"),
        "scalar": trust("{{ nosuch | default('x') }}"),
    }
    resolver = resolve.Resolver(resolve.Renderer(DataLoader()), variables, lines.append)
    assert resolver._references_hold(variables["unikernels"], "unikernels", "") is False
    assert lines == ["unikernels -> middle -> base[0].token: 'vault_token' is not defined"]
    assert resolver._references_hold(variables["scalar"], "scalar", "")
    assert not resolver._references_hold(variables["loop"], "loop", "")
    assert lines[1:] == ["loop -> loop -> loop: its template refers to itself"]
    assert resolver.values(["scalar", "absent"]) == {"scalar": "x"}
    assert resolver.values(["unikernels"]) == {"unikernels": UNRESOLVED}
