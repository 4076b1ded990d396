"""Policies that send a prompt where its beginning was read before, as long as loads allow it."""

import random
from collections.abc import Sequence

from smg.engines.base import PromptTokens
from smg.workers.policies.base import (
    Policy,
    PolicyOptions,
    Ranking,
    by_requests,
    by_tokens,
    kv_use,
    reading,
)
from smg.workers.policies.hashing import rendezvous
from smg.workers.policies.knowledge import NOTHING, Knowledge
from smg.workers.worker import Worker


class CacheAware(Policy):
    """The worker that knows most of the prompt, unless it knows little or has far too much to do.

    Workers tell what they know, or it is concluded from what was sent to them.
    """

    uses_loads = True
    knowledge: Knowledge

    def __init__(
        self,
        options: PolicyOptions | None = None,
        chance: random.Random | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        self._options = options or PolicyOptions()
        self._chance = chance or random.Random()
        self.knowledge = knowledge or Knowledge(self._options.max_tree_size)

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """By what they know of the prompt and then by load, or by load alone."""
        drawn = self._chance.sample(workers, len(workers))
        by_load = sorted(drawn, key=by_tokens)
        if full := self._too_full(workers):
            roomy = sorted(by_load, key=lambda worker: worker in full)
            return Ranking(tuple(roomy), "cache_aware: KV caches too full, least load")
        if self._is_unbalanced(workers):
            return Ranking(tuple(by_load), "cache_aware: loads too unequal, least load")
        read = reading(prompt)
        known = self.knowledge.known(read, workers)
        ranked = sorted(by_load, key=lambda worker: -known.get(worker, NOTHING).tokens)
        best = known.get(ranked[0], NOTHING) if ranked else NOTHING
        if best.tokens <= self._options.cache_threshold * len(read):
            return Ranking(tuple(by_load), "cache_aware: new prompt, least load")
        told = f"cache_aware: {best.tokens} of {len(read)} known, {best.how}"
        return Ranking(tuple(ranked), told)

    def placed(self, prompt: PromptTokens, worker: Worker) -> None:
        """Remember what the worker will know."""
        self.knowledge.placed(reading(prompt), worker)

    def removed(self, worker: Worker) -> None:
        """Forget what the worker knew."""
        self.knowledge.removed(worker)

    def _too_full(self, workers: Sequence[Worker]) -> set[Worker]:
        """Those with KV caches that are too full, or too much fuller than another's."""
        options = self._options
        emptiest = min(map(kv_use, workers), default=0.0)
        overload, spread = (
            options.overload_token_usage_threshold,
            options.balance_token_usage_threshold,
        )
        return {
            worker
            for worker in workers
            if kv_use(worker) > overload or kv_use(worker) - emptiest > spread
        }

    def _is_unbalanced(self, workers: Sequence[Worker]) -> bool:
        loads = [by_requests(worker) for worker in workers]
        most, least = max(loads, default=0), min(loads, default=0)
        options = self._options
        return (
            most - least > options.balance_abs_threshold
            and most > options.balance_rel_threshold * least
        )


class PrefixHash(Policy):
    """The worker that the beginning of the prompt hashes to, or the next with room.

    Knows nothing of the past, so that several gateways agree without talking.
    """

    def __init__(self, options: PolicyOptions | None = None) -> None:
        self._options = options or PolicyOptions()

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """By hash; those with more than their share of the load after the others."""
        beginning = reading(prompt)[: self._options.prefix_token_count]
        ranked = rendezvous(repr(list(beginning)), workers)
        average = (sum(map(by_requests, workers)) + 1) / len(workers) if workers else 0.0
        most = self._options.prefix_hash_load_factor * average
        roomy = [worker for worker in ranked if by_requests(worker) + 1 <= max(most, 1)]
        full = sorted((worker for worker in ranked if worker not in roomy), key=by_requests)
        moved = bool(ranked) and (not roomy or roomy[0] is not ranked[0])
        why = "prefix_hash: its own worker is full" if moved else "prefix_hash"
        return Ranking((*roomy, *full), why)
