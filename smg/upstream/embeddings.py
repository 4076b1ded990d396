"""An HTTP worker's vectors, read with care."""

from collections.abc import Mapping, Sequence
from typing import Any

from smg.engines.embedding import Embedding
from smg.errors import EngineError


def read_embeddings(told: Mapping[str, Any], count: int) -> Sequence[Embedding]:
    """The vectors in the order of the texts; the tokens of all stand with the first.

    Raises:
        EngineError: they are not so many, or no vectors.
    """
    try:
        entries = sorted(told["data"], key=lambda entry: int(entry["index"]))
        vectors = [[float(number) for number in entry["embedding"]] for entry in entries]
        tokens = int((told.get("usage") or {}).get("prompt_tokens") or 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"The worker sent vectors that make no sense: {error!r}") from error
    if len(vectors) != count:
        raise EngineError(f"The worker sent {len(vectors)} vectors for {count} texts")
    return [Embedding(vector, 0 if n else tokens) for n, vector in enumerate(vectors)]
