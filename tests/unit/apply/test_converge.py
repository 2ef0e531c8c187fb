"""The engine as the modules call it, with a double of xl: what it runs, what it reports, and what it does after a failure."""

import json
import os
import time

import pytest

from .conftest import module

VIF = {"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]}


def definition(xen, name="www"):
    return (xen.folder / "unikernels" / f"{name}.cfg").read_text()


def states(xen):
    return {name: (record["state"], record["config"]["memory"]) for name, record in xen.domains.items()}


def leftovers(xen):
    return [path.name for path in (xen.folder / "unikernels").iterdir() if path.name.startswith(".")]


def test_a_domains_whole_life(xen, converge):
    created = converge({"name": "www"})
    assert (created["changed"], created["state"], created["steps"]) == (True, "running", ["create www", "autostart www"])
    assert states(xen) == {"www": ("running", 16)}
    assert "memory = 16\n" in definition(xen)
    assert os.readlink(xen.folder / "auto" / "www.cfg") == str(xen.folder / "unikernels" / "www.cfg")
    again = converge({"name": "www"})
    assert (again["changed"], again["steps"], again["state"]) == (False, [], "running")
    replaced = converge({"name": "www", "memory": 20})
    assert replaced["steps"] == ["replace www (standby)"]
    assert replaced["downtime_ms"] >= 0
    assert states(xen) == {"www": ("running", 20)}
    recreated = converge({"name": "www", "memory": 24, "update": "recreate"})
    assert recreated["steps"] == ["recreate www"]
    paused = converge({"name": "www", "memory": 24, "state": "paused"})
    assert (paused["steps"], paused["state"]) == (["pause www"], "paused")
    assert converge({"name": "www", "memory": 24})["steps"] == ["unpause www"]
    stopped = converge({"name": "www", "memory": 24, "state": "stopped"})
    assert (stopped["state"], states(xen)) == ("stopped", {})
    absent = converge({"name": "www", "state": "absent"})
    assert absent["state"] == "absent"
    assert list((xen.folder / "unikernels").iterdir()) == list((xen.folder / "auto").iterdir()) == []


def test_check_mode_predicts_what_a_run_does_and_does_nothing(xen, converge):
    converge({"name": "www"})
    for change in ({"memory": 20}, {"memory": 20, "update": "recreate"}, {"state": "paused"}, {"state": "absent"}):
        before, calls = states(xen), len(xen.calls)
        predicted = converge({"name": "www", **change}, check=True)
        assert states(xen) == before
        assert not [call for call in xen.calls[calls:] if call.split()[1] not in ("list", "info", "vcpu-list")]
        assert True
        done = converge({"name": "www", **change})
        assert (done["steps"], done["changed"]) == (predicted["steps"], predicted["changed"])
        assert done["diff"] == predicted["diff"]
        converge({"name": "www", "state": "absent"})
        converge({"name": "www"})


def test_a_switch_leads_the_bridge_and_the_neighbours(xen, converge):
    converge({"name": "www", **VIF})
    calls = len(xen.calls)
    converge({"name": "www", "memory": 20, **VIF})
    done = [call for call in xen.calls[calls:] if not call.startswith("xl list")]
    order = ["xl create", "xl rename www www~prev", "xl rename www~next www", "ip link set dev vif1.0 nomaster", "xl unpause www"]
    assert [next(index for index, call in enumerate(done) if call.startswith(words)) for words in order] == sorted(
        next(index for index, call in enumerate(done) if call.startswith(words)) for words in order
    )


def test_warm_waits_for_the_ready_line_off_the_bridge(xen, converge):
    converge({"name": "www", **VIF})

    def boots(_record):
        (xen.folder / "console" / "guest-www~next.log").write_text("it is ready\n")

    xen.on_unpause["www~next"] = boots
    warm = {"name": "www", "memory": 20, "update": "warm", "ready": "ready", **VIF}
    done = converge(warm)
    assert done["steps"] == ["replace www (warm)"]
    joined = [call for call in xen.calls if "vif2.0" in call]
    assert [call.split()[5] for call in joined if call.startswith("ip link")] == ["nomaster", "master"]
    xen.on_unpause.clear()
    failed = converge({**warm, "memory": 24, "ready": "never", "ready_within": 1})
    assert failed["failed"] and failed["rolled_back"] and not failed["changed"]
    assert "the new domain did not print a line matching 'never' within 1 s" in failed["msg"]
    assert states(xen) == {"www": ("running", 20)}


def crash(record):
    record.update(state="shutdown", reason="crash")


def test_one_that_ends_by_itself_is_a_failure_and_the_old_one_is_put_back(xen, converge):
    converge({"name": "www"})
    (xen.folder / "console" / "guest-www.log").write_text("old\n")

    def dies(record):
        if record["config"]["memory"] == 20:
            (xen.folder / "console" / "guest-www.log").write_text("old\nsolo5_exit(64) called\n")
            crash(record)

    xen.on_unpause["www"] = dies
    failed = converge({"name": "www", "memory": 20})
    assert failed["failed"] and failed["rolled_back"] and not failed["changed"]
    assert failed["state"] == "running"
    assert "it ended by itself 0 s after its start with exit code 64 (it refused its boot arguments)" in failed["msg"]
    assert "the old domain was put back and is running" in failed["msg"]
    assert failed["console"] == ["solo5_exit(64) called"]
    assert states(xen) == {"www": ("running", 16)}
    assert "memory = 16\n" in definition(xen)
    assert leftovers(xen) == []


def test_one_that_ends_before_the_bridge_is_led_to_it_says_why_it_ended(xen, converge):
    """Its vif is gone too, but the message must name the reason that a user can act on."""
    converge({"name": "www", **VIF})

    def dies(record):
        if record["config"]["memory"] == 20:
            (xen.folder / "console" / "guest-www.log").write_text("unknown option --prot\nsolo5_exit(64) called\n")
            crash(record)
            gone = (1, 'Cannot find device "vif2.0"')
            xen.hooks.update({tool: lambda: gone if "vif2.0" in xen.calls[-1] else None for tool in ("bridge", "ip")})

    xen.on_unpause["www"] = dies
    failed = converge({"name": "www", "memory": 20, **VIF})
    assert "it ended by itself" in failed["msg"] and "Cannot find" not in failed["msg"]
    assert failed["console"][0] == "unknown option --prot"
    assert failed["rolled_back"] and states(xen) == {"www": ("running", 16)}


def test_an_empty_console_is_explained_by_xen(xen, converge):
    xen.on_unpause["www"] = crash
    xen.dmesg = "(XEN) d1v0 Triple fault - invoking HVM shutdown action 1\n(XEN) d7v0 other\n"
    failed = converge({"name": "www"})
    assert "Xen's log has: (XEN) d1v0 Triple fault" in failed["msg"]
    assert "d7v0" not in failed["msg"]
    assert failed["state"] == "shutdown"


def test_a_boot_loop_is_a_failure(xen, converge):
    """It reboots, and xl's daemon starts it under another id."""
    converge({"name": "www"})

    def loops(record):
        if record["config"]["memory"] == 20:
            record["domid"] += 10

    xen.on_unpause["www"] = loops
    failed = converge({"name": "www", "memory": 20, "settle": 2})
    assert failed["failed"] and failed["rolled_back"]
    assert "it restarted" in failed["msg"] and "before it was healthy" in failed["msg"]
    assert states(xen) == {"www": ("running", 16)}


def test_one_that_asks_for_a_reboot_is_a_failure_too(xen, converge):
    xen.on_unpause["www"] = lambda record: record.update(state="shutdown", reason="reboot")
    failed = converge({"name": "www"})
    assert "it restarted" in failed["msg"]


def test_a_crash_after_the_check_is_seen_by_the_last_look(xen, converge):
    converge({"name": "www"})

    def crashes_later():
        record = xen.domains.get("www")
        if record and record["config"]["memory"] == 20 and "memory = 20" in definition(xen):
            crash(record)

    xen.hooks["xl info"] = crashes_later
    failed = converge({"name": "www", "memory": 20})
    assert failed["failed"] and failed["rolled_back"]
    assert failed["state"] == "running"
    assert "it was healthy, but is shutdown at the end of the run, reason crash" in failed["msg"]
    assert "the old domain was started again and is running" in failed["msg"]
    assert states(xen) == {"www": ("running", 16)}
    assert "memory = 16\n" in definition(xen)


def test_settle_begins_when_the_domain_waits_for_work(xen, converge):
    """A busy domain that boots is not settled yet; one that is never idle is awaited for at most ready_within."""
    began, looks = time.monotonic(), []

    def busy():
        record = xen.domains.get("www")
        if record and record["state"] == "running":
            looks.append(time.monotonic())
            record["seconds"] += 5.0

    xen.hooks["xl list -v www"] = busy
    assert converge({"name": "www", "settle": 1, "ready_within": 1})["failed"] is False
    assert looks[-1] - began >= 2, "ready_within, and settle after it"


def test_a_ready_line_without_a_health_check_is_awaited(xen, converge):
    xen.on_unpause["www"] = lambda _record: (xen.folder / "console" / "guest-www.log").write_text("serving\n")
    assert converge({"name": "www", "ready": "serving", "settle": 0})["failed"] is False
    converge({"name": "www", "state": "absent"})
    failed = converge({"name": "www", "ready": "nothing of the kind", "ready_within": 1, "settle": 0})
    assert "did not print a line matching 'nothing of the kind' within 1 s" in failed["msg"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "/etc/xen"), ValueError("unforeseen"), KeyError("x")])
def test_whatever_is_raised_in_a_step_the_old_one_is_put_back(xen, converge, monkeypatch, error):
    converge({"name": "www"})

    def raises(*_arguments):
        raise error

    monkeypatch.setattr(module("apply.perform"), "ask", raises)
    failed = converge({"name": "www", "memory": 20, "health": {"tcp": "127.0.0.1:9", "within": 1}})
    assert failed["failed"] and failed["rolled_back"] and not failed["changed"]
    assert "domain www: await healthy www: " in failed["msg"] and "\n" not in failed["msg"]
    assert states(xen) == {"www": ("running", 16)}


def test_one_that_is_never_healthy_is_put_back_in_time(xen, converge):
    converge({"name": "www"})
    failed = converge({"name": "www", "memory": 20, "health": {"tcp": "127.0.0.1:9", "within": 1}})
    assert "it runs, but is not healthy after 1 s: 127.0.0.1:9: " in failed["msg"]
    assert failed["rolled_back"] and states(xen) == {"www": ("running", 16)}


def test_a_health_check_on_the_console(xen, converge):
    xen.on_unpause["www"] = lambda _record: (xen.folder / "console" / "guest-www.log").write_text("up\n")
    assert converge({"name": "www", "health": {"console": "^up$", "within": 5}})["failed"] is False
    failed = converge({"name": "www", "memory": 20, "health": {"console": "never", "within": 1}})
    assert "no line on its console matches 'never'" in failed["msg"] and failed["rolled_back"]


def test_one_that_fails_loses_nothing_of_the_others(xen, converge):
    xen.hooks["xl unpause bad"] = lambda: (1, "libxl: error: it is broken")
    results = converge({"name": "bad"}, {"name": "good"}, parallel=2)
    assert [one["failed"] for one in results] == [True, False]
    assert "'xl unpause bad' failed (1): libxl: error: it is broken" in results[0]["msg"]
    assert [one["state"] for one in results] == ["paused", "running"]


def test_none_is_begun_after_one_has_failed_where_that_is_asked_for(xen, converge):
    xen.hooks["xl unpause bad"] = lambda: (1, "broken")
    results = converge({"name": "bad"}, {"name": "good"}, stop_at_failure=True)
    assert [one.get("skipped", False) for one in results] == [False, True]
    assert results[1]["state"] == "absent" and not results[1]["changed"]


def test_what_xen_can_not_build_leaves_the_old_one_alone(xen, converge):
    converge({"name": "www"})
    first = xen.domains["www"]["domid"]
    xen.hooks["xl create"] = lambda: (3, "libxl: error: can't allocate low memory for domain: Out of memory")
    failed = converge({"name": "www", "memory": 20})
    assert failed["failed"] and not failed["changed"]
    assert "Xen could not build it (3): libxl: error: can't allocate low memory" in failed["msg"]
    assert failed["msg"].endswith("and is running")
    assert xen.domains["www"]["domid"] == first
    assert "memory = 16\n" in definition(xen)
    assert leftovers(xen) == []


def test_a_way_back_that_fails_says_so_and_the_next_run_makes_it_good(xen, converge):
    converge({"name": "www"})
    xen.on_unpause["www"] = lambda record: crash(record) if record["config"]["memory"] == 20 else None
    xen.hooks["xl rename www~prev www"] = lambda: (1, "libxl: error: no")
    failed = converge({"name": "www", "memory": 20})
    assert failed["failed"] and not failed["rolled_back"]
    assert "and it could not be undone" in failed["msg"] and "check 'xl list', then run it again" in failed["msg"]
    xen.hooks.clear()
    assert converge({"name": "www"})["failed"] is False
    assert states(xen) == {"www": ("running", 16)}


def test_recreate_starts_the_old_one_again(xen, converge):
    converge({"name": "www"})
    xen.on_unpause["www"] = lambda record: crash(record) if record["config"]["memory"] == 20 else None
    failed = converge({"name": "www", "memory": 20, "update": "recreate"})
    assert failed["rolled_back"]
    assert "the old domain was started again and is running" in failed["msg"]
    assert states(xen) == {"www": ("running", 16)}


def test_live_changes_and_their_way_back(xen, converge):
    base = {"name": "www", "vcpus": 2, "live": True, "cpu_weight": 300, "cap": 10}
    converge(base)
    first = xen.domains["www"]["domid"]
    disk = xen.folder / "disk"
    disk.write_bytes(b"\0" * 4096)
    changed = {**base, "vcpus": 1, "cpus": "0-1", "cpu_weight": 512, "cap": 50, "disks": [{"path": str(disk)}]}
    done = converge(changed)
    assert done["steps"][:4] == ["set_live www vcpus", "set_live www cpus", "set_live www cpu_weight", "set_live www cap"]
    assert done["steps"][4:] == ["attach www xvda", "define www"]
    assert xen.domains["www"]["domid"] == first
    assert converge(changed)["changed"] is False
    # The guest refuses the second disk: everything is as before.
    other = xen.folder / "other"
    other.write_bytes(b"\0" * 4096)
    xen.store[f"/local/domain/{first}/device/vbd/1/state"] = "3"
    failed = converge({**changed, "cap": 70, "disks": [{"path": str(disk)}, {"path": str(other)}]})
    assert failed["failed"] and failed["rolled_back"] and not failed["changed"]
    assert "xvdb could not be attached to the running domain: the guest does not take it (state 3)" in failed["msg"]
    assert xen.domains["www"]["config"]["cap"] == 50
    assert len(xen.domains["www"]["config"]["disk"]) == 1
    assert any(call.startswith("xl block-detach --force") for call in xen.calls)


def test_an_interface_comes_and_goes_live(xen, converge):
    mac = "00:16:3e:00:00:77"
    base = {"name": "www", "live": True}
    converge(base)
    done = converge({**base, "interfaces": [{"bridge": "xenbr0", "mac": mac}]})
    assert f"attach www {mac}" in done["steps"]
    done = converge(base)
    assert f"detach www {mac}" in done["steps"]
    assert xen.domains["www"]["config"]["vif"] == []


def test_vcpus_that_the_guest_does_not_follow_stay(xen, converge):
    converge({"name": "www", "vcpus": 2, "live": True})
    xen.hooks["xl vcpu-set www 1"] = lambda: (0, "")
    failed = converge({"name": "www", "vcpus": 1, "live": True})
    assert "the guest does not follow (it uses 2, not 1)" in failed["msg"]


def test_a_domain_of_a_name_that_is_not_ours_is_left_alone(xen, converge):
    xen.add("www", 'name = "www"\ntype = "pvh"\nuuid = "6b1a2c54-9d96-4ee4-bd5d-42eb769bb076"\nkernel = "/x"\nmemory = 8\n'
            'maxmem = 8\nvcpus = 1\non_poweroff = "destroy"\non_reboot = "restart"\non_crash = "preserve"\n')  # fmt: skip
    with pytest.raises(converge.Refused, match="adopt: true"):
        converge({"name": "www"})
    with pytest.raises(converge.Refused, match="adopt: true"):
        converge({"name": "www"}, check=True)
    assert states(xen) == {"www": ("running", 8)}
    assert converge({"name": "other"}, purge=True)["name"] == "other"
    assert "www" in xen.domains, "purge removes only what is ours"


def test_purge_removes_what_is_ours_and_not_declared(xen, converge):
    xen.xl_shutdown = xen.xl_destroy
    converge({"name": "www"}, {"name": "old"})
    results = converge({"name": "www"}, purge=True)
    assert [(one["name"], one["state"]) for one in results] == [("www", "running"), ("old", "absent")]
    assert set(xen.domains) == {"www"}


def test_every_problem_is_named_and_nothing_is_done(xen, converge):
    calls = len(xen.calls)
    with pytest.raises(converge.Refused) as refused:
        converge({"name": "a", "memory": "much"}, {"name": "b", "on_crash": "hope"})
    assert "domain a: memory" in str(refused.value) and "domain b: on_crash" in str(refused.value)
    with pytest.raises(converge.Refused) as refused:
        converge({"name": "a", "kernel": "/nowhere"}, {"name": "b", "interfaces": [{"bridge": "nobr"}]})
    assert "a: kernel: /nowhere does not exist" in str(refused.value)
    assert "b: interfaces: nobr is not a bridge of this host" in str(refused.value)
    assert not [call for call in xen.calls[calls:] if call.startswith("xl create")]


def test_check_mode_warns_of_what_an_earlier_task_may_create(xen, converge):
    predicted = converge({"name": "www", "kernel": "/nowhere"}, check=True)
    assert predicted["changed"]
    assert converge.warnings == [
        "domain www: kernel: /nowhere does not exist on this host (in a real run an earlier task may create it)"
    ]


def test_without_root_it_is_one_line_in_check_mode_too(xen, converge, monkeypatch):

    monkeypatch.setattr(module("apply.converge").os, "geteuid", lambda: 1000)
    for check in (False, True):
        with pytest.raises(converge.Refused, match="only root can manage domains on this host: set become: true"):
            converge({"name": "www"}, check=check)


def test_a_host_without_xen_is_predicted_for_and_refused(xen, converge, monkeypatch):

    monkeypatch.setattr(module("apply.converge"), "available", lambda: False)
    assert converge({"name": "www"}, check=True)["steps"] == ["create www", "autostart www"]
    assert "does not run under Xen yet" in converge.warnings[0]
    with pytest.raises(converge.Refused, match="does not run under Xen"):
        converge({"name": "www"})


def test_more_memory_than_there_is_is_refused(xen, converge):
    xen.free = 20
    with pytest.raises(converge.Refused, match="need 28 MiB"):
        converge({"name": "www"})


def test_domains_that_stand_by_wait_for_room(xen, converge):
    """Two replacements at once with memory for one: one waits for the other."""
    converge({"name": "a"}, {"name": "b"})
    xen.free = 40
    results = converge({"name": "a", "memory": 17}, {"name": "b", "memory": 17}, parallel=2)
    assert [one["steps"] for one in results] == [["replace a (standby)"], ["replace b (standby)"]]


# -- disks -----------------------------------------------------------------------------------------


def test_a_disk_is_made_whole_and_one_that_vanished_is_not_made_again(xen, converge):
    path = xen.folder / "data.img"
    disks = {"disks": [{"path": str(path), "size": 1, "access": "w"}]}
    assert converge({"name": "www", **disks})["steps"][0] == f"make_disk www {path}"
    assert path.stat().st_size == 1 << 20 and path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    for check in (True, False):
        with pytest.raises(converge.Refused, match="was a disk of this domain and is gone: is its file system mounted"):
            converge({"name": "www", "memory": 20, **disks}, check=check)
    assert not path.exists()


def test_a_source_whose_size_is_no_multiple_of_a_block_keeps_its_tail(xen, converge):
    source, path = xen.folder / "source", xen.folder / "data.img"
    source.write_bytes(b"x" * 5000)
    converge({"name": "www", "disks": [{"path": str(path), "source": str(source)}]})
    assert path.read_bytes() == b"x" * 5000 + b"\0" * (8192 - 5000)


def test_a_disk_of_odd_size_is_warned_of(xen, converge):
    path = xen.folder / "data.img"
    path.write_bytes(b"x" * 5000)
    converge({"name": "www", "disks": [{"path": str(path)}]})
    assert "has 5000 bytes, which is not a multiple of 4096: a MirageOS unikernel sees only the first" in converge.warnings[0]


def test_a_disk_below_dev_is_never_made_nor_removed(xen, converge, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/dev")
    for path in (f"{link}/vg0/www", "/dev/../dev/vg0/www"):
        with pytest.raises(converge.Refused, match="below /dev"):
            converge({"name": "www", "disks": [{"path": path, "size": 1, "access": "w"}]})


def test_shrinking_is_refused(xen, converge):
    path = xen.folder / "data.img"
    path.write_bytes(b"\0" * (2 << 20))
    with pytest.raises(converge.Refused, match="shrinking would lose data"):
        converge({"name": "www", "disks": [{"path": str(path), "size": 1, "access": "w"}]})


def test_results_are_plain_json(xen, converge):
    json.dumps(converge({"name": "www"}))
    json.dumps(converge({"name": "www", "memory": 20}, check=True))


def test_a_domain_of_ours_that_got_a_name_of_no_domain_is_named_by_purge(xen, converge):
    converge({"name": "www"})
    xen.domains["7"] = xen.domains.pop("www")
    with pytest.raises(converge.Refused, match="purge: domain '7': name: has only digits"):
        converge({"name": "other"}, purge=True)
    assert "7" in xen.domains
