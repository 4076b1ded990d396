"""Data-parallel ranks as workers of their own: real engines on sockets, and what they share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from smg.engines.base import EngineInfo, EngineLoad, PromptTokens
from smg.engines.registry import connect
from smg.errors import WorkerUnavailable
from smg.testing.engine import EngineOptions, ScriptedEngine
from smg.workers.breaker import Breaker, BreakerRules
from smg.workers.policies.base import Policy
from smg.workers.policies.blocks import Place
from smg.workers.policies.cache import CacheAware
from smg.workers.policies.load import LeastLoad
from smg.workers.policies.simple import Passthrough, RoundRobin
from smg.workers.pool import Pool
from smg.workers.retries import Retries
from smg.workers.worker import Worker
from tests.testing.asking import VOCABULARY, ask, render, request, user
from tests.workers.scripted_engine import ScriptedEngine as Player
from tests.workers.scripted_engine import tokens
from tests.workers.test_listening import NEVER, blocks, prompt
from tests.workers.test_pool import OFTEN, PATIENCE_S, take, until

TWO = EngineOptions(ranks=2)


def said(text: str = "Yes.") -> PromptTokens:
    return PromptTokens(ids=VOCABULARY.encode_prompt(render([user(f"[[say:{text}]]")])))


@asynccontextmanager
async def divided(policy: Policy, *engines: ScriptedEngine) -> AsyncIterator[Pool]:
    workers = [Worker(connect(engine.url), divides=True) for engine in engines]
    pool = Pool(workers, policy, NEVER)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def divided_player(address: str, ranks: int, *scripts: list[object]) -> Worker:
    worker = Worker(Player(address, *scripts), divides=True)  # type: ignore[arg-type] # as given
    worker.info = EngineInfo(engine="scripted", details={"data_parallel_size": ranks})
    return worker


async def test_each_rank_is_a_worker_and_is_sent_what_is_meant_for_it() -> None:
    async with ScriptedEngine(options=TWO) as engine, divided(RoundRobin(), engine) as pool:
        assert [worker.address for worker in pool.workers] == [
            f"{engine.address}@0",
            f"{engine.address}@1",
        ]
        for _ in range(4):
            await take(pool, said())
        sent = [received.message.data_parallel_rank for received in engine.requests]
        assert sent == [0, 1, 0, 1]
        assert all(each.message.HasField("data_parallel_rank") for each in engine.requests)


async def test_without_being_asked_to_a_worker_is_not_divided() -> None:
    async with ScriptedEngine(options=TWO) as engine:
        pool = Pool([Worker(connect(engine.url))], RoundRobin(), NEVER)
        await pool.start()
        try:
            await take(pool, said())
            assert [worker.address for worker in pool.workers] == [engine.address]
            assert not engine.requests[0].message.HasField("data_parallel_rank")
        finally:
            await pool.close()


async def test_a_worker_with_one_rank_stays_itself() -> None:
    async with ScriptedEngine() as engine, divided(RoundRobin(), engine) as pool:
        await take(pool, said())
        assert [worker.address for worker in pool.workers] == [engine.address]
        assert not engine.requests[0].message.HasField("data_parallel_rank")


async def test_a_worker_that_has_more_ranks_when_it_comes_back_is_divided_anew() -> None:
    player = Player("a")
    player.details = {"data_parallel_size": 2}
    other = Worker(Player("b"))
    pool = Pool([Worker(player, divides=True), other], Passthrough(), OFTEN)
    await pool.start()
    try:
        assert [worker.address for worker in pool.workers] == ["a@0", "a@1", "b"]
        before = pool.workers
        player.sickness = WorkerUnavailable("gone")
        before[0].mark_down(WorkerUnavailable("gone"))
        await player.next_probe()
        player.sickness, player.details = None, {"data_parallel_size": 3}
        await until(lambda: len(pool.workers) == 4)
        assert [worker.address for worker in pool.workers] == ["a@0", "a@1", "a@2", "b"]
        assert not set(before[:2]) & set(pool.workers)
    finally:
        await pool.close()


async def test_ranks_are_up_and_down_together_and_have_one_breaker() -> None:
    a0, a1 = divided_player("a", 2).parts()
    a0.mark_down(WorkerUnavailable("gone"))
    assert (a0.is_available, a1.is_available) == (False, False)
    a1.is_up = True
    assert a0.is_available
    a0.breaker.rules = BreakerRules(failures=1)
    a0.breaker.fail(trial=False)
    assert not a1.is_available


async def test_when_a_worker_is_gone_its_other_ranks_are_not_tried() -> None:
    gone = divided_player("a", 3, [WorkerUnavailable("gone")])
    spare = Worker(Player("b", tokens(7)))
    pool = Pool([gone, spare], Passthrough(), retries=Retries(attempts=2))
    assert await take(pool) == tokens(7)
    assert isinstance(gone.engine, Player)
    assert len(gone.engine.requests) == 1


async def test_each_rank_has_a_load_of_its_own() -> None:
    async with ScriptedEngine(options=TWO) as engine, divided(LeastLoad(), engine) as pool:
        one, other = pool.workers
        with one.busy(1000):
            for _ in range(2):
                await take(pool, said())
        assert [received.rank for received in engine.requests] == [1, 1]
        assert (one.in_flight, other.in_flight) == (0, 0)


def test_what_a_worker_reports_is_told_apart_by_rank() -> None:
    worker = divided_player("a", 2)
    zero, one = worker.parts()
    each = {0: EngineLoad(running=3, token_usage=0.5), 1: EngineLoad(waiting=1)}
    with zero.busy(10):
        worker.hear_load(EngineLoad(running=3, waiting=1, ranks=each))
        assert (zero.load, one.load) == (each[0], each[1])
        assert (zero.foreign, one.foreign) == (2, 1)
        worker.hear_rank_load(1, EngineLoad(running=5))
        assert (zero.foreign, one.foreign) == (2, 5)
        worker.hear_load(EngineLoad(running=3, ranks={0: each[0]}))  # Of one it says nothing.
        assert (zero.foreign, one.foreign, one.load) == (2, 0, None)


async def test_a_worker_is_removed_with_all_its_ranks_when_all_are_idle() -> None:
    async with (
        ScriptedEngine(options=TWO) as engine,
        ScriptedEngine() as other,
        divided(Passthrough(), engine, other) as pool,
    ):
        zero, one, _ = pool.workers
        with one.busy(1):
            removals = [asyncio.create_task(pool.remove(rank, 60.0)) for rank in (zero, one)]
            await asyncio.sleep(0)
            assert not zero.is_available
            assert len(pool.workers) == 3
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*removals)
        assert [worker.address for worker in pool.workers] == [other.address]
        await take(pool, said())
        assert len(other.requests) == 1


async def test_each_rank_tells_of_its_own_cache() -> None:
    policy = CacheAware()
    async with ScriptedEngine(options=TWO) as engine, divided(policy, engine) as pool:
        async with asyncio.timeout(PATIENCE_S):
            await engine.caches.listeners(1)
        asked = prompt("a")
        sent = request(asked.ids)
        sent.data_parallel_rank = 1
        await ask(engine, sent)
        index = policy.knowledge.index
        await until(lambda: index.count(Place(engine.address, 1)) == blocks(asked) // 16)
        zero, one = pool.workers
        with one.busy(100):
            ranking = policy.rank(asked, pool.workers)
            assert ranking.workers == (one, zero)
            assert ranking.reason.endswith("known, kv events")
            await take(pool, asked)
        assert [received.rank for received in engine.requests] == [1, 1]


async def test_a_worker_that_chooses_among_its_ranks_knows_what_one_of_them_does() -> None:
    policy = CacheAware()
    async with ScriptedEngine(options=TWO) as engine, ScriptedEngine() as other:
        pool = Pool([Worker(connect(e.url)) for e in (engine, other)], policy, NEVER)
        await pool.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await engine.caches.listeners(1)
            asked = prompt("a")
            await ask(engine, request(asked.ids))
            worker = pool.workers[0]
            await until(lambda: worker in policy.knowledge.known(asked.ids, pool.workers))
            with worker.busy(100):
                assert policy.rank(asked, pool.workers).workers[0] is worker
        finally:
            await pool.close()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_is_named_after_its_worker(ranks: int) -> None:
    worker = divided_player("a", ranks)
    names = [(part.address, part.alias) for part in worker.parts()]
    divided = [("a@0", f"{worker.alias}@0"), ("a@1", f"{worker.alias}@1")]
    assert names == (divided if ranks == 2 else [("a", worker.alias)])


def test_a_breaker_is_the_workers() -> None:
    breaker = Breaker()
    worker = Worker(Player("a"), breaker=breaker, divides=True)
    worker.info = EngineInfo(engine="scripted", details={"data_parallel_size": 2})
    assert {id(part.breaker) for part in worker.parts()} == {id(breaker)}
