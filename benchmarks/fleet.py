"""Which policy serves a fleet best: a simulation on a clock of its own, so that seconds are free.

    python -m benchmarks.fleet [--workers 8] [--requests 1500] [--policy NAME ...]

The pool, the policies and the breaker are the gateway's own; only the engines (`engine_model.py`)
and the traffic (`workload.py`) are made up. `fleet_real.py` has the same of both behind sockets.
"""

import argparse
import asyncio
import heapq
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any

from benchmarks.engine_model import ModelEngine, Pace
from benchmarks.workload import Conversation, Passage, workload
from smg.engines.base import EngineChunk, EngineInfo, EngineLoad, Finish, PromptTokens
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

    def __init__(self, number: int) -> None:
        self.address = f"worker-{number}"
        self.model = ModelEngine(Pace())

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        del request_id
        left = prompt.sampling.max_tokens or 0
        async with aclosing(self.model.generate(prompt.ids, [ANSWER_TOKEN] * left)) as pieces:
            async for piece, _ in pieces:
                left -= len(piece)
                yield EngineChunk(piece, None if left else Finish.STOP)

    async def info(self) -> EngineInfo:
        return EngineInfo(engine="simulated", model="m")

    async def check(self) -> None:
        pass

    async def load(self) -> EngineLoad:
        model = self.model
        return EngineLoad(
            running=model.running, waiting=model.waiting, token_usage=model.cache.used
        )

    async def close(self) -> None:
        pass


@dataclass
class Result:
    """What a policy made of the workload."""

    first_tokens: list[float] = field(default_factory=list)
    tokens: int = 0


async def converse(pool: Pool, told: Conversation, result: Result) -> None:
    await asyncio.sleep(told.at)
    ids, loop = _ids(*told.opening), asyncio.get_running_loop()
    for step in range(1, told.steps + 1):
        prompt = _prompt(ids, told)
        begun, first = loop.time(), 0.0
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


async def simulate(
    policy: str, workers: int, requests: int, rate: float, seed: int = 7
) -> dict[str, Any]:
    engines = [Engine(number) for number in range(workers)]
    pool = Pool(
        [Worker(engine) for engine in engines], POLICIES[policy](), Probing(load_interval_s=1.0)
    )
    await pool.start()
    result = Result()
    async with asyncio.TaskGroup() as group:
        for told in workload(requests, rate, seed):
            group.create_task(converse(pool, told, result))
    seconds = asyncio.get_running_loop().time()
    await pool.close()
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
