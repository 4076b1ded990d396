"""The bodies of /workers, as they come over the wire. Used at the edge only."""

from collections.abc import Sequence
from typing import Final

from smg.errors import InvalidRequest
from smg.web.schema import Wire

UNSUPPORTED: Final = {
    "api_key": "keys of http:// workers are the flags' affair (--worker-api-key)",
    "dp_rank": "a worker is added with all its ranks (--dp-aware)",
    "dp_base_url": "a worker is added with all its ranks (--dp-aware)",
    "bootstrap_port": "split models are the flags' affair (--prefill)",
}
"""What would change how a worker is used, and is not done here: refused, never dropped."""


class WorkerSpec(Wire):
    """POST /workers, and PUT /workers/{id}.

    A worker is asked what it is: its URL is enough. What else a client says has no effect, and is
    listed in the answer.
    """

    url: str
    worker_type: str | None = None

    def check(self) -> None:
        """Refuse what would not be done.

        Raises:
            InvalidRequest: it asks for that.
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

    @property
    def ignored(self) -> Sequence[str]:
        """Fields that have no effect."""
        return sorted(self.model_extra or {})


class WorkerChange(Wire):
    """PATCH /workers/{id}."""

    draining: bool | None = None
    """Whether it gets nothing new, though it stays."""

    def check(self) -> bool:
        """What `draining` is to be.

        Raises:
            InvalidRequest: it is not said, or something else is to be changed.
        """
        for name in sorted(self.model_extra or {}):
            raise InvalidRequest(
                f"{name} cannot be changed: only draining can be. What the worker is, it is asked.",
                param=name,
            )
        if self.draining is None:
            raise InvalidRequest("Say draining: true or false.", param="draining")
        return self.draining
