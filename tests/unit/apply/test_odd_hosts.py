"""Unusual hosts: files of odd kinds, domains that stop at the wrong moment, a last look that fails."""

import os

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.apply import converge as engine
from ansible_collections.unikernels.xen.plugins.module_utils.plan.plan import Plan
from ansible_collections.unikernels.xen.plugins.module_utils.xen.observation import disk_size

FOREIGN = (
    'name = "{name}"\ntype = "pvh"\nuuid = "6b1a2c54-9d96-4ee4-bd5d-42eb769bb076"\nkernel = "{kernel}"\nmemory = 8\n'
    'maxmem = 8\nvcpus = 1\ncmdline = "{cmdline}"\n'
    'on_poweroff = "destroy"\non_reboot = "restart"\non_crash = "preserve"\n'
)


def crash(record):
    record.update(state="shutdown", reason="crash")


def memories(xen):
    return {name: (record["state"], record["config"]["memory"]) for name, record in xen.domains.items()}


# -- a report is what was seen ---------------------------------------------------------------------


def test_an_adopted_domain_that_can_not_be_started_again_is_not_said_to_be_back(xen, converge):
    """Created by a boot loader in Dom0: Xen reports no kernel to build it from."""
    xen.add("www", FOREIGN.format(name="www", kernel="", cmdline="x"))
    xen.on_unpause["www"] = crash
    failed = converge({"name": "www", "adopt": True, "update": "recreate"})
    assert failed["failed"] and failed["rolled_back"] is False
    assert "is running" not in failed["msg"]
    assert "the old domain is not back (seen: shutdown)" in failed["msg"]
    assert failed["state"] == "shutdown"


def test_an_adopted_domain_keeps_its_uuid_when_it_was_stopped_meanwhile(xen, converge, kernel):
    xen.add("www", FOREIGN.format(name="www", kernel=kernel, cmdline="").replace("= 8", "= 16"))
    assert converge({"name": "www", "adopt": True})["differs"] == []
    for stop in (lambda: converge({"name": "www", "state": "stopped"}), xen.domains.clear):
        stop()
        assert converge({"name": "www"})["state"] == "running"
        assert xen.domains["www"]["config"]["uuid"] == "6b1a2c54-9d96-4ee4-bd5d-42eb769bb076"
        assert converge({"name": "www"})["changed"] is False


def test_an_old_one_that_ends_as_soon_as_it_is_back_is_not_said_to_run(xen, converge):
    converge({"name": "www"})
    xen.on_unpause["www"] = crash
    failed = converge({"name": "www", "memory": 20, "update": "recreate"})
    assert failed["rolled_back"] is False and failed["state"] == "shutdown"
    assert "the old domain is not back (seen: shutdown)" in failed["msg"]


def test_an_old_one_that_crashed_beside_the_new_one_is_started_again(xen, converge):
    """It is preserved as NAME~prev; renaming it back would not revive it."""
    converge({"name": "www"})

    def both_die(record):
        if record["config"]["memory"] == 20:
            crash(record)
            crash(xen.domains["www~prev"])

    xen.on_unpause["www"] = both_die
    failed = converge({"name": "www", "memory": 20})
    assert failed["failed"] and failed["rolled_back"]
    assert "the old domain was started again and is running" in failed["msg"]
    assert memories(xen) == {"www": ("running", 16)}


def test_a_domain_that_somebody_paused_has_not_ended(xen, converge):
    def pauses():
        if xen.calls.count("xl unpause www"):
            looks.append(1)
        if len(looks) == 3:
            xen.domains["www"]["state"] = "paused"

    looks = []
    xen.hooks["xl list -v www"] = pauses
    failed = converge({"name": "www", "settle": 1})
    assert "ended by itself" not in failed["msg"]
    assert "somebody paused it before it was healthy" in failed["msg"]


@pytest.mark.parametrize(
    "error", [engine.ToolstackError("'xl list -v' did not end within 180 s"), OSError(5, "Input/output error")]
)
def test_a_last_look_that_fails_loses_no_results(xen, converge, monkeypatch, error):
    looks = []
    look = engine._look

    def fails_later(declarations):
        looks.append(1)
        if len(looks) > 1:
            raise error
        return look(declarations)

    monkeypatch.setattr(engine, "_look", fails_later)
    xen.hooks["xl unpause bad"] = lambda: (1, "broken")
    good, bad = converge({"name": "good"}, {"name": "bad"})
    assert good["failed"] and good["changed"] and good["steps"] == ["create good", "autostart good"]
    assert good["state"] == "unknown"
    assert "domain good: all steps were carried out, but the host can't be observed: " in good["msg"]
    assert "'xl unpause bad' failed" in bad["msg"] and bad["state"] == "unknown"


def test_plans_are_not_compared_with_each_other(xen, converge, monkeypatch):
    """Otherwise thousands of domains would be compared with each other."""
    monkeypatch.setattr(Plan, "__eq__", lambda _one, _other: pytest.fail("compared"))
    assert [one["failed"] for one in converge({"name": "a"}, {"name": "b"}, {"name": "c"})] == [False] * 3


# -- files of odd kinds ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_disk_is_made_only_where_nothing_is(xen, converge, kind, state):
    """A pipe is not opened, since that blocks forever; a dangling link would obstruct each run."""
    path = xen.folder / "it"
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "dangling link": lambda: path.symlink_to("/gone/away")}[kind]
    make()
    for check in (True, False):
        with pytest.raises(converge.Refused, match=f"domain a: disks: {path}: is a .*; a disk is a file or a block device"):
            converge({"name": "a", "state": state, "disks": [{"path": str(path), "size": 1, "access": "w"}]}, check=check)


def test_a_pipe_has_no_size(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert disk_size(str(tmp_path / "pipe"), "raw") is None
    assert disk_size(str(tmp_path / "pipe"), "qcow2") is None


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
@pytest.mark.parametrize("name", ["b.cfg", ".b.cfg.next"])
def test_a_definition_that_is_no_file_is_one_line(xen, converge, kind, name):
    path = xen.folder / "unikernels" / name
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "dangling link": lambda: path.symlink_to("/gone/away")}[kind]
    make()
    for check in (True, False):
        with pytest.raises(converge.Refused, match=f"{path}: .*remove it by hand"):
            converge({"name": "a"}, check=check)


def test_a_raw_file_declared_as_qcow2_is_refused_before_anything_begins(xen, converge, monkeypatch):
    path = xen.folder / "d"
    path.write_bytes(b"\0" * 4096)
    monkeypatch.setattr("ansible_collections.unikernels.xen.plugins.module_utils.apply.preconditions.QEMU", "/bin/true")
    for size in ({}, {"size": 1}):
        with pytest.raises(converge.Refused, match=f"domain a: disks: {path} is not a qcow2 image: declare format: raw"):
            converge({"name": "a", "disks": [{"path": str(path), "format": "qcow2", "access": "w", **size}]})


def test_a_check_that_can_not_be_made_is_refused_when_nothing_is_built_too(xen, converge):
    converge({"name": "www", "state": "paused"})
    with pytest.raises(converge.Refused, match="domain www: health: command: /nowhere is not a program on this host"):
        converge({"name": "www", "health": {"command": ["/nowhere"]}})


def test_a_link_to_start_with_the_host_that_a_dead_run_left_half_made(xen, converge):
    (xen.folder / "auto" / f".www.{os.getpid()}").symlink_to("/nowhere")
    assert converge({"name": "www"})["failed"] is False
    assert [path.name for path in (xen.folder / "auto").iterdir()] == ["www.cfg"]


# -- what a text can't say, and other names of one file --------------------------------------------


@pytest.mark.parametrize("cmdline", ["a\\tb", "a\\nb"])
def test_an_adopted_domain_with_a_control_character_in_its_arguments(xen, converge, cmdline):
    """xl can't express it, so it can't be started again after a failure; it can still be replaced."""
    xen.add("www", FOREIGN.format(name="www", kernel="/x", cmdline=cmdline))
    assert converge({"name": "www", "adopt": True}, check=True)["changed"]
    done = converge({"name": "www", "adopt": True})
    assert done["steps"] == ["replace www (standby)", "autostart www"]
    assert memories(xen) == {"www": ("running", 16)}


def test_two_spellings_of_one_disk_are_one_disk(xen, converge):
    disk = xen.folder / "d.img"
    disk.write_bytes(b"\0" * 4096)
    other = f"{xen.folder}//x/../d.img"
    with pytest.raises(converge.Refused, match="is used by domain a; only one domain may open a disk for writing"):
        converge(
            {"name": "a", "disks": [{"path": str(disk), "access": "w"}]},
            {"name": "b", "disks": [{"path": f"{xen.folder}/./d.img"}]},
        )
    converge({"name": "a", "disks": [{"path": str(disk), "access": "w"}]})
    changed = converge({"name": "a", "disks": [{"path": other.replace("/x/..", ""), "access": "w"}]}, check=True)
    assert changed["steps"] == ["recreate a"], "never two domains with one disk that one of them writes"
    with pytest.raises(converge.Refused, match=r"domain c: disks: path .*d\.img is used twice"):
        converge({"name": "c", "disks": [{"path": str(disk), "access": "w"}, {"path": other.replace("/x/..", "")}]})


def test_a_path_of_half_characters_is_one_line(xen, converge):
    with pytest.raises(converge.Refused, match=r"domain a: disks\[0\]: path: is not valid text"):
        converge({"name": "a", "disks": [{"path": "/srv/\ud800"}]})


# -- purge -----------------------------------------------------------------------------------------


def test_purge_removes_what_a_dead_run_left_of_a_domain_that_is_declared_no_more(xen, converge):
    (xen.folder / "unikernels" / ".begun.cfg.next").write_text('# replaces: absent\nname = "begun"\n')
    (xen.folder / "auto" / "linked.cfg").symlink_to(xen.folder / "unikernels" / "linked.cfg")
    results = converge({"name": "www"}, purge=True)
    assert [(one["name"], one["state"]) for one in results] == [("www", "running"), ("begun", "absent"), ("linked", "absent")]
    assert [path.name for path in (xen.folder / "unikernels").iterdir()] == ["www.cfg"]
    assert [path.name for path in (xen.folder / "auto").iterdir()] == ["www.cfg"]
    assert not any(one["changed"] for one in [converge({"name": "www"}, purge=True)])


# -- domains that end at the wrong moment ----------------------------------------------------------


def test_one_that_ends_between_a_look_and_its_pause_is_no_failure(xen, converge):
    """A boot loop restarts again and again; a domain that is gone needs no pause."""
    converge({"name": "www"})

    def gone():
        xen.domains.pop("www")
        return 1, "www is an invalid domain identifier (rc=-6)"

    xen.hooks["xl pause www"] = gone
    assert converge({"name": "www", "state": "absent"})["failed"] is False
    del xen.hooks["xl pause www"]
    converge({"name": "www"})
    xen.hooks["xl pause www~prev"] = lambda: (xen.domains.pop("www~prev"), (1, "no such domain"))[1]
    done = converge({"name": "www", "memory": 20})
    assert done["failed"] is False and memories(xen) == {"www": ("running", 20)}


@pytest.mark.parametrize("name", ["www", "www~prev"])
@pytest.mark.parametrize("declared", [{}, {"state": "stopped"}, {"state": "absent"}])
def test_one_that_is_ending_is_waited_for(xen, converge, name, declared):
    """Xen keeps its name and memory until it is gone: creating it before that fails."""
    converge({"name": "www"})
    record = xen.domains.pop("www")
    looks = []

    def ends():
        looks.append(1)
        if len(looks) == 4:
            del xen.domains[name]

    xen.hooks["xl info"] = ends
    for check in (True, False):
        looks.clear()
        xen.domains[name] = {**record, "state": "dying"}
        done = converge({"name": "www", **declared}, check=check)
        assert done["failed"] is False and len(looks) >= 4 and converge.warnings == []
    assert memories(xen) == ({} if declared else {"www": ("running", 16)})


def test_one_that_does_not_end_is_named_and_the_others_are_looked_after(xen, converge, monkeypatch):
    monkeypatch.setattr(engine, "DYING_SECONDS", 0.05)
    converge({"name": "www"})
    xen.domains["www"]["state"] = "dying"
    xen.xl_destroy = lambda _word: (0, "", "")
    www, db = converge({"name": "www"}, {"name": "db"}, parallel=2)
    assert any("domain www: has been ending for 0.05 s (id 1); Xen keeps its name" in line for line in converge.warnings)
    assert www["failed"] and "already exists" in www["msg"] and www["state"] == "dying"
    assert db["failed"] is False and db["state"] == "running"


def test_one_that_can_not_be_paused_is_a_failure(xen, converge):
    converge({"name": "www"})
    xen.hooks["xl pause www~prev"] = lambda: (1, "libxl: error: no")
    failed = converge({"name": "www", "memory": 20})
    assert "'xl pause www~prev' failed (1): libxl: error: no" in failed["msg"]
    assert failed["rolled_back"] and memories(xen) == {"www": ("running", 16)}


def test_the_uuid_of_another_running_domain_is_refused(xen, converge):
    xen.add("db", FOREIGN.format(name="db", kernel="/x", cmdline="x"))
    for check in (True, False):
        with pytest.raises(converge.Refused, match=r"domain www: uuid 6b1a2c54-.* is used by running domain db"):
            converge({"name": "www", "uuid": "6b1a2c54-9d96-4ee4-bd5d-42eb769bb076"}, check=check)


XL_CONF = "ansible_collections.unikernels.xen.plugins.module_utils.xen.observation.XL_CONF"
# `xl info -n` of Xen 4.17 with smt=off: two cores, a NUMA node each.
INFO = """nr_cpus                : 2
max_cpu_id             : 3
free_memory            : 4096
cpu_topology           :
cpu:    core    socket     node
  0:       0        0        0
  2:       1        0        1
device topology        :
device           node
No device topology data available
numa_info              :
node:    memsize    memfree    distances
   0:      2559       1244      10,20
   1:      2559       1244      20,10
xen_scheduler          : credit2
"""


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        ("nodes:9", "'nodes:9': the host has no NUMA node 9, only 0$"),
        ("0-", "'0-' is not a set of CPUs, as in 0-3,\\^1,8, all,\\^0 or nodes:0"),
    ],
)
def test_a_mask_of_cpus_that_is_not_read_is_one_line(xen, converge, monkeypatch, mask, line):
    path = xen.folder / "xl.conf"
    path.write_text(f'vm.cpumask="{mask}"\n')
    monkeypatch.setattr(XL_CONF, str(path))
    with pytest.raises(converge.Refused, match=f"{path}: vm.cpumask: {line}"):
        converge({"name": "www"})


@pytest.mark.parametrize(
    ("mask", "cpus", "refused"),
    [("nodes:1", "2", "0"), ("all,^0", "0,2", "0"), ("nodes:0-1", "0-2", "3"), ("all", "0-2", "1"), ("", "2", "4")],
)
def test_cpus_of_a_host_without_smt(xen, converge, monkeypatch, mask, cpus, refused):
    """CPUs 1 and 3 are off, which a domain that may run everywhere has in its set nevertheless."""
    path = xen.folder / "xl.conf"
    path.write_text(f'vm.cpumask="{mask}"\n')
    monkeypatch.setattr(XL_CONF, str(path))
    xen.hooks["xl info"] = lambda: (0, INFO)
    domains = [{"name": "www", "cpus": cpus}, {"name": "everywhere"}]
    assert [one["failed"] for one in converge(*domains)] == [False, False]
    assert [one["steps"] for one in converge(*domains)] == [[], []]
    with pytest.raises(converge.Refused, match=f"domain www: cpus: is {refused}, "):
        converge({"name": "www", "cpus": refused})


def test_a_domain_pinned_to_all_cpus_is_one_that_may_run_everywhere(xen, converge):
    converge({"name": "www", "cpus": "0-3"})
    assert converge({"name": "www", "cpus": "0-3"})["changed"] is False


# -- disks that more than one domain has -----------------------------------------------------------


def test_a_disk_that_another_domain_had_and_that_vanished_is_not_made_again(xen, converge):
    """A renamed domain has the same data; its volume is not mounted."""
    disk = xen.folder / "d.img"
    converge({"name": "db", "disks": [{"path": str(disk), "size": 1, "access": "w"}]})
    converge({"name": "db", "state": "stopped", "disks": [{"path": str(disk), "size": 1, "access": "w"}]})
    disk.unlink()
    for check in (True, False):
        with pytest.raises(converge.Refused, match=f"domain db-2: disks: {disk}: was a disk of domain db and is gone"):
            converge({"name": "db-2", "disks": [{"path": str(disk), "size": 1, "access": "w"}]}, check=check)
    assert not disk.exists()


def test_a_disk_that_another_domain_uses_is_not_removed(xen, converge):
    disk = xen.folder / "d.img"
    one = {"path": str(disk), "size": 1}
    converge({"name": "a", "disks": [one]})
    converge({"name": "b", "disks": [one]})
    gone = {"name": "a", "state": "absent", "disks_on_absent": "remove", "disks": [{**one, "path": f"{xen.folder}/./d.img"}]}
    for check in (True, False):
        for others in ([], [{"name": "b", "disks": [one]}], [{"name": "b", "state": "stopped", "disks": [one]}]):
            with pytest.raises(converge.Refused, match=r"domain a: disks: .*d\.img is used by domain b, so it can't be removed"):
                converge(gone, *others, check=check)
    assert disk.exists()
    converge(gone, {"name": "b", "state": "absent"})
    assert not disk.exists() and not xen.domains


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_disk_that_several_read_is_made_once(xen, converge, parallel):
    source, disk = xen.folder / "source", xen.folder / "d.img"
    source.write_bytes(b"x" * 4096)
    disks = [{"path": str(disk), "source": str(source)}]
    results = converge(*({"name": name, "disks": disks} for name in "abc"), parallel=parallel)
    assert [one["failed"] for one in results] == [False] * 3
    assert disk.read_bytes() == b"x" * 4096


def test_shares_are_set_by_the_scheduler_that_the_host_has(xen, converge):
    xen.hooks["xl info"] = lambda: (0, "nr_cpus : 4\nfree_memory : 4096\nxen_scheduler          : credit\n")
    xen.xl_sched_credit = xen.xl_sched_credit2
    converge({"name": "www", "live": True})
    assert converge({"name": "www", "live": True, "cap": 50})["failed"] is False
    assert "xl sched-credit -d www -c 50" in xen.calls


@pytest.mark.parametrize("name", ["allowed_signers", "policy"])
def test_a_policy_that_is_no_text_is_one_line(xen, converge, name):
    (xen.folder / "unikernels" / name).write_bytes(b"\xff\xfe key\n")
    with pytest.raises(converge.Refused, match=f"{xen.folder}/unikernels/{name}: ") as refused:
        converge({"name": "www"})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_domain_whose_memory_others_need_ends_first(xen, converge, parallel):
    """The check before the run counts on it; in declared order Xen would run out of memory."""
    xen.xl_shutdown = xen.xl_destroy
    converge({"name": "old"})
    xen.free = 40
    xen.hooks["xl create"] = lambda: (3, "Out of memory") if {"old", "a"} <= set(xen.domains) else None
    results = converge({"name": "a"}, {"name": "b"}, purge=True, parallel=parallel)
    assert [(one["name"], one["failed"]) for one in results] == [("a", False), ("b", False), ("old", False)]


def test_where_there_is_room_the_order_is_the_declared_one(xen, converge):
    xen.xl_shutdown = xen.xl_destroy
    converge({"name": "old"})
    calls = len(xen.calls)
    converge({"name": "new"}, purge=True)
    done = [call for call in xen.calls[calls:] if call.startswith(("xl create", "xl shutdown"))]
    assert [call.split()[1] for call in done] == ["create", "shutdown"]


def test_a_file_that_can_not_be_replaced_is_named_and_not_its_draft(xen, converge, monkeypatch):
    converge({"name": "www"})
    rename = os.rename

    def refuses(source, target):
        if target.endswith("www.cfg"):
            raise OSError(1, "Operation not permitted", source, None, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuses)
    failed = converge({"name": "www", "memory": 20})
    assert f"define www: {xen.folder}/unikernels/www.cfg: Operation not permitted" in failed["msg"]
    assert failed["rolled_back"] and memories(xen) == {"www": ("running", 16)}
