"""One worker: its engine, and what the gateway knows of it at this moment.

It must not know other workers, nor who chooses among them.
"""

import hashlib
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

from smg.engines.base import Engine, EngineChunk, EngineInfo, EngineLoad, PromptTokens
from smg.engines.fields import summed
from smg.errors import EngineError, PromptRejected, WorkerOverloaded
from smg.workers.breaker import Breaker
from smg.workers.gaps import Gaps
from smg.workers.health import Health, Thresholds

logger = logging.getLogger(__name__)

USUAL_TOKENS = 1024
"""What a request is taken to weigh that another gateway has sent."""


class Visit:
    """One generation on a worker: what it weighs, and what it tells of the worker's health."""

    __slots__ = (
        "_heard_at",
        "_is_trial",
        "answer_tokens",
        "cached_tokens",
        "failed",
        "prompt_tokens",
        "spoke",
        "worker",
    )

    def __init__(self, worker: "Worker", prompt_tokens: int) -> None:
        self.spoke = False
        self.failed = False
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        """What the worker had read before, by its own word."""
        self.answer_tokens = 0
        self._heard_at = 0.0
        self.worker = worker
        self._is_trial = worker.breaker.begin()
        worker.in_flight += 1
        worker.health.began()
        worker.queued_tokens += prompt_tokens

    def hear(self, chunk: EngineChunk) -> None:
        """Note new tokens: with the first of them the prompt is no longer waiting."""
        tokens, worker = len(chunk.ids), self.worker
        if tokens:
            now = monotonic()
            if self.answer_tokens:
                worker.gaps.add(now - self._heard_at)
            self._heard_at = now
        self.answer_tokens += tokens
        worker.running_tokens += tokens
        if not self.spoke:
            self.spoke = True
            worker.queued_tokens -= self.prompt_tokens
            worker.running_tokens += self.prompt_tokens
        if chunk.usage is not None:
            self.cached_tokens = chunk.usage.cached_tokens

    def fail(self, error: Exception) -> None:
        """Note how it failed; no room and a bad prompt are not the worker's fault."""
        self.failed = isinstance(error, EngineError) and not isinstance(
            error, WorkerOverloaded | PromptRejected
        )

    def end(self) -> None:
        """Nothing more is coming."""
        worker, is_trial = self.worker, self._is_trial
        worker.in_flight -= 1
        worker.health.ended()
        if self.spoke:
            worker.running_tokens -= self.prompt_tokens + self.answer_tokens
        else:
            worker.queued_tokens -= self.prompt_tokens
        if self.failed:
            worker.breaker.fail(trial=is_trial)
        elif self.spoke:
            worker.breaker.succeed(trial=is_trial)
        else:
            worker.breaker.let_go(trial=is_trial)


class Worker:
    """What a generation is sent to: a running engine, or one data-parallel rank of it."""

    def __init__(
        self,
        engine: Engine,
        *,
        breaker: Breaker | None = None,
        thresholds: Thresholds | None = None,
        alias: str | None = None,
        divides: bool = False,
    ) -> None:
        self.engine = engine
        self.health = Health(engine, breaker or Breaker(), thresholds or Thresholds())
        self.rank: int | None = None
        """The rank that it is; `None`: all of the engine, which chooses among its ranks."""
        self.address = engine.address
        self.alias = alias or hashlib.sha256(engine.address.encode()).hexdigest()[:12]
        """Names it to those who need not know where it is."""
        self.in_flight = 0
        """Generations this gateway is running on it."""
        self.queued_tokens = 0
        """Prompt tokens of those that have not begun to answer."""
        self.running_tokens = 0
        """Prompt and answer tokens of those that have."""
        self.gaps = Gaps()
        """Between the tokens of each stream."""
        self.load: EngineLoad | None = None
        """What it last said of its load, if it does."""
        self.foreign = 0
        """Generations on it that are not ours, by its last word."""
        self._divides = divides
        self._ranks: tuple[Worker, ...] = ()

    def parts(self) -> tuple["Worker", ...]:
        """What generations are sent to: itself, or each of its ranks if that is wanted of it.

        They are the same ones as long as it does not say that it has more ranks, or fewer.
        """
        size = ranks_of(self.info) if self._divides else 1
        if size == 1:
            return (self,)
        if len(self._ranks) != size:
            self._ranks = tuple(self._rank(number) for number in range(size))
        return self._ranks

    def _rank(self, number: int) -> "Worker":
        rank = Worker(self.engine, alias=f"{self.alias}@{number}")
        rank.health = self.health
        rank.rank = number
        rank.address = f"{self.address}@{number}"
        return rank

    @property
    def is_up(self) -> bool:
        """Whether it can be reached, as far as is known."""
        return self.health.is_up

    @is_up.setter
    def is_up(self, is_up: bool) -> None:
        self.health.is_up = is_up

    @property
    def is_draining(self) -> bool:
        """Whether it gets nothing new."""
        return self.health.is_draining

    @is_draining.setter
    def is_draining(self, is_draining: bool) -> None:
        self.health.is_draining = is_draining

    @property
    def is_available(self) -> bool:
        """Whether it should be sent a generation now."""
        return self.health.is_available

    @property
    def info(self) -> EngineInfo | None:
        """What it serves; `None` until it was asked."""
        return self.health.info

    @info.setter
    def info(self, info: EngineInfo | None) -> None:
        self.health.info = info

    @property
    def breaker(self) -> Breaker:
        """Shared by all ranks."""
        return self.health.breaker

    @property
    def waiting_tokens(self) -> int:
        """The prompts it has yet to read, those of other gateways by a guess."""
        return self.queued_tokens + self.foreign * USUAL_TOKENS

    def generate(self, request_id: str, prompt: PromptTokens) -> AsyncGenerator[EngineChunk, None]:
        """Stream one generation, on this rank if it is one."""
        sent = prompt if self.rank is None else replace(prompt, rank=self.rank)
        return self.engine.generate(request_id, sent)

    @contextmanager
    def busy(self, prompt_tokens: int = 0) -> Iterator[Visit]:
        """Count one generation for as long as the block lasts."""
        visit = Visit(self, prompt_tokens)
        try:
            yield visit
        finally:
            visit.end()

    async def probe(self) -> bool:
        """Ask whether it is healthy; whether it is up now."""
        return await self.health.probe()

    async def ask_load(self) -> bool:
        """Ask how busy it is and each of its ranks; whether it said."""
        try:
            load = await self.engine.load()
        except EngineError as error:
            logger.debug("Worker %s does not tell its load: %s", self.address, error.message)
            self.hear_load(None)
            return False
        self.hear_load(load)
        return True

    def hear_load(self, load: EngineLoad | None) -> None:
        """Take note of what it says of its load, or that it does not say; its ranks do too."""
        self._note_load(load)
        for number, rank in enumerate(self._ranks):
            rank._note_load(load.ranks.get(number) if load else None)

    def hear_rank_load(self, rank: int, load: EngineLoad) -> None:
        """Take note of what one of its ranks says."""
        before = self.load.ranks if self.load else {}
        self.hear_load(summed({**before, rank: load}))

    def _note_load(self, load: EngineLoad | None) -> None:
        self.load = load
        self.foreign = max(0, load.running + load.waiting - self.in_flight) if load else 0

    def mark_down(self, error: EngineError) -> None:
        """Note that it cannot be reached. It is probed until it answers again."""
        self.health.mark_down(error)


def ranks_of(info: EngineInfo | None) -> int:
    """How many data-parallel ranks a worker says that it has."""
    return max(1, int(info.details.get("data_parallel_size", 1))) if info else 1
