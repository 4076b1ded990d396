"""PostgreSQL is restarted, or a connection to it breaks, while the store works (F21)."""

import asyncio
import random
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from smg.errors import StorageError
from smg.storage.database import Database, open_database
from smg.storage.records import EventBatch, Step
from smg.storage.sql import SqlStore
from tests.contracts.store import ANN, response
from tests.storage.postgres import Postgres

SOCKET = ".s.PGSQL.5432"
WRITERS = 6
Trouble = Callable[[], Awaitable[None]]


async def lived(store: SqlStore, name: str) -> None:
    """A whole life of a response: each write must happen once, and only once."""
    record = response(name, status="in_progress")
    lease = await store.responses.begin_claimed(
        record, "gw", 60, Step(number=0, kind="order", state={})
    )
    for number in range(3):
        batch = EventBatch(number * 2, [b"%d" % (number * 2), b"%d" % (number * 2 + 1)])
        assert await store.journal.append_events([(lease, batch)]) == [True]
        await store.journal.append_step(lease, Step(number=number + 1, kind="result", state={}))
        assert await store.journal.renew(lease, 60) is False
    await store.responses.save(response(name), lease=lease, events=EventBatch(6, [b"6"]))


async def check(store: SqlStore, name: str) -> None:
    assert await store.responses.get(f"resp_{name}", ANN) == response(name)
    frames = await store.journal.events(f"resp_{name}", ANN)
    assert frames == [(number, b"%d" % number) for number in range(7)]
    steps = await store.journal.steps(f"resp_{name}", ANN)
    assert [step.number for step in steps] == [0, 1, 2, 3]


async def check_lives(store: SqlStore, troubles: int, trouble: Trouble) -> None:
    """Have trouble at random moments of many lives, and look at what is left of each."""
    rng = random.Random(1)
    over, some_ended = asyncio.Event(), asyncio.Event()
    begun: list[str] = []
    ended: list[str] = []

    async def writer(number: int) -> None:
        while not over.is_set():
            name = f"w{number}n{len(begun)}"
            begun.append(name)
            await lived(store, name)
            ended.append(name)
            some_ended.set()

    async def troubled() -> None:
        for _ in range(troubles):
            await trouble()
            await asyncio.sleep(rng.random() * 0.1)
            some_ended.clear()  # Some work gets done in between.
            await some_ended.wait()
        over.set()

    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(writer(number))
        group.create_task(troubled())
    assert sorted(ended) == sorted(begun)
    for name in ended:
        await check(store, name)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_the_server_loses_and_doubles_nothing(
    postgres: Postgres, mode: str
) -> None:
    store = await SqlStore.open(await postgres.empty_url())
    await check_lives(store, 2, lambda: postgres.restart(mode))
    await store.close()


async def test_connections_that_are_cut_all_the_time_lose_and_double_nothing(
    postgres: Postgres,
) -> None:
    store = await SqlStore.open(await postgres.empty_url())
    await check_lives(store, 15, lambda: postgres.end_connections("shared"))
    await store.close()


class Wire:
    """Between the store and its server; breaks at the next COMMIT, when it is told to."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self.breaks: str | None = None
        """`before`: the server never hears of the commit; `after`: its answer is not heard."""
        self.broken = 0
        self.is_down = False

    async def carry(self, client: StreamReader, answers: StreamWriter) -> None:
        if self.is_down:
            answers.close()
            return
        back, forth = await asyncio.open_unix_connection(str(self._server / SOCKET))
        returning = asyncio.create_task(self._return(back, answers))
        try:
            while data := await client.read(65536):
                if self.breaks is not None and b"COMMIT;" in data:
                    await self._break(data, forth, returning)
                    return
                forth.write(data)
        finally:
            returning.cancel()
            for end in (forth, answers):
                end.close()

    async def _break(self, data: bytes, forth: StreamWriter, returning: asyncio.Task[None]) -> None:
        how, self.breaks = self.breaks, None
        self.broken += 1
        returning.cancel()
        if how == "after":
            forth.write(data)
            await forth.drain()

    async def _return(self, back: StreamReader, answers: StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await back.read(65536):
                answers.write(data)
        answers.close()


@asynccontextmanager
async def wired(postgres: Postgres, folder: Path) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the server's shared database, and the URL at its other end."""
    await postgres.empty_url()
    wire = Wire(postgres.folder)
    server = await asyncio.start_unix_server(wire.carry, folder / SOCKET)
    try:
        yield wire, f"postgresql://postgres@/shared?host={folder}"
    finally:
        server.close()


def insert(connection: Connection) -> str:
    connection.execute(text("INSERT INTO workers (url, added_at) VALUES ('one', 0)"))
    return "inserted"


async def urls(database: Database) -> list[str]:
    return await database.read(lambda c: list(c.scalars(text("SELECT url FROM workers"))))


@pytest.mark.parametrize("breaks", ["before", "after"])
async def test_a_commit_whose_answer_is_not_heard_is_looked_up_and_not_made_twice(
    postgres: Postgres, short_folder: Path, breaks: str
) -> None:
    async with wired(postgres, short_folder) as (wire, url):
        database = open_database(url)
        tries: list[str] = []

        def work(connection: Connection) -> str:
            tries.append(breaks)
            return insert(connection)

        assert await urls(database) == []
        wire.breaks = breaks
        assert await database.write(work) == "inserted"  # Twice would be a Conflict.
        assert wire.broken == 1
        assert tries == {"before": ["before"] * 2, "after": ["after"]}[breaks]
        assert await urls(database) == ["one"]
        await database.close()


async def test_a_commit_of_which_nobody_can_tell_is_neither_repeated_nor_called_stored(
    postgres: Postgres, short_folder: Path
) -> None:
    async with wired(postgres, short_folder) as (wire, url):
        database = open_database(url, away_seconds=0.5)
        await urls(database)

        def work(connection: Connection) -> str:
            wire.is_down = True  # Whoever is connected stays so; nobody else can connect.
            return insert(connection)

        wire.breaks = "after"
        with pytest.raises(StorageError, match="it may be there or not"):
            await database.write(work)
        wire.is_down = False
        assert await urls(database) == ["one"]
        await database.close()


async def test_of_two_that_wait_for_each_other_one_starts_over(postgres: Postgres) -> None:
    database = open_database(await postgres.empty_url())
    rows = text("INSERT INTO workers (url, added_at) VALUES ('a', 0), ('b', 0)")
    await database.write(lambda c: c.execute(rows))
    tries = []

    def add(first: str, second: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            tries.append(first)
            count = "UPDATE workers SET added_at = added_at + 1 WHERE url = "
            connection.execute(text(f"{count}'{first}'"))
            connection.execute(text("SELECT pg_sleep(0.3)"))  # The other has its first row by now.
            connection.execute(text(f"{count}'{second}'"))

        return work

    await asyncio.gather(database.write(add("a", "b")), database.write(add("b", "a")))
    assert len(tries) == 3
    counts = await database.read(lambda c: list(c.scalars(text("SELECT added_at FROM workers"))))
    assert counts == [2.0, 2.0]
    await database.close()


async def test_a_server_that_stays_away_is_told_after_a_while(
    postgres: Postgres, short_folder: Path
) -> None:
    async with wired(postgres, short_folder) as (wire, url):
        database = open_database(url, away_seconds=0.3)
        wire.is_down = True
        with pytest.raises(StorageError):
            await asyncio.wait_for(database.write(insert), 5)
        wire.is_down = False
        assert await database.write(insert) == "inserted"
        await database.close()


async def test_a_mistake_in_a_statement_is_not_tried_again(postgres: Postgres) -> None:
    database = open_database(await postgres.empty_url())
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises(StorageError):
        await database.write(work)
    assert tries == [1]
    await database.close()
