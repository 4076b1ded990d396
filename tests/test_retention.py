"""Old responses are forgotten, in small steps, and the file gets smaller."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from smg.app import opened_store
from smg.errors import NotFound
from smg.retention import DAY_SECONDS, Pace, Retention, forget
from smg.settings import Settings
from smg.storage.records import ResponseRecord
from smg.storage.sql import SqlStore
from smg.telemetry.counters import Telemetry
from tests.contracts.store import ANN, response

QUICK = Pace(first_seconds=0, every_seconds=0.01, pause_seconds=0, rows=3, pages=20)


async def store_of(folder: Path, *records: ResponseRecord) -> SqlStore:
    store = await SqlStore.open(f"sqlite:///{folder / 'smg.db'}")
    for record in records:
        await store.responses.save(record)
    return store


async def knows(store: SqlStore, name: str) -> bool:
    try:
        await store.responses.get(f"resp_{name}", ANN)
    except NotFound:
        return False
    return True


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110 - a sweep tells nobody.
            await asyncio.sleep(0.01)


async def test_only_what_is_older_than_the_days_is_forgotten(tmp_path: Path) -> None:
    edge = int(10 * DAY_SECONDS)
    store = await store_of(
        tmp_path, response("old", created_at=edge - 1), response("young", created_at=edge)
    )
    retention = Retention(store, 2, lambda: 12 * DAY_SECONDS, QUICK)
    assert await retention.sweep() == 2  # Made unknown, then removed.
    assert not await knows(store, "old")
    assert await knows(store, "young")
    await store.close()


async def test_a_backlog_of_many_steps_goes_at_once_and_the_file_shrinks(tmp_path: Path) -> None:
    store = await store_of(tmp_path, *(response(f"r{n}") for n in range(40)))
    await store.responses.save(response("big", created_at=5000))
    for number in range(40):
        text = "x" * 50_000
        record = response(f"long{number}")
        body = {**record.body, "instructions": text}
        await store.responses.save(
            ResponseRecord(
                id=record.id,
                owner=ANN,
                model=record.model,
                status="completed",
                created_at=1000,
                body=body,
                input=(),
                output=(),
            )
        )
    await store.close()
    path = tmp_path / "smg.db"
    full = path.stat().st_size
    store = await SqlStore.open(str(path))
    assert await forget(store, 5000, QUICK) == 160
    assert await store.give_back(1) == 0
    assert await knows(store, "big")
    await store.close()
    assert full > 40 * 50_000
    assert path.stat().st_size < full / 10


async def test_the_size_of_the_file_is_among_the_metrics(tmp_path: Path) -> None:
    telemetry = Telemetry()
    path = tmp_path / "smg.db"

    def size(part: str = "file", name: str = "smg_database_bytes") -> float:
        value = telemetry.registry.get_sample_value(name, {"part": part})
        return -1 if value is None else float(value)

    async with opened_store(Settings(database_url=f"sqlite:///{path}"), telemetry) as store:
        assert size() + size("wal") > 10 * 4096
        before = size("wal")
        await store.responses.save(response("a"))
        assert size("wal") > before
    assert (size(), size("wal")) == (await asyncio.to_thread(os.path.getsize, path), 0)


async def test_a_database_in_memory_has_no_size(tmp_path: Path) -> None:
    telemetry = Telemetry()
    async with opened_store(Settings(database_url="sqlite:///:memory:"), telemetry):
        assert telemetry.registry.get_sample_value("smg_database_bytes", {"part": "file"}) is None


async def test_the_background_sweep_comes_again_and_again(tmp_path: Path) -> None:
    store = await store_of(tmp_path, response("a"))

    async def is_gone() -> bool:
        return not await knows(store, name)

    async with Retention(store, 1, lambda: 2 * DAY_SECONDS, QUICK):
        name = "a"
        await until(is_gone)
        name = "b"
        await store.responses.save(response("b"))
        await until(is_gone)
    await store.responses.save(response("c"))
    assert await knows(store, "c")
    await store.close()


async def test_a_store_that_does_not_answer_is_asked_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await store_of(tmp_path, response("a"))
    path = tmp_path / "smg.db"

    async def is_told() -> bool:
        return "Forgetting old responses failed" in caplog.text

    async def is_gone() -> bool:
        return not await knows(store, "a")

    await store._database.write(lambda c: c.exec_driver_sql("ALTER TABLE events RENAME TO gone"))
    async with Retention(store, 1, lambda: 2 * DAY_SECONDS, QUICK):
        await until(is_told)
        await store._database.write(
            lambda c: c.exec_driver_sql("ALTER TABLE gone RENAME TO events")
        )
        await until(is_gone)
    await store.close()
    assert path.is_file()


async def test_zero_days_keeps_everything(tmp_path: Path) -> None:
    store = await store_of(tmp_path, response("a", created_at=1))
    async with Retention(store, 0, lambda: 1000 * DAY_SECONDS, QUICK):
        assert "retention" not in {task.get_name() for task in asyncio.all_tasks()}
    assert await knows(store, "a")
    await store.close()


async def test_an_approval_is_remembered_for_as_long_as_its_request_is_seen(
    tmp_path: Path,
) -> None:
    store = await store_of(tmp_path, response("a"), response("b", after="resp_a", created_at=9000))
    # What is answered here is any item; in a request of responses it is an approval request.
    await store.approvals.answer(ANN, "resp_b", approved=["out_a", "mcpr_gone"], denied=[])
    later = 2**40

    async def answers() -> list[str]:
        rows = await store._database.read(
            lambda c: c.exec_driver_sql("SELECT request_id FROM approvals").scalars().all()
        )
        return sorted(rows)

    await forget(store, 5000, QUICK)
    assert await answers() == ["mcpr_gone", "out_a"]  # Both are younger.
    await store._database.write(
        lambda c: c.exec_driver_sql("UPDATE approvals SET created_at = 100")
    )
    await forget(store, 5000, QUICK)
    assert await answers() == ["out_a"]  # A live response continues what it is in.
    await forget(store, later, QUICK)
    assert await answers() == []
    await store.close()


def test_a_gateway_forgets_after_thirty_days() -> None:
    assert Settings().retention_days == 30
