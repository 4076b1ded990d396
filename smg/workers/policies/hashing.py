"""Workers by the hash of a key: the same key, the same order, whoever computes it.

Rendezvous hashing: a worker that goes moves only its own keys, and one that comes takes only
what it will keep.
"""

from collections.abc import Sequence
from hashlib import blake2b

from smg.engines.base import PromptTokens
from smg.workers.policies.base import Policy, PolicyOptions, Ranking, by_work
from smg.workers.worker import Worker


def rendezvous(key: str, workers: Sequence[Worker]) -> list[Worker]:
    """The workers in the order of this key."""
    keyed = blake2b(key.encode(errors="surrogatepass"), digest_size=16)

    def weight(worker: Worker) -> bytes:
        own = keyed.copy()
        own.update(worker.address.encode())
        return own.digest()

    return sorted(workers, key=weight)


class ConsistentHashing(Policy):
    """All requests of one routing key on one worker; without a key, by load."""

    def __init__(self, options: PolicyOptions | None = None) -> None:
        del options

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """The workers in the order of the routing key."""
        if prompt.routing_key is None:
            ranked = tuple(sorted(workers, key=by_work))
            return Ranking(ranked, "consistent_hashing: no routing key, least load")
        return Ranking(tuple(rendezvous(prompt.routing_key, workers)), "consistent_hashing")
