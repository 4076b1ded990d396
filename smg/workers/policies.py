"""How the next worker is chosen among those of one model.

In go a prompt and the workers that are up, out comes the order in which to try them, and why.
A policy must not know health, retries or engines.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from smg.engines.base import PromptTokens
from smg.workers.worker import Worker


@dataclass(frozen=True, slots=True)
class Ranking:
    """The workers in the order to try them, and why the first is the first."""

    workers: tuple[Worker, ...]
    reason: str


class Policy(Protocol):
    """Orders workers; it may remember what it has answered before."""

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """All the workers given, each once, the best first."""
        ...


class RoundRobin:
    """Each worker in turn; after the first, the ones that would be next."""

    def __init__(self) -> None:
        self._turns = count()

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The workers, beginning one further than the last time."""
        del prompt
        if not workers:
            return Ranking((), "round_robin")
        first = next(self._turns) % len(workers)
        return Ranking((*workers[first:], *workers[:first]), "round_robin")


class Random:
    """Any worker."""

    def __init__(self, shuffled: random.Random | None = None) -> None:
        self._random = shuffled or random.Random()

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The workers in any order."""
        del prompt
        return Ranking(tuple(self._random.sample(workers, len(workers))), "random")


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "round_robin": RoundRobin,
    "random": Random,
}
