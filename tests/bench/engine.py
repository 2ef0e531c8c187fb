"""Planning against another commit's, by turns in one run: python -m tests.bench.engine --against COMMIT

Prints a table in Markdown. Fails on nothing but an error: machines are shared, and a clock proves no bug.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNTS = (1000, 10000)
# By the names that either commit has.
PLANNING = """\
import importlib, json, resource, sys, time
sys.path.insert(0, {tree!r})
def load(*names):
    for name in names:
        try:
            return importlib.import_module("ansible_collections.unikernels.xen.plugins.module_utils." + name)
        except ModuleNotFoundError:
            continue
spec, text = load("domain.declaration"), load("domain.xl_config")
seen, planner = load("domain.observed", "domain.plan"), load("plan.lifecycle", "domain.plan")
declared = [spec.declaration_of({{"name": f"d{{i}}", "kernel": "/k"}}, "h") for i in range({count})]
texts = {{one.name: text.xl_config(one.domain) for one in declared}}
domains = tuple(seen.Observed(i + 1, "running", one.domain) for i, one in enumerate(declared))
times = []
for _round in range(5):
    host = seen.Host(domains, dict(texts), autostart=frozenset(texts))
    began = time.process_time()
    for one in declared:
        planner.plan(one, host)
    times.append(time.process_time() - began)
print(json.dumps([min(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def tarballs(commit: str) -> dict[str, bytes]:
    """module_utils of the commit, and of the working tree."""
    old = subprocess.run(["git", "archive", commit, "plugins/module_utils"], cwd=ROOT, capture_output=True, check=True).stdout
    tar = ["tar", "-c", "--exclude=__pycache__", "plugins/module_utils"]
    return {"before": old, "now": subprocess.run(tar, cwd=ROOT, capture_output=True, check=True).stdout}


def unpacked(folder: str, name: str, tarball: bytes) -> str:
    tree = pathlib.Path(folder, name)
    place = tree / "ansible_collections/unikernels/xen"
    place.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(place)], input=tarball, check=True)
    return str(tree)


def measure(tree: str, count: int) -> tuple[float, float]:
    """Seconds of CPU, MiB."""
    text = PLANNING.format(tree=tree, count=count)
    done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(done.stdout)
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", metavar="COMMIT", required=True)
    commit = parser.parse_args().against
    print("| domains | before | now | peak before | peak now |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        trees = {name: unpacked(folder, name, tarball) for name, tarball in tarballs(commit).items()}
        for count in COUNTS:
            before, now = (measure(tree, count) for tree in trees.values())
            times = f"{before[0] * 1000:.0f} ms | {now[0] * 1000:.0f} ms"
            print(f"| {count} | {times} | {before[1]:.0f} MiB | {now[1]:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
