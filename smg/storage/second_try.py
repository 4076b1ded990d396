"""When something that failed is tried again, and for how long.

A driver's error and how far a try had come go in; whether another try may fare better comes out.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import DBAPIError

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

PASSING = frozenset(
    {
        "40001",  # It met another transaction,
        "40P01",  # or each waited for the other.
        "25006",  # The server has become a copy of another one.
        "53300",  # It has too many connections,
        "57P01",  # is being stopped,
        "57P02",  # has crashed,
        "57P03",  # or is starting.
    }
)
"""SQLSTATEs that another try may not meet; all of class 08 are lost connections."""


@dataclass(slots=True)
class Attempt:
    """How far one try has come, and what the server knows it by."""

    result: Any = None
    is_connected: bool = False
    is_being_committed: bool = False
    transaction: int | None = None
    """`None`: it has changed nothing."""
    timeline: str | None = None
    """The server's history, of which the transaction is a part; `None`: it does not tell."""

    @property
    def may_have_changed_something(self) -> bool:
        """Whether to do it again could be to do it twice."""
        return self.is_being_committed and self.transaction is not None


class Patience:
    """Pauses between tries, longer and longer, of which each is partly chance."""

    def __init__(self, seconds: float, chance: Callable[[], float]) -> None:
        self._end = time.monotonic() + seconds
        self._chance = chance
        self._pause_s = FIRST_PAUSE_S

    async def pause(self) -> bool:
        """Wait before the next try; `False`: it has been tried for long enough."""
        left = self._end - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, self._pause_s * (0.5 + self._chance() / 2)))
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        return True


def is_passing(error: DBAPIError | OSError, attempt: Attempt) -> bool:
    """Whether another try may fare better."""
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        return error.connection_invalidated or state in PASSING or state.startswith("08")
    # A statement that took too long would take as long again.
    return not attempt.is_connected or not isinstance(error, TimeoutError)


def is_lost(error: DBAPIError | OSError) -> bool:
    """Whether the server may have gone on after we stopped listening."""
    return is_passing(error, Attempt())


def sqlstate(error: DBAPIError) -> str:
    """The server's code of an error; empty, if it is not the server that tells of it."""
    # What asyncpg said, inside what SQLAlchemy made of it.
    return getattr(getattr(error.orig, "__cause__", None), "sqlstate", None) or ""
