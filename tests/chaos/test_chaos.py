"""Gateways die at every point of a turn, and nothing that was promised is lost."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from smg.faults import POINTS, Point
from smg.testing.chaos.command import chaos
from smg.testing.chaos.driver import AT_RANDOM, planned
from smg.testing.chaos.turns import KINDS

HALVES = [POINTS[::2], POINTS[1::2]]
KILLS_AT_RANDOM = 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [5, 6])
@pytest.mark.parametrize("points", HALVES, ids=["even", "odd"])
async def test_turns_survive_a_death_at_each_point(
    tmp_path: Path, points: Sequence[Point], seed: int
) -> None:
    dice = random.Random(seed)
    tally = await chaos(tmp_path, planned(points, dice), dice)
    assert tally.violations == []
    assert set(tally.struck) == set(points)
    assert tally.turns > len(KINDS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", range(3))
async def test_turns_survive_deaths_at_any_time(tmp_path: Path, run: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when this fails.
    tally = await chaos(tmp_path, [AT_RANDOM] * KILLS_AT_RANDOM, random.Random(seed))
    assert tally.violations == []
    assert tally.kills == KILLS_AT_RANDOM
