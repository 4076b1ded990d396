"""The table of faults in docs/durability.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (F\d+) \|(.*)\|$", re.MULTILINE)


def test_every_fault_names_its_tests() -> None:
    rows = dict(ROW.findall((ROOT / "docs/durability.md").read_text()))
    assert set(rows) == {f"F{n}" for n in range(1, 37)}
    for fault, row in rows.items():
        assert re.search(r"`test_\w+`", row), fault


def test_the_tests_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/durability.md").read_text()))
    sources = [
        p.read_text() for p in (ROOT / "tests").rglob("*.py") if "node_modules" not in p.parts
    ]
    there = set(re.findall(r"def (test_\w+)", "\n".join(sources)))
    assert named - there == set()
