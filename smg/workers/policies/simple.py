"""Policies that look at no prompt: in turn, by chance, in the order given, the less busy of two."""

import random
from collections.abc import Sequence
from itertools import count

from smg.engines.base import PromptTokens
from smg.workers.policies.base import Policy, PolicyOptions, Ranking, by_requests, kv_use
from smg.workers.worker import Worker


class RoundRobin(Policy):
    """Each worker in turn; after the first, the ones that would be next."""

    def __init__(self, options: PolicyOptions | None = None) -> None:
        del options
        self._turns = count()

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The workers, beginning one further than the last time."""
        del prompt
        if not workers:
            return Ranking((), "round_robin")
        first = next(self._turns) % len(workers)
        return Ranking((*workers[first:], *workers[:first]), "round_robin")


class Random(Policy):
    """Any worker."""

    def __init__(
        self, options: PolicyOptions | None = None, chance: random.Random | None = None
    ) -> None:
        del options
        self._chance = chance or random.Random()

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The workers in any order."""
        del prompt
        return Ranking(tuple(self._chance.sample(workers, len(workers))), "random")


class Passthrough(Policy):
    """The first worker, as long as it is up."""

    def __init__(self, options: PolicyOptions | None = None) -> None:
        del options

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The workers as they were given."""
        del prompt
        return Ranking(tuple(workers), "passthrough")


class PowerOfTwo(Policy):
    """The less busy of two at random: nearly as good as looking at all, and no herd."""

    uses_loads = True

    def __init__(
        self, options: PolicyOptions | None = None, chance: random.Random | None = None
    ) -> None:
        del options
        self._chance = chance or random.Random()

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The better of two, the other, then the rest by their load."""
        del prompt
        drawn = self._chance.sample(workers, len(workers))
        ranked = (*sorted(drawn[:2], key=_busyness), *sorted(drawn[2:], key=_busyness))
        return Ranking(ranked, "power_of_two")


def _busyness(worker: Worker) -> tuple[int, float]:
    # A report is old when it is used: many would follow the same one to the same worker.
    return by_requests(worker), kv_use(worker)
