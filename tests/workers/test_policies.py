"""Every policy ranks all workers it is given, and each in its own way."""

import random
from collections.abc import Callable

import pytest

from smg.engines.base import PromptTokens
from smg.workers.policies import POLICIES, Policy, Random, RoundRobin
from smg.workers.worker import Worker
from tests.workers.scripted_engine import ScriptedEngine

PROMPT = PromptTokens(ids=[1])
A, B, C = (Worker(ScriptedEngine(name)) for name in "abc")


@pytest.mark.parametrize("new_policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("workers", [[], [A], [A, B, C]], ids=len)
def test_every_policy_ranks_each_worker_once(
    new_policy: Callable[[], Policy], workers: list[Worker]
) -> None:
    policy = new_policy()
    for _ in range(4):
        ranking = policy.rank(PROMPT, workers)
        assert sorted(ranking.workers, key=id) == sorted(workers, key=id)
        assert ranking.reason


def test_round_robin_begins_one_further_each_time() -> None:
    policy = RoundRobin()
    rankings = [policy.rank(PROMPT, [A, B, C]).workers for _ in range(4)]
    assert rankings == [(A, B, C), (B, C, A), (C, A, B), (A, B, C)]


def test_random_begins_with_any() -> None:
    policy = Random(random.Random(1))
    assert {policy.rank(PROMPT, [A, B, C]).workers[0] for _ in range(50)} == {A, B, C}
