"""What a guest wrote to its console, as root may safely see it."""

import unicodedata

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.xen import console, console_answer
from ansible_collections.unikernels.xen.plugins.module_utils.xen.xl import ToolstackError
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ready\r\n\n  two\tthree  \n", ["ready", "  two\tthree"]),
        ("\x1b[31;1mred\x1b[0m \x1b[?25hx", ["red x"]),
        # C1: U+009B is CSI, U+009D begins a title.
        ("a\x9b31mb \x9d0;root: ok\x9cc\x85d", ["ab cd"]),
        ("\x1b]0;title\x07x \x1bPq\x1b\\y", ["x y"]),
        ("one\u2028two\u2029three\x0bfour\x1cfive", ["onetwothreefourfive"]),
        ("user \u202etxt.exe\u2066 \u200e\u061cx", ["user txt.exe x"]),
        ("\x1b\x00[2Jx", ["[2Jx"]),
        (b"\xff\xfe ok \xc3", ["\ufffd\ufffd ok \ufffd"]),
        ("\ud800half", ["half"]),
        ("Grüße, 世界 ✓", ["Grüße, 世界 ✓"]),
        ("", []),
    ],
)
def test_what_is_shown(text, lines):
    assert console.clean(text) == lines


def test_a_line_without_end_is_bounded():
    (line,) = console.clean("x" * 1_000_000)
    assert line.endswith("... (996000 characters more)")
    assert len(line) < console.MAX_LINE + 50


@given(st.one_of(st.text(), st.binary(), st.text(alphabet="\x1b[]0;m\x07\x9b\x9d\\P\n x\u202e")))
def test_nothing_of_it_reaches_a_terminal(text):
    for line in console.clean(text):
        assert all(unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") or letter == "\t" for letter in line)
        assert all(
            unicodedata.bidirectional(letter) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
            for letter in line
        )
        assert line.encode()


def test_the_last_lines_of_a_file_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "CONSOLES", str(tmp_path))
    assert console.lines("www") == []
    (tmp_path / "guest-www.log").write_bytes(b"early\n" + b"\xf0\x9f\x90\xab\n" * 40000 + b"late \x9b1m\n")
    assert console.lines("www", most=2)[-1] == "late \ufffd1m"
    assert console.lines("www", most=0) == []
    assert console.lines("www", since=6 + 5 * 40000) == ["late \ufffd1m"]
    assert console.find("www", "^late") == "late \ufffd1m"


@pytest.fixture
def www(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "CONSOLES", str(tmp_path))
    (tmp_path / "guest-www.log").write_text("booting\nready\n")


def test_what_the_module_returns(www):
    assert console_answer.answer("www", 50, "", 0, 0) == {"console": ["booting", "ready"], "position": 14}
    assert console_answer.answer("www", 1, "^read", 0, 0) == {"console": ["ready"], "position": 14, "match": "ready"}
    assert console_answer.answer("www", 0, "", 0, 0)["console"] == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("../x", 1, "", 0, 0), "name: '../x' is not the name of a domain"),
        (("www", -1, "", 0, 0), "lines: is -1, must be 0..10000"),
        (("www", 10001, "", 0, 0), "lines: is 10001, must be 0..10000"),
        (("www", 1, "", 3601, 0), "within: is 3601, must be 0..3600"),
        (("www", 1, "", 0, -1), "since: is -1, must be 0..4611686018427387904"),
        (("www", 1, "(", 0, 0), "pattern: '(' is not a regular expression: missing )"),
        (("www", 1, "x{99999999999}", 0, 0), "pattern: 'x{99999999999}' is not a regular expression"),
        (("www", 1, "never", 0, 0), "domain www: no line on its console matched 'never' within 0 s"),
        (("db", 1, "never", 0, 0), "within 0 s (%s/guest-db.log does not exist)"),
    ],
)
def test_what_the_module_refuses(www, arguments, problem):
    with pytest.raises(ToolstackError) as refused:
        console_answer.answer(*arguments)
    assert (problem % console.CONSOLES if "%s" in problem else problem) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.console == (["ready"] if arguments[0] == "www" and arguments[2] == "never" else [])


def test_without_the_rights_to_read_it_no_console_is_empty(www, monkeypatch):
    def refused(*_arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(console_answer, "open", refused, raising=False)
    with pytest.raises(ToolstackError, match=r"^only root can read the consoles of this host: set become: true$"):
        console_answer.answer("www", 50, "", 0, 0)
