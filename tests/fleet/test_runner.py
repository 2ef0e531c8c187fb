"""ansible-runner over the simulated fleet: a run for each wave, in the background, and on an execution node behind a pipe."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from .fleet import run, wait_until

# Where pip puts it beside this Python; some run the tests with a Python of theirs.
RUNNER = shutil.which("ansible-runner", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")


@pytest.fixture
def runner(fleet, tmp_path):
    """Run ansible-runner with a folder of its own; project/ is the collection and inventory/ the fleet's."""
    assert RUNNER, "ansible-runner is not installed: pip install -r tests/requirements.txt"
    place = tmp_path / "runner"
    (place / "project").mkdir(parents=True)
    (place / "inventory").mkdir()
    (place / "project/rollout.yml").write_text("- ansible.builtin.import_playbook: unikernels.xen.rollout\n")
    environment = {
        **fleet.environment(), "ANSIBLE_COLLECTIONS_PATH": str(fleet.root / ".collections"), "TMPDIR": str(tmp_path),
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }  # fmt: skip

    def command(word, *arguments, check=True, **named):
        shutil.copy(fleet.folder / "inventory.yml", place / "inventory/hosts.yml")
        return run(RUNNER, word, *arguments, check=check, env=environment, stdin=subprocess.DEVNULL, **named)

    command.place, command.environment = place, environment
    return command


def ended(artifacts):
    """Return the exit code that ansible-runner kept of a run; None while it runs."""
    path = artifacts / "rc"
    return int(path.read_text()) if path.exists() and path.read_text() else None


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_each_wave_is_a_run_of_its_own_and_an_execution_node_resumes_a_killed_one(fleet, runner, tmp_path):
    fleet.declare(image="two", rollout={"waves": [1, "100%"], "approve": [2]})
    artifacts = runner.place / "artifacts"

    def waves():
        return sum(line["event"] == "wave" for line in list(fleet.journals())[-1])

    # The first wave in the background: who started it has left.
    runner("start", runner.place, "-p", "rollout.yml", "--ident", "wave-1")
    wait_until(lambda: ended(artifacts / "wave-1") is not None, 600, "the run of the first wave ends")
    assert ended(artifacts / "wave-1") == 4, (artifacts / "wave-1/stdout").read_text()[-6000:]
    assert len(fleet.served()["two"]) == 1 and waves() == 1 and list((artifacts / "wave-1/job_events").iterdir())

    # The second one is killed, with its runner.
    name = fleet.unfinished()
    resume = f"-e resume={name}"
    runner("start", runner.place, "-p", "rollout.yml", "--ident", "wave-2", "--cmdline", f"{resume} -e approve=2")
    wait_until(lambda: waves() == 2, 300, "the second wave begins")
    runs = [line["pid"] for line in list(fleet.journals())[-1] if line["event"] == "run"]
    processes = [int((runner.place / "pid").read_text()), runs[-1]]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, processes)), 60, "the runner and its playbook end")
    assert fleet.unfinished() == name

    # An execution node resumes it. ansible-runner sends its folder there; here the node is at the other end of a pipe.
    node, results = tmp_path / "node", tmp_path / "results"
    node.mkdir()
    pipe = (
        ["transmit", runner.place, "-p", "rollout.yml", "--ident", "wave-2-again", "--cmdline", resume],
        ["worker", "--private-data-dir", node],
        ["process", results, "--ident", "wave-2-again"],
    )
    pipeline = " | ".join(shlex.join([RUNNER, *map(str, words)]) for words in pipe)
    run("bash", "-o", "pipefail", "-c", pipeline, env=runner.environment, stdin=subprocess.DEVNULL, timeout=900)
    assert fleet.served() == {"two": fleet.names} and not fleet.unfinished()
    kept = results / "artifacts/wave-2-again"
    assert ended(kept) == 0 and list((kept / "job_events").iterdir())
