"""A guest decides what is on its console, so matching any pattern with it must be fast."""

import re
import time

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.health import patterns
from ansible_collections.unikernels.xen.plugins.module_utils.health.patterns import MAX_LINE, first_match, problem_of
from hypothesis import given, settings
from hypothesis import strategies as st

LINES = ["booting", "web: ready on port 80", "ready again", "é ☃"]


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("ready", LINES[1]),
        ("^ready", LINES[2]),
        ("ready.*[0-9]+$", LINES[1]),
        ("^(www|web): ready", LINES[1]),
        ("☃$", LINES[3]),
        (".*☃", LINES[3]),
        ("absent", None),
        ("a+bsent", None),
    ],
)
def test_first_match(pattern, line):
    assert first_match(pattern, LINES) == line
    assert (problem_of(pattern, LINES) is None) == (line is not None)


def test_no_lines():
    assert first_match(".*", []) is None
    assert problem_of("x", []) == "no line on its console matches 'x'"


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*)*x\\1y", "a*a*a*a*a*a*a*a*b", "a?" * 40 + "a" * 40 + "b"]
)
def test_a_pattern_that_backtracks_for_ever_ends(pattern, monkeypatch):
    began = time.monotonic()
    try:
        assert first_match(pattern, ["a" * 39 + "!" + "a" * 30] * 5, 0.5) is None
    except TimeoutError as error:
        assert "write it with fewer repetitions" in str(error)
    assert time.monotonic() - began < 5
    monkeypatch.setattr(first_match, "__defaults__", (0.5,))
    assert problem_of("(a+)+$", ["a" * 50 + "!"]).startswith("matching '(a+)+$' takes more than")


def test_only_the_head_of_a_line_is_looked_at():
    line = "x" * MAX_LINE + "ready"
    assert first_match("ready", [line]) is None
    assert first_match("x+", [line]) == line


def test_an_interpreter_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(patterns.sys, "executable", "/bin/false")
    assert "failed" in problem_of("a+", ["a"])
    monkeypatch.setattr(patterns.sys, "executable", "/nonexistent")
    assert "No such file" in problem_of("a+", ["a"])


@settings(max_examples=25)
@given(st.lists(st.text(), max_size=5), st.sampled_from(["a", "a+", "^\\s*$", "[^a]{2}", "(?i)A.?"]))
def test_matches_as_in_this_process(lines, pattern):
    expected = next((line for line in lines if re.search(pattern, line[:MAX_LINE])), None)
    assert first_match(pattern, lines) == expected


def test_alternatives_without_a_repetition_are_bounded_too():
    with pytest.raises(TimeoutError):
        patterns.first_match("(a|a)" * 40 + "b", ["a" * 60], 0.5)
