"""A limit for one wait after another, with one timer for all of them.

`asyncio.timeout` makes and drops a timer each time, which costs more than all else that is
done with a message (9 against 3 microseconds); here a timer that fires early looks when time
will be up, and is set again.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


class Deadline:
    """Bounds waits of one task at a time. Close it when there are no more."""

    __slots__ = ("_due", "_expired", "_fires_at", "_loop", "_task", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0
        self._task: asyncio.Task[object] | None = None
        self._due = 0.0
        self._expired = False

    async def wait(self, awaited: Awaitable[Result], seconds: float) -> Result:
        """What is awaited.

        Raises:
            TimeoutError: it did not come in time; it has been cancelled.
        """
        self._due = self._loop.time() + seconds
        if self._timer is None or self._fires_at > self._due:
            self._set_timer()
        task = asyncio.current_task()
        assert task is not None  # Only tasks await.
        cancelling = task.cancelling()
        self._task, self._expired = task, False
        try:
            return await awaited
        except asyncio.CancelledError as error:
            # Somebody else may have cancelled the task too: then that is what counts.
            if self._expired and task.uncancel() <= cancelling:
                raise TimeoutError from error
            raise
        finally:
            self._task = None

    def close(self) -> None:
        """Give up the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self.close()
        self._fires_at = self._due
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return  # Nobody waits; who comes next sets the timer.
        if self._loop.time() < self._due:
            self._set_timer()
        else:
            self._expired = True
            self._task.cancel()
