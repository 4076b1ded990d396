"""x-smg-worker: which worker a generation goes to, and why, as headers of the answer.

A stream's headers are sent before its worker has said anything, so they name the worker that is
tried first; those of a whole answer name the one that gave it.
"""

from typing import Any, Final, Protocol, runtime_checkable

from starlette.responses import Response

WORKER_HEADER: Final = "x-smg-worker"
REASON_HEADER: Final = "x-smg-worker-reason"


@runtime_checkable
class Placing(Protocol):
    """A model with workers to choose from."""

    def plan(self, prepared: Any) -> tuple[str, str] | None:
        """The name of the worker that will be tried first, and why; `None`: there is none."""
        ...

    def worker_of(self, turn_id: str) -> str | None:
        """The name of the worker of a turn's last generation."""
        ...


class Placed:
    """One turn's worker, asked for before the turn begins."""

    def __init__(self, model: object, turn_id: str, prepared: Any) -> None:
        self._model = model if isinstance(model, Placing) else None
        self._turn_id = turn_id
        self._planned = self._model.plan(prepared) if self._model and prepared else None

    def planned(self, response: Response) -> Response:
        """Name the worker that will be tried first."""
        if self._planned is not None:
            _name(response, *self._planned)
        return response

    def ended(self, response: Response) -> Response:
        """Name the worker that gave the answer."""
        worker = self._model.worker_of(self._turn_id) if self._model else None
        if worker is None or (self._planned and self._planned[0] == worker):
            return self.planned(response)
        return _name(response, worker, "the first choice failed")


def _name(response: Response, worker: str, reason: str) -> Response:
    response.headers[WORKER_HEADER] = worker
    response.headers[REASON_HEADER] = reason
    return response
