"""`smg chaos --kills N --seed S`: kill gateways for as long as it takes, and say what was found."""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from smg.faults import POINTS
from smg.testing.chaos.driver import AT_RANDOM, Tally, planned, wreak
from smg.testing.chaos.world import world

PER_ROUND = 5
"""How many gateways die before all is judged."""
LEASE_SECONDS = 0.5
ITL_MS = 4.0


def run_chaos(*, kills: int, seed: int) -> int:
    """Kill so many gateways; the exit status is 1 if a promise was broken."""
    _say(f"seed {seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="smg-chaos-") as folder:
        dice = random.Random(seed)
        tally = asyncio.run(chaos(Path(folder), faults_of(kills, dice), dice))
    _say(f"{summary(tally)} in {time.monotonic() - began:.0f} s")
    return 1 if tally.violations else 0


def faults_of(kills: int, dice: random.Random) -> list[str]:
    """So many deaths: at each point in turn, and as many again at any time."""
    faults: list[str] = []
    while len(faults) < kills:
        some = [*planned(POINTS, dice), *[AT_RANDOM] * len(POINTS)]
        dice.shuffle(some)
        faults += some
    return faults[:kills]


async def chaos(folder: Path, faults: Sequence[str], dice: random.Random) -> Tally:
    """Let gateways die of these faults, telling of each broken promise as it is found."""
    tally = Tally()
    async with world(folder, lease_seconds=LEASE_SECONDS, itl_ms=ITL_MS) as around:
        for start in range(0, len(faults), PER_ROUND):
            some = faults[start : start + PER_ROUND]
            told = len(tally.violations)
            await wreak(around, tally, some, dice)
            names = ", ".join(fault or "at random" for fault in some)
            for violation in tally.violations[told:]:
                _say(f"VIOLATION after {names}: {violation}")
            _say(f"{tally.kills} of {len(faults)}: {names}")
    return tally


def summary(tally: Tally) -> str:
    """What was done, in one line."""
    return (
        f"{tally.kills} kills of {tally.turns} unfinished turns, at {len(tally.struck)} of "
        f"{len(POINTS)} points and at random; {len(tally.violations)} violations"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
