"""The wall clock jumps while responses run (F30), that of the gateways and of their database."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.durability.preload import built
from tests.durability.test_kill import BOOK, ask, of_type
from tests.durability.world import PATIENCE_SECONDS, Process, finished, stream, until, world

HOUR = 3600


class Clock:
    """The wall clock of all processes that are started while it is there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "clock"
        self._file.write_text("0")
        monkeypatch.setenv("LD_PRELOAD", str(built("clock", folder)))
        monkeypatch.setenv("SMG_CLOCK_FILE", str(self._file))

    def jump(self, seconds: int) -> None:
        draft = self._file.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.replace(self._file)  # Nobody reads half of it.


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_a_jump_of_the_clock_ends_nothing_before_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    clock = Clock(tmp_path, monkeypatch)
    async with world(tmp_path, itl_ms=20) as around:
        around.ledger.open = False
        gateway = await around.start("--lease-seconds", "15", "--response-timeout-secs", "60")
        calling = await ask(gateway, BOOK)
        await around.ledger.reached(1)
        begun = asyncio.Event()
        streaming = asyncio.create_task(stream(gateway, "[[long:50]]", begun))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
        clock.jump(seconds)
        after = await ask(gateway, "[[say:hello]]")
        # The clock has indeed jumped, for the gateway as for its database.
        assert abs(after["created_at"] - calling["created_at"] - seconds) < 60
        events = await streaming
        await around.ledger.release()
        body = await finished(gateway, calling["id"])
        assert (await finished(gateway, after["id"]))["status"] == "completed"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["type"] == "response.completed"
        assert body["status"] == "completed"
        assert of_type(body, "mcp_call")[0]["output"] == "booked a table"
        assert around.ledger.calls == ["a table"]


async def test_a_lease_that_a_jump_ends_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, monkeypatch)
    async with world(tmp_path) as around:
        around.ledger.open = False
        # Its next renewal is too far away to help; the other one looks around all the time.
        first = await around.start("--lease-seconds", "600")
        second = await around.start()
        response = await ask(first, BOOK)
        await around.ledger.reached(1)
        clock.jump(HOUR)
        body = await finished(second, response["id"])  # Taken over.
        await around.ledger.release()
        [call] = of_type(body, "mcp_call")
        assert (body["status"], call["status"]) == ("completed", "failed")
        assert "nobody knows whether it ran" in call["error"]["message"]
        assert around.ledger.calls == ["a table"]
        await said(first, "this process lets it go")
        assert (await first.http.get(f"/responses/{response['id']}")).json() == body
    with closing(sqlite3.connect(tmp_path / "smg.db")) as connection:
        assert connection.execute("SELECT attempt, status FROM responses").fetchall() == [
            (2, "completed")
        ]


async def test_a_clock_that_was_set_back_does_not_keep_others_from_taking_over_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, monkeypatch)
    async with world(tmp_path) as around:
        around.ledger.open = False
        first = await around.start()
        response = await ask(first, BOOK)
        await around.ledger.reached(1)
        clock.jump(-HOUR)
        await renewed(tmp_path / "smg.db")
        await first.kill()
        await around.ledger.release()
        second = await around.start()
        body = await finished(second, response["id"])
        assert body["status"] == "completed"
        assert around.ledger.calls == ["a table"]


async def said(gateway: Process, words: str) -> None:
    """Return when a gateway has logged these words."""
    assert gateway.process.stderr is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while words not in (line := (await gateway.process.stderr.readline()).decode()):
            assert line


async def renewed(database: Path) -> None:
    """Return when the lease says the new time: its holder writes it at the next renewal."""

    def until_when() -> float:
        with closing(sqlite3.connect(database)) as connection:
            [(lease,)] = connection.execute("SELECT lease_until FROM responses").fetchall()
            return float(lease)

    before = until_when()

    async def is_earlier() -> bool:
        return until_when() < before

    await until(is_earlier)
