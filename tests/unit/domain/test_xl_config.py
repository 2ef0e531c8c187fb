"""The xl text: no value can end the string that contains it."""

import json
import pathlib
import re

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain import boot_line
from ansible_collections.unikernels.xen.plugins.module_utils.domain.compare import differences
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.options import SpecError
from ansible_collections.unikernels.xen.plugins.module_utils.domain.xl_config import (
    domain_from_libxl,
    extra_config,
    quote,
    xl_config,
)
from hypothesis import given
from hypothesis import strategies as st

printable = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60)


def unquote(text):
    """The inverse of quote, like xl's lexer: read to the first bare quote, dropping backslashes."""
    assert text[0] == '"'
    out, at = [], 1
    while text[at] != '"':
        if text[at] == "\\":
            at += 1
        out.append(text[at])
        at += 1
    return "".join(out), text[at + 1 :]


@given(printable)
def test_a_quoted_string_reads_back_and_ends_where_it_should(text):
    assert unquote(quote(text)) == (text, "")


@given(st.sampled_from(["\n", "\r", "\0", "\x1b", "\x7f"]), printable)
def test_control_characters_are_refused(bad, text):
    with pytest.raises(ValueError):
        quote(text + bad)


@given(st.lists(printable.filter(bool), max_size=4))
def test_arguments_come_back_as_words(words):
    try:
        domain = declaration_of({"name": "a", "kernel": "/k", "arguments": words}, "h").domain
    except SpecError:
        return
    assert boot_line.split(domain.arguments) == [word for word in words if word]
    lines = [line for line in xl_config(domain).splitlines() if line.startswith("cmdline")]
    if words:
        assert unquote(lines[0][len("cmdline = ") :]) == (domain.arguments, "")


def test_every_line_is_an_assignment():
    options = {"name": "a", "kernel": '/k";type="pv', "arguments": ['";on_crash="restart"'], "disks": [{"path": '/x",y'}]}
    text = xl_config(declaration_of(options, "h").domain)
    keys = [line.split(" = ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert keys == [
        "name",
        "type",
        "uuid",
        "kernel",
        "memory",
        "maxmem",
        "vcpus",
        "cmdline",
        "disk",
        "on_poweroff",
        "on_reboot",
        "on_crash",
    ]


# An assignment as xl's lexer and grammar have it (libxlu_cfg_l.l, libxlu_cfg_y.y): its numbers have no sign.
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_ASSIGNMENT = re.compile(rf"[a-z][_0-9a-z]* = (?:[0-9][0-9a-fx]*|{_STRING}|\[(?:{_STRING}(?:, {_STRING})*)?\])")
_EXTRA = st.integers(-(1 << 63), 1 << 63) | st.booleans() | printable | st.lists(printable, max_size=3)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), _EXTRA, max_size=4))
def test_what_xl_has_no_option_for_is_read_by_xl_and_comes_back(extra):
    try:
        domain = declaration_of({"name": "a", "kernel": "/k", "extra_config": extra}, "h").domain
    except SpecError:
        return
    text = xl_config(domain)
    assert [line for line in text.splitlines() if not line.startswith("#") and not _ASSIGNMENT.fullmatch(line)] == []
    assert extra_config(text) == domain.extra_config


def test_a_negative_number_is_quoted():
    text = xl_config(declaration_of({"name": "a", "kernel": "/k", "extra_config": {"rtc_timeoffset": -3600}}, "h").domain)
    assert text.endswith('\nrtc_timeoffset = "-3600"\n')


def test_what_xen_reported_is_what_was_declared():
    """Xen 4.17's `xl list -l` printed the JSON for a domain created from this declaration."""
    recorded = json.loads((pathlib.Path(__file__).parent / "xl-list.json").read_text())
    options = {
        "name": "w2",
        "kernel": "/root/image.xen",
        "memory": 128,
        "vcpus": 2,
        "on_poweroff": "preserve",
        "on_crash": "destroy",
        "interfaces": [
            {"bridge": "xenbr0", "mac": "00:16:3e:11:22:33"},
            {"bridge": "xenbr0", "mac": "00:16:3e:11:22:34"},
        ],
        "arguments": "'--name=a '\"'\"'quoted'\"'\"' ünï word'",
        "disks": [{"path": "/root/d.img", "access": "w"}, {"path": "/root/www,x.cfg"}],
    }
    declared = declaration_of(options, "h").domain
    assert differences(declared, domain_from_libxl(recorded[0]["config"])) == []
