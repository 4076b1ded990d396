"""Workers that tell of their caches: real engines on sockets, and cache_aware over them."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from smg.engines.base import EngineLoad, PromptTokens
from smg.engines.fields import summed
from smg.engines.kv import KvBatch
from smg.engines.registry import connect
from smg.testing.engine import EngineOptions, ScriptedEngine, Servicer
from smg.workers.listening import Cursor, EventsLost
from smg.workers.policies.cache import CacheAware
from smg.workers.policies.knowledge import SENT, TOLD, Known
from smg.workers.policies.simple import RoundRobin
from smg.workers.pool import Pool
from smg.workers.watch import Probing
from smg.workers.worker import Worker
from tests.testing.asking import VOCABULARY, ask, render, request, user
from tests.workers.test_pool import OFTEN, PATIENCE_S, take, until

SMALL = EngineOptions(cache_blocks=12)
NEVER = Probing(interval_s=3600.0, first_s=0.01, longest_s=0.05, load_interval_s=3600.0)


def prompt(text: str, words: int = 60) -> PromptTokens:
    """About 11 blocks that no other text has."""
    said = render([user(" ".join(f"{text}{n}" for n in range(words)) + "[[say:Yes.]]")])
    return PromptTokens(ids=VOCABULARY.encode_prompt(said))


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers behind one policy."""

    engines: list[ScriptedEngine]
    policy: CacheAware
    pool: Pool

    def worker(self, engine: ScriptedEngine) -> Worker:
        return next(w for w in self.pool.workers if w.engine.address == engine.address)

    def known(self, prompt: PromptTokens, engine: ScriptedEngine) -> Known | None:
        worker = self.worker(engine)
        return self.policy.knowledge.known(prompt.ids, [worker]).get(worker)

    def reason(self, prompt: PromptTokens) -> str:
        return self.policy.rank(prompt, self.pool.workers).reason

    async def send(self, prompt: PromptTokens) -> ScriptedEngine:
        """Where it went."""
        before = [len(engine.requests) for engine in self.engines]
        await take(self.pool, prompt)
        [used] = [e for e, n in zip(self.engines, before, strict=True) if len(e.requests) > n]
        return used

    async def until_told(self, prompt: PromptTokens, engine: ScriptedEngine) -> None:
        """Wait until a worker has told of all of a prompt."""
        told = Known(blocks(prompt), TOLD)
        await until(lambda: self.known(prompt, engine) == told)


@asynccontextmanager
async def fleet(*options: EngineOptions) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(ScriptedEngine(options=each)) for each in options
        ]
        async with over(*engines) as found:
            yield found


@asynccontextmanager
async def over(*engines: ScriptedEngine) -> AsyncIterator[Fleet]:
    policy = CacheAware(chance=random.Random(1))
    pool = Pool([Worker(connect(engine.url)) for engine in engines], policy, NEVER)
    await pool.start()
    try:
        for engine in engines:
            if engine.options.kv_events:
                async with asyncio.timeout(PATIENCE_S):
                    await engine.caches.listeners(1)
        yield Fleet(list(engines), policy, pool)
    finally:
        await pool.close()


def blocks(prompt: PromptTokens, size: int = 16) -> int:
    """The tokens of its whole blocks."""
    return len(prompt.ids) - len(prompt.ids) % size


async def tell_of(fleet: Fleet, prompt: PromptTokens) -> ScriptedEngine:
    """Send a prompt, and wait until its worker has told of it."""
    home = await fleet.send(prompt)
    await fleet.until_told(prompt, home)
    return home


async def test_a_prompt_goes_where_a_worker_says_that_it_is_cached() -> None:
    async with fleet(SMALL, SMALL) as workers:
        asked = prompt("a")
        home = await tell_of(workers, asked)
        told = f"cache_aware: {blocks(asked)} of {len(asked.ids)} known, kv events"
        with workers.worker(home).busy(100):
            assert workers.reason(asked) == told
            assert await workers.send(asked) is home


async def test_a_worker_that_has_evicted_a_prompt_is_not_preferred_any_more() -> None:
    async with fleet(SMALL, SMALL) as workers:
        asked = prompt("a")
        home = await tell_of(workers, asked)
        # Another gateway sends there something else.
        await ask(home, request(prompt("b").ids))
        await until(lambda: workers.known(asked, home) != Known(blocks(asked), TOLD))
        assert workers.reason(asked) == "cache_aware: new prompt, least load"
        with workers.worker(home).busy(100):
            assert await workers.send(asked) is not home


async def test_what_another_gateway_sent_is_known_too() -> None:
    async with fleet(SMALL, SMALL) as workers:
        asked = prompt("a")
        home = workers.engines[1]
        await ask(home, request(asked.ids))
        await workers.until_told(asked, home)
        with workers.worker(home).busy(100):
            assert await workers.send(asked) is home


async def test_a_worker_that_flushes_its_cache_knows_nothing() -> None:
    async with fleet(SMALL, SMALL) as workers:
        asked = prompt("a")
        home = await tell_of(workers, asked)
        home.caches.flush()
        await until(lambda: workers.known(asked, home) is None)
        assert workers.reason(asked) == "cache_aware: new prompt, least load"


async def test_a_worker_that_was_started_anew_knows_nothing_and_is_listened_to() -> None:
    async with fleet(SMALL, SMALL) as workers:
        asked = prompt("a")
        home = await tell_of(workers, asked)
        port = int(home.address.rpartition(":")[2])
        await home.__aexit__(None, None, None)
        await until(lambda: workers.known(asked, home) is None)
        async with ScriptedEngine(options=EngineOptions(port=port)) as again:
            async with asyncio.timeout(PATIENCE_S):
                await again.caches.listeners(1)
            await ask(again, request(asked.ids))
            await workers.until_told(asked, again)


@pytest.mark.parametrize("way", ["a gap", "DATA_LOSS"])
async def test_after_a_loss_nothing_is_known_and_the_worker_is_heard_anew(way: str) -> None:
    async with fleet(SMALL, SMALL) as workers:
        asked, more = prompt("a", 20), prompt("b", 20)
        home = await tell_of(workers, asked)
        if way == "a gap":
            home.caches.skip()
            await ask(home, request(more.ids))
        else:
            home.caches.lose()
        await until(lambda: workers.known(asked, home) is None)
        async with asyncio.timeout(PATIENCE_S):
            await home.caches.listeners(0)
            await home.caches.listeners(1)
        # Neither of the prompts is told of again; but a new one is.
        third = prompt("c", 20)
        await ask(home, request(third.ids))
        await workers.until_told(third, home)
        assert workers.known(asked, home) is None


async def test_where_a_worker_does_not_tell_what_was_sent_counts() -> None:
    silent = EngineOptions(kv_events=False)
    async with fleet(silent, SMALL) as workers:
        asked = prompt("a")
        quiet, _ = workers.engines
        with workers.worker(workers.engines[1]).busy(100):
            assert await workers.send(asked) is quiet
        assert workers.known(asked, quiet) == Known(len(asked.ids), SENT)
        with workers.worker(quiet).busy(100):
            told = f"cache_aware: {len(asked.ids)} of {len(asked.ids)} known, sent before"
            assert workers.reason(asked) == told


async def test_what_was_cached_before_anybody_listened_is_known_by_what_is_sent() -> None:
    async with ScriptedEngine(options=SMALL) as engine:
        asked = prompt("a")
        await ask(engine, request(asked.ids))
        async with over(engine) as workers:
            assert workers.known(asked, engine) is None
            await workers.send(asked)  # The engine finds it, and tells nothing.
            assert engine.requests[1].finish == "stop"
            assert workers.known(asked, engine) == Known(len(asked.ids), SENT)


async def test_a_servicer_that_tells_what_is_there_already_is_believed() -> None:
    rust = EngineOptions(servicer=Servicer.RUST)
    async with ScriptedEngine(options=rust) as engine:
        first, second = prompt("a"), prompt("b")
        for each in (first, second, first):
            await ask(engine, request(each.ids, f"r{id(each)}"))
        async with over(engine) as workers:
            for each in (first, second):
                await workers.until_told(each, engine)
            third = prompt("c")  # What comes next fits on.
            await tell_of(workers, third)
            assert workers.known(first, engine) == Known(blocks(first), TOLD)


async def test_two_equal_prompts_in_quick_succession_go_to_one_worker() -> None:
    async with fleet(EngineOptions(), EngineOptions()) as workers:
        one, other = workers.engines
        system = prompt("system", 200)
        for engine in (one, other):
            await ask(engine, request(system.ids))
            await workers.until_told(system, engine)
        grown = PromptTokens(ids=[*system.ids[:-20], *prompt("more", 20).ids])
        for engine in (one, other):
            engine.caches.hold()  # Nothing is told while the first one is read.
        place = workers.pool.workers[0]
        workers.policy.placed(grown, place)
        with place.busy(100):  # By load the other would be next.
            best = workers.policy.rank(grown, workers.pool.workers).workers[0]
        assert best is place


async def test_the_load_that_comes_with_events_is_heard() -> None:
    async with fleet(SMALL) as workers:
        worker = workers.pool.workers[0]
        await until(lambda: worker.load is not None)
        worker.load = EngineLoad(running=7)
        await tell_of(workers, prompt("a"))
        assert worker.load == summed({0: EngineLoad()})


async def test_a_worker_whose_stream_is_cut_is_probed_at_once() -> None:
    async with fleet(SMALL) as workers:
        [engine], [worker] = workers.engines, workers.pool.workers
        assert worker.health.is_certain
        await engine.__aexit__(None, None, None)
        await until(lambda: not worker.health.is_certain)


async def test_a_doubt_that_a_probe_dispels_leaves_nothing_behind() -> None:
    async with ScriptedEngine() as engine:
        pool = Pool([Worker(connect(engine.url))], RoundRobin(), NEVER)
        await pool.start()
        try:
            health = pool.workers[0].health
            for _ in range(2):
                health.doubt()
                await until(lambda: not health.went_down.is_set())
            assert health.is_certain
        finally:
            await pool.close()


async def test_a_policy_without_use_for_events_does_not_listen() -> None:
    async with ScriptedEngine() as engine:
        pool = Pool([Worker(connect(engine.url))], RoundRobin(), OFTEN)
        await pool.start()
        try:
            await take(pool, prompt("a"))
            async with asyncio.timeout(PATIENCE_S):
                await engine.caches.listeners(0)
        finally:
            await pool.close()


# ---- the count


def batch(sequence: int, rank: int = 0, **said: Any) -> KvBatch:
    return KvBatch(rank, sequence, iter(()), **said)


def test_each_rank_counts_for_itself_from_wherever_it_is() -> None:
    cursor = Cursor()
    told = [batch(33), batch(5, 1), batch(34), batch(6, 1), batch(7, 1)]
    assert all(cursor.admits(each) for each in told)


def test_what_was_heard_is_not_heard_again() -> None:
    cursor = Cursor()
    assert [cursor.admits(batch(n)) for n in (1, 2, 2, 1, 3)] == [True, True, False, False, True]


def test_a_load_alone_is_no_step_of_the_count() -> None:
    cursor = Cursor()
    assert not cursor.admits(batch(0, is_load_only=True))
    assert cursor.admits(batch(7))
    assert not cursor.admits(batch(7, is_load_only=True))
    assert cursor.admits(batch(8))


def test_a_hole_is_a_loss() -> None:
    cursor = Cursor()
    cursor.admits(batch(1))
    with pytest.raises(EventsLost):
        cursor.admits(batch(3))


def test_who_begins_anew_may_count_from_anywhere() -> None:
    cursor = Cursor()
    numbers = count(9)
    for told in (batch(next(numbers)), batch(2, begins_anew=True), batch(3)):
        assert cursor.admits(told)
