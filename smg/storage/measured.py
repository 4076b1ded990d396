"""A database whose transactions are timed: kind, outcome and seconds go to whoever counts them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from smg.errors import RequestError, StorageError
from smg.storage.database import Database
from smg.storage.work import Work

T = TypeVar("T")

Told = Callable[[str, str, float], None]
"""Told of each transaction: read or write, its outcome, its seconds."""


class MeasuredDatabase:
    """A database as it was, and somebody who is told."""

    def __init__(self, database: Database, told: Told) -> None:
        self._database = database
        self._told = told

    @property
    def is_sqlite(self) -> bool:
        """Whether transactions are already one after the other."""
        return self._database.is_sqlite

    @property
    def damage(self) -> str | None:
        """Why nothing can be stored until the gateway is started again; `None`: it can."""
        return self._database.damage

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work that changes something."""
        with self._timed("write"):
            return await self._database.write(work)

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that sees one state of the database."""
        with self._timed("read"):
            return await self._database.read(work)

    async def close(self) -> None:
        """Close all connections, after the transaction that is being written."""
        await self._database.close()

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        begun, outcome = time.perf_counter(), "interrupted"
        try:
            yield
            outcome = "ok"
        except StorageError:
            outcome = "error"
            raise
        except RequestError:  # Not there, or in conflict: the database did what it should.
            outcome = "refused"
            raise
        finally:
            self._told(kind, outcome, time.perf_counter() - begun)
