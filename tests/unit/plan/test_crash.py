"""The real primitives and runner on a model of Xen, which dies at each step, fails at each step, and twice in a row."""

import dataclasses

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.apply import runner as runners
from ansible_collections.unikernels.xen.plugins.module_utils.domain.compare import differences
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Intent, Observed
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import NEXT, PREVIOUS
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import xl_config
from ansible_collections.unikernels.xen.plugins.module_utils.plan.lifecycle import plan
from ansible_collections.unikernels.xen.plugins.module_utils.plan.steps import Destroy, Shutdown
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .model import DATA, DECLARATIONS, FOREIGN, HOSTS, MIB, NAME, Died, Xen, catalogue, declare, host, running

ERRORS = (ToolstackError("xl failed"), OSError(28, "No space left on device"), ValueError("unforeseen"), Died())
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@pytest.fixture(autouse=True, scope="module")
def impatient():
    before, runners._BETWEEN = runners._BETWEEN, 0.0
    yield
    runners._BETWEEN = before


def run(model, declaration):
    """Run the module once for one domain. Return its outcome, or None if it died."""
    model.step = 0
    decided = plan(declaration, model.host())
    model.catalogue.update(catalogue(decided.wanted, *([decided.former.domain] if decided.former.domain else [])))
    if decided.former.domain and decided.former.text:
        model.catalogue.setdefault(decided.former.text, decided.former.domain)
    if not decided.phases and not decided.cleanup:
        return {"failed": False, "steps": []}
    runner = runners.Runner(model.host, lambda: model, lambda _words: None, 1 << 20)
    try:
        (outcome,), _host = runner.run([decided], 1, False)
    except Died:
        return None
    finally:
        model.faults, model.dead = {}, False
    return outcome


def fitting(model, declaration):
    """The edge, which sees the file, refuses a disk that shrinks or vanished."""
    return all(origin.size >= model.disks.get(origin.path, 0) for origin in declaration.origins if origin.size)


def assert_reached(model, declaration):
    assert plan(declaration, model.host()).titles == []
    assert set(model.domains) <= {NAME, "database"}
    assert_others_untouched(model)
    assert not model.intents
    current = model.domains.get(NAME)
    if declaration.state in ("running", "paused"):
        assert current.state == declaration.state
        known = dataclasses.replace(current.domain, extra_config=declaration.domain.extra_config)
        assert differences(declaration.domain, known) == []
        assert model.definitions[NAME] == xl_config(declaration.domain)
        if current.domid in model.texts:
            built = model.catalogue[model.texts[current.domid]]
            assert built.extra_config == declaration.domain.extra_config, "what Xen doesn't report is as declared too"
        assert current.domid not in model.off_bridge
    else:
        assert current is None
    assert (NAME in model.definitions) == (declaration.state != "absent")
    assert (NAME in model.autostart) == (declaration.autostart and declaration.state != "absent")
    wanted = {disk.path for disk in declaration.domain.disks} if declaration.state != "absent" else set()
    assert model.contents <= wanted, "old content, which may be keys, lies about"
    if declaration.state != "absent":
        assert all(model.disks[origin.path] >= origin.size for origin in declaration.origins)


def assert_others_untouched(model):
    assert model.domains["database"] == FOREIGN


def settled(declaration):
    """Return a host on which one of our runs has reached ``declaration``."""
    model = Xen(domains={"database": FOREIGN})
    assert run(model, declaration)["failed"] is False
    assert_reached(model, declaration)
    return model


def copy(model):
    fields = ("domains", "texts", "definitions", "intents", "autostart", "disks", "contents", "off_bridge", "catalogue", "sick")
    return dataclasses.replace(model, **{field: type(getattr(model, field))(getattr(model, field)) for field in fields})


PAIRS = st.tuples(DECLARATIONS, DECLARATIONS).map(lambda pair: (dataclasses.replace(pair[0], live=False), pair[1]))


def steps_of(model, declaration):
    model = copy(model)
    run(model, declaration)
    return model.step


def assert_sane_after_failure(model, before, declaration, outcome):
    assert_others_untouched(model)
    assert outcome["failed"] and outcome["msg"] and "\n" not in outcome["msg"]
    if before.state == "running" and (declaration.state == "running" or outcome["rolled_back"]):
        assert model.serves(), "neither the declared nor the old domain serves"
    assert not {NAME + NEXT} & set(model.domains), "left over"


@SLOW
@given(PAIRS, st.sampled_from(ERRORS), st.booleans())
def test_one_fault_at_any_step(pair, error, late):
    """It dies or fails at each step of a change; the way back, or the next run, repairs it."""
    before, declaration = pair
    start = settled(before)
    if not fitting(start, declaration):
        return
    for number in range(steps_of(start, declaration)):
        model = copy(start)
        model.faults, model.late = {number: error}, late
        outcome = run(model, declaration)
        if outcome is not None and outcome["failed"]:
            assert_sane_after_failure(model, before, declaration, outcome)
        assert run(model, declaration)["failed"] is False
        assert_reached(model, declaration)


STATES = ("running", "paused", "stopped", "absent")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("before", STATES)
def test_one_fault_at_any_step_of_a_change_of_state_alone(before, state, error, late):
    """If nothing else differs, the running domain is changed, and the way back finds it."""
    options = {"interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24"}], "disks": [{"content": "one"}]}
    old, new = declare(state=before, **options), declare(state=state, **options)
    start = settled(old)
    for number in range(steps_of(start, new)):
        model = copy(start)
        model.faults, model.late = {number: error}, late
        outcome = run(model, new)
        if outcome is not None and outcome["failed"]:
            assert_sane_after_failure(model, old, new, outcome)
            if outcome["rolled_back"]:
                assert model.domains[NAME].state == before
        assert run(model, new)["failed"] is False
        assert_reached(model, new)


@pytest.mark.parametrize("dies", [None, 0, 1, 2, 3])
def test_a_paused_domain_that_is_not_healthy_when_it_runs_is_paused_again(dies):
    old, new = declare(state="paused"), declare()
    model = settled(old)
    model.sick = set(model.definitions.values())
    if dies is not None:
        model.faults = {dies: Died()}
        run(model, new)
    outcome = run(model, new)
    assert outcome["failed"] and outcome["rolled_back"] and model.domains[NAME].state == "paused"
    assert run(model, old)["failed"] is False
    assert_reached(model, old)


@SLOW
@given(PAIRS, st.sampled_from(ERRORS), st.sampled_from(ERRORS), st.booleans(), st.integers(0, 20), st.integers(1, 6))
def test_a_fault_on_the_way_back_too(pair, error, second, late, number, further):
    before, declaration = pair
    model = settled(before)
    if not fitting(model, declaration):
        return
    model.faults, model.late = {number: error, number + further: second}, late
    run(model, declaration)
    assert_others_untouched(model)
    assert run(model, declaration)["failed"] is False
    assert_reached(model, declaration)


@SLOW
@given(PAIRS, st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_two_deaths_in_a_row_and_another_declaration_after_them(pair, first, second, late):
    """Even if the user reverts the change meanwhile: in the end the current declaration runs."""
    before, declaration = pair
    model = settled(before)
    if not (fitting(model, declaration) and fitting(model, before)):
        return
    model.faults, model.late = {first: Died()}, late
    run(model, declaration)
    model.faults = {second: Died()}
    run(model, before if fitting(model, before) else declaration)
    last = before if fitting(model, before) else declaration
    assert run(model, last)["failed"] is False
    assert_reached(model, last)


@SLOW
@given(PAIRS, st.none() | st.integers(0, 20))
def test_a_domain_that_is_never_healthy_leaves_the_old_one(pair, dies):
    """Even if a run died half-way, the next one leaves the old domain serving if its declaration changes nothing."""
    before, declaration = pair
    before = dataclasses.replace(before, state="running", autostart=True)
    declaration = dataclasses.replace(declaration, state="running", update=declaration.update, live=False)
    model = settled(before)
    bad = xl_config(declaration.domain)
    if not fitting(model, declaration) or bad == xl_config(before.domain) or not differs(before, declaration):
        return
    model.sick = {bad}
    if dies is not None:
        model.faults = {dies: Died()}
        run(model, declaration)
    outcome = run(model, declaration)
    assert outcome["failed"] and outcome["rolled_back"]
    assert_sane_after_failure(model, before, declaration, outcome)
    current = model.domains[NAME]
    assert model.texts[current.domid] == xl_config(before.domain)
    assert model.definitions[NAME] == xl_config(before.domain)
    # What was made for the new domain may still exist, but nothing of the old one has changed.
    assert [title for title in plan(before, model.host()).titles if not title.startswith("remove_disk")] == []


def differs(before, declaration):
    return differences(declaration.domain, before.domain)


@SLOW
@given(HOSTS, DECLARATIONS)
def test_from_any_mixture_of_leftovers_a_run_reaches_what_is_declared(observed, declaration):
    model = Xen.of(observed)
    if not fitting(model, declaration):
        return
    assert run(model, declaration)["failed"] is False
    assert_reached(model, declaration)


@SLOW
@given(HOSTS, DECLARATIONS, st.sampled_from(ERRORS), st.booleans(), st.integers(0, 12))
def test_update_never_clears_up_after_a_fault_and_replaces_nothing_that_serves(observed, declaration, error, late, number):
    declaration = dataclasses.replace(declaration, update="never", ready="", live=False)
    model = Xen.of(observed)
    if not fitting(model, declaration):
        return
    model.faults, model.late = {number: error}, late
    run(model, declaration)
    assert_others_untouched(model)
    whole = model.domains.get(NAME)
    assert run(model, declaration)["failed"] is False
    assert plan(declaration, model.host()).titles == []
    assert set(model.domains) <= {NAME, "database"} and not model.intents
    assert_others_untouched(model)
    if declaration.state == "running":
        assert model.serves()
        if whole and whole.state == "running" and whole.domid not in model.texts and NAME + PREVIOUS not in model.domains:
            assert model.domains[NAME].domid == whole.domid, "what ran was replaced"
    assert model.autostart <= {*model.definitions, *observed.autostart}, "it leads nowhere"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("update", [{"update": "standby"}, {"update": "recreate"}, {"update": "warm", "ready": "ready"}])
def test_one_fault_at_any_step_of_an_adoption(update, error, late):
    """The domain that is taken over, which has no definition, serves or its replacement does."""
    stranger = dataclasses.replace(running(64).domain, uuid="6b1a2c54-9d96-4ee4-bd5d-42eb769bb077")
    start = Xen(domains={"database": FOREIGN, NAME: Observed(9, "running", stranger, 1)})
    for declaration in (declare(64, adopt=True, **update), declare(96, adopt=True, **update)):
        for number in range(steps_of(start, declaration)):
            model = copy(start)
            model.faults, model.late = {number: error}, late
            outcome = run(model, declaration)
            if outcome is not None and outcome["failed"]:
                assert_sane_after_failure(model, declare(64), declaration, outcome)
            assert run(model, declaration)["failed"] is False
            assert_others_untouched(model)
            assert model.serves() and plan(declaration, model.host()).titles == []
            assert model.domains[NAME].domain.memory == declaration.domain.memory


def test_an_adoption_that_is_killed_and_then_never_healthy_starts_the_old_one_again():
    """It had no definition before; the first run wrote one before it stopped the domain."""
    stranger = dataclasses.replace(running(64).domain, uuid="6b1a2c54-9d96-4ee4-bd5d-42eb769bb077")
    start = Xen(domains={"database": FOREIGN, NAME: Observed(9, "running", stranger, 1)})
    change = declare(96, adopt=True, update="recreate")
    bad = {xl_config(change.domain), xl_config(dataclasses.replace(change.domain, uuid=stranger.uuid))}
    for number in range(steps_of(start, change)):
        model = copy(start)
        model.sick = bad
        model.faults = {number: Died()}
        run(model, change)
        outcome = run(model, change)
        assert outcome["failed"] and outcome["rolled_back"], number
        assert model.serves()
        assert (model.domains[NAME].domain.memory, model.domains[NAME].domain.uuid) == (64, stranger.uuid)


@SLOW
@given(HOSTS, DECLARATIONS)
def test_no_step_touches_what_is_not_ours(observed, declaration):
    for step in plan(declaration, observed).steps:
        if isinstance(step, (Destroy, Shutdown)):
            assert step.name.split("~")[0] == NAME


@given(HOSTS, DECLARATIONS)
def test_the_same_question_gives_the_same_plan(observed, declaration):
    assert plan(declaration, observed) == plan(declaration, observed)


# -- faults that were met --------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(12))
def test_a_paused_domain_is_never_put_back_running(number):
    before = declare(64, state="paused")
    model = settled(before)
    model.faults = {number: Died()}
    run(model, declare(96, state="paused"))
    assert run(model, before)["failed"] is False
    assert model.domains[NAME].state == "paused"
    model.faults = {number: ValueError()}
    run(model, declare(96, state="paused"))
    assert model.domains[NAME].state == "paused"


@pytest.mark.parametrize("number", range(15))
def test_a_change_that_xen_does_not_report_and_that_was_reverted_leaves_nothing(number):
    """Only extra_config differs: killed anywhere, and the user restores the old declaration."""
    before, change = declare(), declare(extra_config={"max_grant_frames": 64})
    model = settled(before)
    model.faults = {number: Died()}
    run(model, change)
    assert run(model, before)["failed"] is False
    assert_reached(model, before)


def test_a_domain_that_crashes_after_it_was_healthy_is_a_failure_and_the_old_one_is_started_again():
    model = settled(declare(64))
    before = model.host

    def crashed():
        host = before()
        if len([one for one in host.domains if one.domain.name == NAME and one.domain.memory == 96]) == 1 and not host.intents:
            model.domains[NAME] = dataclasses.replace(model.domains[NAME], state="shutdown", shutdown_reason="crash")
        return before()

    model.host = crashed
    outcome = run(model, declare(96))
    assert outcome["failed"] and outcome["rolled_back"]
    assert "it was healthy, but is shutdown at the end of the run, reason crash" in outcome["msg"]
    assert "the old domain was started again and is running" in outcome["msg"]
    del model.host
    assert model.domains[NAME].domain.memory == 64 and model.domains[NAME].state == "running"
    assert model.definitions[NAME] == xl_config(declare(64).domain)


def test_killed_while_it_recreates_and_then_never_healthy_the_old_one_is_started_again():
    before, change = declare(64), declare(96, update="recreate")
    model = settled(before)
    model.faults, model.late = {1: Died()}, True  # the old one has stopped
    assert run(model, change) is None
    assert NAME not in model.domains
    model.sick = {xl_config(change.domain)}
    outcome = run(model, change)
    assert outcome["failed"] and outcome["rolled_back"]
    assert model.domains[NAME].domain.memory == 64 and model.serves()


def test_a_disk_that_grew_stays_grown_when_the_new_domain_fails():
    before = declare(64, disks=[{"path": DATA, "size": 4, "access": "w"}])
    model = settled(before)
    change = declare(64, disks=[{"path": DATA, "size": 8, "access": "w"}])
    model.faults = {3: ToolstackError("xl failed")}
    outcome = run(model, change)
    assert outcome["failed"] and outcome["rolled_back"] and model.serves()
    assert model.disks[DATA] == 8 * MIB


def test_what_fails_when_the_new_domain_is_defined_takes_nothing_back():
    model = settled(declare(64))
    change = declare(96)
    steps = [str(step) for step in plan(change, model.host()).steps]
    model.faults = {steps.index("destroy www~prev"): ToolstackError("it is still there")}
    outcome = run(model, change)
    assert outcome["failed"] and not outcome["rolled_back"]
    assert model.domains[NAME].domain.memory == 96 and model.serves()
    assert plan(change, model.host()).titles == ["destroy www~prev"]


def test_a_domain_set_aside_that_runs_is_paused_again_where_it_was_paused():
    declaration = declare(64, state="paused")
    text = xl_config(declaration.domain)
    model = Xen.of(host(FOREIGN, running(64, NAME + PREVIOUS, "running", 6), intents={NAME: Intent(text, "paused")}))
    assert run(model, declaration)["failed"] is False
    assert model.host().find(NAME).state == "paused"
