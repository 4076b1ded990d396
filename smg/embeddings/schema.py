"""The body of POST /v1/embeddings, as it comes over the wire. Used at the edge only."""

from typing import Annotated, Any, Literal

from pydantic import Field

from smg.web.schema import Wire


class EmbeddingsRequest(Wire):
    """POST /v1/embeddings."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Any = None
