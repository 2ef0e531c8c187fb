"""The README's picture is what a run prints today: after a change of plays, summary or style `make picture` is due."""

# SPDX-License-Identifier: GPL-3.0-or-later

import html
import importlib.util
import pathlib
import re

import jinja2
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
SVG = (ROOT / "docs/run.svg").read_text()
STALE = "docs/run.svg is not what site.yml prints: make picture"


def script():
    spec = importlib.util.spec_from_file_location("picture", ROOT / "tools/picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PICTURE = script()


def shown():
    """The lines of the picture, with the empty ones, which leave a gap."""
    rows = {int(y): html.unescape(text) for y, text in re.findall(r'<text x="16" y="(\d+)"[^>]*>(.*)</text>', SVG)}
    return [rows.get((number + 2) * PICTURE.LINE - 6, "") for number in range((max(rows) + 6) // PICTURE.LINE - 1)]


def plays(path):
    for entry in yaml.safe_load(path.read_text()):
        imported = entry.get("ansible.builtin.import_playbook")
        if imported and "rollout is set" not in entry["name"]:
            yield from plays(path.parent / imported)
        elif not imported:
            yield entry["name"]


def printed(lines):
    """A run with these domains, as Ansible prints it; digests, ports and counts are those of the picture."""
    digests = dict(re.findall(r"(\w+): running, \S+ image (\w{12})", "\n".join(lines)))
    port = re.search(r"127\.0\.0\.1:(\d+)/", "\n".join(lines))[1]
    names = {"www": "101", "dns": "102", "vpn": "103"}
    values = {
        "inventory_hostname": "xen1", "lab_http_port": port, "lab_machine": {}, "vpn_pki": "/vpn", "in_checkout": True,
        "lab_dns_port": re.search(r"-p (\d+) ", "\n".join(lines))[1],
        "declared_unikernels": [
            {"name": name, "image": name, "interfaces": [{"address": f"10.0.2.{last}/24"}]} for name, last in names.items()
        ],
        "unikernel_images_stored": {name: {"sha256": digests[name], "standin": True} for name in names},
    }  # fmt: skip
    template = (ROOT / "playbooks/templates/summary.j2").read_text()
    summary = jinja2.Environment(trim_blocks=True, autoescape=True).from_string(template).render(values).splitlines()
    counts = next(line for line in lines if line.startswith("xen1 ")) + "rescued=0    ignored=0"
    heads = [f"PLAY [{name}] {'*' * 20}" for name in plays(ROOT / "playbooks/site.yml")]
    return "\n".join(["$ ansible-playbook site.yml", *heads, *(f"    - '{line}'" for line in summary), counts])


def test_it_shows_the_plays_and_the_summary_of_two_runs():
    lines = shown()
    second = lines.index("", 1)
    runs = [lines[:second], lines[second + 1 :]]
    assert [line for run in runs for line in PICTURE.lines_of(printed(run))] == [*runs[0], *runs[1]], STALE
    assert re.search(r" changed=[1-9]", runs[0][-1]) and " changed=0 " in runs[1][-1], "a first run, and one that changes nothing"
    assert " failed=0 " in runs[0][-1] and " failed=0 " in runs[1][-1]


def test_it_is_drawn_as_the_script_draws_it():
    assert PICTURE.drawn(shown()) == SVG, STALE


def test_a_renamed_play_makes_it_stale():
    text = printed(shown()[: shown().index("", 1)]).replace("Run the unikernels", "Run the domains")
    assert PICTURE.lines_of(text) != shown()[: shown().index("", 1)]
