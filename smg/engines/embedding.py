"""Texts to vectors: what the engines that can do it are asked, and what they answer.

vLLM and SGLang say it nearly alike, so their messages are a table. Bytes in and out, no waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from smg.engines._generated import sglang_scheduler_pb2, vllm_engine_pb2
from smg.engines.base import EngineInfo
from smg.errors import ContextLengthExceeded, EngineError, PromptRejected

MESSAGES: Final[dict[str, Any]] = {"vllm": vllm_engine_pb2, "sglang": sglang_scheduler_pb2}
"""The messages of the engines that have Embed, by the engine's name."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text as a vector."""

    vector: Sequence[float]
    prompt_tokens: int


def embed_request(engine: str, request_id: str, ids: Sequence[int]) -> bytes:
    """A request for one vector.

    Raises:
        PromptRejected: this kind of engine has none.
    """
    if engine not in MESSAGES:
        raise PromptRejected(f"This model's engine, {engine}, makes no embeddings", param="model")
    pb = MESSAGES[engine]
    tokenized = pb.TokenizedInput(input_ids=ids)
    request: bytes = pb.EmbedRequest(request_id=request_id, tokenized=tokenized).SerializeToString()
    return request


def read_embedding(engine: str, message: bytes) -> Embedding:
    """The answer.

    Raises:
        EngineError: it cannot be read, or holds no vector.
    """
    try:
        answer = MESSAGES[engine].EmbedResponse.FromString(message)
    except DecodeError as error:
        raise EngineError(f"The worker sent a message that makes no sense: {error}") from error
    if not answer.embedding:
        raise EngineError("The worker sent an embedding without numbers")
    return Embedding(list(answer.embedding), answer.prompt_tokens)


def check_text(ids: Sequence[int], info: EngineInfo) -> None:
    """Refuse what no engine may be sent: nothing, tokens it does not know, and too much.

    Raises:
        PromptRejected: it is empty, or has ids the model does not know.
        ContextLengthExceeded: it is longer than the model's context.
    """
    if not ids:
        raise PromptRejected("The text is empty")
    if info.vocab_size and not 0 <= min(ids) <= max(ids) < info.vocab_size:
        raise PromptRejected(f"Token ids must be from 0 to {info.vocab_size - 1}, the model's last")
    if info.context_length and len(ids) > info.context_length:
        raise ContextLengthExceeded(
            f"The model's context is {info.context_length} tokens, but the text has {len(ids)}"
        )
