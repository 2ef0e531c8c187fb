"""A variable that is set and can't be rendered is reported wherever a template would hide it, on each ansible-core."""

import os
import pathlib
import re
import subprocess

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

ROOT = pathlib.Path(__file__).resolve().parents[3]
SHARED = """\
    good: [{name: www, image: web}]
    deep: [{name: www, arguments: {token: "{{ nosuch }}"}}]
    alias: "{{ nosuch }}"
    built: "{{ [{'name': 'www', 'arguments': {'token': nosuch}}] }}"
    hides: "{{ alias | default([]) }}"
    hides_deep: [{name: www, arguments: {token: "{{ alias | default('') }}"}}]
    tree: {left: {list: "{{ nosuch }}"}, right: {list: []}}
    one: left
    first: "{{ second.key }}"
    second: {key: "{{ first }}"}
"""
# What `unikernels` is.
REFUSED = [
    *("alias", "deep", "built", "hides", "hides_deep + []", "good + deep", "deep | default([])", "alias | default([])"),
    *("alias | d([], true)", "built | default([])", "alias | default(omit)", "alias | list | default([])"),
    *("tree.left.list | d([])", "tree[one].list | default([])", "tree['left']['list'] | d([])"),
    *("alias if alias is defined else []", "[] if alias is undefined else alias"),
    *("(alias | default([])) + (good | default([]))", "(alias + good) | default([])"),
    *("lookup('vars', 'alias', default=[])", "lookup('vars', 'al' + 'ias', default=[])"),
    "lookup('vars', 'de' + 'ep', default=[])",
    *("query('ansible.builtin.vars', 'good', 'de' + 'ep', default=[]) | flatten", "vars['alias'] | default([])"),
    *("vars['de' + 'ep'] | default([])", "hostvars['refused0'].alias | default([])"),
    *("hostvars[inventory_hostname].alias | d([])", "hostvars['refused0'].hides"),
    *("hostvars['refused0'].tree.left.list | d([])", "hostvars['refused0']['deep'] | default([])"),
    *("['refused0'] | map('extract', hostvars, 'deep') | flatten", "(alias | default([])).copy()", "dict(a=deep)"),
    *("deep | to_json | from_json", "good + (hides_deep | default([]))"),
]
TAKEN = [
    *("nosuch | default([])", "hostvars['nosuch'].x | default([])"),
    *("groups['nosuch'] | default([])", "good[0].nosuch | default([])", "good if good is defined else []"),
    *("lookup('vars', 'no' + 'such', default=[])", "ansible_local.nosuch | default([])"),
]
REASONS = {
    "hostvars['nosuch'].x": "hostvars['nosuch'] is not defined",
    "lookup('vars', 'nosuch')": "'nosuch' is not defined",
    "nosuch | mandatory": "'nosuch' is not defined",
    "first": "its template refers to itself",
    "1 / 0": "division by zero",
    "good | nosuch": "yntax error in template: ",
    "lookup('nosuch', 1)": "nosuch",
    "'s3cr3t' syntax": "yntax error in template: ",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """The lines about each host, whose unikernels are one of these templates."""
    texts = {f"refused{number}": text for number, text in enumerate(REFUSED)}
    texts |= {f"taken{number}": text for number, text in enumerate(TAKEN)}
    texts |= {f"reason{number}": text for number, text in enumerate(REASONS)}
    hosts = ""
    for host, text in texts.items():
        shared = SHARED.replace("nosuch", f"nosuch_{host}")  # else it is one line for all
        hosts += f'  {host}:\n    unikernels: "{{{{ {text} }}}}"\n{shared}'
    other = VaultSecret(b"other")
    encrypted = VaultLib([("default", other)]).encrypt(b"s3cr3t", other).decode().split()
    hosts += "".join(["  vaulted:\n    unikernels: !vault |\n", *(f"      {line}\n" for line in encrypted)])
    folder = tmp_path_factory.mktemp("inventory")
    (folder / "hosts.yml").write_text(f"xen_hosts:\n hosts:\n{hosts} vars: {{unikernel_images: {{web: {{file: /web.xen}}}}}}\n")
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", ROOT / "playbooks/validate.yml"], cwd=folder, capture_output=True, text=True,
        check=False, timeout=300, stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "10000"},
    )  # fmt: skip
    assert done.returncode == 2 and "s3cr3t" not in done.stdout + done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
    found = {host: [] for host in (*texts, "vaulted")}
    for line in {line.strip() for line in done.stdout.splitlines()}:
        named, colon, rest = line.partition(": ")
        for host in named.split(", ") if colon else ():
            found.get(host, []).append(rest)
    return found


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=REFUSED)
def test_what_is_set_and_not_defined_is_named_once(refused, number):
    lines = refused[f"refused{number}"]
    assert len(lines) == 1 and lines[0].startswith("unikernels") and re.search(r"'nosuch_refused\d+' is not", lines[0]), lines


@pytest.mark.parametrize("number", range(len(TAKEN)), ids=TAKEN)
def test_what_is_not_set_may_have_a_default(refused, number):
    assert refused[f"taken{number}"] == []


@pytest.mark.parametrize("number", range(len(REASONS)), ids=REASONS)
def test_the_reason_is_stated_without_the_text_that_may_hold_a_secret(refused, number):
    lines = refused[f"reason{number}"]
    assert len(lines) == 1 and list(REASONS.values())[number] in lines[0] and "can't be rendered" not in lines[0], lines


def test_a_value_that_can_not_be_decrypted_is_named(refused):
    assert len(refused["vaulted"]) == 1 and "decrypt" in refused["vaulted"][0], refused["vaulted"]
