"""The RPCs of the vLLM engine protocol, answered by a script.

Decoded requests in, messages out; what is said is decided before (`intake.py`), how it is counted
in `generation.py`. Here is only what takes time: pace, abort, cancel, failure.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from smg.engines._generated import common_pb2
from smg.engines._generated import vllm_engine_pb2 as pb
from smg.testing import about
from smg.testing.answer import Answer
from smg.testing.chatml import Conversation
from smg.testing.generation import Generation
from smg.testing.intake import Intake, Refusal
from smg.testing.kv import EventsLost, KvCaches
from smg.testing.options import EngineOptions
from smg.testing.reply import Failure
from smg.testing.script import Script
from smg.testing.vocabulary import Vocabulary

SERVICE = "vllm.grpc.engine.VllmEngine"
FAIL_AFTER = 3  # Chunks that arrive before a stream breaks.
REMEMBERED = 1000  # Requests that tests can look at.

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, kw_only=True)
class Received:
    """A request as it came, and what became of it."""

    message: pb.GenerateRequest
    prompt_ids: Sequence[int]
    prompt: str
    """The prompt as text, with its control tokens."""
    conversation: Conversation
    rank: int = 0
    """Where it runs: as the request says, else each rank in turn."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the call carried beside the message."""
    finish: str | None = None
    """stop, length, abort, cancelled or error; none while it runs."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, finish: str) -> None:
        """Say what became of it."""
        self.finish = finish
        self._ended.set()

    async def ended(self, timeout: float = 5.0) -> str:
        """Wait until it is over; its finish.

        Raises:
            TimeoutError: it is still running.
        """
        async with asyncio.timeout(timeout):
            await self._ended.wait()
        return str(self.finish)


@dataclass(slots=True)
class _Running:
    """A generation that is being sent."""

    received: Received
    generation: Generation
    answer: Answer
    aborted: asyncio.Event = field(default_factory=asyncio.Event)


class EngineServicer:
    """One scripted engine's RPCs."""

    def __init__(self, script: Script, options: EngineOptions, vocabulary: Vocabulary) -> None:
        self.requests: deque[Received] = deque(maxlen=REMEMBERED)
        self.aborts: deque[str] = deque(maxlen=REMEMBERED)
        self.healthy = True
        self.caches = KvCaches(options, lambda rank: about.engine_load(self._on(rank)))
        self._intake = Intake(script, options, vocabulary, self.caches)
        self._options = options
        self._vocabulary = vocabulary
        self._running: dict[str, list[_Running]] = {}
        self._arrivals = asyncio.Condition()
        self._started = time.monotonic()

    async def arrived(self, count: int) -> Received:
        """Wait until so many generations were accepted; the last of them."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to serve it."""
        unary: Any = grpc.unary_unary_rpc_method_handler
        stream: Any = grpc.unary_stream_rpc_method_handler
        rpcs: dict[str, tuple[Any, Any, Any]] = {
            "Generate": (stream, self.generate, pb.GenerateRequest),
            "Embed": (unary, self.embed, pb.EmbedRequest),
            "HealthCheck": (unary, self.health_check, pb.HealthCheckRequest),
            "Abort": (unary, self.abort, pb.AbortRequest),
            "GetModelInfo": (unary, self.model_info, pb.GetModelInfoRequest),
            "GetServerInfo": (unary, self.server_info, pb.GetServerInfoRequest),
            "GetLoads": (unary, self.loads, pb.GetLoadsRequest),
            "GetTokenizer": (stream, self.tokenizer, common_pb2.GetTokenizerRequest),
            "SubscribeKvEvents": (stream, self.kv_events, common_pb2.SubscribeKvEventsRequest),
        }
        handlers = {
            name: kind(rpc, request_deserializer=message.FromString, response_serializer=_serialize)
            for name, (kind, rpc, message) in rpcs.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def generate(self, request: pb.GenerateRequest, context: Context) -> None:
        """Answer one prompt."""
        try:
            running = self._accept(request, context)
        except Refusal as refusal:
            await context.abort(refusal.code, str(refusal))
        finish = "cancelled"
        self._running.setdefault(request.request_id, []).append(running)
        try:
            async with self._arrivals:
                self._arrivals.notify_all()
            finish = await self._send(running, context)
        except grpc.aio.AbortError:
            finish = "error"
            raise
        finally:
            self._forget(request.request_id, running)
            running.received.end(finish)

    def _accept(self, request: pb.GenerateRequest, context: Context) -> _Running:
        accepted = self._intake.accept(request, self._running.keys())
        received = Received(
            message=request,
            prompt_ids=accepted.prompt_ids,
            prompt=self._vocabulary.decode(accepted.prompt_ids),
            conversation=accepted.conversation,
            rank=accepted.rank,
            metadata={key: str(value) for key, value in context.invocation_metadata() or ()},
        )
        self.requests.append(received)
        return _Running(received, accepted.generation, accepted.answer)

    def _forget(self, request_id: str, running: _Running) -> None:
        # vLLM's Python servicer serves one id several times at once.
        others = [other for other in self._running[request_id] if other is not running]
        if others:
            self._running[request_id] = others
        else:
            del self._running[request_id]

    async def _send(self, running: _Running, context: Context) -> str:
        """Send everything at its time; the finish."""
        generation, answer = running.generation, running.answer
        if answer.failure is Failure.BEFORE:
            await context.abort(grpc.StatusCode.INTERNAL, "A scripted failure: before any token")
        total, size = len(generation.tokens.ids), self._options.per_chunk
        starts = range(0, total, size)
        pause = self._options.itl_ms / 1000 + answer.slow / len(starts)
        begin = asyncio.get_running_loop().time()
        for number, start in enumerate(starts):
            await _wait(begin + pause * (number + 1), running.aborted)
            if running.aborted.is_set():
                await self._write(context, generation, generation.aborted, start)
                return "abort"
            if answer.failure is Failure.DURING and number == FAIL_AFTER:
                break
            if generation.stream:
                for index in range(generation.choices):
                    end = min(start + size, total)
                    await context.write(generation.chunk(start, end, index))
        if answer.failure is Failure.DURING:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "A scripted failure: mid-stream")
        await self._write(context, generation, generation.complete, starts[-1])
        return generation.tokens.finish

    @staticmethod
    async def _write(context: Context, generation: Generation, last: Any, position: int) -> None:
        for index in range(generation.choices):
            await context.write(last(position, index))

    async def abort(self, request: pb.AbortRequest, _: Context) -> pb.AbortResponse:
        """Stop generations; unknown ids are fine."""
        for request_id in request.request_ids:
            self.aborts.append(request_id)
            for running in self._running.get(request_id, []):
                running.aborted.set()
        return pb.AbortResponse()

    async def embed(self, _request: pb.EmbedRequest, context: Context) -> None:
        """Refuse: this is no embedding model."""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "This engine has no embeddings")

    async def health_check(
        self, _request: pb.HealthCheckRequest, _: Context
    ) -> pb.HealthCheckResponse:
        """Whether the engine is healthy: tests may say no."""
        message = "Scripted engine, no model" if self.healthy else "Told to be unhealthy"
        return pb.HealthCheckResponse(healthy=self.healthy, message=message)

    async def model_info(
        self, _request: pb.GetModelInfoRequest, _: Context
    ) -> pb.GetModelInfoResponse:
        """What the model folder says."""
        return about.model_info(self._vocabulary, self._options)

    async def server_info(
        self, _request: pb.GetServerInfoRequest, _: Context
    ) -> pb.GetServerInfoResponse:
        """What the servicer that is played fills in."""
        return about.server_info(self._options, time.monotonic() - self._started)

    async def loads(self, _request: pb.GetLoadsRequest, _: Context) -> pb.GetLoadsResponse:
        """How much is being sent."""
        return about.loads([self._on(rank) for rank in range(self._options.ranks)])

    def _on(self, rank: int) -> list[Generation]:
        running = [one for same in self._running.values() for one in same]
        return [one.generation for one in running if one.received.rank == rank]

    async def tokenizer(
        self, _request: common_pb2.GetTokenizerRequest, _: Context
    ) -> AsyncIterator[common_pb2.GetTokenizerChunk]:
        """The model folder as a ZIP archive."""
        for chunk in about.tokenizer_files(self._vocabulary):
            yield chunk

    async def kv_events(
        self, request: common_pb2.SubscribeKvEventsRequest, context: Context
    ) -> AsyncIterator[common_pb2.KvEventBatch]:
        """What the prefix caches go through."""
        if not self._options.kv_events:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "KV cache events not enabled")
        if request.start_sequence_number:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "Nothing is kept to resume from")
        try:
            async with aclosing(self.caches.stream()) as batches:
                async for batch in batches:
                    yield batch
        except EventsLost:
            await context.abort(grpc.StatusCode.DATA_LOSS, "As a test has said")


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


async def _wait(until: float, aborted: asyncio.Event) -> None:
    """Wait for a point in time, or for the abort if that is sooner."""
    delay = until - asyncio.get_running_loop().time()
    if delay <= 0 or aborted.is_set():
        return
    try:
        async with asyncio.timeout(delay):
            await aborted.wait()
    except TimeoutError:
        return
