"""Places, lines and buckets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from smg.web.gate import Busy, Gate, GateRules, ShuttingDown, TokenBucket
from smg.web.line import Line, Priority


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Way:
    """A line and the gates behind it, and what the line tells."""

    def __init__(self, *rules: GateRules, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.told: list[tuple[Priority, float]] = []
        self.line = Line(lambda *told: self.told.append(told), self.clock)
        self.gates = tuple(Gate(one, clock=self.clock) for one in rules)

    @property
    def gate(self) -> Gate:
        return self.gates[0]

    @property
    def waiting(self) -> int:
        return self.line.waiting(background=False) + self.line.waiting(background=True)

    @asynccontextmanager
    async def inside(
        self, priority: Priority = Priority.DEFAULT, gates: tuple[Gate, ...] | None = None
    ) -> AsyncIterator[None]:
        wanted = self.gates if gates is None else gates
        async with asyncio.timeout(5):
            if priority is Priority.BACKGROUND:
                place = await self.line.enter_at_last(wanted)
            else:
                place = await self.line.enter(wanted, priority)
        try:
            yield
        finally:
            place.leave()

    async def until_waiting(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.waiting != count:  # noqa: ASYNC110 - a line tells nobody of its length
                await asyncio.sleep(0)

    async def order_of_entry(self, *priorities: Priority) -> list[int]:
        """In which order requests get the only place, which is taken until all of them wait."""
        entered: list[int] = []

        async def enter(number: int, priority: Priority) -> None:
            async with self.inside(priority):
                entered.append(number)

        async with asyncio.TaskGroup() as group, self.inside():
            for number, priority in enumerate(priorities):
                group.create_task(enter(number, priority))
                await self.until_waiting(number + 1)
        return entered


ONE = GateRules(places=1)


async def test_without_limits_everybody_is_let_in() -> None:
    way = Way(GateRules())
    async with AsyncExitStack() as places:
        for _ in range(1000):
            await places.enter_async_context(way.inside())
        assert (way.gate.running, way.waiting) == (1000, 0)
    assert (way.gate.running, way.gate.refused) == (0, 0)


async def test_who_came_first_is_let_in_first() -> None:
    way = Way(ONE)
    assert await way.order_of_entry(*[Priority.DEFAULT] * 4) == [0, 1, 2, 3]
    assert (way.gate.running, way.gate.waiting, way.waiting) == (0, 0, 0)


async def test_a_higher_class_is_let_in_before_a_lower_one() -> None:
    classes = [Priority.LOW, Priority.DEFAULT, Priority.HIGH, Priority.LOW, Priority.HIGH]
    assert await Way(ONE).order_of_entry(*classes) == [2, 4, 1, 0, 3]


async def test_who_has_waited_long_comes_before_any_class() -> None:
    way = Way(GateRules(places=1, wait_s=10))
    entered: list[str] = []

    async def enter(name: str, priority: Priority) -> None:
        async with way.inside(priority):
            entered.append(name)

    async with asyncio.TaskGroup() as group, way.inside():
        group.create_task(enter("low", Priority.LOW))
        await way.until_waiting(1)
        way.clock.now = 5
        group.create_task(enter("high", Priority.HIGH))
        await way.until_waiting(2)
    assert entered == ["low", "high"]
    assert way.told == [
        (Priority.DEFAULT, 0),
        (Priority.LOW, 5),
        (Priority.HIGH, 0),
    ]


async def test_the_background_comes_last_but_every_fourth_place_is_its_own() -> None:
    background = [Priority.BACKGROUND] * 3
    order = await Way(ONE).order_of_entry(*background, *[Priority.LOW] * 5)
    assert order == [3, 4, 5, 0, 6, 7, 1, 2]


async def test_the_background_waits_beyond_any_time_and_never_overtakes_for_it() -> None:
    way = Way(GateRules(places=1, waiting=1, wait_s=10))
    entered: list[str] = []

    async def enter(name: str, priority: Priority) -> None:
        async with way.inside(priority):
            entered.append(name)

    async with asyncio.TaskGroup() as group, way.inside():
        for number in range(3):  # More than may wait otherwise.
            group.create_task(enter(f"background {number}", Priority.BACKGROUND))
        await way.until_waiting(3)
        way.clock.now = 1000
        group.create_task(enter("low", Priority.LOW))
        await way.until_waiting(4)
    assert entered == ["low", "background 0", "background 1", "background 2"]


async def test_who_waits_at_one_gate_takes_no_place_at_another() -> None:
    way = Way(ONE, GateRules(places=2))
    narrow, wide = way.gates
    async with asyncio.TaskGroup() as group, way.inside():
        group.create_task(_pass(way, way.gates))
        await way.until_waiting(1)
        assert (narrow.running, wide.running, narrow.waiting, wide.waiting) == (1, 1, 1, 0)
        async with way.inside(gates=(wide,)):  # Who comes later and needs less does not wait.
            assert (wide.running, way.waiting) == (2, 1)
    assert (narrow.running, wide.running, way.waiting) == (0, 0, 0)


async def _pass(way: Way, gates: tuple[Gate, ...]) -> None:
    async with way.inside(gates=gates):
        pass


async def test_who_is_refused_for_coming_too_quickly_costs_the_others_nothing() -> None:
    way = Way(GateRules(per_second=1), GateRules(per_second=0.1))
    async with way.inside():
        pass
    way.clock.now = 1
    with pytest.raises(Busy):
        async with way.inside():
            pass
    async with way.inside(gates=way.gates[:1]):
        pass


async def test_a_place_is_free_when_the_last_who_holds_it_has_left() -> None:
    way = Way(ONE)
    place = await way.line.enter(way.gates)
    place.hold()
    place.leave()
    assert way.gate.running == 1
    place.leave()
    assert way.gate.running == 0


async def test_a_line_that_is_closed_sends_everybody_away() -> None:
    way = Way(ONE)
    async with way.inside():
        waiting = [
            asyncio.create_task(_pass(way, way.gates)),
            asyncio.create_task(way.line.enter_at_last(way.gates)),
        ]
        await way.until_waiting(2)
        way.line.close()
        sent_away = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in sent_away] == [ShuttingDown, ShuttingDown]
    assert (way.gate.running, way.gate.waiting) == (0, 0)
    for enter in (way.line.enter, way.line.enter_at_last):
        with pytest.raises(ShuttingDown):
            await enter(way.gates)


async def test_a_full_line_refuses_at_once() -> None:
    way = Way(GateRules(places=1, waiting=0))
    async with way.inside():
        with pytest.raises(Busy) as refused:
            async with way.inside():
                pass
    assert (refused.value.retry_after, way.gate.refused, way.gate.running) == (1, 1, 0)


def test_who_is_on_his_way_counts_as_if_he_waited() -> None:
    gate = Gate(GateRules(places=1, waiting=1))
    gate.check_arrival()
    gate.running, gate.arriving = 1, 1
    with pytest.raises(Busy):
        gate.check_arrival()
    Gate(GateRules(waiting=0)).check_arrival()  # Without a limit there is no line.


async def test_a_wait_that_is_too_long_ends_in_a_refusal() -> None:
    way = Way(GateRules(places=1, wait_s=0.001))
    async with way.inside():
        with pytest.raises(Busy):
            async with way.inside():
                pass
        assert (way.gate.running, way.gate.waiting, way.waiting) == (1, 0, 0)


async def test_who_leaves_the_line_leaves_no_gap() -> None:
    way = Way(ONE)
    async with way.inside():
        leaver = asyncio.create_task(_pass(way, way.gates))
        await way.until_waiting(1)
        stayer = asyncio.create_task(_pass(way, way.gates))
        await way.until_waiting(2)
        leaver.cancel()
        await way.until_waiting(1)
    await asyncio.wait_for(stayer, 5)
    assert way.gate.running == 0


async def test_a_place_that_is_given_to_one_who_leaves_goes_to_the_next() -> None:
    way = Way(ONE)
    async with way.inside():
        leaver, stayer = (asyncio.create_task(_pass(way, way.gates)) for _ in range(2))
        await way.until_waiting(2)
    leaver.cancel()  # The place is its own by now, and it does not know yet.
    await asyncio.wait_for(stayer, 5)
    assert (way.gate.running, way.waiting) == (0, 0)


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
    way = Way(GateRules(per_second=0.1))
    async with way.inside():
        pass
    with pytest.raises(Busy) as refused:
        async with way.inside():
            pass
    assert refused.value.retry_after == 10
