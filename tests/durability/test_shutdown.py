"""SIGTERM with many turns under way (security.md F31): nothing new, and nothing lost."""

import asyncio
import signal
from pathlib import Path
from typing import Any

from tests.durability.test_kill import BOOK, ask, of_type, text_of
from tests.durability.world import PATIENCE_SECONDS, Process, World, finished, until, world

PLACES = 30
STREAMED = "[[slow:1.2]][[say:one two three four]]"
LONG = "[[slow:4]][[say:five six seven eight]]"


async def streamed(gateway: Process) -> list[str]:
    """The types of the events of one stream."""
    stream = await gateway.openai.responses.create(model="scripted", input=STREAMED, stream=True)
    return [event.type async for event in stream]


async def status_of(gateway: Process, path: str) -> int:
    return int((await gateway.http.get(f"{gateway.url}{path}")).status_code)


async def loaded(around: World, gateway: Process) -> tuple[list["asyncio.Task[list[str]]"], Any]:
    """20 streams, 5 calls and 5 generations in the background under way; 20 more that wait."""
    around.ledger.open = False
    calling = await asyncio.gather(*(ask(gateway, BOOK) for _ in range(5)))
    await around.ledger.reached(5)
    running = await asyncio.gather(*(ask(gateway, LONG) for _ in range(5)))
    streams = [asyncio.create_task(streamed(gateway)) for _ in range(20)]
    await around.engine.arrived(PLACES)
    waiting = await asyncio.gather(*(ask(gateway, "[[say:nine]]") for _ in range(20)))
    return streams, (calling, running, waiting)


async def refused(gateway: Process) -> None:
    """Red for load balancers, and no new work, while connections are still accepted."""

    async def is_draining() -> bool:
        return await status_of(gateway, "/readiness") == 503

    await until(is_draining)
    body = {"model": "scripted", "input": "Hello"}
    answer = await gateway.http.post("/responses", json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "shutting_down"
    assert await status_of(gateway, "/health") == 200


async def test_fifty_turns_end_or_go_on_in_the_next_process(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        flags = ("--shutdown-grace-seconds", "2", "--drain-settle-secs", "0.7")
        first = await around.start(*flags, "--max-concurrent-requests", str(PLACES))
        streams, (calling, running, waiting) = await loaded(around, first)

        first.process.send_signal(signal.SIGTERM)
        await refused(first)
        ends = [kinds[-1] for kinds in await asyncio.gather(*streams)]
        assert ends == ["response.completed"] * 20
        async with asyncio.timeout(PATIENCE_SECONDS):  # Though the calls have no end.
            assert await first.process.wait() == 0

        await around.ledger.release()
        second = await around.start()
        for response in waiting:
            body = await finished(second, response["id"])
            assert (body["status"], text_of(body)) == ("completed", "nine")
        for response in running:
            body = await finished(second, response["id"])
            assert (body["status"], text_of(body)) == ("completed", "five six seven eight")
        for response in calling:
            body = await finished(second, response["id"])
            [call] = of_type(body, "mcp_call")
            assert (body["status"], call["status"]) == ("completed", "failed")
        assert around.ledger.calls == ["a table"] * 5  # None was called again.
