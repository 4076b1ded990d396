"""The pool: who is tried, who is not tried again, who comes back."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from itertools import count

import pytest

from smg.engines.base import EngineChunk, EngineInfo, PromptTokens
from smg.engines.registry import connect
from smg.errors import (
    ContextLengthExceeded,
    EngineError,
    GatewayError,
    PromptRejected,
    WorkerOverloaded,
    WorkerUnavailable,
)
from smg.workers.policies.simple import RoundRobin
from smg.workers.pool import Pool
from smg.workers.retries import Retries
from smg.workers.watch import Probing
from smg.workers.worker import Worker
from tests.contracts.speech import VLLM
from tests.engines.stand_in import Process, directing
from tests.workers.scripted_engine import ScriptedEngine, tokens

PROMPT = PromptTokens(ids=[1])
PATIENCE_S = 5.0
OFTEN = Probing(interval_s=0.01, first_s=0.001, longest_s=0.01)


def pool(*engines: ScriptedEngine, probing: Probing | None = None) -> Pool:
    """Each worker is tried once."""
    retries = Retries(attempts=len(engines))
    return Pool([Worker(engine) for engine in engines], RoundRobin(), probing, retries=retries)


def counted() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"r{next(numbers)}"


async def take(workers: Pool, prompt: PromptTokens = PROMPT) -> list[EngineChunk]:
    async with aclosing(workers.generate(counted(), prompt)) as chunks:
        return [chunk async for chunk in chunks]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not reached():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0)


async def test_workers_take_turns() -> None:
    engines = [ScriptedEngine(name, *[tokens(1)] * 2) for name in "abc"]
    workers = pool(*engines)
    for _ in range(5):
        assert await take(workers) == tokens(1)
    assert [len(engine.requests) for engine in engines] == [2, 2, 1]


async def test_an_unreachable_worker_is_passed_over_and_marked() -> None:
    broken = ScriptedEngine("broken", [WorkerUnavailable("gone")])
    spare = ScriptedEngine("spare", tokens(7), tokens(8))
    workers = pool(broken, spare)
    assert await take(workers) == tokens(7)
    assert [worker.is_up for worker in workers.workers] == [False, True]
    assert await take(workers) == tokens(8)
    assert len(broken.requests) == 1


async def test_each_try_has_its_own_request_id() -> None:
    broken = ScriptedEngine("broken", [WorkerUnavailable("gone")])
    spare = ScriptedEngine("spare", tokens(7))
    await take(pool(broken, spare))
    assert (broken.requests, spare.requests) == (["r1"], ["r2"])


async def test_a_full_worker_is_passed_over_but_not_marked() -> None:
    full = ScriptedEngine("full", [WorkerOverloaded("no room")])
    spare = ScriptedEngine("spare", tokens(7))
    workers = pool(full, spare)
    assert await take(workers) == tokens(7)
    assert all(worker.is_up for worker in workers.workers)


@pytest.mark.parametrize(
    "error",
    [
        PromptRejected("bad"),
        ContextLengthExceeded("long"),
        EngineError("broken"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_another_worker_would_not_cure_is_raised_at_once(error: GatewayError) -> None:
    first, spare = ScriptedEngine("first", [error]), ScriptedEngine("spare")
    workers = pool(first, spare)
    with pytest.raises(type(error)):
        await take(workers)
    assert spare.requests == []
    assert all(worker.is_up for worker in workers.workers)


@pytest.mark.parametrize("error", [WorkerUnavailable("gone"), WorkerOverloaded("no room")])
async def test_a_stream_that_broke_is_not_retried(error: EngineError) -> None:
    broken = ScriptedEngine("broken", [EngineChunk([1]), error])
    spare = ScriptedEngine("spare")
    with pytest.raises(type(error)):
        await take(pool(broken, spare))
    assert spare.requests == []


async def test_an_error_of_the_consumer_is_not_the_workers() -> None:
    first, spare = ScriptedEngine("first", tokens(1, 2)), ScriptedEngine("spare")
    workers = pool(first, spare)
    chunks = workers.generate(counted(), PROMPT)
    await anext(chunks)
    with pytest.raises(WorkerUnavailable):
        await chunks.athrow(WorkerUnavailable("thrown in"))
    assert first.closed_streams == 1
    assert spare.requests == []
    assert all(worker.is_up for worker in workers.workers)


async def test_leaving_early_closes_the_workers_stream() -> None:
    engine = ScriptedEngine("a", tokens(1, 2))
    workers = pool(engine)
    async with aclosing(workers.generate(counted(), PROMPT)) as chunks:
        await anext(chunks)
        assert workers.workers[0].in_flight == 1
    assert engine.closed_streams == 1
    assert workers.workers[0].in_flight == 0


async def test_workers_that_are_down_are_tried_last() -> None:
    first = ScriptedEngine("first", [WorkerUnavailable("gone")], tokens(3))
    second = ScriptedEngine("second", tokens(1), [WorkerOverloaded("no room")])
    workers = pool(first, second)
    await take(workers)
    assert await take(workers) == tokens(3)


async def test_without_a_worker_all_are_named() -> None:
    a = ScriptedEngine("a", [WorkerUnavailable("a is gone")])
    b = ScriptedEngine("b", [WorkerUnavailable("b is gone")])
    with pytest.raises(WorkerUnavailable) as failed:
        await take(pool(a, b))
    assert failed.value.message == "a is gone; b is gone"


async def test_if_one_was_full_a_client_may_come_again() -> None:
    a = ScriptedEngine("a", [WorkerUnavailable("a is gone")])
    b = ScriptedEngine("b", [WorkerOverloaded("b has no room")])
    with pytest.raises(WorkerOverloaded):
        await take(pool(a, b))


async def test_a_pool_of_no_workers_says_so() -> None:
    with pytest.raises(WorkerUnavailable, match="no worker"):
        await take(pool())


async def test_before_the_start_nothing_is_known() -> None:
    assert pool(ScriptedEngine("a")).info is None


async def test_starting_tells_who_is_there() -> None:
    sick, well = ScriptedEngine("sick"), ScriptedEngine("well")
    sick.sickness = WorkerUnavailable("gone")
    workers = pool(sick, well)
    await workers.start()
    try:
        assert [worker.is_up for worker in workers.workers] == [False, True]
        assert workers.info is not None
        assert workers.info.model == "well"
        assert workers.is_ready
    finally:
        await workers.close()


async def test_a_worker_comes_back_by_itself() -> None:
    engine = ScriptedEngine("a", tokens(1))
    engine.sickness = WorkerUnavailable("gone")
    workers = pool(engine, probing=OFTEN)
    await workers.start()
    try:
        assert not workers.is_ready
        engine.sickness = None
        await engine.next_probe()
        assert not workers.is_ready  # One answer may be chance.
        await engine.next_probe()
        assert [worker.is_up for worker in workers.workers] == [True]
        assert workers.info is not None
        assert await take(workers) == tokens(1)
    finally:
        await workers.close()


async def test_a_worker_is_found_down_without_a_request() -> None:
    engine = ScriptedEngine("a")
    workers = pool(engine, probing=OFTEN)
    await workers.start()
    try:
        engine.sickness = WorkerUnavailable("gone")
        for _ in range(3):  # One failure may be chance.
            assert [worker.is_up for worker in workers.workers] == [True]
            await engine.next_probe()
        assert [worker.is_up for worker in workers.workers] == [False]
    finally:
        await workers.close()


async def test_a_failed_generation_starts_the_probing_at_once() -> None:
    engine = ScriptedEngine("a", [WorkerUnavailable("gone")])
    rarely = Probing(interval_s=3600, first_s=0.001)
    workers = pool(engine, probing=rarely)
    await workers.start()
    try:
        await asyncio.sleep(0)  # The probing is now waiting for its interval to pass.
        with pytest.raises(WorkerUnavailable):
            await take(workers)
        await engine.next_probe()
        await engine.next_probe()
        assert workers.is_ready
    finally:
        await workers.close()


async def test_a_bug_in_a_probe_does_not_end_the_probing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine("a")
    workers = pool(engine, probing=OFTEN)
    await workers.start()
    try:
        engine.sickness = RuntimeError("a bug")
        await engine.next_probe()
        assert "Probing worker a failed" in caplog.text
        engine.sickness = WorkerUnavailable("gone")
        for _ in range(3):  # One failure may be chance.
            assert [worker.is_up for worker in workers.workers] == [True]
            await engine.next_probe()
        assert [worker.is_up for worker in workers.workers] == [False]
    finally:
        await workers.close()


async def test_closing_ends_the_probing_and_the_connections() -> None:
    engine = ScriptedEngine("a")
    workers = pool(engine, probing=OFTEN)
    before = asyncio.all_tasks()
    await workers.start()
    await workers.close()
    assert engine.is_closed
    assert asyncio.all_tasks() == before


async def test_a_worker_that_was_down_may_come_back_as_another() -> None:
    engine = ScriptedEngine("a")
    worker = Worker(engine)
    await worker.probe()
    engine.model = "another"
    await worker.probe()
    assert worker.info == EngineInfo(engine="scripted", model="a")
    worker.mark_down(WorkerUnavailable("gone"))
    await worker.probe()
    assert worker.info == EngineInfo(engine="scripted", model="another")


async def test_a_full_worker_is_not_down() -> None:
    engine = ScriptedEngine("a")
    engine.sickness = WorkerOverloaded("no room")
    assert await Worker(engine).probe()


async def test_real_workers_stand_in_for_each_other() -> None:
    dying, spare = Process(VLLM.module), Process(VLLM.module)
    try:
        async with directing(dying) as first, directing(spare) as second:
            await first.play({"exit": 1}, answers=VLLM.answers())
            await second.play(*VLLM.stream([1]), answers=VLLM.answers())
            engines = [connect(f"grpc://{each.address}") for each in (dying, spare)]
            workers = Pool([Worker(engine) for engine in engines], RoundRobin())
            await workers.start()
            chunks = await take(workers, PromptTokens(ids=[5, 6, 7]))
            assert [chunk.ids for chunk in chunks] == [[1], ()]
            assert [worker.is_up for worker in workers.workers] == [False, True]
            await workers.close()
    finally:
        dying.end()
        spare.end()


async def test_going_down_and_coming_up_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine("a")
    worker = Worker(engine)
    with caplog.at_level(logging.INFO):
        for sickness in [WorkerUnavailable("gone")] * 2 + [None] * 3:
            engine.sickness = sickness
            await worker.probe()
    assert [record.getMessage() for record in caplog.records] == [
        "Worker a is down: gone",
        "Worker a is up again",
    ]
