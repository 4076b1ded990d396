"""/v1/embeddings over HTTP: a body in, vectors out."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from smg.embeddings.intake import EmbeddingsOrder, Models, accept
from smg.embeddings.schema import EmbeddingsRequest
from smg.engines.embedding import Embedding
from smg.errors import ContextLengthExceeded
from smg.web.admission import admitted
from smg.web.auth import OwnerOf
from smg.web.body import body_of, read_body


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The endpoint, and what it works with."""

    models: Models
    owner_of: OwnerOf
    max_body_bytes: int

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(prefix="/v1", tags=["Embeddings"])
        router.post("/embeddings", openapi_extra=body_of(EmbeddingsRequest))(self.create)
        return router

    async def create(self, request: Request) -> JSONResponse:
        """Make a vector of each text."""
        owner = self.owner_of(request)
        body = await read_body(request, EmbeddingsRequest, self.max_body_bytes)
        order = accept(body, self.models)
        await admitted(request, owner, order.model.name)
        try:
            made = await order.model.embed(order.texts, order.dimensions)
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(error.message, param="input") from error
        return JSONResponse(_rendered(order, made))


def _rendered(order: EmbeddingsOrder, made: Sequence[Embedding]) -> dict[str, Any]:
    tokens = sum(embedding.prompt_tokens for embedding in made)
    write = _base64 if order.as_base64 else list
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": write(embedding.vector)}
            for index, embedding in enumerate(made)
        ],
        "model": order.model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    """Little-endian floats of four bytes, as OpenAI writes them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
