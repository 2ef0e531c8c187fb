"""The planner against a model of Xen: it reaches what is declared, from anywhere, cut anywhere."""

import dataclasses

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.plan import (
    Host,
    Observed,
    differences,
    memory_shortage,
    plan,
)
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import NEXT, PREVIOUS
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from hypothesis import given
from hypothesis import strategies as st

NAME = "www"


def declare(memory=64, **changes):
    return declaration_of({"name": NAME, "kernel": "/k", "memory": memory, **changes}, "h")


def host(*domains, **rest):
    return Host(domains=domains, free_memory=rest.pop("free_memory", 4096), **rest)


def running(memory=64, name=NAME, state="running", domid=7):
    return Observed(domid, state, dataclasses.replace(declare(memory).domain, name=name))


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
        self.lives = lives

    def host(self):
        return host(*self.domains.values(), definitions=dict(self.definitions), autostart=frozenset(self.autostart))

    def tick(self):
        if self.lives == 0:
            raise Died
        self.lives -= 1

    def build(self, domain, name):
        self.tick()
        assert name not in self.domains, "Xen refuses a name that is taken"
        self.domains[name] = Observed(9, "paused", dataclasses.replace(domain, name=name))

    def state(self, name, state):
        self.tick()
        self.domains[name] = dataclasses.replace(self.domains[name], state=state)

    def rename(self, old, new):
        self.tick()
        assert new not in self.domains
        one = self.domains.pop(old)
        self.domains[new] = dataclasses.replace(one, domain=dataclasses.replace(one.domain, name=new))

    def end(self, name):
        self.tick()
        self.domains.pop(name)

    def perform(self, step, declaration):
        name = step.name
        if step.action in ("destroy", "stop"):
            self.end(name)
        elif step.action == "create":
            self.build(step.domain, name)
            if declaration.state == "running":
                self.state(name, "running")
        elif step.action == "recreate":
            self.end(name)
            self.build(step.domain, name)
            if declaration.state == "running":
                self.state(name, "running")
        elif step.action == "replace":
            self.build(step.domain, name + NEXT)
            self.state(name, "paused")
            self.rename(name, name + PREVIOUS)
            self.rename(name + NEXT, name)
            if declaration.state == "running":
                self.state(name, "running")
            self.end(name + PREVIOUS)
        elif step.action == "put_back":
            if name in self.domains:
                self.end(name)
            self.rename(name + PREVIOUS, name)
            self.state(name, "running")
        elif step.action == "confirm":
            self.end(name + PREVIOUS)
        elif step.action == "prove":
            self.tick()
            assert self.domains[name].state == "running"
        elif step.action in ("pause", "unpause"):
            self.state(name, "paused" if step.action == "pause" else "running")
        elif step.action == "define":
            self.tick()
            self.definitions[name] = step.text
        elif step.action == "undefine":
            self.tick()
            del self.definitions[name]
        elif step.action == "autostart":
            self.tick()
            self.autostart.add(name)
        elif step.action == "no_autostart":
            self.tick()
            self.autostart.remove(name)
        else:
            raise AssertionError(step.action)


def carry_out(model, declaration):
    for step in plan(declaration, model.host()).steps:
        model.perform(step, declaration)


declarations = st.builds(
    lambda memory, state, autostart: declare(memory, state=state, **({} if autostart is None else {"autostart": autostart})),
    st.sampled_from([64, 96]),
    st.sampled_from(["running", "paused", "stopped", "absent"]),
    st.sampled_from([None, True, False]),
)
hosts = st.builds(
    lambda current, standby, previous, defined, autostart: host(
        FOREIGN,
        *([running(current[0], state=current[1])] if current else []),
        *([running(96, NAME + NEXT, "paused", 8)] if standby else []),
        *([running(64, NAME + PREVIOUS, "paused", 6)] if previous else []),
        definitions={NAME: xl_config(declare(defined).domain)} if defined else {},
        autostart=frozenset([NAME] if autostart else []),
    ),
    st.none() | st.tuples(st.sampled_from([64, 96]), st.sampled_from(["running", "paused", "shutdown"])),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 64, 96]),
    st.booleans(),
)


def assert_reached(model, declaration):
    assert plan(declaration, model.host()).steps == ()
    assert set(model.domains) <= {NAME, "database"}
    assert model.domains["database"] == FOREIGN
    current = model.domains.get(NAME)
    if declaration.state in ("running", "paused"):
        assert current.state == declaration.state
        assert differences(declaration.domain, current.domain) == []
    else:
        assert current is None
    assert (NAME in model.definitions) == (declaration.state != "absent")
    assert (NAME in model.autostart) == (declaration.autostart and declaration.state != "absent")


@given(hosts, declarations)
def test_a_plan_reaches_what_is_declared_and_a_second_one_is_empty(observed, declaration):
    model = Model(observed)
    carry_out(model, declaration)
    assert_reached(model, declaration)


@given(hosts, declarations, st.integers(0, 12))
def test_a_run_that_dies_anywhere_is_made_good_by_the_next(observed, declaration, lives):
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


def test_nothing_to_do():
    declaration = declare()
    observed = host(running(), definitions={NAME: xl_config(declaration.domain)}, autostart=frozenset([NAME]))
    result = plan(declaration, observed)
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


def test_without_room_for_two_the_old_one_ends_first():
    declaration = declare(96)
    assert plan(declaration, host(running(), free_memory=100)).steps[0].action == "recreate"
    assert plan(declaration, host(running(), free_memory=200)).steps[0].action == "replace"


def test_a_disk_open_for_writing_is_never_shared():
    disk = {"disks": [{"path": "/d", "access": "w"}]}
    observed = Observed(7, "running", declare(64, **disk).domain)
    assert plan(declare(96, **disk), host(observed)).steps[0].action == "recreate"


def test_memory_shortage_is_told_before_anything_changes():
    plans = [plan(declare(4000), host(free_memory=1000))]
    assert "need 4012 MiB" in memory_shortage(plans, host(free_memory=1000))
    assert memory_shortage(plans, host(free_memory=4012)) is None


def test_diff_shows_what_differs():
    observed = host(running(), definitions={NAME: xl_config(declare().domain)}, autostart=frozenset([NAME]))
    result = plan(declare(96), observed)
    assert {key for key in result.after if result.before.get(key) != result.after[key]} == {"memory"}
