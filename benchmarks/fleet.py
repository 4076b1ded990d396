"""Which policy serves a fleet best: a simulation on a clock of its own, so that seconds are free.

    python -m benchmarks.fleet [--workers 8] [--requests 1500] [--policy NAME ...]

The pool, the policies and the breaker are the gateway's own; only the engines are made up. One
reads prompts one after another at so many uncached tokens a second, and then gives a token to each
of its generations in steps that take longer the more there are; its KV cache is finite, and the
block that was not used for longest makes room. `cache_aware+events` is cache_aware with engines
that tell what their caches go through. Three kinds of traffic: agents (one long system prompt for
each of some kinds, growing over several steps), chats (short, growing), and single long prompts
that nobody shares.
"""

import argparse
import asyncio
import heapq
import random
import time
from array import array
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from statistics import mean, quantiles
from typing import Any

from smg.engines.base import EngineChunk, EngineInfo, EngineLoad, Finish, PromptTokens
from smg.engines.kv import Block, KvBatch, KvEvent, Removed, Stored
from smg.testing.prefixes import Meeting, PrefixCache
from smg.turn import Sampling
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
BLOCK = 16
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

    def __init__(self, number: int, kv_tokens: int) -> None:
        self.address = f"worker-{number}"
        self.read = self.found = 0
        self._reading = asyncio.Lock()
        self._running = self._waiting = 0
        self._held = 0
        """Tokens of running generations: what may be dropped is not in use."""
        self._kv_tokens = kv_tokens
        self._cache = PrefixCache(BLOCK, kv_tokens // BLOCK)

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        del request_id
        self._waiting += 1
        async with self._reading:
            meeting = self._cache.meet(prompt.ids)
            self.read += len(prompt.ids)
            self.found += meeting.cached
            await asyncio.sleep((len(prompt.ids) - meeting.cached) / READ_PER_SECOND)
            self.tell(meeting)
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

    def tell(self, meeting: Meeting) -> None:
        """Most engines keep it to themselves."""

    async def info(self) -> EngineInfo:
        return EngineInfo(engine="simulated", model="m", details={"block_size": BLOCK})

    async def check(self) -> None:
        pass

    async def load(self) -> EngineLoad:
        usage = min(1.0, self._held / self._kv_tokens)
        return EngineLoad(running=self._running, waiting=self._waiting, token_usage=usage)

    async def close(self) -> None:
        pass


class TellingEngine(Engine):
    """One that tells what its cache goes through."""

    def __init__(self, number: int, kv_tokens: int) -> None:
        super().__init__(number, kv_tokens)
        self._listeners: list[asyncio.Queue[Meeting]] = []

    def tell(self, meeting: Meeting) -> None:
        for queue in self._listeners:
            queue.put_nowait(meeting)

    async def kv_events(self) -> AsyncGenerator[KvBatch, None]:
        queue: asyncio.Queue[Meeting] = asyncio.Queue()
        self._listeners.append(queue)
        for number in count():
            meeting = await queue.get()
            events: list[KvEvent] = [Removed(meeting.removed)]
            if meeting.stored:
                blocks = [Block(b.name, array("I", b.tokens).tobytes()) for b in meeting.stored]
                events.insert(0, Stored(meeting.stored[0].parent, blocks))
            yield KvBatch(0, number, iter(events))


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


async def converse(
    pools: Sequence[Pool], told: Conversation, result: Result, chance: random.Random
) -> None:
    """Each step comes to any of the gateways."""
    await asyncio.sleep(told.at)
    ids, loop = list(told.first), asyncio.get_running_loop()
    for _ in range(told.steps):
        prompt = _prompt(ids, told)
        begun, first = loop.time(), 0.0
        pool = pools[0] if len(pools) == 1 else chance.choice(pools)
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


@dataclass(frozen=True)
class Scene:
    """What is simulated."""

    workers: int = 8
    requests: int = 1500
    rate: float = 14.0
    """Requests a second."""
    gateways: int = 1
    """Each has its own pool of the same engines, and knows the others by what engines tell."""
    kv_tokens: int = 120_000
    """Room in an engine's cache."""


async def simulate(policy: str, scene: Scene, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    name, _, telling = policy.partition("+")
    kind = TellingEngine if telling else Engine
    engines = [kind(number, scene.kv_tokens) for number in range(scene.workers)]
    pools = [
        Pool([Worker(engine) for engine in engines], POLICIES[name](), Probing(load_interval_s=1.0))
        for _ in range(scene.gateways)
    ]
    for pool in pools:
        await pool.start()
    result = Result()
    async with asyncio.TaskGroup() as group:
        for told in workload(scene.requests, scene.rate, chance):
            group.create_task(converse(pools, told, result, random.Random(told.key)))
    seconds = asyncio.get_running_loop().time()
    for pool in pools:
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


def run(policy: str, scene: Scene, seed: int = 7) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=Simulated) as runner:
        return runner.run(simulate(policy, scene, seed))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=14.0, help="requests a second")
    parser.add_argument("--policy", nargs="+", default=[*POLICIES, "cache_aware+events"])
    parser.add_argument("--seed", type=int, default=7, help="of the workload")
    parser.add_argument("--gateways", type=int, default=1, help="each knows what it has sent")
    parser.add_argument("--kv-tokens", type=int, default=120_000, help="room in a cache")
    options = parser.parse_args()
    scene = Scene(
        options.workers, options.requests, options.rate, options.gateways, options.kv_tokens
    )
    print(f"{scene}, seed {options.seed}")
    print("| policy | TTFT p50 s | p99 s | mean s | tokens/s | prompt found | busiest/mean |")
    print("|---|---|---|---|---|---|---|")
    for policy in options.policy:
        begun = time.perf_counter()
        row = run(policy, scene, options.seed)
        print(
            f"| {row['policy']} | {row['p50']:.3f} | {row['p99']:.2f} | {row['mean']:.2f} "
            f"| {row['tokens']:.0f} | {100 * row['found']:.0f} % | {row['uneven']:.2f} |"
            f"  <!-- {time.perf_counter() - begun:.0f} s -->",
            flush=True,
        )


if __name__ == "__main__":
    main()
