"""What a rollout that changes nothing costs the controller per host, compared with a plain play of as many tasks and modules.

    python -m tests.bench.rollout [HOSTS...]          as root: the hosts are simulated (tests/fleet)

The plain play has as many tasks per host as our rollout, and as many of them run a module there (ping); the others are decided on
the controller. CPU seconds are those of ansible-playbook and its processes, including ssh, without the hosts' own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from tests.fleet.fleet import Fleet

ROLLOUT = {"waves": [1, "10%", "50%", "100%"]}
ROUNDS = 2


def cost(fleet: Fleet, *arguments: str) -> tuple[float, float, Any]:
    """Return (seconds, CPU seconds, the run) of the faster of two runs."""
    found = []
    for _round in range(ROUNDS):
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = fleet.playbook(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((used, time.monotonic() - began, done))
    used, seconds, done = min(found, key=lambda row: row[0])
    return seconds, used, done


def plain(fleet: Fleet, tasks: int, calls: int) -> str:
    """Return the path of a play with that many tasks per host, ``calls`` of them modules."""
    entries: list[dict[str, Any]] = [{"name": "Ask the host", "ansible.builtin.ping": {}}] * calls
    entries += [{"name": "Decide", "ansible.builtin.assert": {"that": "true", "quiet": True}}] * (tasks - calls)
    path = fleet.folder / "plain.yml"
    path.write_text(json.dumps([{"hosts": "xen_hosts", "gather_facts": False, "tasks": entries}]))
    return str(path)


def main() -> None:
    print("| hosts | tasks, modules a host | our rollout | a host, CPU | plain play | a host, CPU | CPU ratio |")
    print("|---|---|---|---|---|---|---|")
    for hosts in [int(word) for word in sys.argv[1:]] or [10, 50]:
        fleet = Fleet(hosts)
        try:
            fleet.start()
            fleet.rollout(image="one", rollout=ROLLOUT)
            before = fleet.calls(fleet.names[-1])
            seconds, used, done = cost(fleet, "playbooks/rollout.yml")
            calls = (fleet.calls(fleet.names[-1]) - before) // ROUNDS
            total = sum(counts["ok"] + counts["skipped"] for counts in done.counts.values())
            tasks = round(total / hosts)
            assert all(counts["changed"] == 0 for counts in done.counts.values())
            floor_seconds, floor, _done = cost(fleet, plain(fleet, tasks, calls))
            print(
                f"| {hosts} | {tasks}, {calls} | {seconds:.0f} s | {used / hosts:.2f} s | {floor_seconds:.0f} s"
                f" | {floor / hosts:.2f} s | {used / floor:.2f} |",
                flush=True,
            )
        finally:
            fleet.stop()


if __name__ == "__main__":
    main()
