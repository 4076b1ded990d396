"""Policies do what they are for: the simulated fleet of benchmarks/fleet.py, made small."""

from functools import cache
from typing import Any

import pytest

from benchmarks.fleet import Scene, run

SCENE = Scene(workers=8, requests=600, rate=24.0)


@cache
def simulated(policy: str) -> dict[str, Any]:
    return run(policy, SCENE)


# What the full benchmark shows is more; this is what must never be lost.
@pytest.mark.parametrize(("policy", "factor"), [("least_load", 1.3), ("cache_aware", 3.0)])
def test_time_to_first_token_is_so_many_times_shorter_than_in_turn(
    policy: str, factor: float
) -> None:
    assert simulated(policy)["mean"] * factor < simulated("round_robin")["mean"]
    assert simulated(policy)["p99"] * 1.1 < simulated("round_robin")["p99"]
    assert simulated(policy)["tokens"] > 0.95 * simulated("round_robin")["tokens"]


@pytest.mark.parametrize("policy", ["cache_aware", "prefix_hash", "consistent_hashing", "manual"])
def test_what_a_worker_has_read_is_found_again(policy: str) -> None:
    assert simulated(policy)["found"] > simulated("round_robin")["found"]
