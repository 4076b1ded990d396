"""GET /metrics on the gateway's own port: a page of text, for those who have a key."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from smg.web.auth import OwnerOf


def new_router(page: Callable[[], bytes], content_type: str, owner_of: OwnerOf) -> APIRouter:
    """The route; it names workers, so it is no more public than the rest."""
    router = APIRouter(tags=["Gateway"])

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Everything that is counted, as Prometheus reads it."""
        owner_of(request)
        return Response(page(), headers={"content-type": content_type})

    return router
