"""What every policy takes and gives.

In go a prompt and the workers that may get it, out comes the order in which to try them, and why.
A policy must not know health, retries or engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smg.engines.base import PromptTokens
from smg.workers.policies.knowledge import Knowledge
from smg.workers.worker import Worker


@dataclass(frozen=True, slots=True)
class Ranking:
    """The workers in the order to try them, and why the first is the first."""

    workers: tuple[Worker, ...]
    reason: str


class Policy(Protocol):
    """Orders workers; it may remember what it has answered before."""

    uses_loads: bool = False
    """Whether workers should be asked for their load."""
    knowledge: Knowledge | None = None
    """What is to hear what workers tell of their caches; `None`: nobody has use for it."""

    def rank(self, prompt: PromptTokens, workers: Sequence[Worker]) -> Ranking:
        """All the workers given, each once, the best first."""
        ...

    def placed(self, prompt: PromptTokens, worker: Worker) -> None:
        """Take note that the prompt is sent to this worker."""
        del prompt, worker  # Most policies remember nothing.

    def removed(self, worker: Worker) -> None:
        """Forget a worker that is gone for good."""
        del worker


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """The numbers in the policies."""

    cache_threshold: float = 0.3
    """cache_aware: the part of a prompt that must be known for its worker to be chosen."""
    balance_abs_threshold: int = 64
    """cache_aware: how many more generations than the least ..."""
    balance_rel_threshold: float = 1.5
    """... and how many times as many one worker may have before load decides."""
    balance_token_usage_threshold: float = 1.0
    """cache_aware: how much fuller than the emptiest a worker's KV cache may be; 1: no matter."""
    overload_token_usage_threshold: float = 1.0
    """cache_aware: how full a worker's KV cache may be; 1: no matter."""
    max_tree_size: int = 16_777_216
    """cache_aware: tokens remembered, at four bytes each."""
    prefix_token_count: int = 256
    """prefix_hash: the tokens that decide."""
    prefix_hash_load_factor: float = 1.25
    """prefix_hash: how many times the average load a worker may have."""
    kv_pressure_weight: float = 0.15
    """least_load: seconds that a half-full KV cache counts."""
    throughput: float = 2000.0
    """least_load: tokens a worker reads in a second."""
    max_idle_secs: float = 14400.0
    """manual: how long a key without requests keeps its worker."""


def reading(prompt: PromptTokens) -> Sequence[int]:
    """What a worker reads from first to last: ids, or text for workers with a template."""
    return prompt.ids or prompt.text.encode(errors="surrogatepass")


def kv_use(worker: Worker) -> float:
    """How full a worker's KV cache is, by its last word."""
    return worker.load.token_usage if worker.load else 0.0


def by_requests(worker: Worker) -> int:
    """How many generations a worker has."""
    return worker.in_flight + worker.foreign


def by_tokens(worker: Worker) -> tuple[int, int]:
    """What a worker has to do, in tokens and then in generations."""
    return worker.waiting_tokens + worker.running_tokens, by_requests(worker)
