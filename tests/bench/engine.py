"""The domain engine against another commit's, in one run on the lab: nothing to change, downtime, planning, memory.

python -m tests.bench.engine --against COMMIT [--rounds N]     (after make site; LAB_* choose the lab)

Both are called in Dom0 without Ansible around them, by turns, so that what else the machine does meets both. Prints tables in
Markdown. Fails on nothing but an error: machines are shared, and a clock proves no bug.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from tests.bench.domains import Client
from tests.guests import guest, service
from tests.integration.conftest import Dom0, playbook

COUNTS = (1, 10, 50)
IDLE, SERVICE = "/root/bench.xen", "/root/bench-service.xen"
# Where what converges is, and what plans, by the names that either commit has.
HEAD = """\
import importlib, json, os, resource, sys, time
sys.path.insert(0, {folder!r})
def load(*names):
    for name in names:
        try:
            return importlib.import_module("ansible_collections.unikernels.xen.plugins.module_utils." + name)
        except ModuleNotFoundError:
            continue
def converge(domains):
    engine = load("apply.converge", "xen.declare")
    return (getattr(engine, "converge", None) or engine.declare)(domains, False, lambda line: None)
"""
PLANNING = """\
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
NOTHING = """\
began = time.monotonic()
results = converge({domains!r})
print(json.dumps([time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                  sum(one["changed"] for one in results)]))
"""
REPLACE = "print(json.dumps(converge([{domain!r}])[0]))"


class Engine:
    """One commit's code, in Dom0 and here."""

    def __init__(self, name: str, archive: bytes, dom0: Dom0) -> None:
        self.name, self.dom0, self.folder = name, dom0, f"/root/bench-{name}"
        target = f"{self.folder}/ansible_collections/unikernels/xen"
        unpack = f"rm -rf {self.folder} && mkdir -p {target} && tar -x -C {target}"
        subprocess.run([*dom0.command, unpack], input=archive, capture_output=True, check=True, timeout=120)

    def __call__(self, code: str) -> Any:
        text = HEAD.format(folder=self.folder) + textwrap.dedent(code)
        return json.loads(self.dom0("python3 -", data=text, timeout=600).splitlines()[-1])


def archives(commit: str) -> dict[str, bytes]:
    """Tarballs of module_utils: of the commit, and of the working tree."""
    old = subprocess.run(["git", "archive", commit, "plugins/module_utils"], cwd=ROOT, capture_output=True, check=True).stdout
    tar = ["tar", "-c", "--exclude=__pycache__", "plugins/module_utils"]
    return {"before": old, "now": subprocess.run(tar, cwd=ROOT, capture_output=True, check=True).stdout}


def unpacked(folder: str, name: str, tarball: bytes) -> str:
    tree = pathlib.Path(folder, name)
    place = tree / "ansible_collections/unikernels/xen"
    place.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(place)], input=tarball, check=True)
    return str(tree)


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def table(*titles: str) -> None:
    row(*titles)
    row(*["---"] * len(titles))


def planning(trees: dict[str, str]) -> None:
    """Here, not in Dom0: on an emulated machine ten thousand take minutes."""
    table("planning", *(f"{name}: CPU time" for name in trees), *(f"{name}: peak" for name in trees))
    for count in (1000, 10000):
        answers = []
        for tree in trees.values():
            text = HEAD.format(folder=tree) + PLANNING.format(count=count)
            done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, check=True)
            answers.append(json.loads(done.stdout))
        seconds, memory = zip(*answers)
        row(f"{count} domains", *(f"{one * 1000:.0f} ms" for one in seconds), *(f"{one:.0f} MiB" for one in memory))
    print()


def nothing_to_change(engines: list[Engine], rounds: int) -> None:
    table("nothing to change", *(engine.name for engine in engines), "ratio", *(f"peak {engine.name}" for engine in engines))
    for count in COUNTS:
        domains = [
            {"name": f"bench{index:02}", "kernel": IDLE, "memory": 8, "state": "paused", "autostart": False}
            for index in range(count)
        ]
        best, peak = {}, {}
        for engine in engines:
            # A definition has each commit's own words, so each has to make it its own before it is asked.
            engine(NOTHING.format(domains=domains))
            answers = [engine(NOTHING.format(domains=domains)) for _round in range(rounds)]
            assert not any(changed for _seconds, _memory, changed in answers), "something did change"
            best[engine.name] = min(seconds for seconds, _memory, _changed in answers)
            peak[engine.name] = max(memory for _seconds, memory, _changed in answers)
        before, now = best.values()
        row(f"{count} domains", *(f"{one:.2f} s" for one in best.values()), f"{now / before:.2f}",
            *(f"{one:.0f} MiB" for one in peak.values()))  # fmt: skip
    print()


def downtime(engines: list[Engine], rounds: int) -> None:
    """A small guest serves as www; the gap is what a client outside the host sees."""
    memory = 16
    options = {
        "name": "www", "kernel": SERVICE, "arguments": {"port": 80}, "ready": "ready", "settle": 1, "shutdown_timeout": 0,
        "interfaces": [{"bridge": "xenbr0", "address": "10.0.2.101/24", "gateway": "10.0.2.2"}],
        "health": {"http": "http://10.0.2.101/", "within": 180},
    }  # fmt: skip
    engines[-1](REPLACE.format(domain={**options, "memory": memory, "update": "recreate"}))
    table(
        "www is replaced", *(f"{engine.name}: {what}" for what in ("without an answer", "its own report") for engine in engines)
    )
    for update in ("standby", "warm"):
        gaps: dict[str, list[float]] = {engine.name: [] for engine in engines}
        reports: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for _round in range(rounds):
            for engine in engines:
                memory = 36 - memory  # 16, 20, 16, ...
                client = Client()
                client.start()
                client.wait_for_answers(20)
                result = engine(REPLACE.format(domain={**options, "memory": memory, "update": update}))
                client.wait_for_answers(20)
                client.ended.set()
                client.join(5)
                assert result["changed"] and not result["failed"], result
                gaps[engine.name].append(client.gap)
                reports[engine.name].append(result["downtime_ms"])
        row(f"`update: {update}`", *(f"{statistics.median(each):.2f} s" for each in gaps.values()),
            *(f"{statistics.median(each):.0f} ms" for each in reports.values()))  # fmt: skip
    print()


@contextlib.contextmanager
def unfiltered(dom0: Dom0) -> Iterator[None]:
    """Let every guest send: a commit from before the spoof filter starts domains that are in no table of it."""
    done = dom0("nft -e -a insert rule bridge unikernels guest accept")
    try:
        yield
    finally:
        dom0(f"nft delete rule bridge unikernels guest handle {done.split()[-1]}", check=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", metavar="COMMIT", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    dom0 = Dom0()
    tarballs = archives(chosen.against)
    with tempfile.TemporaryDirectory() as folder:
        planning({name: unpacked(folder, name, tarball) for name, tarball in tarballs.items()})
    engines = [Engine(name, tarball, dom0) for name, tarball in tarballs.items()]
    for path, data in ((IDLE, guest()), (SERVICE, service("A web server"))):
        subprocess.run([*dom0.command, f"cat >{path}"], input=data, check=True)
    try:
        with unfiltered(dom0):
            downtime(engines, chosen.rounds)
        nothing_to_change(engines, chosen.rounds)
    finally:
        gone = [{"name": f"bench{index:02}", "state": "absent"} for index in range(max(COUNTS))]
        engines[-1](NOTHING.format(domains=gone))
        dom0("rm -rf /root/bench*")
        playbook("site.yml", "--tags", "deploy")


if __name__ == "__main__":
    main()
