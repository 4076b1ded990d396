"""What is measured all the time: how late the event loop is, and how full the database."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from smg.storage.file import sizes_on_disk
from smg.storage.sql import SqlStore
from smg.telemetry.counters import Telemetry
from smg.telemetry.lag import watch_loop
from smg.telemetry.sizes import DatabaseSizes


@asynccontextmanager
async def sizes_measured(
    telemetry: Telemetry, store: SqlStore, file: Path | None
) -> AsyncGenerator[None, None]:
    """Count what is in the database for as long as the block lasts; `file` is SQLite's."""
    sizes = DatabaseSizes(store.stats, lambda: {} if file is None else sizes_on_disk(file))
    telemetry.registry.register(sizes)
    async with _beside(sizes.watch(), "database-sizes"):
        yield


@asynccontextmanager
async def lag_measured(telemetry: Telemetry) -> AsyncGenerator[None, None]:
    """Watch the event loop for as long as the block lasts: not while nobody is served yet."""
    async with _beside(watch_loop(telemetry.lagged), "loop-lag"):
        yield


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None], name: str) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
