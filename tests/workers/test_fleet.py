"""The pool over time: retries, the breaker, turns that stay, workers that come and go."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from smg.engines.base import EngineChunk, EngineLoad, PromptTokens
from smg.errors import EngineError, WorkerOverloaded, WorkerTimeout, WorkerUnavailable
from smg.workers.breaker import Breaker, BreakerRules
from smg.workers.policies.base import Policy
from smg.workers.policies.load import LeastLoad
from smg.workers.policies.simple import Passthrough, RoundRobin
from smg.workers.pool import Pool
from smg.workers.retries import RESERVE, Retries
from smg.workers.watch import Probing
from smg.workers.worker import Worker
from tests.workers.scripted_engine import Script, ScriptedEngine, tokens
from tests.workers.test_pool import OFTEN, counted, take, until

GONE = [WorkerUnavailable("gone")]
FULL = [WorkerOverloaded("full")]
HUNG = [WorkerTimeout("slow")]
QUICK = Retries(attempts=5, initial_s=0.0001, longest_s=0.0001)


def of_turn(turn_id: str) -> PromptTokens:
    return PromptTokens(ids=[1], turn_id=turn_id)


async def test_a_worker_that_was_full_is_asked_again_after_a_pause() -> None:
    engine = ScriptedEngine("a", FULL, FULL, tokens(7))
    pool = Pool([Worker(engine)], RoundRobin(), retries=QUICK)
    assert await take(pool) == tokens(7)


async def test_a_worker_that_flaps_is_asked_again_after_a_pause() -> None:
    engine = ScriptedEngine("a", GONE, tokens(7))
    pool = Pool([Worker(engine)], RoundRobin(), retries=QUICK)
    assert await take(pool) == tokens(7)


async def test_a_generation_is_tried_so_often_and_no_more() -> None:
    engine = ScriptedEngine("a", *[FULL] * 6)
    pool = Pool([Worker(engine)], RoundRobin(), retries=QUICK)
    with pytest.raises(WorkerOverloaded) as failed:
        await take(pool)
    assert len(engine.requests) == 5
    assert failed.value.message == "full"


async def test_a_worker_that_hung_is_not_asked_again_but_another_is() -> None:
    hung, spare = ScriptedEngine("hung", HUNG), ScriptedEngine("spare", FULL, tokens(7))
    pool = Pool([Worker(hung), Worker(spare)], Passthrough(), retries=QUICK)
    assert await take(pool) == tokens(7)
    assert (len(hung.requests), len(spare.requests)) == (1, 2)


async def test_when_all_hang_the_client_hears_of_a_timeout() -> None:
    engines = [ScriptedEngine(name, HUNG) for name in "ab"]
    pool = Pool([Worker(engine) for engine in engines], RoundRobin(), retries=QUICK)
    with pytest.raises(WorkerTimeout):
        await take(pool)


async def test_retries_stay_in_proportion_to_the_work() -> None:
    engine = ScriptedEngine("a", *[FULL] * 1000)
    pool = Pool([Worker(engine)], RoundRobin(), retries=QUICK)
    asked = 50
    for _ in range(asked):
        with pytest.raises(WorkerOverloaded):
            await take(pool)
    retried = len(engine.requests) - asked
    assert RESERVE <= retried <= RESERVE + asked * 0.2


async def test_pauses_grow_and_have_an_end() -> None:
    class Middle:
        def uniform(self, low: float, high: float) -> float:
            return (low + high) / 2

    retries = Retries(initial_s=1, factor=2, longest_s=5)
    pauses = [retries.pause(n, Middle()) for n in range(4)]  # type: ignore[arg-type] # one method
    assert pauses == [1, 2, 4, 5]


async def test_failures_open_the_breaker_and_other_workers_take_over() -> None:
    broken = ScriptedEngine("broken", *[[EngineError("broken")]] * 2)
    spare = ScriptedEngine("spare", tokens(7))
    breaker = Breaker(BreakerRules(failures=2))
    pool = Pool([Worker(broken, breaker=breaker), Worker(spare)], Passthrough(), retries=QUICK)
    for _ in range(2):
        with pytest.raises(EngineError):
            await take(pool)
    assert await take(pool) == tokens(7)


async def test_a_stream_that_breaks_counts_as_a_failure() -> None:
    broken = ScriptedEngine("broken", [EngineChunk([1]), EngineError("broken")])
    worker = Worker(broken, breaker=Breaker(BreakerRules(failures=1)))
    pool = Pool([worker], RoundRobin())
    with pytest.raises(EngineError):
        await take(pool)
    assert not pool.is_ready


@pytest.mark.parametrize("script", [FULL, tokens(1)], ids=["full", "well"])
async def test_what_is_no_failure_leaves_the_breaker_closed(script: Script) -> None:
    worker = Worker(ScriptedEngine("a", script), breaker=Breaker(BreakerRules(failures=1)))
    pool = Pool([worker], RoundRobin(), retries=Retries(attempts=1))
    try:
        await take(pool)
    except WorkerOverloaded:
        assert script is FULL
    assert worker.breaker.allows


async def test_a_generation_that_was_left_is_no_failure() -> None:
    worker = Worker(ScriptedEngine("a", tokens(1, 2)), breaker=Breaker(BreakerRules(failures=1)))
    chunks = Pool([worker], RoundRobin()).generate(counted(), PromptTokens(ids=[1]))
    await anext(chunks)
    await chunks.aclose()
    assert worker.breaker.allows


async def test_with_all_breakers_open_nobody_is_asked() -> None:
    engine = ScriptedEngine("a", [EngineError("broken")])
    pool = Pool([Worker(engine, breaker=Breaker(BreakerRules(failures=1)))], RoundRobin())
    with pytest.raises(EngineError):
        await take(pool)
    with pytest.raises(WorkerUnavailable):
        await take(pool)
    assert len(engine.requests) == 1


async def test_in_flight_tokens_are_counted_while_they_are_there() -> None:
    worker = Worker(ScriptedEngine("a", tokens(1, 2)))
    chunks = Pool([worker], RoundRobin()).generate(counted(), PromptTokens(ids=[5, 6, 7]))

    def weight() -> tuple[int, int, int]:
        return worker.in_flight, worker.queued_tokens, worker.running_tokens

    seen = [weight() async for _ in chunks]
    assert seen == [(1, 0, 4), (1, 0, 5), (1, 0, 5)]
    assert weight() == (0, 0, 0)


async def test_a_turn_stays_on_its_worker() -> None:
    engines = [ScriptedEngine(name, *[tokens(1)] * 4) for name in "abc"]
    pool = Pool([Worker(engine) for engine in engines], RoundRobin())
    for turn in ("x", "x", "y", "x"):
        await take(pool, of_turn(turn))
    assert [len(engine.requests) for engine in engines] == [3, 1, 0]
    worker = pool.worker_of("x")
    assert worker is not None
    assert worker.address == "a"


async def test_a_plan_is_kept_to_and_does_not_take_a_turn_of_the_policys() -> None:
    engines = [ScriptedEngine(name, *[tokens(1)] * 4) for name in "abc"]
    pool = Pool([Worker(engine) for engine in engines], RoundRobin())
    for number, expected in enumerate("abcab"):
        place = pool.plan(of_turn(str(number)))
        assert place is not None
        assert (place.worker.address, place.reason) == (expected, "round_robin")
        await take(pool, of_turn(str(number)))
        assert pool.worker_of(str(number)) is place.worker


async def test_without_workers_there_is_no_plan() -> None:
    assert Pool([], RoundRobin()).plan(of_turn("x")) is None


async def test_a_turn_whose_worker_fails_moves_and_stays_there() -> None:
    first = ScriptedEngine("first", tokens(1), GONE, tokens(1))
    spare = ScriptedEngine("spare", tokens(2), tokens(3))
    pool = Pool([Worker(first), Worker(spare)], Passthrough(), probing=OFTEN)
    answers = [await take(pool, of_turn("x"))]
    answers.append(await take(pool, of_turn("x")))
    pool.workers[0].is_up = True
    answers.append(await take(pool, of_turn("x")))
    assert answers == [tokens(1), tokens(2), tokens(3)]


async def test_a_worker_that_is_added_gets_work_once_it_has_answered() -> None:
    first, second = ScriptedEngine("a", tokens(1)), ScriptedEngine("b", tokens(2))
    pool = Pool([Worker(first)], RoundRobin(), OFTEN)
    await pool.start()
    try:
        added = Worker(second)
        pool.add(added)
        assert not added.is_up
        await second.next_probe()
        await second.next_probe()
        assert [await take(pool), await take(pool)] == [tokens(1), tokens(2)]
    finally:
        await pool.close()


async def test_a_worker_that_is_removed_ends_its_work_first() -> None:
    first, second = ScriptedEngine("a", tokens(1, 2)), ScriptedEngine("b", tokens(3))
    pool = Pool([Worker(first), Worker(second)], Passthrough(), OFTEN)
    await pool.start()
    try:
        chunks = pool.generate(counted(), PromptTokens(ids=[1]))
        await anext(chunks)
        removal = asyncio.create_task(pool.remove(pool.workers[0], grace_s=5))
        await asyncio.sleep(0)
        assert await take(pool) == tokens(3)
        assert not removal.done()
        assert len([chunk async for chunk in chunks]) == 2
        await asyncio.wait_for(removal, 5)
        assert first.is_closed
        assert [worker.address for worker in pool.workers] == ["b"]
    finally:
        await pool.close()


async def test_a_removal_does_not_wait_for_ever() -> None:
    engine = ScriptedEngine("a", tokens(1, 2))
    pool = Pool([Worker(engine)], RoundRobin())
    chunks = pool.generate(counted(), PromptTokens(ids=[1]))
    await anext(chunks)
    await asyncio.wait_for(pool.remove(pool.workers[0], grace_s=0.001), 5)
    assert pool.workers == ()
    await chunks.aclose()


async def test_a_prompt_without_ids_weighs_by_its_text() -> None:
    worker = Worker(ScriptedEngine("a", tokens(1)))
    chunks = Pool([worker], RoundRobin()).generate(counted(), PromptTokens(ids=(), text="x" * 400))
    await anext(chunks)
    assert worker.running_tokens == 101
    await chunks.aclose()


async def test_loads_are_asked_for_where_the_policy_uses_them() -> None:
    engine = ScriptedEngine("a")
    engine.reported = EngineLoad(running=2, waiting=1, token_usage=0.5)
    for policy, expected in ((RoundRobin(), None), (LeastLoad(), engine.reported)):
        pool = Pool([Worker(engine)], policy, Probing(interval_s=3600))
        await pool.start()
        for _ in range(3):
            await asyncio.sleep(0)
        assert pool.workers[0].load is expected
        await pool.close()


async def test_without_a_report_nothing_is_known_of_others() -> None:
    engine = ScriptedEngine("a")
    engine.reported = EngineLoad(running=2)
    worker = Worker(engine)
    assert await worker.ask_load()
    engine.sickness = EngineError("does not tell")
    assert not await worker.ask_load()
    assert (worker.load, worker.foreign) == (None, 0)


async def test_a_pool_closes_even_if_a_worker_falls_under_doubt_at_that_moment() -> None:
    pool = Pool([Worker(ScriptedEngine("a"))], RoundRobin(), Probing(interval_s=3600))
    await pool.start()
    for _ in range(3):
        await asyncio.sleep(0)  # It waits for the next probe now.
    pool.workers[0].health.doubt()
    closing = asyncio.create_task(pool.close())
    await asyncio.wait_for(closing, 5)


async def test_a_report_from_before_a_worker_went_down_counts_no_longer() -> None:
    engine = ScriptedEngine("a")
    engine.reported = EngineLoad(running=2, token_usage=0.9)
    pool = Pool([Worker(engine)], LeastLoad(), replace(OFTEN, load_interval_s=3600))
    await pool.start()
    try:
        worker = pool.workers[0]
        await until(lambda: worker.load == engine.reported)
        engine.sickness = WorkerUnavailable("gone")
        worker.mark_down(WorkerUnavailable("gone"))
        await until(lambda: worker.load is None)
        assert worker.foreign == 0
    finally:
        await pool.close()


@pytest.mark.parametrize(
    "policy", [RoundRobin(), LeastLoad()], ids=lambda each: type(each).__name__
)
async def test_the_log_says_which_worker_and_why(
    policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "smg.workers.pool")
    pool = Pool([Worker(ScriptedEngine("a", tokens(1), tokens(1)))], policy)
    for _ in range(2):
        await take(pool, of_turn("x"))
    reason = policy.rank(of_turn("x"), pool.workers).reason
    assert [record.getMessage() for record in caplog.records] == [
        f"Worker a: {reason}",
        "Worker a: the turn's worker",
    ]


async def test_one_of_three_dies_under_64_streams_and_nothing_unstarted_is_lost() -> None:
    chunks: Sequence[EngineChunk] = tokens(*range(20))
    engines = [ScriptedEngine(name, *[chunks] * 64) for name in "abc"]
    dead = ScriptedEngine("dead", *[GONE] * 64)
    pool = Pool([Worker(engine) for engine in (dead, *engines)], RoundRobin(), retries=QUICK)
    asked = [take(pool, PromptTokens(ids=[n])) for n in range(64)]
    assert await asyncio.gather(*asked) == [chunks] * 64
