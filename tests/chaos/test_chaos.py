"""Gateways die at every point of a turn, and nothing that was promised is lost."""

import random
from pathlib import Path

import pytest

from smg.faults import POINTS
from smg.testing.chaos.command import chaos
from smg.testing.chaos.driver import AT_RANDOM, planned
from smg.testing.chaos.turns import KINDS

SEED = 5
IN_ONE_ROUND = 5


@pytest.mark.timeout(180)
@pytest.mark.parametrize("start", range(0, len(POINTS), IN_ONE_ROUND))
async def test_turns_survive_a_death_at_each_point(tmp_path: Path, start: int) -> None:
    dice = random.Random(SEED + start)
    points = POINTS[start : start + IN_ONE_ROUND]
    tally = await chaos(tmp_path, planned(points, dice), dice)
    assert tally.violations == []
    assert set(tally.struck) == set(points)
    assert tally.turns > len(KINDS)


@pytest.mark.timeout(180)
async def test_turns_survive_deaths_at_any_time(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when this fails.
    tally = await chaos(tmp_path, [AT_RANDOM] * 4, random.Random(seed))
    assert tally.violations == []
    assert tally.kills == 4
