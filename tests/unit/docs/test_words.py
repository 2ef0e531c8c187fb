"""An operator greps for the words of CONTRIBUTING.md's table: what users read has none of the riddles that these replaced."""

# SPDX-License-Identifier: GPL-3.0-or-later

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
RIDDLES = re.compile(
    r"\b(anew|prove[sd]? itself|has proved|(is|are|was|were|be|been) told|go(es)? on|went on|who may|what is declared|stands? for"
    r"|for good|nobody signed)\b",
    re.IGNORECASE,
)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("roles/*/README.md"), *ROOT.glob("unikernels/*/README.md")]
FOLDERS = ("roles", "playbooks", "inventories", "plugins", "meta")
TEXTS = [path for folder in FOLDERS for kind in ("yml", "j2") for path in (ROOT / folder).rglob(f"*.{kind}")]
PROGRAMS = sorted((ROOT / "plugins").rglob("*.py"))


def riddles(text):
    return [line.strip() for line in text.splitlines() if RIDDLES.search(line)]


def printed(path):
    """The texts of a program that users can see: constants, thus also DOCUMENTATION, but no comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    of_readers = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in of_readers:
            yield node.value


@pytest.mark.parametrize("kind", ["pages", "tasks", "messages"])
def test_users_read_the_words_of_the_table(kind):
    if kind == "messages":
        found = {path: riddles("\n".join(printed(path))) for path in PROGRAMS}
    elif kind == "tasks":
        found = {path: riddles(re.sub(r"(?m)^ *#.*", "", path.read_text(encoding="utf-8"))) for path in TEXTS}
    else:
        found = {path: riddles(path.read_text(encoding="utf-8")) for path in PAGES}
    assert len(found) > 20
    assert {str(path.relative_to(ROOT)): lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize("line", ["it proved itself", "The user is told so.", "who may sign", "made anew", "what is declared"])
def test_a_riddle_is_found(line):
    assert riddles(f"one\n{line}\n") == [line]


def test_the_readme_is_two_screens():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90 and max(map(len, lines)) <= 700
