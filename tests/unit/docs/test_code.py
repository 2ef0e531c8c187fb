"""Rules that readers can rely on: no function longer than a screen, and modules with only documentation and one call."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Longest function, in lines. ruff checks the cyclomatic complexity (C901).
MAX_LINES = 50
# Decisions in a module's main, not counting errors turned into fail_json: more can't be tested without Ansible.
MAX_DECISIONS = 8
DECISIONS = (ast.If, ast.For, ast.While, ast.BoolOp, ast.IfExp, ast.comprehension, ast.Lambda)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_function_fits_a_screen(path):
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "plugins/modules").glob("*.py")), ids=lambda path: path.stem)
def test_a_module_is_its_documentation_and_a_call(path):
    tree = parsed(path)
    assert [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))] == ["main"]
    assert sum(isinstance(node, DECISIONS) for node in ast.walk(tree)) - 1 <= MAX_DECISIONS, "the last is __name__"
