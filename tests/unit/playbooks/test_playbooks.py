"""Playbooks and roles are consistent: names used in one exist in the other."""

import pathlib
import re

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

try:
    from ansible.template import trust_as_template as trusted
except ImportError:  # ansible-core before 2.19 renders any text
    trusted = str

ROOT = pathlib.Path(__file__).resolve().parents[3]
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
# Variable -> the variables file that a play reads it from.
FROM_FILES = {
    "declared_unikernels": "vars/declared.yml",
    "declared_images": "vars/declared.yml",
    "rollout_plan": "vars/rollout.yml",
}
INCLUDES = ("ansible.builtin.include_role", "ansible.builtin.import_role")


def mappings(value):
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(inner)


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_a_play_reads_the_variables_that_it_names(path):
    for play in yaml.safe_load(path.read_text()):
        for variable, file in FROM_FILES.items():
            if variable in str(play):
                assert file in play.get("vars_files", []), f"{path.name}: {play['name']}: {variable}"


@pytest.mark.parametrize("path", [*PLAYBOOKS, *ROLES], ids=lambda path: path.name)
def test_what_is_included_and_notified_is_there(path):
    for file in [path] if path.is_file() else sorted(path.glob("tasks/*.yml")):
        for entry in mappings(yaml.safe_load(file.read_text())):
            for include in filter(None, map(entry.get, INCLUDES)):
                role = ROOT / "roles" / include["name"].removeprefix("unikernels.xen.")
                assert (role / "tasks" / f"{include.get('tasks_from', 'main')}.yml").is_file(), f"{file}: {include}"
            notified = entry.get("notify", [])
            handlers = yaml.safe_load((path / "handlers/main.yml").read_text()) if notified else []
            assert set(notified) <= {handler["name"] for handler in handlers}, f"{file}: {notified}"


def test_no_playbook_asks_whether_the_rollout_is_defined():
    """One with a variable in it that is not defined is not; site.yml would deploy to all hosts at once."""
    for path in PLAYBOOKS:
        assert not re.search(r"\brollout is (not )?defined", path.read_text()), path.name


def test_words_that_are_set_to_nothing_are_none():
    for path in sorted((ROOT / "roles/xen_host").glob("*/*.yml")):
        assert not re.search(r"xen_host_(xen|linux)_arguments\.split", path.read_text()), f"{path}: null has no split"


@pytest.mark.parametrize(
    ("networks", "written", "loaded", "due"),
    [
        (["192.0.2.0/24"], [], True, False),
        (["192.0.2.0/24"], ["/etc/xen/unikernels-management.nft"], True, True),
        (["192.0.2.0/24"], [], False, True),  # 'nft flush ruleset' by hand
        ([], [], False, False),
    ],
)
def test_a_filter_that_is_not_in_force_is_due(networks, written, loaded, due):
    variables = {
        "xen_host_management_networks": networks,
        "xen_host_configured": {"changed_paths": written},
        "xen_host_found": {"host": {"management": True, "management_loaded": loaded}},
    }
    text = yaml.safe_load((ROOT / "roles/xen_host/vars/main.yml").read_text())["xen_host_filter_due"]
    assert Templar(loader=DataLoader(), variables=variables).template(trusted(text)) is due


@pytest.mark.parametrize("name", ["unikernels-management", "antispoof"])
def test_our_filters_come_again_after_what_flushes_all_rules(name):
    unit = (ROOT / f"roles/xen_host/files/{name}.service").read_text()
    after = re.search(r"^After=(.*)$", unit, re.MULTILINE).group(1).split()
    assert "nftables.service" in after and "PartOf=nftables.service" in unit
    assert "ReloadPropagatedFrom=nftables.service" in unit and "ExecReload=" in unit


def test_one_call_writes_the_files_of_a_host():
    """Each call costs a host seconds, even if nothing changes."""
    tasks = [
        task
        for path in (ROOT / "roles/xen_host/tasks").glob("*.yml")
        for task in mappings(yaml.safe_load(path.read_text()))
        # GRUB's menu password is not for everyone.
        if "unikernels.xen.host_files" in task and "xen_host_grub_password" not in str(task.get("when"))
    ]
    assert [task["name"] for task in tasks] == ["Configure Xen, Dom0 and their daemons"]
