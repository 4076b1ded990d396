"""Points at which a process dies."""

import subprocess
import sys
from pathlib import Path

import pytest

from smg.errors import ConfigError
from smg.faults import POINTS, read_fault

PASS_TWICE = """
from smg.faults import reached
for point in ("save-after", "save-before", "save-before"):
    reached(point)
    print(point, flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "passed", "status"),
    [
        ("save-before:1", ["save-after"], -9),
        ("save-before:2", ["save-after", "save-before"], -9),
        ("save-before:3", ["save-after", "save-before", "save-before"], 0),
        ("", ["save-after", "save-before", "save-before"], 0),
    ],
)
def test_a_process_dies_at_the_pass_it_was_told(fault: str, passed: list[str], status: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PASS_TWICE],
        env={"SMG_FAULT": fault},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (ended.stdout.split(), ended.returncode) == (passed, status)


@pytest.mark.parametrize("text", ["save", "save-before", "save-before:0", "nowhere:1", "a:b:c"])
def test_a_fault_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="points are order-begun, "):
        read_fault(text)


def test_every_point_is_passed_somewhere() -> None:
    code = "".join(
        path.read_text() for path in (Path(__file__).parents[2] / "smg/responses").glob("*.py")
    )
    assert [point for point in POINTS if f'reached("{point}")' not in code] == []
