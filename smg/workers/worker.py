"""One worker: its engine, and what the gateway knows of it at this moment.

It must not know other workers, nor who chooses among them.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from smg.engines.base import Engine, EngineChunk, EngineInfo, EngineLoad
from smg.errors import EngineError, PromptRejected, WorkerOverloaded
from smg.workers.breaker import Breaker
from smg.workers.gaps import Gaps

logger = logging.getLogger(__name__)

USUAL_TOKENS = 1024
"""What a request is taken to weigh that another gateway has sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """How many probes in a row change a worker's state."""

    failures: int = 3
    """For a worker that has worked before; one that has not is down after the first."""
    successes: int = 2
    """For a worker that was down."""


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
        worker.became_idle.clear()
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
        if not worker.in_flight:
            worker.became_idle.set()
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
    """A running engine at one address. It counts as up until something says it is not."""

    def __init__(
        self,
        engine: Engine,
        *,
        breaker: Breaker | None = None,
        thresholds: Thresholds | None = None,
        alias: str | None = None,
    ) -> None:
        self.engine = engine
        self.address = engine.address
        self.alias = alias or hashlib.sha256(engine.address.encode()).hexdigest()[:12]
        """Names it to those who need not know where it is."""
        self.breaker = breaker or Breaker()
        self.is_up = True
        self.is_draining = False
        """Whether it is to be removed: it gets nothing new."""
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
        self.info: EngineInfo | None = None
        """What it serves; `None` until it was asked."""
        self.went_down = asyncio.Event()
        """Set while it is down, or a probe has failed."""
        self.became_idle = asyncio.Event()
        """Set when its last generation ends."""
        self._thresholds = thresholds or Thresholds()
        self._failures = 0
        self._successes = 0

    @property
    def is_available(self) -> bool:
        """Whether it should be sent a generation now."""
        return self.is_up and not self.is_draining and self.breaker.allows

    @property
    def is_certain(self) -> bool:
        """Whether the last probes agree: no closer look is needed."""
        return self.is_up and not self._failures

    @property
    def waiting_tokens(self) -> int:
        """The prompts it has yet to read, those of other gateways by a guess."""
        return self.queued_tokens + self.foreign * USUAL_TOKENS

    @contextmanager
    def busy(self, prompt_tokens: int = 0) -> Iterator[Visit]:
        """Count one generation for as long as the block lasts."""
        visit = Visit(self, prompt_tokens)
        try:
            yield visit
        finally:
            visit.end()

    async def probe(self) -> bool:
        """Ask whether it is healthy, and what it serves if that may have changed.

        Returns whether it is up now.
        """
        try:
            if self.info is None or not self.is_up:
                self.info = await self.engine.info()
            await self.engine.check()
        except WorkerOverloaded:
            return self.is_up  # Busy is not sick.
        except EngineError as error:
            self._failed_probe(error)
        else:
            self._passed_probe()
        return self.is_up

    async def ask_load(self) -> bool:
        """Ask how busy it is; whether it said."""
        try:
            self.load = await self.engine.load()
        except EngineError as error:
            logger.debug("Worker %s does not tell its load: %s", self.address, error.message)
            self.load, self.foreign = None, 0
            return False
        self.foreign = max(0, self.load.running + self.load.waiting - self.in_flight)
        return True

    def mark_down(self, error: EngineError) -> None:
        """Note that it cannot be reached. It is probed until it answers again."""
        if self.is_up:
            logger.warning("Worker %s is down: %s", self.address, error.message)
        self.is_up = False
        self._successes = 0
        self.went_down.set()

    def _failed_probe(self, error: EngineError) -> None:
        self._failures += 1
        self._successes = 0
        self.went_down.set()
        if self.info is None or self._failures >= self._thresholds.failures:
            self.mark_down(error)

    def _passed_probe(self) -> None:
        self._failures = 0
        self._successes += 1
        if not self.is_up and self._successes < self._thresholds.successes:
            return
        if not self.is_up:
            logger.info("Worker %s is up again", self.address)
        self.is_up = True
        self.went_down.clear()
