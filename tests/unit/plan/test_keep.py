"""What is restarted, when, and when no more: a table of cases, and properties of all of them."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import RestartLimit
from ansible_collections.unikernels.xen.plugins.module_utils.plan.keep import (
    BY_HAND,
    MAX_DELAY,
    Count,
    Ending,
    Forgive,
    GiveUp,
    Leave,
    Past,
    Policy,
    Seen,
    Start,
    decide,
    ending_of,
    rebuilds_of,
)
from hypothesis import given
from hypothesis import strategies as st

# Written by xl 4.17.
BEGIN = "Waiting for domain www (domid 7) to die [pid 1067]\n"
CRASH = BEGIN + "Domain 7 has shut down, reason code 3 0x3\nAction for shutdown reason code 3 is {}\n"
KEPT = CRASH.format("preserve") + "Done. Exiting now\n"
CLEANED = CRASH.format("destroy") + "Domain 7 needs to be cleaned up: destroying the domain\nDone. Exiting now\n"
END = BEGIN + "Domain 7 has shut down, reason code 0 0x0\nAction for shutdown reason code 0 is destroy\nDone. Exiting now\n"
RESTARTED = (
    CRASH.format("restart")
    + "Domain 7 needs to be cleaned up: destroying the domain\nDone. Rebooting now\n"
    + "Waiting for domain www (domid 8) to die [pid 1]\n"
)
DESTROYED = BEGIN + "Domain 7 has been destroyed.\n"
SUSPENDED = BEGIN + "Domain 7 has shut down, reason code 2 0x2\nAction for shutdown reason code 2 is destroy\n"
NOW = 1_000_000.0


@pytest.mark.parametrize(
    "log, ending",
    [
        ("", None),
        (BEGIN, None),
        (KEPT, Ending(7, "crash", "preserve")),
        (CLEANED, Ending(7, "crash", "destroy")),
        (END, Ending(7, "poweroff", "destroy")),
        (RESTARTED, None),
        (CRASH.format("coredump-restart"), Ending(7, "crash", "coredump-restart")),
        (DESTROYED, Ending(7, "", BY_HAND)),
        (BEGIN + "Domain 7 has shut down, reason code 9 0x9\n", Ending(7, "unknown", "")),
        ("reason code 3\n\x00\xff garbage", None),
    ],
)
def test_what_a_log_tells_of_the_last_end(log, ending):
    assert ending_of(log) == ending


def test_restarts_by_xen_are_counted():
    assert rebuilds_of(RESTARTED + RESTARTED + KEPT) == 2


def seen_gone(log, **more):
    return Seen("gone", ending=ending_of(log), **more)


@pytest.mark.parametrize(
    "restart, seen, started",
    [
        ("on-failure", Seen("shutdown", "crash"), True),
        ("on-failure", Seen("shutdown", "crash", ending_of(KEPT)), True),
        ("on-failure", Seen("shutdown", "watchdog"), True),
        ("on-failure", Seen("shutdown", "poweroff"), False),
        ("on-failure", Seen("shutdown", "poweroff", exit_code=2), True),
        ("on-failure", Seen("shutdown", "poweroff", exit_code=0), False),
        ("on-failure", seen_gone(END), False),
        ("on-failure", seen_gone(END, exit_code=0), False),
        ("on-failure", seen_gone(END, exit_code=2), True),
        ("on-failure", seen_gone(END, exit_code=2, asked=True), False),
        ("on-failure", seen_gone(CLEANED), True),
        # Preserved, and then destroyed by somebody who had inspected it.
        ("on-failure", seen_gone(KEPT), False),
        ("on-failure", seen_gone(DESTROYED), False),
        ("on-failure", seen_gone(DESTROYED, exit_code=2), False),
        ("on-failure", seen_gone(""), False),
        ("on-failure", seen_gone(SUSPENDED), False),
        ("always", seen_gone(SUSPENDED), False),
        ("always", seen_gone(END), True),
        ("always", seen_gone(END, asked=True), False),
        ("always", seen_gone(DESTROYED), False),
        ("always", Seen("shutdown", "poweroff"), True),
        # Xen itself restarts it, or should have.
        ("always", seen_gone(CRASH.format("restart"), ending_age=5), False),
        ("on-failure", Seen("shutdown", "crash", ending_of(CRASH.format("restart")), ending_age=1), False),
        ("on-failure", seen_gone(CRASH.format("restart"), ending_age=90), True),
        ("never", Seen("shutdown", "crash"), False),
        ("on-failure", Seen("running"), False),
        ("on-failure", Seen("running", failures=2), False),
        ("on-failure", Seen("running", failures=3), True),
        ("on-failure", Seen("paused", failures=3), False),
        ("on-failure", Seen("dying", "crash"), False),
        ("on-failure", Seen("shutdown", "crash", guarded=True), False),
    ],
)
def test_what_is_started_again(restart, seen, started):
    action = decide(Policy(restart), seen, Past(), NOW, NOW)
    assert isinstance(action, Start if started else Leave)


def test_the_time_between_two_starts_doubles_and_the_limit_ends_it():
    policy, past, delays = Policy(limit=RestartLimit(9, 600)), Past(), []
    while True:
        action = decide(policy, Seen("shutdown", "crash"), past, NOW, NOW)
        if isinstance(action, GiveUp):
            break
        delays.append(action.at - NOW)
        past = Past((*past.starts, NOW))
    assert delays == [1, 2, 4, 8, 16, 32, MAX_DELAY, MAX_DELAY, MAX_DELAY]
    assert not action.end


def test_starts_that_are_long_ago_or_in_the_future_do_not_count():
    past = Past((NOW - 601, NOW - 700, NOW + 3600))
    assert decide(Policy(), Seen("shutdown", "crash"), past, NOW, NOW).at == NOW + 1


def test_restarts_by_xen_count_and_a_loop_is_ended():
    assert isinstance(decide(Policy(), Seen("running", rebuilds=1), Past(), NOW, NOW), Count)
    action = decide(Policy(), Seen("running", rebuilds=2), Past((NOW - 9,) * 4), NOW, NOW)
    assert isinstance(action, GiveUp) and action.end


@pytest.mark.parametrize(
    "seen, forgiven",
    [
        (Seen("running", alive_for=601), True),
        (Seen("running", alive_for=599), False),
        (Seen("running", alive_for=601, failures=1), False),
        (Seen("gone", ending=Ending(7, "crash", "destroy"), alive_for=601), False),
        (Seen("shutdown", "crash", alive_for=601), False),
    ],
)
def test_one_that_was_given_up_stays_until_somebody_starts_it_and_it_runs(seen, forgiven):
    action = decide(Policy("always"), seen, Past(gave_up=True), NOW, NOW)
    assert isinstance(action, Forgive if forgiven else Leave)


def test_a_start_of_ours_that_failed_is_tried_again_whatever_the_log_says():
    assert isinstance(decide(Policy(), seen_gone(DESTROYED), Past(pending=True), NOW, NOW), Start)
    assert isinstance(decide(Policy(), Seen("running"), Past(pending=True), NOW, NOW), Forgive)
    assert isinstance(decide(Policy(), seen_gone(DESTROYED), Past(gave_up=True, pending=True), NOW, NOW), Leave)


ENDINGS = st.sampled_from([BEGIN, KEPT, CLEANED, END, RESTARTED, DESTROYED, SUSPENDED, ""]).map(ending_of)
SEEN = st.builds(
    Seen,
    state=st.sampled_from(["running", "paused", "shutdown", "dying", "gone"]),
    reason=st.sampled_from(["", "poweroff", "reboot", "suspend", "crash", "watchdog"]),
    ending=ENDINGS,
    ending_age=st.floats(0, 200),
    exit_code=st.sampled_from([None, 0, 2, 64]),
    guarded=st.booleans(),
    asked=st.booleans(),
    failures=st.integers(0, 9),
    rebuilds=st.integers(0, 9),
    alive_for=st.floats(0, 2000),
)
PAST = st.builds(Past, st.lists(st.floats(NOW - 2000, NOW + 2000), max_size=12).map(tuple), st.booleans(), st.booleans())
POLICY = st.builds(
    Policy, st.sampled_from(["always", "on-failure", "never"]), st.builds(RestartLimit, st.integers(1, 9), st.integers(10, 1000))
)


@given(POLICY, SEEN, PAST)
def test_laws(policy, seen, past):
    action = decide(policy, seen, past, NOW - 1, NOW)
    if policy.restart == "never" or seen.guarded:
        assert isinstance(action, Leave)
    if isinstance(action, Start):
        assert not past.gave_up
        assert seen.state in ("running", "shutdown", "gone")
        assert seen.state != "running" or seen.failures >= 3
        assert seen.state != "gone" or past.pending or seen.ending.action != BY_HAND
        assert NOW < action.at + 1e-6 <= NOW - 1 + MAX_DELAY + 1e-6
        assert sum(NOW - policy.limit.within < start <= NOW for start in past.starts) < policy.limit.starts
        # A policy that restarts domains without an error also restarts failed ones.
        assert isinstance(decide(Policy("always", policy.limit), seen, past, NOW - 1, NOW), Start)


@given(st.text(), st.lists(st.sampled_from([BEGIN, KEPT, CLEANED, END, RESTARTED, DESTROYED])))
def test_any_log_can_be_read(noise, parts):
    log = noise + "\n" + "".join(parts)
    assert rebuilds_of(log) >= 0
    if parts:
        assert ending_of(log) == ending_of(parts[-1])
