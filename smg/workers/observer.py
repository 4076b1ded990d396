"""What the pool tells of its work, to whoever counts it. Nothing depends on the answer."""

from typing import Protocol

from smg.errors import EngineError
from smg.workers.worker import Visit, Worker


class Observer(Protocol):
    """Is told of each step of a generation; every method returns at once."""

    def placed(self, worker: Worker, reason: str) -> None:
        """A generation is sent to a worker."""
        ...

    def first_token(self, worker: Worker, seconds: float) -> None:
        """The first token came, so long after the generation was asked for."""
        ...

    def finished(self, worker: Worker, seconds: float, visit: Visit) -> None:
        """Nothing more comes, this time after the first token."""
        ...

    def failed(self, worker: Worker, error: EngineError) -> None:
        """A try has failed."""
        ...

    def retried(self, model: str, error: EngineError) -> None:
        """All workers have failed a generation, the last of them so; it will be tried again."""
        ...

    def gave_up(self, model: str, error: EngineError) -> None:
        """No worker took a generation, and it will not be tried again."""
        ...


class NoObserver:
    """Counts nothing."""

    def placed(self, worker: Worker, reason: str) -> None:
        """A generation is sent to a worker."""

    def first_token(self, worker: Worker, seconds: float) -> None:
        """The first token came, so long after the generation was asked for."""

    def finished(self, worker: Worker, seconds: float, visit: Visit) -> None:
        """Nothing more comes, this time after the first token."""

    def failed(self, worker: Worker, error: EngineError) -> None:
        """A try has failed."""

    def retried(self, model: str, error: EngineError) -> None:
        """All workers have failed a generation, the last of them so; it will be tried again."""

    def gave_up(self, model: str, error: EngineError) -> None:
        """No worker took a generation, and it will not be tried again."""
