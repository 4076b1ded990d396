"""How full the database is: found out in the background, for it may take long; told when asked."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from smg.errors import StorageError

log = logging.getLogger(__name__)

EVERY_S: Final = 300.0
SHARE: Final = 0.02
"""The most time that counting may take: a large database is counted less often."""


class TableSize(Protocol):
    """How much one table holds."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def rows(self) -> int:
        """How many."""
        ...

    @property
    def bytes(self) -> int:
        """With its indexes."""
        ...


class Sizes(Protocol):
    """How full a database is."""

    @property
    def tables(self) -> Sequence[TableSize]:
        """All of them."""
        ...

    @property
    def unused_bytes(self) -> int:
        """What SQLite's file holds beside them."""
        ...

    @property
    def unfinished(self) -> int:
        """Responses that have not ended."""
        ...


class DatabaseSizes(Collector):
    """Counts now and then for as long as `watch` runs; files are looked at when somebody asks."""

    def __init__(
        self, count: Callable[[], Awaitable[Sizes]], files: Callable[[], dict[str, int]]
    ) -> None:
        """`files` gives bytes on disk by what they are."""
        self._count = count
        self._files = files
        self._last: Sizes | None = None

    async def watch(self) -> None:
        """Count for ever."""
        while True:
            begun = time.monotonic()
            try:
                self._last = await self._count()
            except StorageError as error:
                log.warning("The database's size is not known: %s", error)
            took = time.monotonic() - begun
            await asyncio.sleep(max(EVERY_S, took / SHARE))

    def collect(self) -> Iterator[Metric]:
        """The last count, and the files now."""
        last = self._last
        parts = self._files()
        if last is not None and parts:
            parts["unused"] = last.unused_bytes
        size = GaugeMetricFamily("smg_database_bytes", "SQLite's files", labels=("part",))
        for part, count in parts.items():
            size.add_metric((part,), count)
        rows = GaugeMetricFamily("smg_database_table_rows", "Rows", labels=("table",))
        of_tables = GaugeMetricFamily(
            "smg_database_table_bytes", "Bytes, with its indexes", labels=("table",)
        )
        for table in last.tables if last else ():
            rows.add_metric((table.name,), table.rows)
            of_tables.add_metric((table.name,), table.bytes)
        unfinished = GaugeMetricFamily(
            "smg_database_unfinished_responses", "Responses of all gateways that have not ended"
        )
        if last is not None:
            unfinished.add_metric((), last.unfinished)
        yield from (size, rows, of_tables, unfinished)
