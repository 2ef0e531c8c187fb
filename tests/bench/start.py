"""What the start of a run costs on the controller, until its first task ends: python -m tests.bench.start [--runs N]

CPU seconds, which don't depend on other work on the machine, the best of N runs each. No host is contacted: the first task of
site.yml, which validate.yml has too, reads and checks the declaration of all hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASKS = [{"ansible.builtin.debug": {"msg": "one"}}]
PLAY = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": TASKS}]


def seconds(*command: str) -> float:
    """CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        play = pathlib.Path(folder, "play.yml")
        play.write_text(json.dumps(PLAY))
        rows = {
            "Ansible alone (`--version`)": ["--version"],
            "a play of one `debug`": ["-i", "localhost,", str(play)],
            "the first task of `site.yml`, three hosts": ["-i", "inventories/example", "playbooks/validate.yml"],
        }
        best = {name: min(seconds("ansible-playbook", *words) for _run in range(options.runs)) for name, words in rows.items()}
    first = next(iter(best.values()))
    print("| the controller's start | CPU seconds | ratio |\n|---|---|---|")
    for name, used in best.items():
        print(f"| {name} | {used:.2f} s | {used / first:.1f} |")


if __name__ == "__main__":
    main()
