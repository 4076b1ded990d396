"""Places, lines and buckets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from smg.web.gate import Busy, Gate, GateRules, Priority, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def inside(gate: Gate, priority: Priority = Priority.DEFAULT) -> AsyncIterator[None]:
    async with asyncio.timeout(5), gate.place(priority):
        yield


async def until_waiting(gate: Gate, count: int) -> None:
    async with asyncio.timeout(5):
        while gate.waiting != count:  # noqa: ASYNC110 - a gate tells nobody of its line
            await asyncio.sleep(0)


async def order_of_entry(gate: Gate, priorities: list[Priority]) -> list[int]:
    """In which order requests get the only place, which is taken until all of them wait."""
    entered: list[int] = []

    async def enter(number: int, priority: Priority) -> None:
        async with inside(gate, priority):
            entered.append(number)

    async with asyncio.TaskGroup() as group, inside(gate):
        for number, priority in enumerate(priorities):
            group.create_task(enter(number, priority))
            await until_waiting(gate, number + 1)
    return entered


async def test_without_limits_everybody_is_let_in() -> None:
    gate = Gate(GateRules())
    async with AsyncExitStack() as places:
        for _ in range(1000):
            await places.enter_async_context(gate.place())
        assert (gate.running, gate.waiting) == (1000, 0)
    assert (gate.running, gate.refused) == (0, 0)


async def test_who_came_first_is_let_in_first() -> None:
    gate = Gate(GateRules(places=1))
    assert await order_of_entry(gate, [Priority.DEFAULT] * 4) == [0, 1, 2, 3]
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_higher_class_is_let_in_before_a_lower_one() -> None:
    gate = Gate(GateRules(places=1), Clock())
    classes = [Priority.LOW, Priority.DEFAULT, Priority.HIGH, Priority.LOW, Priority.HIGH]
    assert await order_of_entry(gate, classes) == [2, 4, 1, 0, 3]


async def test_who_has_waited_long_comes_before_any_class() -> None:
    clock = Clock()
    gate = Gate(GateRules(places=1, wait_s=10), clock)
    entered: list[str] = []

    async def enter(name: str, priority: Priority) -> None:
        async with inside(gate, priority):
            entered.append(name)

    async with asyncio.TaskGroup() as group, inside(gate):
        group.create_task(enter("low", Priority.LOW))
        await until_waiting(gate, 1)
        clock.now = 5
        group.create_task(enter("high", Priority.HIGH))
        await until_waiting(gate, 2)
    assert entered == ["low", "high"]


async def test_a_full_line_refuses_at_once() -> None:
    gate = Gate(GateRules(places=1, waiting=0))
    async with inside(gate):
        with pytest.raises(Busy) as refused:
            async with inside(gate):
                pass
    assert (refused.value.retry_after, gate.refused, gate.running) == (1, 1, 0)


async def test_a_wait_that_is_too_long_ends_in_a_refusal() -> None:
    gate = Gate(GateRules(places=1, wait_s=0.001))
    async with inside(gate):
        with pytest.raises(Busy):
            async with inside(gate):
                pass
        assert (gate.running, gate.waiting) == (1, 0)


async def test_who_leaves_the_line_leaves_no_gap() -> None:
    gate = Gate(GateRules(places=1))
    entered = asyncio.Event()

    async def enter() -> None:
        async with inside(gate):
            entered.set()

    async with inside(gate):
        leaver = asyncio.create_task(enter())
        await until_waiting(gate, 1)
        stayer = asyncio.create_task(enter())
        await until_waiting(gate, 2)
        leaver.cancel()
        await until_waiting(gate, 1)
    await asyncio.wait_for(stayer, 5)
    assert entered.is_set()
    assert gate.running == 0


async def test_a_place_that_is_given_to_one_who_leaves_goes_to_the_next() -> None:
    gate = Gate(GateRules(places=1))

    async def enter() -> None:
        async with inside(gate):
            pass

    async with inside(gate):
        leaver, stayer = asyncio.create_task(enter()), asyncio.create_task(enter())
        await until_waiting(gate, 2)
    leaver.cancel()  # The place is its own by now, and it does not know yet.
    await asyncio.wait_for(stayer, 5)
    assert (gate.running, gate.waiting) == (0, 0)


def test_a_bucket_lets_so_many_pass_at_once_and_then_so_many_a_second() -> None:
    clock = Clock()
    bucket = TokenBucket(4, clock)
    assert [bucket.take() for _ in range(5)] == [0, 0, 0, 0, 0.25]
    clock.now = 0.25
    assert [bucket.take() for _ in range(2)] == [0, 0.25]
    clock.now = 1000
    assert [bucket.take() for _ in range(5)] == [0, 0, 0, 0, 0.25]


def test_a_bucket_of_less_than_one_a_second_lets_one_pass() -> None:
    bucket = TokenBucket(0.1, Clock())
    assert bucket.take() == 0
    assert bucket.take() == pytest.approx(10)


async def test_who_comes_too_quickly_is_told_when_to_come_again() -> None:
    gate = Gate(GateRules(per_second=0.1), Clock())
    async with inside(gate):
        pass
    with pytest.raises(Busy) as refused:
        async with inside(gate):
            pass
    assert refused.value.retry_after == 10
