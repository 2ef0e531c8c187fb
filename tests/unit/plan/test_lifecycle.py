"""What is decided for a domain: the phases that --check prints, their order, and what is refused."""

import dataclasses

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.checks import cpu_refusal
from ansible_collections.unikernels.xen.plugins.module_utils.domain.compare import differences
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Intent, Observed
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import NEXT, PREVIOUS, content_path
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from ansible_collections.unikernels.xen.plugins.module_utils.plan.lifecycle import memory_shortage, plan, shortfall
from ansible_collections.unikernels.xen.plugins.module_utils.plan.recovery import former_of, way_back
from ansible_collections.unikernels.xen.plugins.module_utils.plan.steps import Build

from .model import DATA, FOREIGN, MIB, NAME, declare, host, running


def settled(declaration, **more):
    return host(
        Observed(7, "running", declaration.domain),
        definitions={NAME: xl_config(declaration.domain)},
        autostart=frozenset([NAME]),
        **more,
    )


def actions(declaration, observed):
    return plan(declaration, observed).titles


def test_nothing_to_do():
    declaration = declare()
    result = plan(declaration, settled(declaration))
    assert not result.changed
    assert result.before == result.after


def test_a_foreign_domain_of_the_name_is_refused_unless_adopted():
    foreign = dataclasses.replace(running(), domain=dataclasses.replace(declare().domain, uuid=FOREIGN.domain.uuid))
    with pytest.raises(SpecError, match="adopt: true"):
        plan(declare(), host(foreign))
    with pytest.raises(SpecError, match="adopt: true"):
        plan(declare(state="absent"), host(foreign))
    adopted = plan(declare(adopt=True), host(foreign))
    assert adopted.titles == ["check www", "autostart www"], "adopting what is as declared does not restart it"
    # Once defined it is ours, even without the option.
    ours = host(foreign, definitions={NAME: xl_config(foreign.domain)}, autostart=frozenset([NAME]))
    assert plan(declare(), ours).titles == []


def test_a_uuid_that_was_given_is_part_of_what_is_declared():
    given_one = "0c6f5e1a-0000-4000-8000-000000000001"
    assert actions(declare(uuid=given_one), settled(declare()))[0] == "replace www (standby)"
    # It is ours although its UUID lacks our mark, since we have its definition.
    assert actions(declare(uuid=given_one), settled(declare(uuid=given_one))) == []


def test_another_host_name_replaces_nothing():
    declaration = declaration_of({"name": NAME, "kernel": "/k"}, "renamed")
    assert plan(declaration, settled(declare())).differs == ()


def test_without_room_for_two_the_old_one_ends_first():
    declaration = declare(96)
    assert plan(declaration, host(running(), free_memory=100)).titles[0] == "recreate www"
    assert plan(declaration, host(running(), free_memory=200)).titles[0] == "replace www (standby)"
    assert plan(declare(96, update="recreate"), host(running())).titles[0] == "recreate www"


def test_a_disk_open_for_writing_is_never_shared():
    disk = {"disks": [{"path": "/d", "access": "w"}]}
    observed = Observed(7, "running", declare(64, **disk).domain)
    assert plan(declare(96, **disk), host(observed)).titles[0] == "recreate www"


def test_a_device_name_in_dom0_can_not_be_had_twice():
    vif = {"interfaces": [{"bridge": "xenbr0", "vifname": "vif-www"}]}
    observed = Observed(7, "running", declare(64, **vif).domain)
    assert plan(declare(96, **vif), host(observed)).titles[0] == "recreate www"


def test_update_never_reports_and_leaves_even_the_definition():
    result = plan(declare(96, update="never"), settled(declare()))
    assert (result.titles, result.differs) == ([], ("memory",))


def test_update_never_grows_no_disk_that_is_open_but_follows_the_state():
    before = declare(disks=[{"path": "/d", "size": 4, "access": "w"}])
    larger = {"disks": [{"path": "/d", "size": 8, "access": "w"}]}
    sizes = {"disk_sizes": {"/d": 4 * MIB}}
    result = plan(declare(update="never", **larger), settled(before, **sizes))
    assert (result.titles, result.differs) == ([], ("disks[0].size",))
    assert plan(declare(**larger), settled(before, **sizes)).differs == ("disks[0].size",)
    for old, new, title in (("paused", "running", "unpause www"), ("running", "paused", "pause www")):
        seen = host(running(64, state=old), definitions={NAME: xl_config(declare().domain)}, autostart=frozenset([NAME]))
        result = plan(declare(96, update="never", state=new), seen)
        assert [str(step) for step in result.steps] == [title]
        assert result.differs == ("memory",)
        changed = {key for key in result.after if result.before[key] != result.after[key]}
        assert changed == {"state"}, "no change is predicted that is not made"
    live = plan(declare(64, cap=50, update="never", live=True), settled(declare()))
    assert live.after["cap"] == 50


def test_update_never_links_nothing_that_is_not_defined():
    """An adopted domain that differs stays as it is: its link would lead nowhere."""
    foreign = dataclasses.replace(running(), domain=dataclasses.replace(declare().domain, uuid=FOREIGN.domain.uuid))
    assert plan(declare(96, update="never", adopt=True), host(foreign)).titles == []


def test_live_changes_the_running_domain_where_xen_can():
    before = declare(vcpus=2, disks=[{"path": "/a"}])
    after = declare(vcpus=1, cpus="0-1", cpu_weight=512, cap=50, disks=[{"path": "/a"}, {"path": "/b"}], live=True)
    observed = settled(before, cpus=4)
    expected = ["set_live www vcpus", "set_live www cpus", "set_live www cpu_weight", "set_live www cap", "attach www xvdb"]
    assert actions(after, observed) == [*expected, "define www"]
    # A change that Xen can't make live replaces the domain as a whole.
    assert actions(dataclasses.replace(declare(96, live=True)), settled(declare()))[0] == "replace www (standby)"
    assert actions(declare(vcpus=4, live=True), settled(declare(vcpus=2)))[0] == "replace www (standby)"
    # Another path for the same device is another disk.
    assert (
        actions(declare(disks=[{"path": "/c"}], live=True), settled(declare(disks=[{"path": "/a"}])))[0]
        == "replace www (standby)"
    )
    # Nothing is changed live unless requested.
    assert actions(declare(cap=50), settled(declare()))[0] == "replace www (standby)"


def test_a_stranger_with_the_name_of_a_replacement_is_left_alone():
    stranger = dataclasses.replace(FOREIGN, domain=dataclasses.replace(FOREIGN.domain, name=NAME + NEXT))
    with pytest.raises(SpecError, match="such names are for replacements"):
        plan(declare(), host(stranger))


def test_a_diff_shows_also_what_xen_does_not_report():
    extra = {"extra_config": {"max_grant_frames": 64}, "service": "web"}
    result = plan(declare(96, **extra), settled(declare(**extra)))
    assert {key for key in result.after if result.before.get(key) != result.after[key]} == {"memory"}
    result = plan(declare(service="web"), settled(declare()))
    assert (result.before["service"], result.after["service"]) == ("", "web")


def test_extra_config_is_compared_with_the_definition():
    extra = {"extra_config": {"max_grant_frames": 64}}
    assert actions(declare(**extra), settled(declare()))[0] == "replace www (standby)"
    assert actions(declare(), settled(declare(**extra)))[0] == "replace www (standby)"
    assert actions(declare(**extra), settled(declare(**extra))) == []


def test_other_content_is_another_disk_and_the_old_one_goes_last():
    old, new = declare(disks=[{"content": "old keys"}]), declare(disks=[{"content": "new keys"}])
    observed = settled(old, disk_sizes={old.origins[0].path: 512}, content_disks=(old.origins[0].path,))
    observed = dataclasses.replace(observed, disk_sizes={})
    result = plan(new, observed)
    assert [title.split()[0] for title in result.titles] == ["make_disk", "replace", "remove_disk"]
    assert result.titles[-1].endswith(old.origins[0].path)
    assert result.cleanup, "last, when everything was seen to be as declared"
    assert "keys" not in " ".join(map(str, [*result.titles, *result.steps]))


def test_a_disk_grows_while_its_domain_is_down():
    disk = {"path": DATA, "access": "w"}
    declaration = declare(disks=[{**disk, "size": 8}])
    observed = settled(declaration, disk_sizes={DATA: 4 * MIB})
    result = plan(declaration, observed)
    assert result.titles == ["recreate www"]
    names = [str(step) for step in result.steps]
    assert names.index("shutdown www") < names.index(f"grow disk {DATA}") < names.index("build www")


def test_disks_outlive_their_domain_unless_it_is_asked_for():
    disks = {"disks": [{"path": DATA, "size": 4, "access": "w"}, {"content": "x"}]}
    declared = declare(**disks)
    content = declared.origins[1].path
    observed = settled(declared, disk_sizes={DATA: 4 * MIB, content: 512}, content_disks=(content,))
    kept = actions(declare(state="absent", **disks), observed)
    assert f"remove_disk www {DATA}" not in kept
    assert f"remove_disk www {content}" in kept
    assert f"remove_disk www {DATA}" in actions(declare(state="absent", disks_on_absent="remove", **disks), observed)


def test_cpus_are_judged_by_what_the_host_allows():
    observed = settled(declare(), cpus=4, default_cpus="1-3")
    assert cpu_refusal(declare(cpus="7").domain, observed) == "domain www: cpus: is 7, the host has CPUs 0-3"
    assert "lets domains run on 1-3 only" in cpu_refusal(declare(cpus="0").domain, observed)
    assert cpu_refusal(declare(cpus="0-1").domain, observed) is None
    # xl narrows it, so it is not a difference.
    assert differences(declare(cpus="0-1").domain, declare(cpus="1").domain, "1-3") == []
    assert differences(declare().domain, declare(cpus="1-3").domain, "1-3") == []


def test_memory_shortage_is_reported_before_anything_changes():
    plans = [plan(declare(4000), host(free_memory=1000))]
    assert "need 4012 MiB" in memory_shortage(plans, host(free_memory=1000))
    assert memory_shortage(plans, host(free_memory=4012)) is None


def test_diff_shows_what_differs():
    result = plan(declare(96), settled(declare()))
    assert {key for key in result.after if result.before.get(key) != result.after[key]} == {"memory"}


def test_standby_in_the_order_in_which_nothing_is_lost():
    vif = {"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]}
    result = plan(declare(96, **vif), settled(declare(**vif)))
    assert [str(step) for step in result.steps] == [
        "write intent www",
        "build www~next",
        "rename www www~prev",
        "rename www~next www",
        "reopen consoles",
        "leave bridge www~prev",
        "unpause www",
        "lead to www",
        "pause www~prev",
        "announce 10.0.0.10/24 on xenbr0",
        "await healthy www",
        "define www",
        "destroy www~prev",
        "forget console www~next",
        "forget console www~prev",
    ]
    assert [str(step) for step in result.phases[0].downtime] == ["leave bridge www~prev", "await healthy www"]


def test_warm_boots_off_the_bridge_before_the_switch():
    result = plan(declare(96, update="warm", ready="up"), settled(declare()))
    names = [str(step) for step in result.steps]
    assert result.titles == ["replace www (warm)"]
    first = names.index("leave bridge www~next")
    assert names[first : first + 4] == [
        "leave bridge www~next",
        "unpause www~next",
        "await console www~next",
        "rename www www~prev",
    ]
    assert names.index("leave bridge www~prev") < names.index("join bridge www") < names.index("await healthy www")


def test_a_change_to_a_paused_domain_never_runs_it():
    before = declare(64, state="paused")
    observed = host(
        Observed(7, "paused", before.domain), definitions={NAME: xl_config(before.domain)}, autostart=frozenset([NAME])
    )
    names = [str(step) for step in plan(declare(96, state="paused"), observed).steps]
    assert not [name for name in names if name.startswith(("unpause", "await"))]


def test_an_intent_without_a_change_is_cleared_up():
    declaration = declare()
    stale = Intent(xl_config(declare(96).domain), "running")
    result = plan(declaration, settled(declaration, intents={NAME: stale}))
    assert (result.titles, result.changed, result.before) == ([], False, result.after), "a file of ours is no change"
    assert [str(step) for step in result.steps] == ["remove intent www"]


def test_what_was_interrupted_before_it_was_healthy_is_checked():
    declaration = declare(96)
    text = xl_config(declaration.domain)
    old = xl_config(declare(64).domain)
    observed = host(Observed(9, "running", declaration.domain), definitions={NAME: old}, intents={NAME: Intent(text, "running")},
                    autostart=frozenset([NAME]))  # fmt: skip
    result = plan(declaration, observed)
    assert result.titles == ["check www"]
    assert (result.former.state, result.former.text) == ("running", old), "what it goes back to when it is not healthy"


def test_a_committed_change_has_only_to_be_cleared_up():
    """No intent: the new domain was healthy and is defined."""
    declaration = declare(96)
    observed = settled(declaration)
    observed = dataclasses.replace(observed, domains=(*observed.domains, running(64, NAME + PREVIOUS, "paused", 6)))
    result = plan(declaration, observed)
    assert result.titles == ["destroy www~prev"]
    assert result.phases[0].final


@pytest.mark.parametrize("state", ["absent", "stopped"])
def test_leftovers_of_what_is_to_end_are_not_started_again(state):
    declaration = declare(state=state)
    observed = host(running(64, NAME + PREVIOUS, "paused", 6), running(96, NAME + NEXT, "paused", 8))
    names = [str(step) for step in plan(declaration, observed).steps]
    assert names[:2] == ["destroy www~next", "destroy www~prev"]
    assert not [name for name in names if name.startswith(("unpause", "rename"))]


def test_a_last_look_finds_what_is_not_as_declared():
    declaration = declare(96)
    done = plan(declaration, host())
    assert shortfall(done, settled(declaration)) is None
    crashed = Observed(9, "shutdown", declaration.domain, shutdown_reason="crash")
    assert shortfall(done, host(crashed)) == "domain www: it was healthy, but is shutdown at the end of the run, reason crash"
    assert shortfall(done, host()) == "domain www: it was healthy, but is gone at the end of the run"
    assert "other memory than declared" in shortfall(done, settled(declare(64)))
    left = running(64, NAME + PREVIOUS, "paused", 6)
    assert "www~prev is still there" in shortfall(done, host(Observed(9, "running", declaration.domain), left))
    gone = plan(declare(state="absent"), host(running()))
    assert shortfall(gone, host()) is None
    assert "it is still there (running)" in shortfall(gone, host(running()))


def test_what_is_left_as_it_is_is_no_shortfall():
    """update: never reports a difference and changes nothing, so the last look finds it again."""
    done = plan(declare(96, update="never"), settled(declare(64)))
    assert done.differs == ("memory",) and shortfall(done, settled(declare(64))) is None


def test_memory_of_both_sides_of_a_replacement_counts_once():
    plans = [plan(declare(96), host(running(64), free_memory=4096))]
    assert memory_shortage(plans, host(running(64), free_memory=32)) is None
    assert "need 32 MiB" in memory_shortage(plans, host(running(64), free_memory=31))


def test_an_old_one_that_crashed_beside_the_new_one_is_built_again():
    """Xen has preserved NAME~prev, but it is dead: renaming it back would serve nobody."""
    definition = xl_config(declare(64).domain)
    seen = host(
        running(96), running(64, NAME + PREVIOUS, "shutdown", 6),
        definitions={NAME: definition}, intents={NAME: Intent(xl_config(declare(96).domain), "running")},
    )  # fmt: skip
    steps = way_back(NAME, seen, former_of(NAME, seen))
    assert [str(step) for step in steps] == [
        "destroy www~prev", "destroy www", "build www", "unpause www", "remove intent www"
    ]  # fmt: skip


def test_what_is_ours_on_a_host():
    """A domain, a definition, an intent, a link and a content disk, each of another name; nothing of anybody else."""
    seen = host(
        FOREIGN, running(name="runs" + NEXT), definitions={"defined": ""}, intents={"begun": Intent("", "absent")},
        autostart=frozenset({"linked"}), content_disks=(content_path("keys", "xvda", "x"), "/var/lib/unikernels/disks/other.img"),
    )  # fmt: skip
    assert seen.ours == {"runs", "defined", "begun", "linked", "keys"}


def test_a_stopped_domain_keeps_the_uuid_of_its_definition():
    """Adopted, or created when the host had another name; where somebody declares one, that one counts."""
    own, given = "6b1a2c54-9d96-4ee4-bd5d-42eb769bb076", "11111111-9d96-4ee4-bd5d-42eb769bb076"
    definition = xl_config(dataclasses.replace(declare().domain, uuid=own))
    stopped = host(definitions={"www": definition})
    for state in ("running", "paused", "stopped"):
        assert plan(declare(state=state), stopped).wanted.uuid == own
    built = next(step for step in plan(declare(), stopped).steps if isinstance(step, Build))
    assert f'uuid = "{own}"' in built.text
    assert plan(declare(uuid=given), stopped).wanted.uuid == given
    assert plan(declare(), host(definitions={"www": "memory = 64\n"})).wanted.uuid == declare().domain.uuid
