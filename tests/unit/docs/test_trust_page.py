"""Each test that docs/trust.md names for an attack exists."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_each_attack_has_its_test():
    rows = [line for line in (ROOT / "docs/trust.md").read_text().split("## Attacks")[1].splitlines() if line.startswith("| ")]
    tests = {
        name for path in (ROOT / "tests/unit").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(rows) > 20
    for row in rows[1:]:
        named = re.findall(r"`(test_\w+)`", row)
        assert named and set(named) <= tests, row
