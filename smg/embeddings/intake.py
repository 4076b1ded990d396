"""An embeddings request to texts: everything that can be refused is refused here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from smg.embeddings.schema import EmbeddingsRequest
from smg.engines.embedding import Embedding
from smg.errors import InvalidRequest

MOST_TEXTS: Final = 2048

EmbeddedText = str | tuple[int, ...]
"""A text, or its tokens."""


class EmbeddingModel(Protocol):
    """A model as this endpoint sees it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    async def embed(
        self, texts: Sequence[EmbeddedText], dimensions: int | None
    ) -> Sequence[Embedding]:
        """A vector for each text.

        Raises:
            ContextLengthExceeded: a text is longer than the model's context.
            PromptRejected: the model makes no vectors, or none of this text or length.
        """
        ...


class Models(Protocol):
    """The models served here."""

    def find(self, name: str) -> EmbeddingModel:
        """The model of this name.

        Raises:
            ModelNotFound: there is none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsOrder:
    """A request that has been accepted."""

    model: EmbeddingModel
    texts: Sequence[EmbeddedText]
    dimensions: int | None
    as_base64: bool


def accept(request: EmbeddingsRequest, models: Models) -> EmbeddingsOrder:
    """Turn a request into an order.

    Raises:
        RequestError: something in it cannot be done; the error names the field.
    """
    return EmbeddingsOrder(
        model=models.find(request.model),
        texts=_texts(request.input),
        dimensions=request.dimensions,
        as_base64=request.encoding_format == "base64",
    )


def _texts(given: str | list[Any]) -> Sequence[EmbeddedText]:
    if isinstance(given, str):
        return (_text(given, "input"),)
    if not given or len(given) > MOST_TEXTS:
        raise _refusal("input", f"expected 1 to {MOST_TEXTS} texts, got {len(given)}")
    if isinstance(given[0], int):
        return (_text(given, "input"),)
    return [_text(one, f"input[{n}]") for n, one in enumerate(given)]


def _text(given: Any, param: str) -> EmbeddedText:
    if isinstance(given, str) and given:
        return given
    if isinstance(given, list) and given and all(type(one) is int for one in given):
        return tuple(given)
    raise _refusal(param, "expected a text, or a list of token ids, that is not empty")


def _refusal(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {message}.", param=param, code="invalid_value")
