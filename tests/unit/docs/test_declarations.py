"""The declarations in the pages are taken as they stand: each variable is read by something, and has no mistake."""

# SPDX-License-Identifier: GPL-3.0-or-later

import pathlib
import re

import pytest
import yaml
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.compile import Asked, Resolved, compile_fleet
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import rollout_of
from ansible_collections.unikernels.xen.plugins.module_utils.health.waiting import declared_checks

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md"), *ROOT.glob("unikernels/*/README.md")]
# First key of a block that is no variable: an inventory file, a play's keyword, Prometheus' configuration, a part of a unikernel.
ELSEWHERE = {"plugin", "module_defaults", "rule_files", "driver", "interfaces"}
CHECKS = sorted({line.partition("#")[0].strip() if '"#' not in line else line for path in PAGES
                 for line in re.findall(r"^ *(?:- )?(health: \{.*)", path.read_text(), re.MULTILINE)})  # fmt: skip


def variables():
    names = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/variables.md").read_text(), re.MULTILINE)) | {"images"}
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for point in yaml.safe_load(path.read_text())["argument_specs"].values():
            names |= set(point["options"])
    return names


KNOWN = variables()


def blocks():
    for path in PAGES:
        for number, text in enumerate(re.findall(r"```ya?ml\n(.*?)```", path.read_text(), re.DOTALL)):
            value = yaml.safe_load(text) if not text.startswith((" ", "#")) else None
            if isinstance(value, list) and value and set(value[0]) <= {"name", "image", "health", "watchdog", "restart_limit"}:
                value = {"unikernels": value}
            if isinstance(value, dict) and next(iter(value)) not in ELSEWHERE:
                yield pytest.param(value, id=f"{path.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("values", blocks())
def test_a_declaration_is_taken_as_it_stands(values):
    assert [name for name in values if name not in KNOWN and name != "health"] == [], "nothing reads these"
    if "rollout" in values:
        assert rollout_of(values["rollout"])[1] == []
    if "health" in values:
        return
    # Templates are resolved by Ansible, and what a lookup brings is not here.
    values = {name: value for name, value in values.items() if "{{" not in str(value)}
    used = [unikernel.setdefault("image", "web") for unikernel in values.get("unikernels", [])]
    images = {name: {"file": f"/srv/images/{name}.xen"} for name in used} | values.get("unikernel_images", {})
    fleet = compile_fleet({"h": Resolved({**values, "unikernel_images": images})}, Asked(), lambda service: f"/src/{service}")
    assert [problem.line for problem in fleet.problems] == []


@pytest.mark.parametrize("line", CHECKS)
def test_a_health_check_is_taken_as_it_stands(line):
    health = yaml.safe_load(line)["health"]
    declared_checks([{"name": "www", "health": health}])


def test_they_are_found():
    assert len(list(blocks())) >= 15 and len(CHECKS) >= 10
