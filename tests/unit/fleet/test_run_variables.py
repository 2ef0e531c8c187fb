"""How a run deploys: what hosts would refuse in the middle of it is one line before."""

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.apply import converge
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import UNRESOLVED
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.run_variables import MAX_PARALLEL, RUN_VARIABLES, run_refusals
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"unikernel_purge": "maybe"}, "unikernel_purge: is 'maybe', must be true or false"),
        ({"unikernel_purge": None}, "unikernel_purge: is None, must be true or false"),
        ({"take_ownership": 2}, "take_ownership: is 2, must be true or false"),
        ({"unikernel_parallel": 0}, "unikernel_parallel: is 0, must be a number of domains, 1..64"),
        ({"unikernel_parallel": "four"}, "unikernel_parallel: is 'four', must be a number of domains, 1..64"),
        ({"unikernel_parallel": 1.5}, "unikernel_parallel: is 1.5, must be a number of domains, 1..64"),
        ({"unikernel_owner": None}, "unikernel_owner: is None, must be text of one line"),
        ({"unikernel_owner": "a\nb"}, "unikernel_owner: is 'a\\nb', must be text of one line"),
        (
            {"unikernel_generations_folder": "here"},
            "unikernel_generations_folder: is 'here', must be the absolute path of a folder on the host",
        ),
        ({"unikernel_images_store": []}, "unikernel_images_store: is [], must be the absolute path of a folder on the host"),
        ({"rollout_journal": {}}, "rollout_journal: is {}, must be the path of a folder on the controller"),
        ({"rollout_copy_at_once": "-1"}, "rollout_copy_at_once: is '-1', must be a number of hosts; 0: all"),
        ({"rollout_copy_at_once": "some"}, "rollout_copy_at_once: is 'some', must be a number of hosts; 0: all"),
        ({"rollout_notify": "nobody"}, "rollout_notify[0]: must be a URL of http or https, or an address of mail"),
        (
            {"hosts_at_once": "x"},
            "hosts_at_once: is 'x', must be a number of hosts (1), a share of them (25%), or a list of these",
        ),
        ({"rollout": {"bake": -1}}, "rollout: bake: is -1, must be a whole number, 0..86400"),
    ],
)
def test_each_mistake_is_one_line(values, line):
    assert run_refusals(values) == [line]


def test_what_is_right_and_what_was_reported_is_no_mistake():
    right = {
        "unikernel_purge": "yes", "take_ownership": 1, "unikernel_parallel": "8", "unikernel_owner": 7, "rollout_journal": "~/x",
        "unikernel_generations_folder": "/srv/g", "unikernel_images_store": "/srv/i", "rollout_copy_at_once": "0",
        "rollout_notify": "", "hosts_at_once": "25%", "rollout": {},
    }  # fmt: skip
    assert right.keys() == set(RUN_VARIABLES) and run_refusals(right) == []
    assert run_refusals(dict.fromkeys(RUN_VARIABLES, UNRESOLVED)) == [] == run_refusals({})
    assert MAX_PARALLEL == converge.MAX_PARALLEL


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(RUN_VARIABLES), VALUES))
def test_any_values_are_taken_or_refused_in_lines(values):
    assert all(line.isprintable() for line in run_refusals(values))
