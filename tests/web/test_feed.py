"""The frames of one stream, and everybody who reads them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from smg.web.feed import Feed

PATIENCE_SECONDS = 5.0


class Abandoned:
    """Counts how often nobody was left."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


async def rest(reading: AsyncGenerator[bytes, None]) -> list[bytes]:
    async with asyncio.timeout(PATIENCE_SECONDS), aclosing(reading):
        return [batch async for batch in reading]


async def test_a_reader_gets_what_was_there_and_what_comes_until_the_end() -> None:
    feed = Feed(Abandoned())
    feed.push([b"0", b"1"])
    reading = feed.read()
    assert await anext(reading) == b"01"
    waiting = asyncio.create_task(rest(reading))
    feed.push([b"2"])
    feed.close()
    assert await waiting == [b"2"]


async def test_readers_start_where_they_like() -> None:
    feed = Feed(Abandoned())
    feed.push([b"0", b"1", b"2"])
    feed.close()
    assert await rest(feed.read()) == [b"012"]
    assert await rest(feed.read(after=1)) == [b"2"]
    assert await rest(feed.read(after=2)) == []
    assert await rest(feed.read(after=99)) == []


async def test_a_slow_reader_gets_the_frames_that_waited_in_one_piece() -> None:
    feed = Feed(Abandoned())
    slow, fast = feed.read(), feed.read()
    feed.push([b"0"])
    assert [await anext(slow), await anext(fast)] == [b"0", b"0"]
    feed.push([b"1"])
    assert await anext(fast) == b"1"
    feed.push([b"2"])
    assert await anext(fast) == b"2"
    feed.close()
    assert await rest(slow) == [b"12"]
    assert await rest(fast) == []


async def test_all_waiting_readers_wake_at_each_push() -> None:
    feed = Feed(Abandoned())
    readers = [asyncio.create_task(rest(feed.read())) for _ in range(3)]
    for frame in (b"0", b"1"):
        await asyncio.sleep(0)  # Every reader waits now.
        feed.push([frame])
    feed.close()
    assert [b"".join(await reader) for reader in readers] == [b"01"] * 3


async def test_the_last_reader_that_leaves_early_abandons_the_feed() -> None:
    abandoned = Abandoned()
    feed = Feed(abandoned)
    feed.push([b"0"])
    first, second = feed.read(), feed.read()
    await anext(first)
    await anext(second)
    await first.aclose()
    assert abandoned.times == 0
    await second.aclose()
    assert abandoned.times == 1


async def test_nobody_abandons_a_feed_that_has_ended() -> None:
    abandoned = Abandoned()
    feed = Feed(abandoned)
    feed.push([b"0"])
    reading = feed.read()
    await anext(reading)
    feed.close()
    await reading.aclose()
    assert abandoned.times == 0


async def test_waiting_for_the_end_counts_as_reading() -> None:
    abandoned = Abandoned()
    feed = Feed(abandoned)
    waiting = asyncio.create_task(feed.wait())
    await asyncio.sleep(0)
    feed.push([b"0"])
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert abandoned.times == 1
    feed.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await feed.wait()
