"""The least loaded worker, by tokens.

What the gateway itself has sent counts at once; what workers report corrects it when it comes:
generations of other gateways, and how full the KV cache is.
"""

import random
from collections.abc import Sequence

from smg.engines.base import PromptTokens
from smg.workers.policies.base import Policy, PolicyOptions, Ranking, by_requests, kv_use
from smg.workers.worker import Worker

RUNNING_WEIGHT = 0.1
"""A token in a running generation against one in a prompt that waits to be read.

Attention to what was read is cheap beside reading it: see benchmarks/fleet.py.
"""
FULLEST = 0.99


class LeastLoad(Policy):
    """The worker that is soonest done with what it has."""

    uses_loads = True

    def __init__(
        self, options: PolicyOptions | None = None, chance: random.Random | None = None
    ) -> None:
        self._options = options or PolicyOptions()
        self._chance = chance or random.Random()

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The workers by the seconds of work they have; equals in any order."""
        del prompt
        drawn = self._chance.sample(workers, len(workers))
        ranked = sorted(drawn, key=lambda worker: (self.seconds(worker), by_requests(worker)))
        told = f", {self.seconds(ranked[0]):.2f} s of work" if ranked else ""
        return Ranking(tuple(ranked), f"least_load{told}")

    def seconds(self, worker: Worker) -> float:
        """The work a worker has."""
        tokens = worker.waiting_tokens + RUNNING_WEIGHT * worker.running_tokens
        used = min(kv_use(worker), FULLEST)
        pressure = self._options.kv_pressure_weight * used / (1 - used)
        return tokens / self._options.throughput + pressure
