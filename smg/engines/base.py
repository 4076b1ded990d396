"""What every engine takes and gives, and the transport it asks for bytes.

Adapters turn `PromptTokens` into one engine's request and its stream into `EngineChunk`s that
hold *new* ids only. They hold no gRPC object: a `Transport` moves the bytes.
"""

from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Protocol

from smg.events import Usage
from smg.turn import Constraint, Sampling


class Finish(StrEnum):
    """Why an engine stopped."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    CONTENT_FILTER = "content_filter"
    """A server behind HTTP would not let it be said."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Where a prefill and a decode worker of SGLang meet: both are told the same."""

    host: str
    port: int
    room: int


@dataclass(frozen=True, slots=True)
class Relay:
    """What vLLM's connector is told about moving the cache: its own JSON, which we do not read."""

    params: str


Transfer = Bootstrap | Relay
"""How the cache of a prompt finds its way from a prefill to a decode worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokens:
    """One generation's input."""

    ids: Sequence[int]
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    text: str = ""
    """The rendered prompt, for logs and for engines that like to see it."""
    routing_key: str | None = None
    turn_id: str | None = None
    """Whose generation it is: a turn stays on one worker while that is healthy."""
    transfer: Transfer | None = None
    """For a leg of a generation that is split into prefill and decode."""
    streams: bool = True
    """Whether the output is wanted as it is made; a prefill leg's is not wanted at all."""
    rank: int | None = None
    """Which of a worker's data-parallel ranks is meant; `None`: the worker chooses."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the model reads: equal prompts have equal digests."""
        read = array("I", self.ids).tobytes() if self.ids else self.text.encode(errors="replace")
        return sha256(read).hexdigest()


@dataclass(slots=True)
class TokenLogprobs:
    """Log-probabilities of one sampled token: itself, then its rivals, best first."""

    id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(slots=True)  # One per engine message: unfrozen for speed.
class EngineChunk:
    """New tokens. The last chunk of a generation has a finish and the usage."""

    ids: Sequence[int] = ()
    finish: Finish | None = None
    usage: Usage | None = None
    logprobs: Sequence[TokenLogprobs] = ()
    """One entry for each id, when asked for."""
    stop_matched: str | int | None = None
    """The stop string or stop token that ended it, where the engine says so."""
    transferred: str = ""
    """What a prefill worker tells of the cache it made, in its connector's own JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a worker says of itself. Zero and empty: it did not say."""

    engine: str
    model: str = ""
    version: str = ""
    context_length: int = 0
    vocab_size: int = 0
    eos_token_ids: tuple[int, ...] = ()
    tokenizer_path: str = ""
    model_path: str = ""
    model_type: str = ""
    architectures: tuple[str, ...] = ()
    supports_vision: bool = False
    is_generation: bool = True
    default_sampling: dict[str, Any] = field(default_factory=dict)
    """temperature, top_p, top_k, min_p, repetition_penalty of the model's generation config."""
    details: dict[str, Any] = field(default_factory=dict)
    """Whatever else the engine reports: data_parallel_size, kv_connector, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy a worker is: sums over its ranks, or one rank of it."""

    running: int = 0
    waiting: int = 0
    token_usage: float = 0.0
    """Part of the KV cache in use, 0 to 1."""
    version: str = ""
    """The engine's, where it is told with the load."""
    ranks: Mapping[int, "EngineLoad"] = field(default_factory=dict)
    """Each rank's own, where the engine tells them apart."""


class Transport(Protocol):
    """Moves encoded messages to and from one address."""

    def stream(self, method: str, request: bytes) -> AsyncGenerator[bytes, None]:
        """Call a server-streaming method; closing the generator cancels the call.

        Raises:
            EngineError: the subclass that the status maps to.
        """
        ...

    async def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """Call a unary method, with a deadline in seconds."""
        ...

    async def close(self) -> None:
        """Give up the connection."""
        ...


class Engine(Protocol):
    """One worker's engine."""

    address: str

    def generate(self, request_id: str, prompt: PromptTokens) -> AsyncGenerator[EngineChunk, None]:
        """Stream one generation; the last chunk carries finish and usage.

        Closing the generator early frees the worker (cancel and Abort).

        Raises:
            PromptRejected: a guard or the engine refused the prompt.
            WorkerTimeout: the first or the next token did not come in time.
            EngineError: any other failure, also a stream that ends without a finish.
        """
        ...

    async def info(self) -> EngineInfo:
        """What the worker serves."""
        ...

    async def check(self) -> None:
        """Return if the worker is healthy.

        Raises:
            EngineError: it is not.
        """
        ...

    async def load(self) -> EngineLoad:
        """How busy the worker is."""
        ...

    async def close(self) -> None:
        """Give up the connection."""
        ...
