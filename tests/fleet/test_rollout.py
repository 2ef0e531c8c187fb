"""Rollouts over a fleet of simulated hosts: real playbooks, ssh, modules and files; Xen is a double (machines.py)."""

import json
import os
import random
import re
import signal
import subprocess

import pytest

from .fleet import wait_until

WAVES = {"waves": [1, "30%", "100%"]}
KILLS = int(os.environ.get("FLEET_KILLS", "2"))
# As for the inputs of hypothesis: the same moments each time, and others with RANDOM_INPUTS=1 (make test-all).
SEED = int(os.environ.get("FLEET_SEED", "0")) or (random.randrange(1 << 30) if os.environ.get("RANDOM_INPUTS") else 1)


def begun(fleet, output=subprocess.PIPE):
    """A running rollout of the declaration. ``output``: a file, where nobody reads before it has ended."""
    return subprocess.Popen(
        fleet.command("playbooks/rollout.yml"), cwd=fleet.root, env=fleet.environment(), start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
    )  # fmt: skip


def state(fleet, names):
    """Return what a host runs and has on disk, as far as a rollout could change it."""
    command = (
        "xl list -v; cat /etc/xen/unikernels/*.cfg; ls -a /etc/xen/unikernels /etc/xen/auto;"
        " ls /var/lib/unikernels/generations /var/lib/unikernels/images"
    )
    return {name: fleet.shell(name, command) for name in names}


def clean(fleet):
    """Assert that no host has leftovers of a change: a second domain, an intent, a vif without a domain."""
    for name in fleet.names:
        listed = fleet.shell(name, "xl list; ls -a /etc/xen/unikernels; ls /sys/class/net")
        assert listed.count("www ") == 1 and "~" not in listed and ".next" not in listed and listed.count("vif") == 1, listed


def recorded(fleet, name):
    """Return (the image in its newest generation, the result of that)."""
    names = "import glob, json; g = json.load(open(sorted(glob.glob('/var/lib/unikernels/generations/[0-9]*'))[-1]))"
    return fleet.shell(name, f"/usr/bin/python3 -c \"{names}; print(g['result'])\"").strip()


def order_of(output):
    """Return the waves as the plan printed them: lists of the displayed names."""
    return [re.findall(r"xen\d+", line) for line in output.splitlines() if re.search(r"wave \d+: xen", line)]


def test_a_rollout_reaches_every_host_and_a_second_one_changes_nothing(fleet):
    done = fleet.rollout(image="two", rollout=WAVES)
    assert fleet.served() == {"two": fleet.names}
    clean(fleet)
    before = state(fleet, fleet.names[:2])
    again = fleet.rollout(image="two", rollout=WAVES)
    assert all(counts["changed"] == 0 for counts in again.counts.values()), again.stdout[-4000:]
    assert state(fleet, fleet.names[:2]) == before
    assert len(order_of(done.stdout)) == 3


def test_a_canary_that_fails_leaves_all_others_untouched(fleet):
    before = state(fleet, fleet.names)
    done = fleet.rollout(image="bad", rollout=WAVES, check=False)
    assert done.returncode != 0
    canary = order_of(done.stdout)[0][0]
    assert "not healthy" in done.stdout
    assert fleet.served() == {"one": fleet.names}
    clean(fleet)
    for name in fleet.names:
        if name != canary:
            untouched = [line for line in state(fleet, [name])[name].splitlines() if not line.endswith((".json", ".xen"))]
            assert untouched == [line for line in before[name].splitlines() if not line.endswith((".json", ".xen"))], name


def test_a_second_wave_that_fails_takes_all_hosts_back(fleet):
    before = {name: fleet.shell(name, "cat /etc/xen/unikernels/www.cfg") for name in fleet.names}
    plan = fleet.rollout("--check", image="two", rollout=WAVES, check=False)
    second = order_of(plan.stdout)[1][-1]
    done = fleet.rollout(image="two", rollout=WAVES, hosts={second: {"image": "bad"}}, check=False)
    assert done.returncode != 0
    assert fleet.served() == {"one": fleet.names}
    clean(fleet)
    assert {name: fleet.shell(name, "cat /etc/xen/unikernels/www.cfg") for name in fleet.names} == before
    assert second in done.stdout.rpartition("PLAY RECAP")[0].rpartition("TASK")[2], "the result names the host that failed"


def test_hosts_that_are_dead_slow_or_full_are_their_own_problem(fleet, tmp_path):
    plan = fleet.rollout("--check", image="two", rollout=WAVES, check=False)
    dead, slow, full = order_of(plan.stdout)[2][:3]
    fleet.dead(dead)
    fleet.slow(slow, 1)
    fleet.declare(image="two", rollout={**WAVES, "max_failed": 2, "on_failure": "stop"})
    log = tmp_path / "log"
    with open(log, "w", encoding="utf-8") as output, begun(fleet, output) as process:
        wait_until(lambda: fleet.event("wave"), 300, "the first wave begins")
        fleet.fill(full)
        process.wait(timeout=600)
    assert process.returncode != 0, "two hosts of the rollout are not done"
    result = log.read_text().rpartition("PLAY RECAP")[0].rpartition("TASK")[2]
    assert dead in result and full in result and slow not in result, result
    fleet.dead(dead, False)
    served = fleet.served()
    assert served["one"] == sorted([dead, full]) and len(served["two"]) == fleet.count - 2, served
    # Both are back: the next rollout completes it, and changes nothing elsewhere.
    fleet.fill(full, False)
    fleet.slow(slow, 0)
    again = fleet.rollout(image="two", rollout=WAVES)
    assert fleet.served() == {"two": fleet.names}
    assert {name for name, counts in again.counts.items() if counts["changed"]} == {dead, full}
    clean(fleet)


def test_more_than_may_fail_before_the_first_wave_change_nothing(fleet):
    fleet.dead(fleet.names[-1])
    before = state(fleet, fleet.names)
    done = fleet.rollout(image="two", rollout=WAVES, check=False)
    assert done.returncode != 0 and fleet.names[-1] in done.stdout
    fleet.dead(fleet.names[-1], False)
    fleet.fill(fleet.names[0], left=20 << 20)
    done = fleet.rollout(image="two", rollout=WAVES, check=False)
    assert done.returncode != 0 and "make room" in done.stdout
    fleet.fill(fleet.names[0], False)
    assert fleet.served() == {"one": fleet.names}
    unhealthy = fleet.names[-1]
    fleet.shell(unhealthy, "xl destroy www")
    done = fleet.rollout(image="two", rollout=WAVES, check=False)
    assert done.returncode != 0 and f"unhealthy before the wave: {unhealthy} (" in done.stdout, done.stdout[-4000:]
    assert fleet.serves(fleet.names[0]) == "one"
    fleet.rollout(image="one", rollout={**WAVES, "max_failed": "20%"})
    assert fleet.served() == {"one": fleet.names}
    domains = [line for line in state(fleet, fleet.names[:1])[fleet.names[0]].splitlines() if line.startswith("www")]
    assert domains == [line for line in before[fleet.names[0]].splitlines() if line.startswith("www")]


def killed(fleet, seconds, **declared):
    """Begin a rollout, and kill the controller with all its processes here after so many seconds."""
    fleet.declare(**declared)
    with begun(fleet) as process:
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def duration(fleet):
    """How long a rollout takes here and now: as a test before this one measured it, or measured now."""
    if json.dumps(WAVES) not in fleet.seconds:
        fleet.rollout(image="two", rollout=WAVES)
        fleet.rollout(image="one", rollout={"waves": ["100%"]})
    return fleet.seconds[json.dumps(WAVES)]


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_any_moment_it_is_resumed(fleet, duration, number):
    """The seed is printed; FLEET_SEED repeats it."""
    seconds = random.Random(SEED + number).uniform(0, duration)
    print(f"FLEET_SEED={SEED}, number {number}: killed after {seconds:.1f} s of {duration:.1f} s")
    killed(fleet, seconds, image="two", rollout=WAVES)
    unfinished = fleet.unfinished()
    done = fleet.playbook("playbooks/rollout.yml", *(["-e", f"resume={unfinished}"] if unfinished else []))
    assert done.returncode == 0
    assert fleet.served() == {"two": fleet.names}
    clean(fleet)
    assert {recorded(fleet, name) for name in fleet.names} == {"applied"}
    assert not fleet.unfinished()
    again = fleet.playbook("playbooks/rollout.yml")
    assert all(counts["changed"] == 0 for counts in again.counts.values()), again.stdout[-4000:]


def test_killed_and_aborted_it_takes_back_what_is_done(fleet, tmp_path):
    """Killed when the first wave runs the new image and the second one has begun."""
    fleet.declare(image="two", rollout=WAVES)
    log = tmp_path / "log"
    with open(log, "w", encoding="utf-8") as output, begun(fleet, output) as process:
        wait_until(lambda: fleet.event("wave", 2) or process.poll() is not None, 300, "the second wave begins")
        assert process.poll() is None, log.read_text()[-4000:]
        os.killpg(process.pid, signal.SIGKILL)
    unfinished = fleet.unfinished()
    assert unfinished and fleet.served()["two"]
    refused = fleet.playbook("playbooks/rollout.yml", check=False)
    assert refused.returncode != 0 and unfinished in refused.stdout, "a second rollout names the one under way"
    fleet.playbook("playbooks/rollout.yml", "-e", f"abort={unfinished}")
    assert fleet.served() == {"one": fleet.names}
    clean(fleet)
    again = fleet.playbook("playbooks/rollout.yml", "-e", f"resume={unfinished}", check=False)
    assert again.returncode != 0 and fleet.served() == {"one": fleet.names}, "an aborted rollout stays aborted"
