"""The bodies of /workers, as they come over the wire. Used at the edge only."""

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from smg.discovery.named import DEFAULT_COST, DEFAULT_PRIORITY, Description, Named
from smg.errors import InvalidRequest
from smg.registry.workers import Change
from smg.web.schema import LARGEST, Wire

UNSUPPORTED: Final = {
    "dp_rank": "a worker is added with all its ranks (--dp-aware)",
    "dp_base_url": "a worker is added with all its ranks (--dp-aware)",
    "bootstrap_port": "split models are the flags' affair (--prefill)",
}
"""What would change how a worker is used, and is not done here: refused, never dropped."""

Key = Annotated[str, Field(pattern=r"^[\x21-\x7e]+$")]


class Described(Wire):
    """What can be said of a worker, and be changed."""

    labels: dict[str, str] | None = None
    priority: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    api_key: Key | None = None
    """The worker's own key; never shown."""


class WorkerSpec(Described):
    """POST /workers, and PUT /workers/{id}.

    A worker is asked what it is: its URL is enough. Fields that are not named here have no effect,
    and are listed in the answer.
    """

    url: str
    worker_type: str | None = None

    def named(self) -> Named:
        """The worker.

        Raises:
            InvalidRequest: something is asked for that would not be done.
        """
        if self.worker_type not in (None, "regular"):
            raise InvalidRequest(
                f"worker_type {self.worker_type!r}: split models are the flags' affair "
                "(--prefill, --decode).",
                param="worker_type",
            )
        for name, why in UNSUPPORTED.items():
            if (self.model_extra or {}).get(name) is not None:
                raise InvalidRequest(f"{name} is not supported: {why}.", param=name)
        description = Description(
            labels=self.labels or {},
            priority=DEFAULT_PRIORITY if self.priority is None else self.priority,
            cost=DEFAULT_COST if self.cost is None else self.cost,
        )
        return Named(url=self.url, description=description, api_key=self.api_key)

    @property
    def ignored(self) -> Sequence[str]:
        """Fields that have no effect."""
        return sorted(self.model_extra or {})


class WorkerChange(Described):
    """PATCH /workers/{id}: what is not said stays."""

    draining: bool | None = None
    """Whether it gets nothing new, though it stays."""

    def change(self) -> Change:
        """What is to be different.

        Raises:
            InvalidRequest: nothing is, or something that cannot be.
        """
        for name in sorted(self.model_extra or {}):
            raise InvalidRequest(
                f"{name} cannot be changed: only {', '.join(CHANGEABLE)} can be. "
                "What the worker is, it is asked.",
                param=name,
            )
        change = Change(**{name: getattr(self, name) for name in CHANGEABLE})
        if change == Change():
            raise InvalidRequest(f"Say what is to change: {', '.join(CHANGEABLE)}.")
        return change


CHANGEABLE: Final = tuple(WorkerChange.model_fields)
