"""One worker's engine, whatever its language: deadlines, cancellation, Abort.

In go prompts, out come chunks. It joins a `Transport` (how bytes travel) with a `Dialect`
(what they mean), and must know neither gRPC nor any engine's messages.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from smg.engines.base import EngineChunk, EngineInfo, EngineLoad, PromptTokens, Transport
from smg.engines.bundle import unpack
from smg.engines.deadline import Deadline
from smg.engines.dialect import Dialect, StreamReader
from smg.engines.embedding import Embedding, embed_request, read_embedding
from smg.engines.guards import check_prompt
from smg.engines.kv import KvBatch, NoKvEvents, read_batches, subscribe_request
from smg.engines.status import WrongEngine
from smg.errors import EngineError, WorkerTimeout, WorkerUnavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a worker may take, in seconds."""

    first_token_s: float = 300.0
    """Until the first token: queue and prompt."""
    next_token_s: float = 60.0
    """Between two messages."""
    call_s: float = 10.0
    """For questions that are answered at once."""
    status_s: float = 0.2
    """After the last token until the stream ends; then it is cut."""
    tokenizer_s: float = 120.0
    """For all of a worker's tokenizer."""
    health_s: float = 30.0
    """For a health check: some engines generate a token for it, behind all that is queued."""


class RemoteEngine:
    """An engine behind a transport.

    Given several dialects it finds out which one the worker speaks when it first needs to
    know, so it can be made before the worker runs.
    """

    def __init__(
        self,
        address: str,
        transport: Transport,
        dialects: Sequence[Dialect],
        timeouts: Timeouts | None = None,
    ) -> None:
        self.address = address
        self._transport = transport
        self._dialects = dialects
        self._timeouts = timeouts or Timeouts()
        self._known: tuple[Dialect, EngineInfo] | None = None
        self._aborts: set[asyncio.Task[None]] = set()

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        """Stream one generation; closing it early cancels it and tells the worker."""
        dialect, info = await self._learn()
        request = dialect.generate_request(request_id, prompt, info, check_prompt(prompt, info))
        messages = self._transport.stream(f"/{dialect.service}/Generate", request)
        generation = _Generation(self.address, messages, dialect.new_reader(prompt), self._timeouts)
        try:
            while (chunk := await generation.next_chunk()) is not None:
                yield chunk
        finally:
            generation.close()
            if not generation.over:
                self._abort_soon(dialect, request_id)
            await messages.aclose()

    async def info(self) -> EngineInfo:
        """Ask what the worker serves, and which engine it is."""
        dialect, model = await self._find()
        server = await self._call(dialect, "GetServerInfo")
        info = dialect.read_info(model, server)
        self._known = dialect, info
        return info

    async def check(self) -> None:
        """Return if the worker is healthy."""
        dialect, _ = await self._learn()
        path = f"/{dialect.service}/HealthCheck"
        health = await self._transport.call(path, b"", self._timeouts.health_s)
        reason = dialect.read_health(health)
        if reason is not None:
            raise WorkerUnavailable(f"Worker {self.address}: {reason}")

    async def load(self) -> EngineLoad:
        """How busy the worker is.

        Raises:
            EngineError: also if this kind of engine does not say.
        """
        dialect, _ = await self._learn()
        if dialect.load_method is None:
            raise EngineError(f"Worker {self.address}: {dialect.name} does not report its load")
        return dialect.read_load(await self._call(dialect, dialect.load_method))

    async def kv_events(self) -> AsyncGenerator[KvBatch, None]:
        """What the worker's KV cache goes through, for as long as both live.

        Raises:
            NoKvEvents: it does not tell.
            EngineError: the stream is lost, and with it what was told.
        """
        dialect, _ = await self._learn()
        if dialect.kv_method is None:
            raise NoKvEvents(f"Worker {self.address}: {dialect.name} does not tell of its cache")
        path = f"/{dialect.service}/{dialect.kv_method}"
        messages = self._transport.stream(path, subscribe_request())
        async with aclosing(read_batches(messages)) as batches:
            async for batch in batches:
                yield batch

    async def embed(self, request_id: str, ids: Sequence[int]) -> Embedding:
        """The vector of a text.

        Raises:
            PromptRejected: this engine or this model makes none of it.
            EngineError: the worker failed.
        """
        dialect, _ = await self._learn()
        request = embed_request(dialect.name, request_id, ids)
        path = f"/{dialect.service}/Embed"
        answer = await self._transport.call(path, request, self._timeouts.first_token_s)
        return read_embedding(dialect.name, answer)

    async def unpack_tokenizer(self, folder: Path) -> None:
        """Put the files of the worker's own tokenizer into a folder.

        Raises:
            EngineError: it has none to give, or not one that may be unpacked.
        """
        dialect, _ = await self._learn()
        messages = self._transport.stream(f"/{dialect.service}/GetTokenizer", b"")
        try:
            async with asyncio.timeout(self._timeouts.tokenizer_s):
                await unpack(messages, folder)
        except TimeoutError as error:
            raise WorkerTimeout(f"Worker {self.address} did not send its tokenizer") from error

    async def close(self) -> None:
        """Finish telling the worker what it may forget, then give up the connection."""
        await asyncio.gather(*self._aborts)
        await self._transport.close()

    async def _learn(self) -> tuple[Dialect, EngineInfo]:
        if self._known is None:
            try:
                await self.info()
            except WorkerTimeout as error:  # Nothing was begun: another worker may well do it.
                raise WorkerUnavailable(error.message) from error
        assert self._known is not None  # info() has set it, or raised.
        return self._known

    async def _find(self) -> tuple[Dialect, bytes]:
        """Ask in all dialects at once: what is not the worker's is refused without work."""
        answers = await asyncio.gather(
            *(self._call(dialect, "GetModelInfo") for dialect in self._dialects),
            return_exceptions=True,
        )
        for dialect, answer in zip(self._dialects, answers, strict=True):
            if isinstance(answer, bytes):
                return dialect, answer
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, WrongEngine):
                raise answer
        names = ", ".join(dialect.name for dialect in self._dialects)
        raise EngineError(f"Worker {self.address} speaks none of: {names}")

    async def _call(self, dialect: Dialect, method: str, request: bytes = b"") -> bytes:
        path = f"/{dialect.service}/{method}"
        return await self._transport.call(path, request, self._timeouts.call_s)

    def _abort_soon(self, dialect: Dialect, request_id: str) -> None:
        # Its own task: whoever left the generation may be cancelled and cannot wait.
        task = asyncio.create_task(self._abort(dialect, request_id))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _abort(self, dialect: Dialect, request_id: str) -> None:
        try:
            await self._call(dialect, "Abort", dialect.abort_request(request_id))
        except EngineError as error:
            # The call is cancelled all the same, and nobody is left who could be told.
            logger.warning("Abort of %s failed: %s", request_id, error)


class _Generation:
    """One running generation: whether the worker is done with it, and how long to wait."""

    __slots__ = (
        "_address",
        "_deadline",
        "_finished",
        "_messages",
        "_reader",
        "_timeouts",
        "_wait_s",
        "over",
    )

    def __init__(
        self,
        address: str,
        messages: AsyncGenerator[bytes, None],
        reader: StreamReader,
        timeouts: Timeouts,
    ) -> None:
        self.over = False
        """Whether the worker has ended it: there is nothing to abort."""
        self._address = address
        self._messages = messages
        self._deadline = Deadline()
        self._reader = reader
        self._wait_s = timeouts.first_token_s
        self._timeouts = timeouts
        self._finished = False

    async def next_chunk(self) -> EngineChunk | None:
        """The next chunk; `None` after the last."""
        if self._finished:
            await self._drain()
            return None
        while True:
            message = await self._receive()
            try:
                chunk = self._reader.read(message)
            except EngineError:
                self.over = True
                raise
            if chunk is not None:
                self._wait_s = self._timeouts.next_token_s
                self._finished = self.over = chunk.finish is not None
                return chunk

    def close(self) -> None:
        """Nothing more is waited for."""
        self._deadline.close()

    async def _receive(self) -> bytes:
        try:
            return await self._deadline.wait(anext(self._messages), self._wait_s)
        except TimeoutError as error:
            raise WorkerTimeout(
                f"Worker {self._address} sent no token for {self._wait_s:g} s"
            ) from error
        except StopAsyncIteration:
            self.over = True
            raise EngineError(f"Worker {self._address} ended the stream unfinished") from None
        except EngineError:
            self.over = True
            raise

    async def _drain(self) -> None:
        """Read the status, so that a call that went well is not cancelled."""
        # The generation is complete: what comes after it changes nothing.
        with suppress(EngineError, StopAsyncIteration, TimeoutError):
            await self._deadline.wait(anext(self._messages), self._timeouts.status_s)
