"""Would the unit tests notice? Change one thing in a room of module_utils, run the tests that pass through that line, count.

python tests/mutants.py [ROOM...] [--each N] [--seed N]    a ROOM is a folder of module_utils, or a file: domain, image/elf

Ready-made runners find neither the collection's import path (a link to the checkout) nor the few tests that a line needs. The
tests run once with coverage, which tells which test reaches which line; each mutant is then tried in a copy of the checkout.
Surviving mutants are printed. Those that can't be noticed are in tests/mutants-equivalent.txt with a reason.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

import argparse
import ast
import copy
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
UTILS = "plugins/module_utils"
EQUIVALENT = ROOT / "tests/mutants-equivalent.txt"
# Code that decides which image boots must reach more than the rest.
STRICT = {"image/elf", "image/store", "image/provenance", "image/signature", "image/policy"}
REQUIRED = {"domain": 85, "plan": 85, "apply": 85, "service": 85, "network": 85, "fleet": 85, **dict.fromkeys(STRICT, 90)}
TURNED = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


class Mutant:
    """One change: ``node`` of the file's tree becomes ``other``."""

    def __init__(self, path, function, node, other):
        self.path, self.function, self.node, self.line = path, function, node, node.lineno
        # A statement is shown by its first line.
        self.before, self.after = (ast.unparse(part).splitlines()[0] for part in (node, other))
        self.other = other
        self.lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)

    def key(self):
        return f"{self.path}::{self.function}: {self.before} -> {self.after}"


def changes(node):
    """Return what a node of the tree may become."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
        other = copy.deepcopy(node)
        other.ops[0] = TURNED[type(node.ops[0])]()
        yield node, other
    if isinstance(node, (ast.If, ast.While, ast.IfExp)) and not isinstance(node.test, ast.Constant):
        for value in (True, False):
            yield node.test, ast.Constant(value)
    if isinstance(node, ast.BoolOp):
        other = copy.deepcopy(node)
        other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, other
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, copy.deepcopy(node.operand)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield node, ast.Constant(node.value + 1)
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield node.value, ast.Constant(None)


def mutants_of(path, text):
    """Return all mutants of a file, except in annotations and code that only a type checker reads."""
    found = []

    def walk(node, function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}".lstrip(".")
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        found.extend(Mutant(path, function, *change) for change in changes(node))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    walk(child, function)

    walk(ast.parse(text), "")
    return found


class Swap(ast.NodeTransformer):
    def __init__(self, mutant):
        self.mutant = mutant

    def generic_visit(self, node):
        if node is self.mutant.node:
            return ast.copy_location(self.mutant.other, node)
        return super().generic_visit(node)


def mutated(text, mutant):
    """Return the file's text with the change. The tree is parsed again, so the node is found by its position in the walk."""
    tree = ast.parse(text)
    same = [
        node for node in ast.walk(tree)
        if isinstance(node, type(mutant.node)) and getattr(node, "lineno", None) == mutant.node.lineno
        and node.col_offset == mutant.node.col_offset and node.end_col_offset == mutant.node.end_col_offset
        and node.end_lineno == mutant.node.end_lineno
    ]  # fmt: skip
    mutant.node = same[0]
    return ast.unparse(ast.fix_missing_locations(Swap(mutant).visit(tree)))


def room_of(path):
    """Return the room that a file counts for; code that verifies images counts file by file."""
    name = path.removeprefix(f"{UTILS}/").removesuffix(".py")
    return name if name in STRICT or "/" not in name else name.split("/", 1)[0]


def wanted(path, rooms):
    name = path.removeprefix(f"{UTILS}/").removesuffix(".py")
    return not rooms or any(name == room or name.startswith(f"{room}/") for room in rooms)


def checkout(folder):
    """Copy tracked and new files into ``folder``."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    pack = ["tar", "-c", "--null", "-T", "-", "--ignore-failed-read"]  # tracked files may have been removed
    archive = subprocess.run(pack, cwd=ROOT, input=names, capture_output=True, check=False).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)


def pytest(folder, *arguments, program=("-m", "pytest"), timeout=None):
    command = [sys.executable, *program, "-q", "-p", "no:cacheprovider", "-o", "addopts=", *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "ANSIBLE_COLLECTIONS_PATH": str(folder / ".collections")}
    try:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return None  # an endless loop counts as noticed


def tests_of_lines(folder):
    """Run the tests once with coverage. Return path -> line -> the tests that pass through it."""
    settings = folder / "coverage.ini"
    settings.write_text(f"[run]\nsource = {UTILS}\ndata_file = {folder}/coverage.data\ndynamic_context = test_function\n")
    done = pytest(folder, "tests/unit", program=("-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest"))
    if done.returncode:
        sys.exit(f"the unit tests must pass first:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    report = folder / "coverage.json"
    command = [sys.executable, "-m", "coverage", "json", f"--rcfile={settings}", "--show-contexts", "-q", "-o", str(report)]
    subprocess.run(command, cwd=folder, check=True)
    files = json.loads(report.read_text())["files"]
    return {path.split("xen/")[-1] if "ansible_collections" in path else path:
            {int(line): tests for line, tests in data["contexts"].items()} for path, data in files.items()}  # fmt: skip


def names_of(contexts):
    """Return pytest's file and -k for a test as coverage names it: tests.unit.test_x.test_y (or with its class)."""
    files, names = set(), set()
    for context in contexts:
        parts = context.split(".")
        at = next((number for number, part in enumerate(parts) if part.startswith("test_")), None)
        if at is not None:
            files.add("/".join(parts[: at + 1]) + ".py")
            names.add(parts[-1])
    return sorted(files), sorted(names)


def noticed(folder, mutant, text, reached):
    """True if a test fails with the mutant."""
    contexts = {test for line in mutant.lines for test in reached.get(line, [])}
    if not contexts:
        return False
    files, names = names_of(contexts)
    files = [name for name in files if (folder / name).exists()]
    # Lines that run while a module is imported concern every test; coverage gives them an empty name.
    where = ["-k", " or ".join(names)] if files and "" not in contexts else []
    path = folder / mutant.path
    path.write_text(mutated(text, mutant))
    try:
        done = pytest(folder, "-x", *(files or ["tests/unit"]), *where, timeout=180)
    finally:
        path.write_text(text)
    return done is None or done.returncode == 1 or done.returncode == 2


def equivalents():
    """Return the mutants that can't be noticed: KEY  # REASON, one per line."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    pairs = [line.partition("  # ") for line in lines if line.strip() and not line.startswith("#")]
    without = [key for key, _mark, reason in pairs if not reason.strip()]
    if without:
        sys.exit(f"{EQUIVALENT.name}: no reason stands behind: {without[0]}")
    return {key for key, _mark, _reason in pairs}


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*")
    parser.add_argument("--each", type=int, default=30, help="mutants in each room, chosen at random; 0 for all")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def chosen(arguments):
    """Return room -> the selected number of its mutants."""
    rooms, known = {}, equivalents()
    for file in sorted((ROOT / UTILS).rglob("*.py")):
        path = str(file.relative_to(ROOT))
        if wanted(path, arguments.rooms):
            found = [mutant for mutant in mutants_of(path, file.read_text()) if mutant.key() not in known]
            rooms.setdefault(room_of(path), []).extend(found)
    if not rooms:
        sys.exit(f"no such room in {UTILS}: {' '.join(arguments.rooms)}")
    pick = random.Random(arguments.seed)
    return {room: pick.sample(found, min(len(found), arguments.each or len(found))) for room, found in rooms.items()}


def main():
    arguments = options()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        rooms = chosen(arguments)
        checkout(folder)
        reached = tests_of_lines(folder)
        table, failed = [], False
        for room, found in rooms.items():
            lived = []
            for mutant in found:
                text = (ROOT / mutant.path).read_text()
                if not noticed(folder, mutant, text, reached.get(mutant.path, {})):
                    lived.append(mutant)
                    print(f"lived: {mutant.path}:{mutant.line}  {mutant.key()}", flush=True)
            share = 100 * (len(found) - len(lived)) // len(found) if found else 100
            below = share < REQUIRED.get(room, 0)
            failed |= below
            table.append(f"{room:20} {len(found) - len(lived):3} of {len(found):3}  {share:3} %"
                         + (f"  must be {REQUIRED[room]} %" if below else ""))  # fmt: skip
        print("\n== Noticed mutants, room by room", *table, sep="\n")
        sys.exit(failed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
