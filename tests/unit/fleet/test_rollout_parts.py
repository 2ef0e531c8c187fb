"""Parts of a rollout, each alone: window, queries, notices, the host's note, owners, and the watch."""

import datetime
import email
import fcntl
import json
import math
import os
import threading

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet import host_note, owners, queries
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.course import opens_at
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.host_note import Entry, Note, NoteError
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.journal import line_of, read
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.note_file import change_note, path_of, read_note
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.notices import letter, shown, targets_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.owner_file import claim
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.queries import Query, QueryError, judge, queries_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import rollout_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout_status import entry_of, lines_of, page_part
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.watching import Watch
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.window import window_of
from hypothesis import given
from hypothesis import strategies as st

UTC = datetime.timezone.utc


def window(**options):
    problems = []
    made = window_of({key.rstrip("_"): value for key, value in options.items()}, problems)
    assert problems == []
    return made


def test_a_window_is_open_in_its_own_zone_also_over_midnight_and_a_change_of_the_clock():
    work = window(days="Mon-Fri", from_="08:00", to="16:00", zone="Europe/Berlin")
    assert work.open_at(datetime.datetime(2026, 11, 27, 7, 0, tzinfo=UTC))
    assert not work.open_at(datetime.datetime(2026, 11, 27, 15, 0, tzinfo=UTC))
    assert not work.open_at(datetime.datetime(2026, 11, 28, 9, 0, tzinfo=UTC))
    assert work.open_at(datetime.datetime(2026, 7, 3, 6, 0, tzinfo=UTC)), "an hour earlier in summer"
    assert work.opens(datetime.datetime(2026, 11, 27, 20, 0, tzinfo=UTC)) == datetime.datetime(2026, 11, 30, 7, 0, tzinfo=UTC)
    night = window(days=["Fri"], from_="22:00", to="04:00")
    assert night.open_at(datetime.datetime(2026, 11, 27, 23, 0, tzinfo=UTC))
    assert night.open_at(datetime.datetime(2026, 11, 28, 3, 59, tzinfo=UTC))
    assert not night.open_at(datetime.datetime(2026, 11, 27, 3, 0, tzinfo=UTC)), "that night belongs to Thursday"
    assert window().open_at(datetime.datetime(2026, 11, 28, 3, 59, tzinfo=UTC))
    assert window(days="Sat-Mon").days == (0, 5, 6)
    # YAML 1.1 reads an unquoted 16:30 as 990.
    assert window(from_="08:00", to=990).end == 990


@given(
    st.lists(st.sampled_from(["Mon", "tue", "Wed-Fri", "Sun-Mon"]), min_size=1), st.integers(0, 1439), st.integers(0, 1440),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
    st.datetimes(datetime.datetime(2020, 1, 1), datetime.datetime(2030, 1, 1)),
)  # fmt: skip
def test_each_valid_window_opens_within_two_weeks(days, begin, end, zone, moment):
    problems = []
    made = window_of(
        {"days": days, "from": f"{begin // 60:02}:{begin % 60:02}", "to": f"{end // 60:02}:{end % 60:02}", "zone": zone}, problems
    )
    if begin == end:
        assert problems == [f"rollout: window: never opens: from and to are both {begin // 60:02}:{begin % 60:02}"]
        return
    opens = made.opens(moment.replace(tzinfo=UTC))
    assert opens is not None and made.open_at(opens)


def test_a_window_in_the_hour_that_a_clock_skips_opens_a_week_later():
    gap = window(days="Sun", from_="02:15", to="02:45", zone="Europe/Berlin")
    moment = datetime.datetime(2026, 3, 22, 2, 0, tzinfo=UTC)  # the clock skips 02:00 to 03:00 on the 29th
    assert gap.opens(moment) == datetime.datetime(2026, 4, 5, 0, 15, tzinfo=UTC)
    assert opens_at(gap, moment) == "2026-04-05 00:15 UTC"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"window": 3}, "rollout: window: must be a mapping"),
        ({"window": {"day": "Mon"}}, "window: unknown key 'day'"),
        ({"window": {"days": "Mon-Fr1"}}, "window: days: is 'Mon-Fr1'"),
        ({"window": {"days": []}}, "window: never opens: days is empty"),
        ({"window": {"from": "25:00"}}, "window: from: is '25:00'"),
        ({"window": {"to": "24:30"}}, "window: to: is '24:30'"),
        ({"window": {"to": True}}, "window: to: is True"),
        ({"window": {"from": "08:00", "to": "08:00"}}, "window: never opens"),
        ({"window": {"zone": "Mars/Base"}}, "window: zone: is 'Mars/Base'"),
        ({"window": {"zone": "../../etc/passwd"}}, "window: zone: is '../../etc/passwd'"),
        ({"queries": {}}, "rollout: queries: must be a list"),
        ({"queries": [3]}, "queries[0]: must be a mapping"),
        ({"queries": [{"prometheus": "ftp://x", "query": "up", "below": 1}]}, "queries[0]: prometheus: must be the address"),
        ({"queries": [{"prometheus": "http://x", "query": "", "below": 1}]}, "queries[0]: query: must be"),
        ({"queries": [{"prometheus": "http://x", "query": "up"}]}, "queries[0]: must have below or above"),
        ({"queries": [{"prometheus": "http://x", "query": "up", "below": "x"}]}, "queries[0]: below: is 'x'"),
        ({"queries": [{"prometheus": "http://x", "query": "up", "below": 1, "b": 1}]}, "queries[0]: unknown key 'b'"),
        ({"queries": [{"prometheus": "http://x", "query": "up", "below": 1, "nothing": 1}]}, "queries[0]: nothing: is 1"),
        ({"deadline": 0}, "rollout: deadline: is 0"),
        ({"approve": 2}, "rollout: approve: is 2"),
        ({"approve": [2]}, "rollout: approve: is [2], must be a list of numbers of waves, 1..1"),
        ({"notify": 3}, "rollout: notify: must be a webhook's URL"),
        ({"notify": ["http://x/", "nobody"]}, "rollout: notify[1]: must be a URL of http or https, or an address of mail"),
        ({"watch": {"from": ["moon"]}}, "rollout: watch: from: is ['moon']"),
    ],
)
def test_each_mistake_is_one_line(value, words):
    _rollout, problems = rollout_of(value)
    assert len(problems) == 1 and words in problems[0] and "\n" not in problems[0], problems


def test_all_mistakes_are_in_one_list():
    _rollout, problems = rollout_of({"x": 1, "waves": [2, 1], "window": {"days": 3}, "queries": [{}], "bake": "x"})
    assert len(problems) >= 7


def answer(*values, kind="vector"):
    result = [{"metric": {"__name__": "x", "host": f"h{index}"}, "value": [1, str(value)]} for index, value in enumerate(values)]
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


def test_a_query_is_judged_by_every_series():
    below = Query("http://p", "q", below=0.01)
    assert judge(below, answer(0.001, 0)) == ""
    assert judge(below, answer(0.001, 0.5)) == "0.5 (host=h1), must be below 0.01"
    assert "and 2 more" in judge(below, answer(1, 2, 3, 4, 5))
    assert judge(below, answer(math.nan)).startswith("nan"), "0 / 0 is no rate that was measured"
    assert judge(Query("http://p", "q", above=1), answer(1)) == "1 (host=h0), must be above 1"
    assert judge(below, answer()) == "has no result" and judge(Query("http://p", "q", below=1, nothing="pass"), answer()) == ""
    scalar = b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "0.5"]}}'
    assert judge(below, scalar) == "0.5, must be below 0.01"
    for bad in (
        b"",
        b'{"status": "success", "data": {"resultType": "vector", "result": {}}}',
        b"<html>",
        b"[]",
        b"{}",
        answer(1, kind="matrix"),
        b'{"status": "error", "error": "parse\\u001b error"}',
        b"\xff",
    ):
        with pytest.raises(QueryError) as refusal:
            judge(below, bad)
        assert str(refusal.value).isprintable()


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)
       | st.dictionaries(st.sampled_from(["status", "data", "result", "resultType", "metric", "value"]), inner)).map(
           lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_answer_is_judged_or_refused(document):
    try:
        assert isinstance(judge(Query("http://p", "q", below=1), document), str)
    except QueryError as error:
        assert "\n" not in str(error)


def test_a_query_is_asked_for_as_it_stands():
    (query,) = queries_of([{"prometheus": "http://127.0.0.1:9090/", "query": 'rate(x{a="b"}[5m]) & 1', "below": "0.5"}], [])
    assert query.url == "http://127.0.0.1:9090/api/v1/query?query=rate%28x%7Ba%3D%22b%22%7D%5B5m%5D%29+%26+1"
    assert query.below == 0.5
    assert not any(map(queries.is_url, ["http://", "http://a b", "file:///etc", "http://x:99999999", None, "http://x/#a"]))


def test_notices_hide_what_may_be_secret_and_letters_have_one_subject():
    problems = []
    assert targets_of("n", "mailto:ops@example.org, https://u:p@hooks.example.org/T0KEN?a=b", problems) == (
        "ops@example.org", "https://u:p@hooks.example.org/T0KEN?a=b",
    )  # fmt: skip
    assert problems == [] and shown("https://u:p@hooks.example.org/T0KEN?a=b") == "https://hooks.example.org/..."
    assert targets_of("n", ["-oQ/tmp@example.org"], problems) == () and "T0KEN" not in str(problems)
    message = email.message_from_bytes(letter("a@b.c", "root@vm", {"id": "I\nBcc: x@y.z", "result": "done", "lines": ["1", "2"]}))
    assert message["Subject"] == "Rollout I Bcc: x@y.z: done" and message["Bcc"] is None
    assert message.get_payload() == "1\n2\n"


def test_a_host_takes_part_in_one_rollout():
    first = host_note.reserved(Note(), Entry("A", "alice@c1", "now", before=3), [], False)
    assert host_note.reserved(first, Entry("A", before=5), [], False).under_way.before == 3, "what it had at first counts"
    with pytest.raises(NoteError, match=r"rollout A by alice@c1 has been under way since now: -e resume=A resumes it"):
        host_note.reserved(first, Entry("B"), ["C"], False)
    for ended, take_over in ((["A"], False), ([], True)):
        assert host_note.reserved(first, Entry("B"), ended, take_over).under_way.id == "B"
    done = host_note.released(first, "A", "done", 7)
    assert done.under_way is None and done.generations == {"A": 7}
    assert host_note.released(first, "B", "done", 7) == first
    assert host_note.reserved(done, Entry("A", before=7), [], False).under_way.before == 7, "others may have changed it since"
    stuck = host_note.released(first, "A", "aborted", 7)
    assert host_note.reserved(stuck, Entry("A", before=7), [], False).under_way.before == 3, "aborted once more"
    assert host_note.released(first, "A", "rolled back", 7).generations == {}
    many = Note()
    for number in range(40):
        many = host_note.released(host_note.reserved(many, Entry(str(number)), [], False), str(number), "done", number + 1)
    assert len(many.past) == host_note.KEEP and host_note.read(host_note.text_of(many)) == many


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "under_way": {"id": 3}, "past": []}', "[" * 9999]
)
def test_a_note_that_is_not_whole_says_so(text, tmp_path):
    folder = str(tmp_path / "generations")
    (tmp_path / "rollout.json").write_text(text)
    with pytest.raises(NoteError, match=r"rollout.json: is (not whole|of another format); remove it where no rollout"):
        read_note(folder)


def test_a_note_is_written_once_and_not_in_check_mode(tmp_path):
    folder = str(tmp_path / "host/generations")
    take = lambda note: host_note.reserved(note, Entry("A"), [], False)  # noqa: E731
    assert change_note(folder, take, True)[1] and not (tmp_path / "host").exists()
    assert change_note(folder, take, False)[1] and not change_note(folder, take, False)[1]
    assert (tmp_path / "host/rollout.json").stat().st_mode & 0o777 == 0o600 and path_of(folder).startswith(str(tmp_path))


def test_two_inventories_that_deploy_at_once_are_both_noted(tmp_path, monkeypatch):
    """One that is lost would have its domains purged by the other."""
    path = str(tmp_path / "x/owners.json")
    read = owners.read
    claim(path, "first", False, False, False)

    def late(text):
        monkeypatch.setattr(owners, "read", read)
        other = threading.Thread(target=claim, args=(path, "b", False, False, False))
        other.start()
        other.join(0.3)
        waiting.append(other)
        return read(text)

    waiting = []
    monkeypatch.setattr(owners, "read", late)
    claim(path, "a", False, False, False)
    waiting[0].join(60)
    assert owners.read((tmp_path / "x/owners.json").read_text()) == ["first", "a", "b"]


def test_nobody_else_can_hold_the_notes_lock(tmp_path):
    """Whoever can open a file or a folder can lock it; the folder of the note is everybody's to read."""
    folder = tmp_path / "host/generations"
    folder.mkdir(parents=True)
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert change_note(str(folder), lambda note: host_note.reserved(note, Entry("A"), [], False), False)[1]
    finally:
        os.close(handle)
    assert (tmp_path / "host/rollout.json.lock").stat().st_mode & 0o777 == 0o600


def test_who_purges_owns_the_host_alone(tmp_path):
    assert owners.claimed([], "a", True, False) == ["a"] and owners.claimed(["a"], "a", True, False) == ["a"]
    assert owners.claimed(["a"], "b", False, False) == ["a", "b"]
    for owner in ("a", "b"):
        with pytest.raises(owners.OwnerError, match=r"-e take_ownership=true"):
            owners.claimed(["a", "b"], owner, True, False)
    assert owners.claimed(["a", "b"], "b", True, True) == ["b"]
    path = str(tmp_path / "x/owners.json")
    claim(path, "a", True, False, True)
    assert not (tmp_path / "x").exists()
    claim(path, "a", True, False, False)
    with pytest.raises(owners.OwnerError, match="the host belongs to a too"):
        claim(path, "b", True, False, False)
    (tmp_path / "x/owners.json").write_text("{")
    with pytest.raises(owners.OwnerError, match=r"owners.json: is not whole; -e take_ownership=true"):
        claim(path, "a", False, False, False)
    claim(path, "b", True, True, False)
    assert owners.read((tmp_path / "x/owners.json").read_text()) == ["b"]


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("git@example.org:team/fleet.git", "example.org/team/fleet:inventories/a"),
        ("https://user:secret@example.org/team/fleet.git", "example.org/team/fleet:inventories/a"),
        ("ssh://git@example.org:2222/team/fleet", "example.org:2222/team/fleet:inventories/a"),
        ("", "c1:/srv/a"),
        ("/srv/git/fleet.git", "c1:/srv/a"),
        ("../fleet", "c1:/srv/a"),
    ],
)
def test_an_inventory_has_the_same_name_in_each_clone_and_no_secret_in_it(remote, name):
    assert owners.owner_name(remote, "inventories/a", "c1", "/srv/a") == name


def test_what_fails_in_a_row_is_bad():
    watch = Watch(2)
    watch.take({"a": "no", "b": ""})
    assert watch.doubtful and not watch.bad
    watch.take({"a": "", "b": "no"})
    watch.take({"a": "no", "b": "no"})
    assert watch.bad == {"b": "no (2 times in a row)"} and watch.doubtful


def test_the_status_shows_a_rollout_under_way_with_its_waves_and_the_last_that_ended():
    at = "2026-11-27T08:00:00Z"
    begin = line_of("begin", at, id="20261127T080000Z-1a2b3c", order=["a", "b"], waves=[["a"], ["b<"]], max_failed=0, approve=[],
                    rollout={}, digests={}, by="alice@c1")  # fmt: skip
    going = entry_of(read(begin + line_of("wave", at, wave=0) + line_of("turn", at, host="a", state="done", msg="")))
    assert lines_of([going]) == [
        "rollout 20261127T080000Z-1a2b3c of 2026-11-27T08:00:00Z by alice@c1: under way",
        "    wave 1: done, 1 of 1 host done", "    wave 2: not started, 0 of 1 host done",
    ]  # fmt: skip
    ended = entry_of(read(begin + line_of("end", at, result="rolled back", lines=["<b>"])))
    assert lines_of([going, ended, ended])[-1].endswith("rolled back")
    assert "&lt;b&gt;" in page_part([ended]) and page_part([]) == ""
    waits = entry_of(read(begin + line_of("end", at, result="waiting", lines=[])))
    assert waits["state"] == "under way (waiting)"
