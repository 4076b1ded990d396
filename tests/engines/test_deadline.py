"""A deadline ends what takes too long, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from smg.engines.deadline import Deadline

SHORT, LONG = 0.05, 5.0


@asynccontextmanager
async def limited() -> AsyncIterator[Deadline]:
    deadline = Deadline()
    try:
        yield deadline
    finally:
        deadline.close()


def never() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def test_what_comes_in_time_is_returned() -> None:
    async with limited() as deadline:
        assert await deadline.wait(after(0), LONG) == "done"


async def test_what_takes_too_long_is_cancelled() -> None:
    awaited = never()
    async with limited() as deadline:
        with pytest.raises(TimeoutError):
            await deadline.wait(awaited, SHORT)
    assert awaited.cancelled()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_each_wait_has_its_whole_time() -> None:
    async with limited() as deadline:
        for _ in range(4):  # Together they take longer than one may.
            assert await deadline.wait(after(0.15), 0.5) == "done"


async def test_a_later_limit_may_be_shorter() -> None:
    async with limited() as deadline:
        await deadline.wait(after(0), 3600)
        with pytest.raises(TimeoutError):
            await deadline.wait(never(), SHORT)


async def test_time_between_waits_does_not_count() -> None:
    async with limited() as deadline:
        await deadline.wait(after(0), SHORT)
        await asyncio.sleep(2 * SHORT)
        assert await deadline.wait(after(0), SHORT) == "done"


async def test_a_cancellation_from_outside_stays_one() -> None:
    async with limited() as deadline:
        waiting = asyncio.ensure_future(deadline.wait(never(), LONG))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_an_error_of_what_is_awaited_is_its_own() -> None:
    failing = never()
    failing.set_exception(ValueError("its own"))
    async with limited() as deadline:
        with pytest.raises(ValueError, match="its own"):
            await deadline.wait(failing, LONG)
