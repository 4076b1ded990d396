"""Which policy serves a fleet best: a simulation on a clock of its own, so that seconds are free.

    python -m benchmarks.fleet [--workers 8] [--requests 1500] [--policy NAME ...]

The pool, the policies and the breaker are the gateway's own; only the engines are made up. One
reads prompts one after another at so many uncached tokens a second, and then gives a token to each
of its generations in steps that take longer the more there are; its KV cache is finite, and what
was not used for longest makes room. Three kinds of traffic: agents (one long system prompt for each
of some kinds, growing over several steps), chats (short, growing), and single long prompts that
nobody shares.
"""

import argparse
import asyncio
import heapq
import random
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any

from smg.engines.base import EngineChunk, EngineInfo, EngineLoad, Finish, PromptTokens
from smg.turn import Sampling
from smg.workers.policies.prefixes import PrefixTree
from smg.workers.policies.registry import POLICIES
from smg.workers.pool import Pool
from smg.workers.watch import Probing
from smg.workers.worker import Worker

READ_PER_SECOND = 8000
"""Uncached prompt tokens."""
STEP_SECONDS = 0.012
"""A decode step of one generation ..."""
STEP_MORE = 0.0006
"""... and each further one."""
KV_TOKENS = 120_000
CHUNK = 8
"""Decode steps between two messages."""


class Simulated(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._jumped = 0.0

    def time(self) -> float:
        return self._jumped

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled  # type: ignore[attr-defined] # BaseEventLoop's
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined] # BaseEventLoop's
            heapq.heappop(timers)._scheduled = False
        if not ready and timers:
            self._jumped = max(self._jumped, timers[0].when())
        super()._run_once()  # type: ignore[misc] # BaseEventLoop's


class Engine:
    """A made-up engine."""

    def __init__(self, number: int) -> None:
        self.address = f"worker-{number}"
        self.read = self.found = 0
        self._reading = asyncio.Lock()
        self._running = self._waiting = 0
        self._held = 0
        """Tokens of running generations: what may be dropped is not in use."""
        self._cache = PrefixTree(KV_TOKENS)

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        del request_id
        self._waiting += 1
        async with self._reading:
            known = self._cache.match(prompt.ids).get(self.address, 0)
            self.read += len(prompt.ids)
            self.found += known
            await asyncio.sleep((len(prompt.ids) - known) / READ_PER_SECOND)
            self._cache.insert(prompt.ids, self.address)
        self._waiting -= 1
        self._running += 1
        self._held += len(prompt.ids)
        left = prompt.sampling.max_tokens or 0
        try:
            yield EngineChunk([1])
            while left > 0:
                steps = min(CHUNK, left)
                await asyncio.sleep(steps * (STEP_SECONDS + STEP_MORE * self._running))
                left -= steps
                yield EngineChunk([1] * steps, Finish.STOP if left <= 0 else None)
        finally:
            self._running -= 1
            self._held -= len(prompt.ids)

    async def info(self) -> EngineInfo:
        return EngineInfo(engine="simulated", model="m")

    async def check(self) -> None:
        pass

    async def load(self) -> EngineLoad:
        usage = min(1.0, self._held / KV_TOKENS)
        return EngineLoad(running=self._running, waiting=self._waiting, token_usage=usage)

    async def close(self) -> None:
        pass


@dataclass
class Conversation:
    """Prompts that grow: each is asked when the one before is answered."""

    at: float
    key: str
    first: list[int]
    steps: int
    more: int
    """Tokens that each step adds."""
    answer: int
    pause: float


def workload(requests: int, rate: float, chance: random.Random) -> Iterator[Conversation]:
    """Conversations at random times, until they add up to so many requests."""
    kinds = [[chance.randrange(150_000) for _ in range(6000)] for _ in range(24)]
    at, asked, number = 0.0, 0, 0
    while asked < requests:
        number += 1
        shape = chance.choices(("agent", "chat", "single"), (5, 4, 2))[0]
        own = [chance.randrange(150_000) for _ in range(200)]
        if shape == "agent":
            told = Conversation(at, f"c{number}", chance.choice(kinds) + own, 6, 500, 120, 0.5)
        elif shape == "chat":
            told = Conversation(at, f"c{number}", own * 2, 4, 300, 200, 4.0)
        else:
            alone = [chance.randrange(150_000) for _ in range(chance.randrange(1000, 12_000))]
            told = Conversation(at, f"c{number}", alone, 1, 0, 150, 0.0)
        asked += told.steps
        at += chance.expovariate(rate / (told.steps or 1))
        yield told


@dataclass
class Result:
    """What a policy made of the workload."""

    first_tokens: list[float] = field(default_factory=list)
    tokens: int = 0


async def converse(pool: Pool, told: Conversation, result: Result, chance: random.Random) -> None:
    await asyncio.sleep(told.at)
    ids, loop = list(told.first), asyncio.get_running_loop()
    for _ in range(told.steps):
        prompt = _prompt(ids, told)
        begun, first = loop.time(), 0.0
        async with aclosing(pool.generate(lambda: "r", prompt)) as chunks:
            async for chunk in chunks:
                first = first or loop.time()
                result.tokens += len(chunk.ids)
        result.first_tokens.append(first - begun)
        ids += [chance.randrange(150_000) for _ in range(told.more)]
        await asyncio.sleep(told.pause)


def _prompt(ids: Sequence[int], told: Conversation) -> PromptTokens:
    # Each step is a turn of its own: staying on a worker is left to the policy.
    return PromptTokens(
        ids=list(ids), sampling=Sampling(max_tokens=told.answer), routing_key=told.key
    )


async def simulate(
    policy: str, workers: int, requests: int, rate: float, seed: int = 7
) -> dict[str, Any]:
    chance = random.Random(seed)
    engines = [Engine(number) for number in range(workers)]
    pool = Pool(
        [Worker(engine) for engine in engines], POLICIES[policy](), Probing(load_interval_s=1.0)
    )
    await pool.start()
    result = Result()
    async with asyncio.TaskGroup() as group:
        for told in workload(requests, rate, chance):
            group.create_task(converse(pool, told, result, random.Random(told.key)))
    seconds = asyncio.get_running_loop().time()
    await pool.close()
    cuts = quantiles(result.first_tokens, n=100)
    return {
        "policy": policy,
        "p50": cuts[49],
        "p99": cuts[98],
        "mean": mean(result.first_tokens),
        "tokens": result.tokens / seconds,
        "found": sum(e.found for e in engines) / sum(e.read for e in engines),
        "uneven": max(e.read for e in engines) / mean(e.read for e in engines),
    }


def run(policy: str, workers: int, requests: int, rate: float, seed: int = 7) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=Simulated) as runner:
        return runner.run(simulate(policy, workers, requests, rate, seed))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=14.0, help="requests a second")
    parser.add_argument("--policy", nargs="+", default=list(POLICIES))
    parser.add_argument("--seed", type=int, default=7, help="of the workload")
    options = parser.parse_args()
    print(f"{options.workers} workers, {options.requests} requests, {options.rate:g}/s")
    print("| policy | TTFT p50 s | p99 s | mean s | tokens/s | prompt found | busiest/mean |")
    print("|---|---|---|---|---|---|---|")
    for policy in options.policy:
        begun = time.perf_counter()
        row = run(policy, options.workers, options.requests, options.rate, options.seed)
        print(
            f"| {row['policy']} | {row['p50']:.3f} | {row['p99']:.2f} | {row['mean']:.2f} "
            f"| {row['tokens']:.0f} | {100 * row['found']:.0f} % | {row['uneven']:.2f} |"
            f"  <!-- {time.perf_counter() - begun:.0f} s -->",
            flush=True,
        )


if __name__ == "__main__":
    main()
