"""The boot line is what MirageOS reads: compared with a model of mirage-bootvar's parser, and our doubles of it in sh and C."""

import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
from ansible_collections.unikernels.xen.plugins.module_utils.domain import boot_line
from ansible_collections.unikernels.xen.plugins.module_utils.domain.checks import strangers
from ansible_collections.unikernels.xen.plugins.module_utils.domain.declaration import declaration_of
from ansible_collections.unikernels.xen.plugins.module_utils.domain.observed import Observed
from ansible_collections.unikernels.xen.plugins.module_utils.domain.spec import Domain, Interface
from hypothesis import given
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[3]
# Characters that are special to a shell, to this grammar, or to neither.
ALPHABET = "a=-'\"\\ $`é*;"
PIECE = re.compile(r'\\(.)|"((?:[^"\\]|\\.)*)"|( +)|([^"\\ ]+)', re.DOTALL)


def model(line):
    """A model of mirage-bootvar's parser, written as a lexer; returns None if it fails."""
    words, word, at = [], "", 0
    while at < len(line):
        piece = PIECE.match(line, at)
        if not piece:
            return None
        escaped, quoted, spaces, plain = piece.groups()
        if spaces:
            words, word = [*words, word], ""
        elif quoted is not None:
            word += re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        else:
            word += escaped or plain
        at = piece.end()
    return [word for word in [*words, word] if word]


def split_or_none(line):
    try:
        return boot_line.split(line)
    except ValueError:
        return None


lines = st.text(ALPHABET, max_size=24)
words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20) | lines


@given(lines)
def test_a_line_is_read_as_mirage_reads_it(line):
    assert split_or_none(line) == model(line)


@given(st.lists(words, max_size=5))
def test_words_arrive_as_they_are(written):
    assert model(boot_line.join(written)) == [word for word in written if word]


@given(st.lists(st.from_regex(r"[\w@%+=:,./-]{1,12}", fullmatch=True), max_size=5))
def test_what_needs_no_quotes_has_none(written):
    """A running domain's line stays as it is, so that the domain is not replaced."""
    assert boot_line.join(written) == " ".join(written)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--ipv4=10.0.0.2/24 --port=80", ["10.0.0.2/24"]),
        ("--management-ipv4=10.1.0.2/24 --ipv4=10.0.0.2/24 --ipv4-gateway=10.0.0.1", ["10.0.0.2/24", "10.1.0.2/24"]),
        ("--ipv6=2001:db8::2/64", ["2001:db8::2/64"]),
        ('"--ipv4=10.0.0.2/24"', ["10.0.0.2/24"]),
        ('"--hello=Bonjour --ipv4=1.2.3.4"', []),
        ("--ipv4=10.0.0.2/24 'it", ["10.0.0.2/24"]),
        ('--ipv4=10.0.0.2/24 "it', ["10.0.0.2/24"]),
        ("--ipv4=10.0.0 --ipv6=10.0.0.1/24 --ipv4-only=true ipv4=10.0.0.9/24", []),
    ],
)
def test_addresses_of_a_line(line, expected):
    assert boot_line.addresses(line) == expected


def test_a_value_is_no_address():
    """A foreign domain's line: text inside a value clashes with nothing."""
    declared = declaration_of(
        {"name": "new", "kernel": "/k", "interfaces": [{"bridge": "xenbr0", "address": "10.0.0.10/24"}]}, "h"
    )
    vif = (Interface("xenbr0", "00:16:3e:00:00:01"),)
    for line, clashing in (('"--hello=x --ipv4=10.0.0.10/24"', 0), ("--management-ipv4=10.0.0.10/24", 1)):
        stranger = Observed(3, "running", Domain("other", "u", "/k", 64, arguments=line, interfaces=vif))
        assert len(strangers([declared], (stranger,))) == clashing


# -- our doubles read the same -----------------------------------------------------------------------

TABLE = [
    "",
    "a",
    "a b",
    "  a   b ",
    "a'b c'd",
    '"a b"c d',
    '""',
    'a "" b',
    "\\a\\\\b\\ c \\\" \\'",
    '"a\\"b\\\\c\\d e"',
    "x\\",
    '"x',
    '"x\\',
    '"x\\"',
    "--a=$(id)`id`;*?[a]~",
    "--h=\"Bonjour --ipv4=1.2.3.4\" --p=80",
    "é\\éü \"ï n\"",
    "-n",
    "%s\\\\n",
    *(boot_line.join(shlex.split(text)) for text in ("'a b' c", "'\"' '\\'", "\"it's\"")),
]  # fmt: skip


def by_shell(shell, line):
    text = (ROOT / "roles/unikernel_images/files/standin/init").read_text()
    function = re.search(r"^split_words\(\) \{.*?^\}$", text, re.MULTILINE | re.DOTALL)[0]
    done = subprocess.run([*shell, "-c", f'{function}\nsplit_words "$1"', "sh", line], capture_output=True, check=False)
    return done.stdout.decode().splitlines() if done.returncode == 0 else None


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "sh"]], ids=["dash", "busybox"])
def test_a_standin_reads_the_same(shell):
    if not shutil.which(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")
    for line in TABLE:
        assert by_shell(shell, line) == model(line), line


def test_the_guest_of_the_tests_reads_the_same(tmp_path):
    text = (ROOT / "tests/guests/service.c").read_text()
    function = re.search(r"^static void take_all\(char \*line\)\n\{.*?^\}$", text, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "split.c").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        "static void take(char *word) { puts(word); }\n"
        "static void refuse(const char *what, const char *word) { fprintf(stderr, \"%s%s\", what, word); exit(64); }\n"
        f"{function}\nint main(int count, char **words) {{ take_all(words[count - 1]); return 0; }}\n"
    )  # fmt: skip
    subprocess.run(["gcc", "-Wall", "-Werror", "-fsanitize=address", "split.c", "-o", "split"], cwd=tmp_path, check=True)
    for line in TABLE:
        done = subprocess.run([tmp_path / "split", line], capture_output=True, check=False)
        assert done.returncode == (64 if model(line) is None else 0), (line, done.stderr)
        assert model(line) in (None, done.stdout.decode().splitlines()), line
