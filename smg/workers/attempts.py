"""One generation's tries: which worker is next, and when to give up.

The pool tells what failed and asks for the next worker. Decides only: it does not wait.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from smg.errors import EngineError, WorkerOverloaded, WorkerTimeout, WorkerUnavailable
from smg.workers.health import Health
from smg.workers.policies.base import Ranking
from smg.workers.retries import Budget, Retries
from smg.workers.worker import Worker

Rank = Callable[[Container[Worker]], Ranking]
"""Told which have been tried already."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to try, and why there."""

    worker: Worker
    reason: str


class Attempts:
    """The tries of one generation."""

    def __init__(self, retries: Retries, budget: Budget, rank: Rank) -> None:
        """`rank` gives the workers that may be tried at this moment, the best first."""
        self.pauses = 0
        self._left = retries.attempts
        self._budget = budget
        self._rank = rank
        self._tried: set[Worker] = set()
        self._hung: set[Worker] = set()
        self._gone: set[Health] = set()
        """Engines that could not be reached since the last pause: another rank cannot be either."""
        self._failures: list[EngineError] = []

    def next_place(self) -> Place | None:
        """The best worker not tried since the last pause; `None`: pause, or give up."""
        if self._left <= 0:
            return None
        ranking = self._rank(self._tried)
        for number, worker in enumerate(ranking.workers):
            if worker not in self._tried and worker.health not in self._gone:
                self._left -= 1
                self._tried.add(worker)
                return Place(worker, ranking.reason if number == 0 else "others have failed")
        return None

    def may_pause(self) -> bool:
        """Whether to try all again after a pause; a worker that hung is not asked again."""
        if self._left <= 0 or not self._tried - self._hung or not self._budget.spend():
            return False
        self._tried = set(self._hung)
        self._gone.clear()
        self.pauses += 1
        return True

    def failed(self, worker: Worker, error: EngineError) -> None:
        """Note that a worker failed before it said anything.

        Raises:
            EngineError: this failure, if no other worker would cure it: it may well be the
                prompt's doing.
        """
        self._failures.append(error)
        if isinstance(error, WorkerUnavailable):
            worker.mark_down(error)
            self._gone.add(worker.health)
        elif isinstance(error, WorkerTimeout):
            self._hung.add(worker)
        elif not isinstance(error, WorkerOverloaded):
            raise error

    @property
    def last(self) -> EngineError | None:
        """What the last failure was."""
        return self._failures[-1] if self._failures else None

    def error(self) -> EngineError:
        """One error for all the tries."""
        return _no_worker(self._failures)


def _no_worker(failures: Sequence[EngineError]) -> EngineError:
    """One error for all the tries: a client may come again soon if a worker was merely full."""
    if not failures:
        return WorkerUnavailable("This model has no worker that takes requests")
    kinds: Sequence[type[EngineError]] = (WorkerOverloaded, WorkerUnavailable, WorkerTimeout)
    kind = next(kind for kind in kinds if any(isinstance(error, kind) for error in failures))
    # The same worker may have said the same more than once.
    return kind("; ".join(dict.fromkeys(error.message for error in failures)))
