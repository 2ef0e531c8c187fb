"""playbooks/rollout.yml over hosts that are folders: plays, roles and modules are ours, with doubles of what needs Xen."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.wait import until

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOOD, BAD, NEW = "a" * 64, "b" * 64, "c" * 64
# A module that accepts any arguments and returns the content of its file.
DOUBLE = """\
#!/usr/bin/python3
import json, os
# WANT_JSON
print(json.dumps({{**{answer}, "sha256": os.environ["DIGEST"]}}))
"""
# Like the real one, it contacts no host to test a key.
ACTION_DOUBLE = """\
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        if self._task.args.get("state") == "signed":
            return {"changed": False}
        return self._execute_module(module_name="unikernels.xen.image_store", module_args={}, task_vars=task_vars)
"""
DOUBLED = {
    "image_store": {"changed": False, "missing": []},
    "service_health": {"changed": False, "healthy": ["www"], "answers": [{"name": "www", "healthy": True, "msg": ""}]},
    "service_watch": {"changed": False, "rounds": 1, "ill": {}},
    "mirage_image": {"changed": False},
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """A copy of the collection with doubles of what needs Xen, Debian's Xen packages, or a store owned by root."""
    folder = tmp_path_factory.mktemp("collection")
    target = folder / "ansible_collections/unikernels/xen"
    target.mkdir(parents=True)
    for part in ("plugins", "roles", "playbooks", "meta"):
        shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "galaxy.yml", target)
    (target / "plugins/action/image_store.py").write_text(ACTION_DOUBLE)
    engine = re.search(r"module_utils\.(\S+) import .*\bconverge\b", (ROOT / "plugins/modules/xen_domains.py").read_text()).group(
        1
    )
    shutil.copy(ROOT / "tests/doubles/engine.py", target / f"plugins/module_utils/{engine.replace('.', '/')}.py")
    for name, answer in DOUBLED.items():
        (target / f"plugins/modules/{name}.py").write_text(DOUBLE.format(answer=answer))
    (target / "roles/xen_host/tasks/preflight.yml").write_text("---\n- name: Inspect the machine\n  ansible.builtin.ping:\n")
    return folder


@pytest.fixture(scope="module")
def fleet(collection, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "hosts").mkdir()
    (folder / "ansible.cfg").write_text("[defaults]\ninterpreter_python = /usr/bin/python3\n")
    names = [f"h{number}" for number in range(4)]
    variables = {
        "ansible_connection": "local",
        "unikernel_images": {"web": {"file": "/srv/web.xen"}},
        "unikernels": [{"name": "www", "image": "web", "memory": 32, "health": {"tcp": "127.0.0.1:1"}}],
        "unikernel_images_signature": "optional",
        "unikernel_images_store": str(folder / "hosts") + "/{{ inventory_hostname }}/images",
        "unikernel_generations_folder": str(folder / "hosts") + "/{{ inventory_hostname }}/generations",
        "unikernel_images_controller": str(folder / "controller"),
        "rollout_journal": str(folder / "journals"),
        "rollout": {"waves": [1, "50%", "100%"], "spread": "site", "bake": 1, "watch": {"every": 1}},
    }
    hosts = {name: {"site": "left" if index % 2 else "right"} for index, name in enumerate(names)}
    (folder / "hosts.yml").write_text(json.dumps({"xen_hosts": {"hosts": hosts, "vars": variables}}))

    def environment(digest):
        return {
            **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collection), "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1", "DIGEST": digest, "DOUBLE_OF_HOSTS": str(folder / "hosts"),
        }  # fmt: skip

    def run(book, digest, refused="", *arguments):
        (folder / "hosts/refused").write_text(refused)
        done = subprocess.run(
            ["ansible-playbook", "-i", "hosts.yml", f"unikernels.xen.{book}", *arguments], cwd=folder, capture_output=True,
            text=True, check=False, timeout=600, stdin=subprocess.DEVNULL, env=environment(digest),
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def runs():
        kernels = {}
        for name in names:
            path = folder / "hosts" / name / "domains.json"
            kernels[name] = json.loads(path.read_text())["www"]["kernel"].rsplit("/", 1)[1][0] if path.exists() else ""
        return kernels

    def journal():
        """Return the newest rollout: its name and its lines."""
        path = max((folder / "journals").glob("*.jsonl"))
        return path.stem, [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()]

    def begun(before, wave):
        new = set((folder / "journals").glob("*.jsonl")) - before
        return bool(new) and any(line["event"] == "wave" and line["wave"] == wave for line in journal()[1])

    def killed(digest, *arguments, wave):
        """Begin a rollout and kill its controller once that wave has begun. Return the rollout's name."""
        before = set((folder / "journals").glob("*.jsonl"))
        with subprocess.Popen(
            ["ansible-playbook", "-i", "hosts.yml", "unikernels.xen.rollout", *arguments], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, env=environment(digest),
        ) as process:  # fmt: skip
            assert until(lambda: begun(before, wave), 300), f"wave {wave} of a rollout has not begun"
            process.kill()
        return journal()[0]

    run.journal, run.killed = journal, killed
    run.note = lambda name: json.loads((folder / "hosts" / name / "rollout.json").read_text())
    run.runs = runs
    run.generations = lambda name: sorted(os.listdir(folder / "hosts" / name / "generations"))
    return run


def test_waves_one_after_another_and_all_back_when_one_fails(fleet):
    first = fleet("rollout", GOOD)
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-2000:]
    assert "wave 1: h0 (1)" in first.stdout and "4 of 4 hosts done, 0 failed" in first.stdout
    assert set(fleet.runs().values()) == {"a"}
    # h1 is the second wave.
    second = fleet("rollout", BAD, "h1")
    assert second.returncode == 2, second.stdout[-4000:] + second.stderr[-2000:]
    assert "failed: h1 (domain www: not healthy)" in second.stdout and "2 hosts unchanged" in second.stdout
    assert "rolled back: h0, h1" in second.stdout
    assert fleet.journal()[1][-1]["result"] == "rolled back"
    assert fleet.note("h0")["under_way"] is None
    assert set(fleet.runs().values()) == {"a"}
    assert len(fleet.generations("h0")) == 3 and len(fleet.generations("h3")) == 1


def test_a_wrong_rollout_is_refused_before_any_host_is_touched(fleet):
    before = fleet.runs()
    refused = fleet("rollout", BAD, "", "-e", '{"rollout": {"waves": [1, "50%"], "bke": 1}}')
    assert refused.returncode == 2
    assert "rollout: unknown key 'bke'" in refused.stdout and "never reaches all hosts" in refused.stdout
    assert fleet.runs() == before


def test_a_host_from_which_all_is_gone_needs_no_image(fleet):
    gone = fleet("deploy", GOOD, "", "-e", '{"unikernels": [{"name": "www", "state": "absent"}]}', "--limit", "h3")
    assert gone.returncode == 0, gone.stdout[-4000:] + gone.stderr[-2000:]


# Two hosts, a wave each, without waiting.
PAIR = ("--limit", "h0,h1", "-e", '{"rollout": {"waves": [1, "100%"]}}')


def test_a_killed_rollout_is_resumed_or_aborted_and_meanwhile_no_other_begins(fleet):
    begun = fleet("deploy", GOOD)
    assert begun.returncode == 0, begun.stdout[-4000:] + begun.stderr[-2000:]
    name = fleet.killed(NEW, *PAIR, wave=1)
    refused = fleet("rollout", BAD, "", *PAIR)
    assert refused.returncode == 2 and f"rollout {name} by" in refused.stdout and "has been under way" in refused.stdout
    other = fleet("rollout", BAD, "", *PAIR, "-e", "rollout_journal=elsewhere")
    assert other.returncode == 2 and f"h0: rollout {name} by" in other.stdout, "the host itself knows"
    assert "b" not in fleet.runs().values()
    changed = fleet("rollout", NEW, "", *PAIR, "-e", f"resume={name}", "--limit", "h0,h1,h2")
    assert changed.returncode == 2 and "h2: new" in changed.stdout and f"-e abort={name}" in changed.stdout
    resumed = fleet("rollout", NEW, "", *PAIR, "-e", f"resume={name}")
    assert resumed.returncode == 0, resumed.stdout[-4000:] + resumed.stderr[-2000:]
    assert "2 of 2 hosts done, 0 failed" in resumed.stdout
    assert [fleet.runs()[host] for host in ("h0", "h1", "h2")] == ["c", "c", "a"]
    turns = [line["host"] for line in fleet.journal()[1] if line["event"] == "turn"]
    assert turns == ["h0", "h1"], "what was done was not done again"

    name = fleet.killed(BAD, *PAIR, wave=1)
    aborted = fleet("rollout", BAD, "", "-e", f"abort={name}", "-e", '{"unikernels": "broken"}')
    assert aborted.returncode == 0, aborted.stdout[-4000:] + aborted.stderr[-2000:]
    assert "rolled back: h0, h1" in aborted.stdout
    assert [fleet.runs()[host] for host in ("h0", "h1", "h2")] == ["c", "c", "a"]
    assert fleet("rollout", BAD, "", *PAIR, "-e", f"resume={name}").returncode == 2, "it stays aborted"
