"""The workers of one model in two halves: some read prompts, the others write answers.

It generates like a pool, out of two pools: prefill workers make the cache of a prompt, decode
workers go on from it. How the cache finds its way is the engine's affair; here they are told where.

- SGLang: both get the request at once, with one room at the prefill worker to meet in.
- vLLM with NIXL: first prefill; what it tells of the cache goes to decode word for word.
- vLLM with Mooncake: first prefill; decode is told the transfer's name and where to fetch it.

A leg that fails fails the generation, and the other leg is freed.
"""

import asyncio
import json
import logging
import random
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from smg.engines.base import Bootstrap, EngineChunk, EngineInfo, PromptTokens, Relay
from smg.errors import EngineError, WorkerUnavailable
from smg.workers.attempts import Place
from smg.workers.pool import Pool
from smg.workers.worker import Worker

logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8998
END_S: Final = 5.0
LARGEST_ROOM: Final = 2**31 - 1
ENGINES: Final = ("vllm", "sglang")


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where a prefill worker hands its cache over, beside its own address."""

    host: str
    port: int


class PdPool:
    """Prefill and decode workers as one."""

    def __init__(self, prefill: Pool, decode: Pool, meetings: dict[Worker, Meeting]) -> None:
        """`meetings` has an entry for each prefill worker."""
        self.prefill = prefill
        self.decode = decode
        self._meetings = meetings
        self._ending: set[asyncio.Task[str]] = set()

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers of both halves."""
        return (*self.prefill.workers, *self.decode.workers)

    @property
    def is_ready(self) -> bool:
        """Whether both halves have a worker that would take a generation."""
        return self.prefill.is_ready and self.decode.is_ready

    @property
    def info(self) -> EngineInfo | None:
        """What the workers serve; the half that samples counts more."""
        return self.decode.info or self.prefill.info

    def worker_of(self, turn_id: str) -> Worker | None:
        """The decode worker that a turn's last generation was sent to."""
        return self.decode.worker_of(turn_id)

    def plan(self, prompt: PromptTokens) -> Place | None:
        """Where the answer of a generation will be tried first, and why."""
        return self.decode.plan(prompt)

    async def start(self) -> None:
        """Probe every worker once, then go on in the background."""
        await asyncio.gather(self.prefill.start(), self.decode.start())

    async def close(self) -> None:
        """Stop probing and give up all connections."""
        for leg in self._ending:
            leg.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(self.prefill.close(), self.decode.close())

    async def generate(
        self, new_request_id: Callable[[], str], prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        """Stream one generation; both legs of it have one request id.

        Raises:
            EngineError: a leg failed.
        """
        request_id = new_request_id()
        chunks = (
            self._together(request_id, prompt)
            if self._engine() == "sglang"
            else self._in_turn(request_id, prompt)
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def _engine(self) -> str:
        info = self.prefill.info
        if info is None:
            raise WorkerUnavailable("This model has no prefill worker that takes requests")
        if info.engine not in ENGINES:
            raise EngineError(f"{info.engine} cannot be split into prefill and decode workers")
        return info.engine

    def _prefill_worker(self, prompt: PromptTokens) -> Worker:
        place = self.prefill.plan(prompt)
        if place is None:
            raise WorkerUnavailable("This model has no prefill worker that takes requests")
        return place.worker

    # ---- both legs at once

    async def _together(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        worker = self._prefill_worker(prompt)
        meeting = self._meetings[worker]
        room = random.randint(0, LARGEST_ROOM)
        leg = replace(prompt, transfer=Bootstrap(meeting.host, meeting.port, room))
        prefill = asyncio.create_task(_drained(worker, request_id, leg))
        is_whole = False
        try:
            async with aclosing(self.decode.generate(lambda: request_id, leg)) as chunks:
                while (chunk := await _next_unless(prefill, chunks)) is not None:
                    is_whole = chunk.finish is not None
                    yield chunk
        finally:
            if is_whole:
                self._let_end(prefill)
            else:
                prefill.cancel()
                await asyncio.gather(prefill, return_exceptions=True)

    def _let_end(self, prefill: "asyncio.Task[str]") -> None:
        """Leave a prefill leg whose answer is whole a moment to end well: not to be aborted."""
        self._ending.add(prefill)
        prefill.add_done_callback(self._ended)
        asyncio.get_running_loop().call_later(END_S, prefill.cancel)

    def _ended(self, prefill: "asyncio.Task[str]") -> None:
        self._ending.discard(prefill)
        if not prefill.cancelled() and (error := prefill.exception()) is not None:
            logger.warning("A prefill leg failed after its answer was whole: %s", error)

    # ---- one leg after the other

    async def _in_turn(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        worker = self._prefill_worker(prompt)
        if "mooncake" in _connector(worker.info).lower():
            told = await self._named_transfer(worker, request_id, prompt)
        else:
            told = await _relayed_transfer(worker, request_id, prompt)
        leg = replace(prompt, transfer=Relay(told))
        async with aclosing(self.decode.generate(lambda: request_id, leg)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _named_transfer(self, worker: Worker, request_id: str, prompt: PromptTokens) -> str:
        """Mooncake: the name of the transfer is ours."""
        name, meeting = f"xfer-{uuid.uuid4()}", self._meetings[worker]
        asked = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": name}
        await _drained(worker, request_id, _reading(prompt, asked))
        details = worker.info.details if worker.info else {}
        return json.dumps(
            {
                "do_remote_decode": False,
                "do_remote_prefill": True,
                "transfer_id": name,
                "remote_engine_id": details.get("kv_engine_id", ""),
                "remote_bootstrap_addr": f"http://{meeting.host}:{meeting.port}",
            }
        )


async def _relayed_transfer(worker: Worker, request_id: str, prompt: PromptTokens) -> str:
    """NIXL: what prefill tells of the cache is decode's to read."""
    asked = {"do_remote_decode": True, "do_remote_prefill": False}
    told = await _drained(worker, request_id, _reading(prompt, asked))
    if not told:
        raise EngineError(f"Worker {worker.address} told nothing of the cache it made")
    return told


def _reading(prompt: PromptTokens, asked: dict[str, Any]) -> PromptTokens:
    """The prefill leg of a prompt: one token, which nobody reads, and nothing that may end it."""
    sampling = replace(
        prompt.sampling,
        max_tokens=1,
        min_tokens=0,
        stop=(),
        stop_token_ids=(),
        ignore_eos=True,
        logprobs=None,
    )
    transfer = Relay(json.dumps(asked))
    return replace(prompt, sampling=sampling, constraint=None, transfer=transfer, streams=False)


async def _drained(worker: Worker, request_id: str, leg: PromptTokens) -> str:
    """Let a prefill worker do its part; what it tells of the cache."""
    told = ""
    with worker.busy(len(leg.ids)) as visit:
        try:
            async with aclosing(worker.engine.generate(request_id, leg)) as chunks:
                async for chunk in chunks:
                    visit.hear(chunk)
                    told = chunk.transferred or told
        except EngineError as error:
            visit.fail(error)
            if isinstance(error, WorkerUnavailable):
                worker.mark_down(error)
            raise
    return told


async def _next_unless(
    prefill: "asyncio.Task[str]", chunks: AsyncGenerator[EngineChunk, None]
) -> EngineChunk | None:
    """The next chunk of decode; `None` after the last.

    Raises:
        EngineError: decode failed, or prefill, without which decode would wait in vain.
    """
    if prefill.done():
        prefill.result()
        return await anext(chunks, None)
    coming = asyncio.ensure_future(_next(chunks))
    try:
        await asyncio.wait({coming, prefill}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            prefill.result()
        return await coming
    finally:
        if not coming.done():
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


async def _next(chunks: AsyncGenerator[EngineChunk, None]) -> EngineChunk | None:
    return await anext(chunks, None)


def _connector(info: EngineInfo | None) -> str:
    return str(info.details.get("kv_connector", "")) if info else ""
