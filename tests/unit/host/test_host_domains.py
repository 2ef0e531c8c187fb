"""What xendomains.service runs: domains start one after the other and stop all at once, each within its own limit."""

import fcntl
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import stat
import time

import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / "roles/xen_host/files/unikernels-domains"

LIST = """Name                                        ID   Mem VCPUs	State	Time(s)
Domain-0                                     0   768     2     r-----     120.1
www                                          1    64     1     -b----       1.5
my old vm                                    2   512     2     --p---       0.0
7                                            3    64     1     ------      99.9
crashed                                      4    64     1     ---sc-       0.1
(null)                                       5     0     1     --ps-d       0.1
"""
# xl: records its calls; domains that listen stop, "deaf" ones don't, and creating "hangs" hangs.
XL = """#!/bin/sh
cd "$STATE" || exit 1
echo "$(date +%s.%N) $*" >>calls
case $1 in
  list) cat head; for one in [0-9]*; do [ -e "$one" ] && cat "$one"; done; exit 0 ;;
  create) case $4 in */hangs.cfg) sleep 60 ;; */bad.cfg) echo "Parsing config from $4"; echo "no memory" >&2; exit 3 ;; esac ;;
  shutdown) until [ "$(grep -c ' shutdown ' calls)" -ge "${TOGETHER:-1}" ]; do sleep 0.1; done; grep -q deaf "$3" || rm -f "$3" ;;
  destroy) rm -f "$2" ;;
esac
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    loader = importlib.machinery.SourceFileLoader("unikernels_domains", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("unikernels_domains", loader))
    loader.exec_module(module)
    xl = tmp_path / "bin/xl"
    xl.parent.mkdir()
    xl.write_text(XL)
    xl.chmod(0o755)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/head").write_text(LIST.splitlines()[0] + "\n")
    (tmp_path / "auto").mkdir()
    monkeypatch.setenv("PATH", f"{xl.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(tmp_path / "state"))
    monkeypatch.setattr(module, "AUTO", str(tmp_path / "auto"))
    monkeypatch.setattr(module, "LOCK", str(tmp_path / "run/lock"))
    monkeypatch.setattr(module, "GENERATIONS", str(tmp_path / "generations"))
    monkeypatch.setattr(module, "VERIFY", str(tmp_path / "verify"))
    monkeypatch.setattr(module, "VERIFIED", str(tmp_path / "verified"))
    return module


def calls(tmp_path, word):
    lines = (line.split(" ", 1) for line in (tmp_path / "state/calls").read_text().splitlines())
    return [(float(when), what) for when, what in lines if what.startswith(word)]


def define(tmp_path, *names):
    for name in names:
        (tmp_path / f"auto/{name}.cfg").write_text(f'name = "{name}"\nmemory = 32\n')


def test_what_xl_lists(program):
    rows = program.domains(LIST)
    assert rows[2] == ("my old vm", "--p---") and rows[3][0] == "7" and 0 not in rows
    assert set(program.alive(rows)) == {1, 2, 3}


def test_one_that_hangs_does_not_keep_the_others_down(program, tmp_path, capsys):
    define(tmp_path, "a", "bad", "hangs", "z")
    began = time.monotonic()
    program.main(["start", "1"])
    assert time.monotonic() - began < 20
    said = capsys.readouterr().out
    assert "<3>domain bad: was not created: no memory\n" in said
    assert "<3>domain hangs: was not created: it did not end within 1 s\n" in said
    assert "started 2 of 4 domains" in said
    assert [what.rsplit("/", 1)[1] for _when, what in calls(tmp_path, "create")] == ["a.cfg", "bad.cfg", "hangs.cfg", "z.cfg"]
    assert [what for _when, what in calls(tmp_path, "destroy")] == ["destroy hangs"]


def test_one_that_survives_sigkill_does_not_keep_the_others_down(program, tmp_path, monkeypatch, capsys):
    """It waits in the kernel: Xen builds it, or a file server with its disk is away."""
    define(tmp_path, "hangs", "z")
    monkeypatch.setattr(program, "KILL_SECONDS", 0.1)
    killed = []
    monkeypatch.setattr(program.os, "killpg", lambda group, number: killed.append((group, number)))
    began = time.monotonic()
    program.main(["start", "1"])
    seconds = time.monotonic() - began
    monkeypatch.undo()
    for group, number in killed:
        os.killpg(group, number)
    assert seconds < 20 and "started 1 of 2 domains" in capsys.readouterr().out


def test_what_runs_already_is_not_created_again(program, tmp_path):
    define(tmp_path, "a", "b")
    (tmp_path / "state/4").write_text("a   4    64     1     -b----       1.5\n")
    program.main(["start", "5"])
    assert [what.rsplit("/", 1)[1] for _when, what in calls(tmp_path, "create")] == ["b.cfg"]


def test_the_lock_is_out_of_reach_and_says_what_it_is_for(program, tmp_path):
    with program.Lock():
        lock = tmp_path / "run/lock"
        assert lock.read_text().startswith("xendomains:")
        assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o700 and stat.S_IMODE(lock.stat().st_mode) == 0o600
        with lock.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert lock.read_text() == ""


def test_only_verified_ones_start(program, tmp_path, capsys):
    define(tmp_path, "a", "evil")
    verify = tmp_path / "verify"
    verify.write_text('#!/bin/sh\nmkdir -p "$2"; ln -s "$1/a.cfg" "$2/a.cfg"; echo "refused: domain evil"\n')
    verify.chmod(0o755)
    program.main(["start", "5"])
    assert [what.rsplit("/", 1)[1] for _when, what in calls(tmp_path, "create")] == ["a.cfg"]
    assert "refused: domain evil" in capsys.readouterr().out
    verify.write_text("#!/bin/sh\nexit 1\n")
    program.main(["start", "5"])
    assert len(calls(tmp_path, "create")) == 1
    assert "no domain is started" in capsys.readouterr().out


def test_all_are_asked_at_once_and_the_deaf_are_destroyed(program, tmp_path, monkeypatch, capsys):
    """A question ends only when the other five are asked too."""
    monkeypatch.setenv("TOGETHER", "6")
    deployed(tmp_path, *({"name": f"deaf{number}", "shutdown_timeout": 1} for number in (1, 3, 5)))
    for number in range(1, 7):
        name = "deaf" if number % 2 else "listens"
        (tmp_path / f"state/{number}").write_text(f"{name}{number}   {number}    64     1     -b----       1.5\n")
    (tmp_path / "state/9").write_text("asleep   9    64     1     --p---       1.5\n")
    program.main(["stop", "60"])
    assert len(calls(tmp_path, "shutdown")) == 6
    assert sorted(what for _when, what in calls(tmp_path, "destroy")) == ["destroy 1", "destroy 3", "destroy 5", "destroy 9"]
    assert "stopped 7 domains" in capsys.readouterr().out
    assert not list((tmp_path / "state").glob("[0-9]*"))


def deployed(tmp_path, *domains, text=None):
    folder = tmp_path / "generations"
    folder.mkdir(exist_ok=True)
    (folder / "000002.json").write_text('{"format": 1, "domains": [{"name": "old"}]}')
    (folder / "000010.json").write_text(json.dumps({"format": 1, "domains": domains}) if text is None else text)
    (folder / "rollouts.json").write_text("{}")


def test_they_start_in_the_order_in_which_they_are_declared(program, tmp_path):
    define(tmp_path, "dns", "www", "db", "another")
    (tmp_path / "auto/gone.cfg").symlink_to(tmp_path / "nowhere")
    deployed(tmp_path, {"name": "www"}, {"name": "not here"}, {"name": "db"}, {"name": "dns"})
    program.main(["start", "5"])
    started = [what.rsplit("/", 1)[1] for _when, what in calls(tmp_path, "create")]
    assert started == ["www.cfg", "db.cfg", "dns.cfg", "another.cfg"]


def test_each_has_its_own_time_to_stop_within_the_hosts(program, tmp_path, capsys):
    for number, name in enumerate(("quick", "slow", "slow~next", "unknown"), 1):
        (tmp_path / f"state/{number}").write_text(f"{name}-deaf   {number}    64     1     -b----       1.5\n")
    deployed(tmp_path, {"name": "quick-deaf", "shutdown_timeout": 1}, {"name": "slow", "shutdown_timeout": 600})
    program.main(["stop", "3"])
    asked = calls(tmp_path, "shutdown")[-1][0]
    took = {int(what.split()[1]): when - asked for when, what in calls(tmp_path, "destroy")}
    assert took[1] < took[2] and took[1] < took[4] and sorted(took) == [1, 2, 3, 4]
    said = capsys.readouterr().out
    assert (
        "destroyed: quick-deaf (after 1 s), slow-deaf (after 3 s), slow~next-deaf (after 3 s), unknown-deaf (after 3 s)" in said
    )


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"domains": 5}', '{"domains": [5]}', '{"domains": [{}]}', "[" * 100000,
     '{"domains": [{"name": "a", "shutdown_timeout": "soon"}]}', '{"domains": [{"name": "a", "shutdown_timeout": 1e999}]}'],
)  # fmt: skip
def test_whatever_was_noted_they_start(program, tmp_path, text):
    deployed(tmp_path, text=text)
    assert program.declared() == {}
    define(tmp_path, "b", "a")
    program.main(["start", "5"])
    assert [what.rsplit("/", 1)[1] for _when, what in calls(tmp_path, "create")] == ["a.cfg", "b.cfg"]


@pytest.mark.parametrize("arguments", [[], ["start"], ["start", "x"], ["restart", "5"]])
def test_what_it_can_not_do(program, arguments):
    with pytest.raises(SystemExit):
        program.main(arguments)
