"""/health, /readiness and /v1/models: what is there, and whether it works."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from smg.web.auth import OwnerOf

Json = dict[str, Any]


class Shown(Protocol):
    """A model as the list shows it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def created_at(self) -> int:
        """When it was loaded, in Unix seconds."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and output together; 0: not known."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a worker is up."""
        ...


class ShownModels(Protocol):
    """The models served here, as the list shows them."""

    def all(self) -> Sequence[Shown]:
        """Every model, in the order they were given."""
        ...

    def find(self, name: str) -> Any:
        """The model of this name.

        Raises:
            ModelNotFound: there is none.
        """
        ...


def new_router(
    models: ShownModels,
    damage: Callable[[], str | None],
    is_closing: Callable[[], bool],
    owner_of: OwnerOf,
) -> APIRouter:
    """The routes; health needs no key. `damage`: why nothing can be stored, if so."""
    router = APIRouter(tags=["Gateway"])

    @router.get("/health")
    @router.get("/liveness")
    async def health() -> Json:
        """Whether the process answers."""
        return {"status": "ok"}

    @router.get("/readiness")
    async def readiness() -> JSONResponse:
        """Whether a request could be served: all models have a worker, and it can be stored."""
        down = [model.name for model in models.all() if not model.is_ready]
        storage = damage()
        ready = models.all() and not down and storage is None
        status = "ready" if ready else "not ready"
        if is_closing():
            status = "draining"
        body = {
            "status": status,
            "models_without_worker": down,
            "storage": "ok" if storage is None else f"damaged: {storage}",
        }
        return JSONResponse(body, status_code=200 if status == "ready" else 503)

    @router.get("/v1/models")
    async def listing(request: Request) -> Json:
        """List the models."""
        owner_of(request)
        return {"object": "list", "data": [_shown(model) for model in models.all()]}

    @router.get("/v1/models/{name:path}")
    async def one(request: Request, name: str) -> Json:
        """Describe one model."""
        owner_of(request)
        return _shown(models.find(name))

    return router


def _shown(model: Shown) -> Json:
    fields: Json = {
        "id": model.name,
        "object": "model",
        "created": model.created_at,
        "owned_by": "smg",
    }
    if model.context_length:
        fields["max_model_len"] = model.context_length
    return fields
