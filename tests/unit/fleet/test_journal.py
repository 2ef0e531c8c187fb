"""A rollout's journal: the state that follows from it, whatever line a death leaves last."""

import datetime
import json

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import course, journal
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import JournalError, line_of, read
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import rollout_of
from hypothesis import given
from hypothesis import strategies as st

ID = "20261127T080000Z-1a2b3c"
AT = "2026-11-27T08:00:00Z"
NOW = datetime.datetime(2026, 11, 27, 8, 10, tzinfo=datetime.timezone.utc)
RUN = {"by": "alice@c1", "node": "c1", "pid": 7, "started": "70"}


def begin(waves=(("a",), ("b", "c"), ("d",)), max_failed=0, approve=(), **rollout):
    waves = [list(wave) for wave in waves]
    hosts = [host for wave in waves for host in wave]
    return [
        line_of(
            "begin", AT, id=ID, order=hosts, waves=waves, max_failed=max_failed, approve=list(approve), rollout=rollout,
            digests=dict.fromkeys(hosts, "x"), by="alice@c1", revision="abc",
        ),
        line_of("run", AT, mode="begin", **RUN),
        line_of("ready", AT, before={host: 3 for host in hosts}, lost={}),
    ]  # fmt: skip


def wave(number, **turns):
    lines = [line_of("wave", AT, wave=number)]
    lines += [
        line_of("turn", AT, host=host, state=state, msg=f"{host} is ill" * (state != "done")) for host, state in turns.items()
    ]
    return [*lines, line_of("judged", AT, wave=number, msg="")]


RESUMED = line_of("run", AT, mode="resume", **RUN)


def state_of(*lines):
    return read("".join(line for part in lines for line in ([part] if isinstance(part, str) else part)))


def test_what_is_done_stays_done_and_what_failed_has_its_turn_again():
    state = state_of(begin(), wave(0, a="done"), wave(1, b="done", c="failed"))
    assert course.stop_reason(state) == "1 host failed, at most 0 may"
    assert state.touched == ["a", "b", "c"] and state.to_return == ["c", "b", "a"]
    again = state_of(begin(), wave(0, a="done"), wave(1, b="done", c="failed"), RESUMED)
    assert course.stop_reason(again) == "" and again.remaining == [[], ["c"], ["d"]]
    assert again.touched == ["a", "b", "c"]


def test_no_approval_is_lost_when_the_inventory_grows_or_shrinks():
    state = state_of(begin(waves=(("a",), ("b",)), approve=[1]))
    # Of twelve hosts there would be three waves, the last of which waits; the rollout keeps its two.
    waves = journal.with_changes(state, [["a"], ["b", "c"], ["d", "e"]])
    assert waves == [["a"], ["b", "c", "d", "e"]]
    assert journal.approve_with_changes(state, [2], len(waves), True) == [1]
    assert journal.approve_with_changes(state, [2], len(waves), False) == [1]
    assert journal.approve_with_changes(state, [], len(waves), False) == [], "it is no longer declared"
    small = state_of(begin(approve=[2]))
    assert journal.approve_with_changes(small, [], 3, True) == [2], "a plan of fewer hosts has no third wave"
    assert journal.approve_with_changes(small, [1], 0, True) == []


@pytest.mark.parametrize("odd", ["\x1b[2J", "\u202e", "\ud800", "a\nb"])
def test_what_others_wrote_into_a_journal_moves_no_cursor(odd):
    lines = [
        line_of("begin", odd, id=ID, order=["a"], waves=[["a"]], max_failed=0, approve=[], rollout={"queries": "a\nb"},
                digests={}, by=odd, revision=odd, to=odd),
        line_of("run", odd, mode="begin", by=odd, node=odd, pid=1, started=odd),
        line_of("turn", odd, host="a", state="failed", msg=odd),
        line_of("judged", odd, wave=0, msg=odd), line_of("return", odd, reason=odd),
        line_of("back", odd, host="a", state="stuck", msg=odd), line_of("end", odd, result="aborted", lines=[odd]),
    ]  # fmt: skip
    state = read("".join(lines))
    assert not state.problems and state.rollout == {"queries": "a\nb"}, "what is compared with the declaration stays as it is"
    shown = [state.begun, state.last, state.by, state.revision, state.to, *state.run.values(), state.words["a"], state.judged[0],
             state.returning, state.stuck["a"], *state.lines]  # fmt: skip
    assert all(str(text).isprintable() for text in shown), shown


def test_a_host_of_a_wave_that_is_over_must_be_done():
    """A host whose turn was lost with the controller counts only in the run that lost it."""
    state = state_of(begin(), wave(0, a="done"), line_of("wave", AT, wave=1))
    assert course.failures(state, 1) == [] and course.failures(state, 2) == ["b", "c"]
    assert course.failures(state_of(begin(), wave(0, a="done"), line_of("wave", AT, wave=1), RESUMED)) == []


def test_hosts_that_are_lost_before_their_wave_count():
    lost = line_of("ready", AT, before={"a": 1, "b": 1, "c": 1}, lost={"d": "can't be reached"})
    state = state_of(begin()[:2], lost)
    ending = course.ending(state, rollout_of({})[0], NOW)
    assert (ending.result, ending.code, ending.ends) == (journal.REFUSED, 2, True)
    assert ending.lines[1] == "failed: d (can't be reached)"
    state = state_of(begin(max_failed=1)[:2], lost, wave(0, a="done"), wave(1, b="done", c="done"))
    ending = course.ending(state, rollout_of({})[0], NOW)
    assert (ending.result, ending.code, ending.ends) == (journal.INCOMPLETE, 4, True)


def test_hosts_that_are_unhealthy_before_their_wave_count_until_it_begins():
    ill = line_of("ready", AT, before=dict.fromkeys("abcd", 1), lost={}, ill={"d": "domain www: refused"})
    refused = course.ending(state_of(begin()[:2], ill), rollout_of({})[0], NOW)
    assert (refused.result, refused.code, refused.ends) == (journal.REFUSED, 2, True)
    assert refused.lines[1:] == [
        "unhealthy before the wave: d (domain www: refused)",
        "no host was changed: 1 host unhealthy before the wave, at most 0 may",
    ]
    allowed = [*begin(max_failed=1)[:2], ill, *wave(0, a="done")]
    assert course.stop_reason(state_of(allowed)) == "" and course.unwell(state_of(allowed)) == ["d"]
    both = state_of(allowed, wave(1, b="failed", c="done"))
    assert course.stop_reason(both) == "2 hosts failed or unhealthy before the wave, at most 1 may"
    # A wave that waits is no end, and the rollout may heal the host.
    waits = state_of(allowed, wave(1, b="done", c="done"))
    assert course.ending(waits, rollout_of({})[0], NOW).result == journal.WAITING
    begun = state_of(allowed, wave(1, b="failed", c="done"), line_of("wave", AT, wave=2))
    assert course.unwell(begun) == [] and course.stop_reason(begun, 2) == ""
    healed = state_of(allowed, wave(1, b="done", c="done"), wave(2, d="done"))
    assert course.ending(healed, rollout_of({})[0], NOW).result == journal.COMPLETE
    killed = state_of(begin()[:2], line_of("ready", AT, before={}, lost={}), line_of("wave", AT, wave=0), RESUMED,
                      line_of("ready", AT, before={}, lost={}, ill={"a": "domain www: killed half way"}))  # fmt: skip
    assert course.stop_reason(killed) == "", "what a killed controller left is resumed"


def test_what_was_done_before_an_end_is_not_rolled_back_later():
    """Another rollout may have changed it since."""
    done = [*begin(max_failed=1), *wave(0, a="done"), *wave(1, b="done", c="failed"), *wave(2, d="done")]
    ended = line_of("end", AT, result=journal.INCOMPLETE, lines=[])
    again = [line_of("ready", AT, before=dict.fromkeys("abcd", 9), lost={}), *wave(1, c="failed")]
    state = state_of(done, ended, RESUMED, again)
    assert state.to_return == ["c"] and state.before["c"] == 9 and state.remaining == [[], ["c"], []]
    assert state_of(done, RESUMED, again).to_return == ["d", "c", "b", "a"], "in one that had not ended"


def test_each_way_to_end():
    done = [*wave(0, a="done"), *wave(1, b="done", c="done"), *wave(2, d="done")]
    rollout = rollout_of({})[0]
    assert course.ending(state_of(begin(), done), rollout, NOW).code == 0
    failed = [*begin(), *wave(0, a="failed")]
    stopped = course.ending(state_of(failed), rollout, NOW)
    assert (stopped.result, stopped.code, stopped.ends) == (journal.STOPPED, 2, False)
    assert f"-e resume={ID} resumes it" in stopped.lines[-1] and "3 hosts unchanged" in stopped.lines[-2]
    back = [
        line_of("return", AT, reason="1 host failed, at most 0 may"),
        line_of("back", AT, host="a", state="stuck", msg="no way"),
    ]
    returned = course.ending(state_of(failed, back), rollout, NOW)
    assert (returned.result, returned.code, returned.ends) == (journal.RETURNED, 2, True)
    assert returned.lines[-1] == "a was not rolled back (no way); try: ansible-playbook playbooks/rollback.yml -e to=3 --limit a"
    abort = [line_of("run", AT, mode="abort", **RUN), line_of("return", AT, reason="alice@c1 aborted it")]
    aborted = state_of(failed, abort, line_of("back", AT, host="a", state="back", msg=""))
    ending = course.ending(aborted, rollout, NOW)
    assert (ending.result, ending.code) == (journal.ABORTED, 0) and aborted.aborted
    # A second abort tries the stuck hosts again.
    assert state_of(failed, back, abort).to_return == ["a"]


def test_waves_wait_for_a_person_and_for_the_window():
    rollout = rollout_of({"approve": [2], "waves": [1, "50%", "100%"]})[0]
    state = state_of(begin(approve=[1]), wave(0, a="done"))
    assert course.before_wave(state, rollout, 0, NOW).hold == ""
    held = course.before_wave(state, rollout, 1, NOW)
    assert held.hold == f"wave 2 waits for an approval: ansible-playbook playbooks/rollout.yml -e resume={ID} -e approve=2"
    assert course.before_wave(state, rollout, 2, NOW).hold == "wave 2 has not started"
    assert course.ending(state, rollout, NOW).result == journal.WAITING and course.ending(state, rollout, NOW).code == 4
    agreed = state_of(begin(approve=[1]), wave(0, a="done"), line_of("approve", AT, wave=1, by="bob"))
    assert course.before_wave(agreed, rollout, 1, NOW).hold == ""
    rollout = rollout_of({"window": {"days": "Mon-Thu", "from": "08:00", "to": "16:00"}})[0]
    hold = course.before_wave(agreed, rollout, 1, NOW).hold
    assert "Mon, Tue, Wed, Thu 08:00-16:00 UTC" in hold and "opens at 2026-11-30 08:00 UTC" in hold


def test_a_resume_with_another_inventory_or_declaration_names_what_changed():
    state = state_of(begin(), wave(0, a="done"))
    digests = {"a": "x", "b": "y", "c": "x", "e": "x"}
    assert journal.changes(state, [["a"], ["b", "c"], ["e"]], digests) == [
        "d: no longer in this run (removed, or left out by --limit)", "e: new", "b: another declaration",
    ]  # fmt: skip
    assert journal.with_changes(state, [["a"], ["b", "c"], ["e"]]) == [["a"], ["b", "c"], ["e"]]
    assert journal.changes(state, state.waves, dict.fromkeys("abcd", "x")) == []
    accepted = line_of("accept", AT, digests={"a": "z"}, waves=state.waves, rollout={}, max_failed=1, by="bob")
    assert state_of(begin(), wave(0, a="done"), RESUMED, accepted).remaining[0] == ["a"], "done with what is declared no more"


def test_a_line_that_was_cut_counts_as_not_written():
    text = "".join([*begin(), *wave(0, a="done")])
    cut = read(text[:-20])
    assert cut.turns == {"a": "done"} and cut.judged == {} and len(cut.problems) == 1
    # The next run writes on a new line.
    mended = read(text[:-20] + "\n" + RESUMED)
    assert mended.run["mode"] == "resume" and mended.turns == {"a": "done"}


@pytest.mark.parametrize("text", ["", "\n", "{", "[]\n", '{"event": "run"}\n', "\0" * 40, '{"event": "begin"}\n', "[" * 100_000])
def test_a_journal_without_a_whole_first_line_says_so(text):
    with pytest.raises(JournalError, match=r"first line|is empty"):
        read(text)


@given(st.data())
def test_any_damage_after_the_first_line_is_survived(data):
    lines = [*begin(), *wave(0, a="done"), *wave(1, b="done", c="failed")]
    index = data.draw(st.integers(1, len(lines) - 1))
    junk = data.draw(
        st.text(max_size=40) | st.sampled_from(["{}", "null", '{"event": 1}', '{"event": "turn"}', '{"event": "wave", "at": 1}'])
    )
    state = read("".join([*lines[:index], junk.replace("\r", ""), "\n", *lines[index:]]))
    assert state.id == ID and state.turns["a"] == "done"


@given(st.integers(0, 400))
def test_cut_anywhere_it_says_no_more_than_what_was_written(position):
    text = "".join([*begin(), *wave(0, a="done"), *wave(1, b="done", c="done"), *wave(2, d="done")])
    position = len("".join(begin())) + position
    whole, cut = read(text[: text[:position].rfind("\n") + 1]), read(text[:position])
    assert (cut.turns, cut.begun_waves, cut.before) in (
        (whole.turns, whole.begun_waves, whole.before),
        # Cut between its end and the newline.
        *((other.turns, other.begun_waves, other.before) for other in [read(text[:position] + "\n")]),
    )


def test_an_end_is_known_by_the_last_line():
    for result in journal.RESULTS:
        line = line_of("end", AT, result=result, lines=["x"])
        assert journal.has_ended(line) is not read("".join([*begin(), line])).under_way
    assert not journal.has_ended(line_of("end", AT, result="done")[:-5])
    assert not any(map(journal.has_ended, ["", "null", "[]", json.dumps({"event": "end", "result": []})]))


def test_hosts_are_asked_at_the_end_of_a_watch_and_now_and_then_before():
    assert course.rounds(0) == [0] and course.rounds(1) == [1] and course.rounds(30) == [30]
    assert course.rounds(100) == [30, 60, 90, 100] and course.rounds(3600) == [*range(360, 3600, 360), 3600]
