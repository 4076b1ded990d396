"""How one kind of engine says things, and how its stream is read.

A dialect is functions from our words to an engine's bytes and back: no waiting, no gRPC. What
differs between the streams of engines is small enough to be data for one `StreamReader`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from smg.engines.base import (
    EngineChunk,
    EngineInfo,
    EngineLoad,
    Finish,
    PromptTokens,
    TokenLogprobs,
)
from smg.errors import EngineError, WorkerTimeout
from smg.events import Usage

FINISHES: Final[Mapping[str, Finish]] = {"stop": Finish.STOP, "length": Finish.LENGTH}
# JSON has no infinity; vLLM's own server says this instead.
LOWEST_LOGPROB: Final = -9999.0


class Dialect(Protocol):
    """One kind of engine's language. The requests of all other methods are empty messages."""

    name: str
    service: str
    """The full name of its gRPC service."""
    supports_stop: bool
    """Whether it matches stop strings itself. Where it does not, they are not sent."""
    load_method: str | None
    """The method that says how busy it is; `None`: it does not say."""
    kv_method: str | None
    """The method that tells what its KV cache goes through; `None`: it has none."""

    def generate_request(
        self, request_id: str, prompt: PromptTokens, info: EngineInfo, max_tokens: int | None
    ) -> bytes:
        """A request to stream one generation, which may not be longer than `max_tokens`.

        Raises:
            PromptRejected: the engine cannot do something that the prompt asks for.
        """
        ...

    def abort_request(self, request_id: str) -> bytes:
        """A request to forget a generation."""
        ...

    def new_reader(self, prompt: PromptTokens) -> "StreamReader":
        """What reads the stream that answers this prompt."""
        ...

    def read_health(self, health: bytes) -> str | None:
        """Why the worker is not healthy; `None` if it is."""
        ...

    def read_info(self, model: bytes, server: bytes) -> EngineInfo:
        """GetModelInfo's and GetServerInfo's answers as one."""
        ...

    def read_load(self, loads: bytes) -> EngineLoad:
        """The answer of `load_method`, summed over the ranks."""
        ...


def matched_stop(complete: Any) -> str | int | None:
    """The stop string or token that a last message names."""
    which = complete.WhichOneof("matched_stop")
    return None if which is None else getattr(complete, which)


def output_logprobs(chunk: Any, count: int) -> list[TokenLogprobs]:
    """A chunk's log-probabilities, with the best `count` tokens at each position.

    Raises:
        ValueError: the engine's lists do not match each other.
    """
    logprobs = chunk.output_logprobs
    if not logprobs.token_logprobs:
        return []  # TokenSpeed, unless it was started with log-probabilities.
    rivals: Sequence[Any] = logprobs.top_logprobs or [None] * len(logprobs.token_ids)
    return [
        TokenLogprobs(
            id=token,
            logprob=max(value, LOWEST_LOGPROB),
            top=() if top is None else best(zip(top.token_ids, top.values, strict=True), count),
        )
        for token, value, top in zip(
            logprobs.token_ids, logprobs.token_logprobs, rivals, strict=True
        )
    ]


def best(rivals: Any, count: int) -> list[tuple[int, float]]:
    """The `count` most probable of (token, log-probability) pairs, best first."""
    ranked = sorted(rivals, key=lambda rival: -rival[1])
    return [(token, max(value, LOWEST_LOGPROB)) for token, value in ranked[:count]]


class StreamReader:
    """Reads one generation's messages, and counts, because engines count in different ways.

    Ids come from chunks only: the last message repeats some, all or none of them. For the
    same reason the usage is what was received, unless the engine has counted more (a stop
    token it did not send).
    """

    __slots__ = ("_finishes", "_matched", "_output_tokens", "_read_logprobs", "_response")

    def __init__(
        self,
        response: Any,
        *,
        finishes: Mapping[str, Finish] = FINISHES,
        read_logprobs: Callable[[Any], list[TokenLogprobs]] | None = None,
        matched: Callable[[Any], str | int | None] = matched_stop,
    ) -> None:
        self._response = response
        self._finishes = finishes
        self._read_logprobs = read_logprobs
        self._matched = matched
        self._output_tokens = 0

    def read(self, message: bytes) -> EngineChunk | None:
        """What a message adds; `None` if nothing.

        Raises:
            EngineError: it cannot be read, or the engine gave the generation up.
        """
        try:
            response = self._response.FromString(message)
            if response.HasField("complete"):
                return self._last(response.complete)
            return self._next(response.chunk)
        except (DecodeError, ValueError) as error:  # ValueError: lists that belong together differ.
            raise EngineError(f"The worker sent a message that makes no sense: {error}") from error

    def _next(self, chunk: Any) -> EngineChunk | None:
        if not chunk.token_ids:
            return None
        ids = list(chunk.token_ids)
        self._output_tokens += len(ids)
        if self._read_logprobs is None:
            return EngineChunk(ids)
        return EngineChunk(ids, logprobs=self._read_logprobs(chunk))

    def _last(self, complete: Any) -> EngineChunk:
        reason: str = complete.finish_reason
        finish = self._finishes.get(reason)
        if finish is None:
            kind = WorkerTimeout if reason == "timeout" else EngineError
            raise kind(f"The worker gave the generation up: {reason or 'it did not say why'}")
        return EngineChunk(
            finish=finish,
            usage=Usage(
                input_tokens=complete.prompt_tokens,
                cached_tokens=complete.cached_tokens,
                output_tokens=max(self._output_tokens, complete.completion_tokens),
            ),
            stop_matched=self._matched(complete),
            transferred=getattr(complete, "kv_transfer_params_json", ""),  # vLLM's alone.
        )
