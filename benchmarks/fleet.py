"""Which policy serves a fleet best: a simulation on a clock of its own, so that seconds are free.

    python -m benchmarks.fleet [--workers 8] [--requests 1500] [--policy NAME ...]

The pool, the policies and the breaker are the gateway's own; only the engines (`engine_model.py`)
and the traffic (`workload.py`) are made up. `fleet_real.py` has the same of both behind sockets.
`cache_aware+events` is cache_aware with engines that tell what their caches go through.
"""

import argparse
import asyncio
import heapq
import random
import time
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from statistics import mean, quantiles
from typing import Any

from benchmarks.engine_model import ModelEngine, Pace
from benchmarks.kv_blocks import BLOCK, Change
from benchmarks.workload import Conversation, Passage, workload
from smg.engines.base import EngineChunk, EngineInfo, EngineLoad, Finish, PromptTokens
from smg.engines.kv import Block, KvBatch, KvEvent, Removed, Stored
from smg.turn import Sampling
from smg.workers.policies.registry import POLICIES
from smg.workers.pool import Pool
from smg.workers.watch import Probing
from smg.workers.worker import Worker

VOCABULARY = range(1, 150_000)
ANSWER_TOKEN = 0


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
    """A made-up engine, as the pool sees it."""

    def __init__(self, number: int, kv_tokens: int) -> None:
        self.address = f"worker-{number}"
        self.model = ModelEngine(Pace(kv_tokens=kv_tokens), self.tell)

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        del request_id
        left = prompt.sampling.max_tokens or 0
        async with aclosing(self.model.generate(prompt.ids, [ANSWER_TOKEN] * left)) as pieces:
            async for piece, _ in pieces:
                left -= len(piece)
                yield EngineChunk(piece, None if left else Finish.STOP)

    def tell(self, change: Change, text: Sequence[int]) -> None:
        """Most engines keep it to themselves."""

    async def info(self) -> EngineInfo:
        return EngineInfo(engine="simulated", model="m", details={"block_size": BLOCK})

    async def check(self) -> None:
        pass

    async def load(self) -> EngineLoad:
        model = self.model
        return EngineLoad(
            running=model.running, waiting=model.waiting, token_usage=model.cache.used
        )

    async def close(self) -> None:
        pass


class TellingEngine(Engine):
    """One that tells what its cache goes through."""

    def __init__(self, number: int, kv_tokens: int) -> None:
        super().__init__(number, kv_tokens)
        self._listeners: list[asyncio.Queue[Sequence[KvEvent]]] = []

    def tell(self, change: Change, text: Sequence[int]) -> None:
        for queue in self._listeners:
            queue.put_nowait(_told(change, text))

    async def kv_events(self) -> AsyncGenerator[KvBatch, None]:
        queue: asyncio.Queue[Sequence[KvEvent]] = asyncio.Queue()
        self._listeners.append(queue)
        for number in count():
            yield KvBatch(0, number, iter(await queue.get()))


def _told(change: Change, text: Sequence[int]) -> Sequence[KvEvent]:
    """A change of the cache in the words of the engines."""
    names, first = change.chain, change.first_new
    blocks = [
        Block(names[place], array("I", text[place * BLOCK : (place + 1) * BLOCK]).tobytes())
        for place in range(first, len(names))
    ]
    parent = names[first - 1] if first else None
    return [*([Stored(parent, blocks)] if blocks else []), Removed(change.removed)]


@dataclass
class Result:
    """What a policy made of the workload."""

    first_tokens: list[float] = field(default_factory=list)
    tokens: int = 0


async def converse(pools: Sequence[Pool], told: Conversation, result: Result) -> None:
    """Each step comes to any of the gateways."""
    chance = random.Random(told.key)
    await asyncio.sleep(told.at)
    ids, loop = _ids(*told.opening), asyncio.get_running_loop()
    for step in range(1, told.steps + 1):
        prompt = _prompt(ids, told)
        begun, first = loop.time(), 0.0
        pool = chance.choice(pools)
        async with aclosing(pool.generate(lambda: "r", prompt)) as chunks:
            async for chunk in chunks:
                first = first or loop.time()
                result.tokens += len(chunk.ids)
        result.first_tokens.append(first - begun)
        ids += [ANSWER_TOKEN] * told.answer + _ids(told.added(step))
        await asyncio.sleep(told.pause)


def _ids(*passages: Passage) -> list[int]:
    return [token for passage in passages for token in passage.drawn(VOCABULARY)]


def _prompt(ids: list[int], told: Conversation) -> PromptTokens:
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
        for told in workload(scene.requests, scene.rate, seed):
            group.create_task(converse(pools, told, result))
    seconds = asyncio.get_running_loop().time()
    for pool in pools:
        await pool.close()
    return _row(policy, result, engines, seconds)


def _row(policy: str, result: Result, engines: Sequence[Engine], seconds: float) -> dict[str, Any]:
    cuts = quantiles(result.first_tokens, n=100)
    counts = [engine.model.counts for engine in engines]
    return {
        "policy": policy,
        "p50": cuts[49],
        "p99": cuts[98],
        "mean": mean(result.first_tokens),
        "tokens": result.tokens / seconds,
        "found": sum(one.found for one in counts) / sum(one.read for one in counts),
        "uneven": max(one.read for one in counts) / mean(one.read for one in counts),
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
