"""The planner against a model of Xen: it reaches what is declared, from anywhere, cut anywhere."""

import dataclasses

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.checks import cpu_refusal
from ansible_collections.unikernels.xen.plugins.module_utils.domain.compare import differences
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Host, Observed
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.plan import memory_shortage, plan
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import NEXT, PREVIOUS, content_path
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from hypothesis import given
from hypothesis import strategies as st

NAME = "www"
MIB = 1 << 20


def declare(memory=64, **changes):
    return declaration_of({"name": NAME, "kernel": "/k", "memory": memory, **changes}, "h")


def host(*domains, **rest):
    return Host(domains=domains, free_memory=rest.pop("free_memory", 4096), **rest)


def running(memory=64, name=NAME, state="running", domid=7, **changes):
    return Observed(domid, state, dataclasses.replace(declare(memory, **changes).domain, name=name))


FOREIGN = Observed(
    3, "running", dataclasses.replace(declare().domain, name="database", uuid="6b1a2c54-9d96-4ee4-bd5d-42eb769bb076")
)


class Died(Exception):
    pass


class Model:
    """Xen and the files, as far as the planner can tell; ``lives`` calls, then it dies (-1: never)."""

    def __init__(self, observed, lives=-1):
        self.domains = {one.domain.name: one for one in observed.domains}
        self.definitions = dict(observed.definitions)
        self.autostart = set(observed.autostart)
        self.disks = dict(observed.disk_sizes)
        self.contents = set(observed.content_disks)
        self.lives = lives

    def host(self):
        return host(
            *self.domains.values(),
            definitions=dict(self.definitions),
            autostart=frozenset(self.autostart),
            disk_sizes=dict(self.disks),
            content_disks=tuple(sorted(self.contents)),
        )

    def tick(self):
        if self.lives == 0:
            raise Died
        self.lives -= 1

    def build(self, domain, name):
        self.tick()
        assert name not in self.domains, "Xen refuses a name that is taken"
        for disk in domain.disks:
            assert disk.path in self.disks, "Xen refuses a disk that is not there"
            for other in self.domains.values():
                used = [one for one in other.domain.disks if one.path == disk.path and "w" in (one.access, disk.access)]
                assert not used, "two domains have one disk, and one of them writes"
        # What Xen does not report it does not report.
        self.domains[name] = Observed(9, "paused", dataclasses.replace(domain, name=name, extra_config=()), domain.vcpus)

    def state(self, name, state):
        self.tick()
        self.domains[name] = dataclasses.replace(self.domains[name], state=state)

    def change(self, name, **values):
        self.tick()
        one = self.domains[name]
        assert one.state == "running"
        self.domains[name] = dataclasses.replace(one, domain=dataclasses.replace(one.domain, **values))

    def rename(self, old, new):
        self.tick()
        assert new not in self.domains
        one = self.domains.pop(old)
        self.domains[new] = dataclasses.replace(one, domain=dataclasses.replace(one.domain, name=new))

    def end(self, name):
        self.tick()
        self.domains.pop(name)

    def start(self, name, declaration):
        if declaration.state == "running":
            self.state(name, "running")

    def perform(self, step, declaration):
        getattr(self, "do_" + step.action)(step, declaration)

    def do_destroy(self, step, _declaration):
        self.end(step.name)

    do_stop = do_destroy

    def do_create(self, step, declaration):
        self.build(step.domain, step.name)
        self.start(step.name, declaration)

    def do_recreate(self, step, declaration):
        self.end(step.name)
        for origin in step.origins:
            self.disks[origin.path] = origin.size
        self.do_create(step, declaration)

    def do_replace(self, step, declaration):
        name = step.name
        self.build(step.domain, name + NEXT)
        self.rename(name, name + PREVIOUS)
        self.rename(name + NEXT, name)
        self.start(name, declaration)
        self.state(name + PREVIOUS, "paused")
        self.end(name + PREVIOUS)

    def do_put_back(self, step, _declaration):
        if step.name in self.domains:
            self.end(step.name)
        self.rename(step.name + PREVIOUS, step.name)
        self.state(step.name, "running")

    def do_confirm(self, step, _declaration):
        self.end(step.name + PREVIOUS)

    def do_prove(self, step, _declaration):
        self.tick()
        assert self.domains[step.name].state == "running"

    def do_make_disk(self, step, _declaration):
        self.tick()
        (origin,) = step.origins
        assert origin.path not in self.disks, "what is there is never overwritten"
        self.disks[origin.path] = origin.size or 512
        if origin.content is not None:
            self.contents.add(origin.path)

    def do_grow_disk(self, step, _declaration):
        self.tick()
        (origin,) = step.origins
        assert self.disks[origin.path] < origin.size, "a disk never shrinks"
        assert not any(disk.path == origin.path for one in self.domains.values() for disk in one.domain.disks)
        self.disks[origin.path] = origin.size

    def do_remove_disk(self, step, declaration):
        self.tick()
        assert step.item in self.contents or declaration.remove_disks, "data is never removed unless that is asked for"
        assert not any(disk.path == step.item for one in self.domains.values() for disk in one.domain.disks)
        self.disks.pop(step.item)
        self.contents.discard(step.item)

    def do_set_live(self, step, _declaration):
        self.change(step.name, **{step.item: getattr(step.domain, step.item)})

    def do_attach(self, step, _declaration):
        self.change(step.name, disks=(*self.domains[step.name].domain.disks, step.device))

    def do_detach(self, step, _declaration):
        self.change(step.name, disks=tuple(one for one in self.domains[step.name].domain.disks if one != step.device))

    def do_pause(self, step, _declaration):
        self.state(step.name, "paused")

    def do_unpause(self, step, _declaration):
        self.state(step.name, "running")

    def do_define(self, step, _declaration):
        self.tick()
        self.definitions[step.name] = step.text

    def do_undefine(self, step, _declaration):
        self.tick()
        del self.definitions[step.name]

    def do_autostart(self, step, _declaration):
        self.tick()
        self.autostart.add(step.name)

    def do_no_autostart(self, step, _declaration):
        self.tick()
        self.autostart.remove(step.name)


def carry_out(model, declaration):
    for step in plan(declaration, model.host()).steps:
        model.perform(step, declaration)


DATA = "/var/lib/unikernels/disks/data.img"
variants = st.fixed_dictionaries(
    {},
    optional={
        "vcpus": st.sampled_from([1, 2]),
        "cpu_weight": st.sampled_from([256, 512]),
        "cap": st.sampled_from([0, 50]),
        "extra_config": st.sampled_from([{}, {"max_grant_frames": 64}]),
        "disks": st.sampled_from(
            [
                [],
                [{"content": "one"}],
                [{"content": "two"}],
                [{"path": DATA, "size": 4, "access": "w"}],
                [{"path": DATA, "size": 8, "access": "w"}],
                [{"content": "one"}, {"path": DATA, "size": 4}],
            ]
        ),
    },
)
declarations = st.builds(
    lambda memory, state, autostart, more, how: declare(
        memory, state=state, **({} if autostart is None else {"autostart": autostart}), **more, **how
    ),
    st.sampled_from([64, 96]),
    st.sampled_from(["running", "paused", "stopped", "absent"]),
    st.sampled_from([None, True, False]),
    variants,
    st.fixed_dictionaries({}, optional={"live": st.booleans(), "update": st.sampled_from(["standby", "recreate"])}),
)


def host_of(current, standby, previous, defined, autostart, size):
    domains = [FOREIGN]
    if current:
        domains.append(running(current[0], state=current[1], **current[2]))
    if standby:
        domains.append(running(96, NAME + NEXT, "paused", 8))
    if previous:
        domains.append(running(64, NAME + PREVIOUS, "paused", 6))
    contents = [content_path(NAME, "xvda", text) for text in ("one", "two", "old")]
    sizes = {path: 512 for path in contents[: 1 + size]}
    # What a domain has open is there.
    sizes.update({disk.path: 512 for one in domains for disk in one.domain.disks})
    if size or DATA in sizes:
        sizes[DATA] = 4 * MIB if size < 2 else 2 * MIB
    return host(
        *domains,
        definitions={NAME: xl_config(declare(defined[0], **defined[1]).domain)} if defined else {},
        autostart=frozenset([NAME] if autostart else []),
        disk_sizes=sizes,
        content_disks=tuple(path for path in sizes if path != DATA),
    )


hosts = st.builds(
    host_of,
    st.none() | st.tuples(st.sampled_from([64, 96]), st.sampled_from(["running", "paused", "shutdown"]), variants),
    st.booleans(),
    st.booleans(),
    st.none() | st.tuples(st.sampled_from([64, 96]), variants),
    st.booleans(),
    st.integers(0, 2),
)
# Declaring a smaller disk than there is is refused by the edge, which sees the file.
fitting = st.tuples(hosts, declarations).filter(
    lambda pair: all(origin.size >= pair[0].disk_sizes.get(origin.path, 0) for origin in pair[1].origins if origin.size)
)


def assert_reached(model, declaration):
    assert plan(declaration, model.host()).steps == ()
    assert set(model.domains) <= {NAME, "database"}
    assert model.domains["database"] == FOREIGN
    current = model.domains.get(NAME)
    if declaration.state in ("running", "paused"):
        assert current.state == declaration.state
        known = dataclasses.replace(current.domain, extra_config=declaration.domain.extra_config)
        assert differences(declaration.domain, known) == []
        assert model.definitions[NAME] == xl_config(declaration.domain)
    else:
        assert current is None
    assert (NAME in model.definitions) == (declaration.state != "absent")
    assert (NAME in model.autostart) == (declaration.autostart and declaration.state != "absent")
    wanted = {disk.path for disk in declaration.domain.disks} if declaration.state != "absent" else set()
    assert model.contents <= wanted, "old content, which may be keys, lies about"
    if declaration.state != "absent":
        assert all(model.disks[origin.path] >= origin.size for origin in declaration.origins)


@given(fitting)
def test_a_plan_reaches_what_is_declared_and_a_second_one_is_empty(pair):
    observed, declaration = pair
    model = Model(observed)
    carry_out(model, declaration)
    assert_reached(model, declaration)


@given(fitting, st.integers(0, 14))
def test_a_run_that_dies_anywhere_is_made_good_by_the_next(pair, lives):
    observed, declaration = pair
    model = Model(observed, lives)
    try:
        carry_out(model, declaration)
    except Died:
        pass
    model.lives = -1
    carry_out(model, declaration)
    assert_reached(model, declaration)


@given(hosts, declarations)
def test_no_step_touches_what_is_not_ours(observed, declaration):
    for step in plan(declaration, observed).steps:
        assert step.name.split("~")[0] == NAME


@given(hosts, declarations)
def test_the_same_question_gives_the_same_plan(observed, declaration):
    assert plan(declaration, observed) == plan(declaration, observed)


def settled(declaration, **more):
    return host(
        Observed(7, "running", declaration.domain),
        definitions={NAME: xl_config(declaration.domain)},
        autostart=frozenset([NAME]),
        **more,
    )


def actions(declaration, observed):
    return [str(step) for step in plan(declaration, observed).steps]


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
    model = Model(host(foreign))
    carry_out(model, declare(adopt=True))
    assert model.domains[NAME] == foreign, "adopting what is as declared does not restart it"
    # From now on it is ours, also without the option.
    assert plan(declare(), model.host()).steps == ()


def test_a_uuid_that_was_given_is_part_of_what_is_declared():
    given_one = "0c6f5e1a-0000-4000-8000-000000000001"
    assert actions(declare(uuid=given_one), settled(declare()))[0] == "replace www"
    # It is ours though it lacks our mark, for the declaration knows it.
    assert actions(declare(uuid=given_one), settled(declare(uuid=given_one))) == []


def test_another_host_name_replaces_nothing():
    declaration = declaration_of({"name": NAME, "kernel": "/k"}, "renamed")
    assert plan(declaration, settled(declare())).differs == ()


def test_without_room_for_two_the_old_one_ends_first():
    declaration = declare(96)
    assert plan(declaration, host(running(), free_memory=100)).steps[0].action == "recreate"
    assert plan(declaration, host(running(), free_memory=200)).steps[0].action == "replace"
    assert plan(declare(96, update="recreate"), host(running())).steps[0].action == "recreate"


def test_a_disk_open_for_writing_is_never_shared():
    disk = {"disks": [{"path": "/d", "access": "w"}]}
    observed = Observed(7, "running", declare(64, **disk).domain)
    assert plan(declare(96, **disk), host(observed)).steps[0].action == "recreate"


def test_a_device_name_in_dom0_can_not_be_had_twice():
    vif = {"interfaces": [{"bridge": "xenbr0", "vifname": "vif-www"}]}
    observed = Observed(7, "running", declare(64, **vif).domain)
    assert plan(declare(96, **vif), host(observed)).steps[0].action == "recreate"


def test_update_never_reports_and_leaves_even_the_definition():
    result = plan(declare(96, update="never"), settled(declare()))
    assert (result.steps, result.differs) == ((), ("memory",))


def test_live_changes_the_running_domain_where_xen_can():
    before = declare(vcpus=2, disks=[{"path": "/a"}])
    after = declare(vcpus=1, cpus="0-1", cpu_weight=512, cap=50, disks=[{"path": "/a"}, {"path": "/b"}], live=True)
    observed = settled(before, cpus=4)
    expected = ["set_live www vcpus", "set_live www cpus", "set_live www cpu_weight", "set_live www cap", "attach www xvdb"]
    assert actions(after, observed) == [*expected, "define www"]
    # What it can't do replaces the domain, all of it at once.
    assert actions(dataclasses.replace(declare(96, live=True)), settled(declare()))[0] == "replace www"
    assert actions(declare(vcpus=4, live=True), settled(declare(vcpus=2)))[0] == "replace www"
    # Another path on the same device is another disk.
    assert actions(declare(disks=[{"path": "/c"}], live=True), settled(declare(disks=[{"path": "/a"}])))[0] == "replace www"
    # And nothing is changed live unless that is asked for.
    assert actions(declare(cap=50), settled(declare()))[0] == "replace www"


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
    assert actions(declare(**extra), settled(declare()))[0] == "replace www"
    assert actions(declare(), settled(declare(**extra)))[0] == "replace www"
    assert actions(declare(**extra), settled(declare(**extra))) == []


def test_other_content_is_another_disk_and_the_old_one_goes_last():
    old, new = declare(disks=[{"content": "old keys"}]), declare(disks=[{"content": "new keys"}])
    observed = settled(old, disk_sizes={old.origins[0].path: 512}, content_disks=(old.origins[0].path,))
    observed = dataclasses.replace(observed, disk_sizes={})
    steps = plan(new, observed).steps
    assert [step.action for step in steps] == ["make_disk", "replace", "define", "remove_disk"]
    assert steps[-1].item == old.origins[0].path
    assert "keys" not in " ".join(map(str, steps))


def test_a_disk_grows_while_its_domain_is_down():
    disk = {"path": DATA, "access": "w"}
    declaration = declare(disks=[{**disk, "size": 8}])
    observed = settled(declaration, disk_sizes={DATA: 4 * MIB})
    steps = plan(declaration, observed).steps
    assert [step.action for step in steps] == ["recreate"]
    assert steps[0].origins == declaration.origins


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
    # xl narrows it, and that is no difference.
    assert differences(declare(cpus="0-1").domain, declare(cpus="1").domain, "1-3") == []
    assert differences(declare().domain, declare(cpus="1-3").domain, "1-3") == []


def test_memory_shortage_is_told_before_anything_changes():
    plans = [plan(declare(4000), host(free_memory=1000))]
    assert "need 4012 MiB" in memory_shortage(plans, host(free_memory=1000))
    assert memory_shortage(plans, host(free_memory=4012)) is None


def test_diff_shows_what_differs():
    result = plan(declare(96), settled(declare()))
    assert {key for key in result.after if result.before.get(key) != result.after[key]} == {"memory"}
