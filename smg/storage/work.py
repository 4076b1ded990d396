"""Units of work: what a transaction is here, and how a driver's errors come out as ours.

Knows no table and opens nothing.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from smg.errors import Conflict, InvalidRequest, StorageDamaged, StorageError

T = TypeVar("T")
Work = Callable[[Connection], T]
"""One transaction, all of it or nothing. Does not wait: it runs in a thread, or under greenlets."""

BUSY_SECONDS = 5.0  # How long a writer waits for another process, and for its own.

# No row: the driver's own words follow.
SQLITE_TROUBLE = {
    "SQLITE_BUSY": "another process is writing to it",
    "SQLITE_LOCKED": "another process is writing to it",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_IOERR": "the disk does not answer",
    "SQLITE_CANTOPEN": "the file cannot be opened",
}
SQLITE_DAMAGE = {
    "SQLITE_CORRUPT": "what is in the file does not fit together",
    "SQLITE_NOTADB": "the file is not a database",
}
"""What no second try can mend."""


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """A cancelled caller waits for its transaction: half of one would cost the connection."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn a driver's failures into ours; SQL and its parameters stay out of the messages."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict("This is stored already, or what it belongs to is gone") from error
    except (DBAPIError, UnicodeEncodeError, OverflowError) as error:
        if _is_bad_value(error):
            raise InvalidRequest("The database cannot hold this character or number") from error
        raise _storage_error(error) from error
    except (SQLAlchemyError, OSError) as error:
        raise _storage_error(error) from error


def _storage_error(error: Exception) -> StorageError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        # Extended codes (SQLITE_READONLY_DBMOVED) begin with the plain one.
        plain = "_".join(getattr(cause, "sqlite_errorname", "").split("_")[:2])
        if damage := SQLITE_DAMAGE.get(plain):
            return StorageDamaged(damage)
        trouble = SQLITE_TROUBLE.get(plain, str(cause))
    else:
        # A name only: PostgreSQL's messages quote values.
        trouble = type(getattr(cause, "__cause__", None) or cause).__name__
    return StorageError(f"The database did not take it: {trouble}")


def _is_bad_value(error: Exception) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    # What asyncpg said, inside what SQLAlchemy made of it.
    cause = getattr(error.orig, "__cause__", None)
    # asyncpg's own checks are ValueErrors; the server's data exceptions are class 22.
    return isinstance(cause, ValueError) or getattr(cause, "sqlstate", "").startswith("22")
