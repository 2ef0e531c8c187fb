"""What a hurried operator types, and what an edited journal holds: each is one line that names it, before any host is asked."""

import json
import os

import pytest
from ansible_collections.unikernels.xen.plugins.filter.health import quick_checks
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import journal
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import JournalError, line_of, read, warnings
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import RolloutError, between_hosts, rollout_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.waves import plan
from ansible_collections.unikernels.xen.plugins.plugin_utils import journal_folder, rollout_steps

ID, OTHER, PIPE = "20261127T080000Z-1a2b3c", "20261127T090000Z-1a2b3c", "20261127T100000Z-1a2b3c"
AT = "2026-11-27T08:00:00Z"
BEGIN = {
    "id": ID, "order": ["a", "b"], "waves": [["a"], ["b"]], "max_failed": 0, "approve": [], "rollout": {}, "digests": {},
    "by": "alice@c1",
}  # fmt: skip
QUERY = {"prometheus": "http://127.0.0.1:9090", "query": "up"}
HUGE = 16**5000  # a number that Python does not print


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("waves", "rollout: must be a mapping"),
        ({"waves": None}, "rollout: waves: is None"),
        ({"waves": 3}, "rollout: waves: is 3"),
        ({"waves": {"1": "100%"}}, "rollout: waves: is {'1': '100%'}"),
        ({"waves": [[1], "100%"]}, "rollout: waves[0]: is [1]"),
        ({"waves": [None, "100%"]}, "rollout: waves[0]: is None"),
        ({"waves": [-1, "100%"]}, "rollout: waves[0]: is -1"),
        ({"waves": ["-10%", "100%"]}, "rollout: waves[0]: is '-10%'"),
        ({"waves": ["110%"]}, "rollout: waves[0]: is '110%', must be a number of hosts (1..1000000) or a share of them (1%"),
        ({"waves": ["1.5%", "100%"]}, "rollout: waves[0]: is '1.5%'"),
        ({"waves": ["ten", "100%"]}, "rollout: waves[0]: is 'ten'"),
        ({"waves": ["100%", "100%"]}, "rollout: waves[1]: is '100%', must be more than '100%'"),
        ({"waves": [HUGE, "100%"]}, "rollout: waves[0]: is too large to print"),
        ({"waves": ["x" * 5000, "100%"]}, "rollout: waves[0]: is 'xxx"),
        ({"waves": [1] * 60}, "rollout: waves: has 60 waves, at most 50"),
        # Nobody knows how many waves there are, so nothing is reported of approve.
        ({"waves": [0, "100%"], "approve": [2]}, "rollout: waves[0]: is 0"),
        ({"waves": "100%", "approve": [2]}, "rollout: waves: is '100%'"),
        ({"approve": None}, "rollout: approve: is None"),
        ({"approve": [0]}, "rollout: approve: is [0]"),
        ({"approve": [True]}, "rollout: approve: is [True]"),
        ({"approve": [[1]]}, "rollout: approve: is [[1]]"),
        ({"approve": {"1": 1}}, "rollout: approve: is {'1': 1}"),
        ({"watch": None}, "rollout: watch: is None, must be a mapping with every"),
        ({"watch": [5]}, "rollout: watch: is [5]"),
        ({"watch": {1: 2}}, "rollout: watch: unknown key '1'; known are every"),
        ({"watch": {"every": None}}, "rollout: watch: every: is None"),
        ({"watch": {"every": "5s"}}, "rollout: watch: every: is '5s'"),
        ({"watch": {"failures": 0}}, "rollout: watch: failures: is 0"),
        ({"watch": {"from": []}}, "rollout: watch: from: is []"),
        ({"watch": {"from": {"host": 1}}}, "rollout: watch: from: is {'host': 1}"),
        ({"bake": None}, "rollout: bake: is None"),
        ({"bake": 1.5}, "rollout: bake: is 1.5"),
        ({"bake": HUGE}, "rollout: bake: is too large to print"),
        ({"deadline": 10**9}, "rollout: deadline: is 1000000000, must be a whole number, 1..86400"),
        ({"deadline": [900]}, "rollout: deadline: is [900]"),
        ({"max_failed": None}, "rollout: max_failed: is None"),
        ({"max_failed": "101%"}, "rollout: max_failed: is '101%', must be a number of hosts (0..1000000) or a share of them (0%"),
        ({"max_failed": "-5%"}, "rollout: max_failed: is '-5%'"),
        ({"max_failed": [1]}, "rollout: max_failed: is [1]"),
        ({"on_failure": None}, "rollout: on_failure: is None"),
        ({"on_failure": ["rollback"]}, "rollout: on_failure: is ['rollback']"),
        ({"spread": None}, "rollout: spread: is None"),
        ({"spread": ["site"]}, "rollout: spread: is ['site']"),
        ({"spread": "{{ site }}"}, "rollout: spread: is '{{ site }}'"),
        ({"window": None}, "rollout: window: must be a mapping"),
        ({"window": "Mon-Fri"}, "rollout: window: must be a mapping"),
        ({"window": {"days": "Monkey"}}, "rollout: window: days: is 'Monkey'"),
        ({"window": {"days": "Mon-Wed-Fri"}}, "rollout: window: days: is 'Mon-Wed-Fri'"),
        ({"window": {"days": {"Mon": 1}}}, "rollout: window: days: is {'Mon': 1}"),
        ({"window": {"days": [1]}}, "rollout: window: days: is [1]"),
        ({"window": {"from": "24:00"}}, "rollout: window: from: is '24:00'"),
        ({"window": {"from": "24:00", "to": "00:00"}}, "rollout: window: from: is '24:00'"),
        ({"window": {"from": "8"}}, "rollout: window: from: is '8'"),
        ({"window": {"to": 8.5}}, "rollout: window: to: is 8.5"),
        ({"window": {"from": "00:00", "to": "00:00"}}, "rollout: window: never opens"),
        ({"window": {"zone": "europe"}}, "rollout: window: zone: is 'europe'"),
        ({"window": {"zone": "Europe"}}, "rollout: window: zone: is 'Europe'"),
        ({"window": {"zone": "a\0b"}}, "rollout: window: zone: is"),
        ({"window": {"zone": 1}}, "rollout: window: zone: is 1"),
        ({"queries": None}, "rollout: queries: must be a list"),
        ({"queries": [QUERY] * 21}, "rollout: queries: must be a list of at most 20"),
        ({"queries": [{**QUERY, "below": float("nan")}]}, "rollout: queries[0]: below: is nan, must be a number"),
        ({"queries": [{**QUERY, "above": float("inf")}]}, "rollout: queries[0]: above: is inf, must be a number"),
        ({"queries": [{**QUERY, "below": True}]}, "rollout: queries[0]: below: is True"),
        ({"queries": [{**QUERY, "below": [1]}]}, "rollout: queries[0]: below: is [1]"),
        ({"queries": [{**QUERY, "below": HUGE}]}, "rollout: queries[0]: below: is too large to print"),
        ({"queries": [{**QUERY, "below": 1, "above": 1}]}, "rollout: queries[0]: no value is above 1 and below 1"),
        ({"queries": [{**QUERY, "query": ["up"], "below": 1}]}, "rollout: queries[0]: query: must be"),
        ({"queries": [{**QUERY, "prometheus": "127.0.0.1:9090", "below": 1}]}, "rollout: queries[0]: prometheus: must be"),
        ({"notify": []}, "rollout: notify: must be a webhook's URL"),
        ({"notify": None}, "rollout: notify: must be a webhook's URL"),
        ({"notify": "ftp://example.org/x"}, "rollout: notify[0]: must be a URL of http or https"),
        ({"notify": "https://example.org:99999/x"}, "rollout: notify[0]: must be"),
        ({"notify": "https:///x"}, "rollout: notify[0]: must be"),
        ({"notify": "https://exa mple.org/"}, "rollout: notify[0]: must be"),
        ({"notify": "ops@"}, "rollout: notify[0]: must be"),
        ({"notify": [["https://example.org/"]]}, "rollout: notify[0]: must be"),
        ({"w\x1b[2Javes": [1]}, "rollout: unknown key 'w\\x1b[2Javes'"),
    ],
)  # fmt: skip
def test_each_is_one_short_line(value, words):
    _rollout, problems = rollout_of(value)
    assert len(problems) == 1 and problems[0].startswith(words), problems
    assert problems[0].isprintable() and len(problems[0]) < 400


def test_what_is_right_in_another_spelling_is_taken():
    spelt = {"waves": ["10 %", "100 %"], "max_failed": "0%", "window": {"days": "friday-Mon", "to": "24:00"}}
    rollout, problems = rollout_of(spelt)
    assert problems == [] and rollout.waves == (-10, -100) and rollout.max_failed == 0
    assert rollout.window.days == (0, 4, 5, 6)


def test_a_value_of_spread_is_text_or_a_number():
    rollout = rollout_of({"spread": "site"})[0]
    _plan, problems = plan(rollout, {"a": ["x"], "b": {"y": 1}, "c": "z"})
    assert problems == ["rollout: spread: site of a, b is a list or a mapping, must be text or a number"]
    waves = rollout_of({"spread": "site", "waves": [2, "100%"]})[0]
    made, problems = plan(waves, {"a": 1, "b": "1", "c": 2, "d": "2"})
    assert problems == [] and set(made.waves[0]) == {"a", "c"}, "1 and '1' are one site"


def test_a_rollout_is_the_same_for_all_hosts_of_a_run():
    assert between_hosts(["a", "b"], {}) == between_hosts(["a", "b"], {"a": {}, "b": {}}) == []
    assert between_hosts(["a", "b"], {"b": {}}) == [
        ("a", "rollout: is not set, but it is for b; it must be the same for all hosts of a run")
    ]
    assert between_hosts(["a", "b"], {"a": {}, "b": {"bake": 1}})[0][1].startswith("rollout: differs from that of a;")


def options(**given):
    return {"report_to": "", "approve": "", "resume": "", "abort": "", "to": "", **given}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"approve": "0", "resume": ID}, "approve: is '0', must be the number of a wave"),
        ({"approve": "-1", "resume": ID}, "approve: is '-1'"),
        ({"approve": "99", "resume": ID}, "approve: is '99'"),
        ({"approve": "[2]", "resume": ID}, "approve: is '[2]'"),
        ({"approve": "all", "resume": ID}, "approve: is 'all'"),
        ({"approve": "2"}, "approve: needs the rollout that waits for it: -e resume=ID"),
        ({"resume": ID, "abort": ID}, "resume and abort: only one of them"),
        ({"to": "prevoius"}, "to: is 'prevoius', must be previous, the number of a generation, or rollout=ID"),
        ({"to": "0"}, "to: is '0'"),
        ({"to": "07"}, "to: is '07'"),
        ({"to": "-1"}, "to: is '-1'"),
        ({"to": "rollout="}, "to: is 'rollout='"),
        ({"to": "rollout=../../x"}, "to: is 'rollout=../../x'"),
        ({"to": "previous", "abort": ID}, "to: can't be given with abort"),
        ({"report_to": "nobody"}, "rollout_notify[0]: must be a URL"),
        ({"report_to": {"a": 1}}, "rollout_notify: must be a webhook's URL"),
    ],
)
def test_each_spelling_of_the_command_line_is_one_line(given, words):
    with pytest.raises(RolloutError) as refusal:
        rollout_steps.given(options(**given))
    assert str(refusal.value).startswith(words) and "\n" not in str(refusal.value)


def test_what_the_command_line_may_name():
    for to in ("previous", "7", f"rollout={ID}"):
        assert rollout_steps.given(options(to=to)) == ((), 0)
    assert rollout_steps.given(options(approve="2", resume=ID)) == ((), 2)


def text_of(*lines, **changes):
    return line_of("begin", AT, **{**BEGIN, **changes}) + "".join(lines)


def test_only_a_wave_that_waits_for_a_person_is_approved():
    state = read(text_of(approve=[1]))
    rollout_steps.resumable(state, options(accept_changes=False), 2)
    for wave in (1, 3):
        with pytest.raises(RolloutError, match=rf"approve: is {wave}, but of the 2 waves of rollout {ID} these wait .*: 2$"):
            rollout_steps.resumable(state, options(accept_changes=False), wave)


def test_a_rollout_is_resumed_with_what_it_brings_back():
    rollout_steps.resumable(read(text_of(to="previous")), options(to="previous", accept_changes=False), 0)
    for to, words in (("", "deploys the declaration"), ("7", "brings 7 back")):
        with pytest.raises(RolloutError, match=words):
            rollout_steps.resumable(read(text_of(to=to)), options(to="previous", accept_changes=False), 0)


RUN = {"by": "a", "node": "c1", "pid": 7, "started": "70"}


@pytest.mark.parametrize(
    "line",
    [
        line_of("wave", AT, wave=2),
        line_of("wave", AT, wave=-1),
        line_of("wave", AT, wave=True),
        line_of("wave", "yesterday", wave=0),
        line_of("wave", "2026-02-30T00:00:00Z", wave=0),
        line_of("wave", 7, wave=0),
        line_of("turn", AT, host=["a"], state="done"),
        line_of("turn", AT, host="a", state="perhaps"),
        line_of("judged", AT, wave=9, msg="x"),
        line_of("approve", AT, wave=9),
        line_of("ready", AT, before={"a": -1}, lost={}),
        line_of("ready", AT, before={"a": "x"}, lost={}),
        line_of("ready", AT, before={}, lost={}, ill=["a"]),
        line_of("ready", AT, before={}, lost={}, waves=[["a"], ["a", "b"]]),
        line_of("accept", AT, digests={"a": "y"}, waves=[["a"], ["b"]], rollout=3, max_failed=0),
        line_of("accept", AT, digests={}, waves=[["a"]], rollout={}, max_failed=0, approve=[1]),
        line_of("run", AT, mode="abort", **{**RUN, "pid": "x"}),
        line_of("run", AT, mode="perhaps", **RUN),
        line_of("back", AT, host=3, state="back"),
        line_of("end", AT, result="well"),
        line_of("paint", AT, colour="red"),
        text_of(),
        "\0" * 40 + "\n",
        "1e999\n",
    ],
)
def test_a_line_of_a_journal_that_can_not_be_is_named_and_changes_nothing(line):
    before = [line_of("turn", AT, host="a", state="done", msg=""), line_of("turn", AT, host="b", state="failed", msg="ill")]
    state, same = read(text_of(*before, line)), read(text_of(*before))
    assert len(state.problems) == 1 and state.problems[0].startswith("line 4 is ")
    assert warnings(state)[0].startswith(f"warning: journal of {ID}: line 4 is ") and warnings(same) == []
    state.problems = []
    assert state == same


def test_hosts_with_a_turn_are_rolled_back_also_where_the_line_of_their_wave_is_lost():
    turn = line_of("turn", AT, host="a", state="done", msg="")
    assert read(text_of(line_of("wave", AT, wave=0)[:9] + "\n", turn)).to_return == ["a"]


def test_a_first_line_that_can_not_be_read_is_no_rollout_that_never_began():
    with pytest.raises(JournalError, match="nothing was changed yet; start a new rollout"):
        read(text_of()[:40])
    with pytest.raises(JournalError, match=r"its first line can't be read: it was edited; .*status\.yml"):
        read(text_of()[:40] + "\n" + line_of("wave", AT, wave=0))
    with pytest.raises(JournalError, match="its first line is missing: it was edited"):
        read(line_of("wave", AT, wave=0))


def test_a_journal_is_of_the_rollout_that_its_file_names(tmp_path):
    (tmp_path / f"{OTHER}.jsonl").write_text(text_of())
    with pytest.raises(JournalError, match=f"is a copy of the journal of {ID}"):
        journal_folder.load(str(tmp_path), OTHER)
    assert journal_folder.under_way(str(tmp_path), []) == []


def test_a_journal_that_can_not_be_read_is_named(tmp_path):
    os.mkdir(tmp_path / f"{ID}.jsonl")
    os.mkfifo(tmp_path / f"{PIPE}.jsonl")
    (tmp_path / f"{OTHER}.jsonl").write_text(text_of(id=OTHER))
    unread = []
    assert [state.id for state in journal_folder.under_way(str(tmp_path), unread)] == [OTHER]
    assert unread == [f"{tmp_path}/{name}.jsonl: Is not a file" for name in (PIPE, ID)]
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"rollout_journal: .*file: Not a directory"):
        journal_folder.ids(str(tmp_path / "file"))
    assert journal_folder.ids(str(tmp_path / "nosuch")) == []


@pytest.mark.parametrize(
    "generations",
    [None, 7, "x", {"a": 1}, [1], [[]], [{"domains": 3}], [{"domains": [1, {"health": 1}, {"name": 3, "health": 1}]}]],
)
def test_any_answer_of_a_host_is_checks_or_none(generations):
    assert quick_checks(generations) == []


def test_waves_that_wait_for_a_person_follow_the_variable_when_changes_are_accepted():
    accept = {"digests": {}, "waves": [["a"], ["b"]], "rollout": {}, "max_failed": 0}
    assert read(text_of(line_of("accept", AT, **accept, approve=[1]))).approve == [1]
    assert read(text_of(line_of("accept", AT, **accept), approve=[0])).approve == [0], "as an older version wrote it"
    assert json.loads(line_of("accept", AT, **accept))["event"] in journal._TAKE
