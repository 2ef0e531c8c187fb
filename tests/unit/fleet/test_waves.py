"""Rollouts: which host is in which wave, what is refused, and what failures cause."""

import dataclasses

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.rollout import KEYS, rollout_of
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.waves import filled, plan
from hypothesis import given
from hypothesis import strategies as st


def planned(hosts, **options):
    rollout, problems = rollout_of(options)
    assert problems == []
    made, problems = plan(rollout, hosts)
    assert problems == []
    return rollout, made


def names(count):
    return {f"h{number:02}": None for number in range(count)}


def test_waves_are_cumulative():
    _rollout, made = planned(names(20), waves=[1, "10%", "50%", "100%"])
    assert made.sizes == [1, 1, 8, 10]
    assert made.order == list(names(20))
    assert planned(names(3), waves=["1", "10%", "100%"])[1].sizes == [1, 2], "10% of three is the canary alone"
    assert planned(names(2), waves=[5, "100%"])[1].sizes == [2]
    assert planned(names(7))[1].sizes == [7]


def test_a_wave_takes_of_each_site_in_turn_and_never_all_of_one_before_the_last():
    hosts = {f"{site}{number}": site for site, count in (("a", 8), ("b", 4), ("c", 2)) for number in range(count)}
    _rollout, made = planned(hosts, waves=[3, "70%", "100%"], spread="site")
    waves = made.waves
    assert {host[0] for host in waves[0]} == {"a", "b", "c"}
    for site, count in (("a", 8), ("b", 4), ("c", 2)):
        before = [host for wave in waves[:-1] for host in wave if host[0] == site]
        assert len(before) < count, site
    assert sorted(made.order) == sorted(hosts)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True))
def test_no_wave_before_the_last_has_all_hosts_of_one_site(sites, shares):
    hosts = {f"h{number:02}": f"site{site}" for number, site in enumerate(sites)}
    rollout, made = planned(hosts, waves=[*(f"{share}%" for share in sorted(shares)), "100%"], spread="site")
    assert sorted(made.order) == sorted(hosts) and all(made.waves)
    before = [hosts[host] for wave in made.waves[:-1] for host in wave]
    if len(set(sites)) < len(sites):
        assert all(before.count(f"site{site}") < sites.count(site) for site in sites)
    else:
        assert made.notes == [], "each host is a site of its own: nothing can be held back"
    # A wave is smaller than declared only for that reason, and the plan says so.
    plain = plan(dataclasses.replace(rollout, spread=""), hosts)[0]
    assert bool(made.notes) == (made.sizes != plain.sizes)


def test_a_wave_that_would_take_all_of_one_site_is_smaller_and_says_so():
    hosts = {f"{site}{number}": site for site in "abc" for number in range(2)} | {"d0": "d"}
    _rollout, made = planned(hosts, waves=[1, "70%", "100%"], spread="site")
    assert made.waves == [["a0"], ["b0", "c0"], ["a1", "b1", "c1", "d0"]]
    assert made.notes == ["waves[1] ends after 3 hosts, not 5: the rest are the last of each site, for the last wave"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "rollout: must be a mapping"),
        ([1], "rollout: must be a mapping"),
        ({"wavs": [1]}, "rollout: unknown key 'wavs'; known are waves"),
        ({"waves": []}, "rollout: waves: is [], must be a list that ends with 100%"),
        ({"waves": "100%"}, "must be a list that ends with 100%"),
        ({"waves": [1, "50%"]}, "never reaches all hosts"),
        ({"waves": [1, 5]}, "never reaches all hosts"),
        ({"waves": ["50%", "10%", "100%"]}, "rollout: waves[1]: is '10%', must be more than '50%'"),
        ({"waves": [5, 5, "100%"]}, "must be more than 5"),
        ({"waves": [0, "100%"]}, "rollout: waves[0]: is 0, must be a number of hosts (1..1000000) or a share of them (1%..100%)"),
        ({"waves": ["0%", "100%"]}, "rollout: waves[0]: is '0%'"),
        ({"waves": ["101%", "100%"]}, "rollout: waves[0]: is '101%'"),
        ({"waves": [True, "100%"]}, "rollout: waves[0]: is True"),
        ({"waves": [1.5, "100%"]}, "rollout: waves[0]: is 1.5"),
        ({"waves": [{}, "100%"]}, "rollout: waves[0]: is {}"),
        ({"spread": 3}, "rollout: spread: is 3, must be the name of a variable"),
        ({"spread": "a b"}, "rollout: spread: is 'a b'"),
        ({"bake": -1}, "rollout: bake: is -1, must be a whole number, 0..86400"),
        ({"bake": "5m"}, "rollout: bake: is '5m'"),
        ({"bake": True}, "rollout: bake: is True"),
        ({"watch": 3}, "rollout: watch: is 3, must be a mapping"),
        ({"watch": {"evry": 3}}, "rollout: watch: unknown key 'evry'"),
        ({"watch": {"every": 0}}, "rollout: watch: every: is 0"),
        ({"max_failed": "x"}, "rollout: max_failed: is 'x'"),
        ({"max_failed": -1}, "rollout: max_failed: is -1"),
        ({"on_failure": "pray"}, "rollout: on_failure: is 'pray', must be rollback or stop"),
    ],
)
def test_each_mistake_is_one_line(value, words):
    _rollout, problems = rollout_of(value)
    assert any(words in line for line in problems), problems
    assert all("\n" not in line for line in problems)


def test_what_only_the_fleet_shows():
    rollout, _problems = rollout_of({"waves": [5, "10%", "100%"]})
    (line,) = plan(rollout, names(20))[1]
    assert line == "rollout: waves[1]: is 2 of 20 hosts, fewer than the wave before it has (5): waves are cumulative"
    rollout, _problems = rollout_of({"spread": "site"})
    (line,) = plan(rollout, {"a": 1, "b": None})[1]
    assert line == "rollout: spread: b has no variable site"


def test_there_is_a_canary_also_when_the_first_one_is_lost():
    waves = [["a"], ["b", "c"], ["d"]]
    assert filled(waves, {"a"}, []) == [["a", "b"], ["c"], ["d"]]
    assert filled(waves, {"a", "b", "c"}, []) == [["a", "d"], ["b", "c"], []]
    assert filled(waves, {"b"}, ["a"]) == waves and filled(waves, set("abcd"), []) == waves
    assert filled(waves, {"b", "c"}, ["a", "d"]) == waves, "what is done is not done again"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*KEYS, "x", "every", "days", "from", "to", "zone", "prometheus", "query", "below"]), inner
        )
    ),
)


@given(VALUES, st.integers(0, 40))
def test_any_rollout_is_planned_or_refused(value, count):
    rollout, problems = rollout_of(value)
    made, more = plan(rollout, names(count))
    assert all("\n" not in line for line in problems + more)
    if not problems + more:
        assert sum(made.sizes) == count and all(size > 0 for size in made.sizes)
        assert sorted(made.order) == sorted(names(count))
