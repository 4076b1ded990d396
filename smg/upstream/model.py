"""A model behind HTTP workers: a turn to a chat completion, and its stream back.

The same protocol as a model on tokens: endpoints, agent loop, state and tools see no difference.
The worker has the tokenizer, the template and the parsers; so it counts, cuts and tells apart.
"""

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from smg.agent.loop import Generate
from smg.agent.run import Spoken, Start
from smg.engines.base import Engine, EngineInfo
from smg.engines.embedding import Embedding
from smg.errors import InvalidRequest
from smg.events import Usage
from smg.items import Item
from smg.turn import Turn
from smg.upstream.embeddings import read_embeddings
from smg.upstream.engine import HttpEngine
from smg.upstream.request import new_body, new_text_body
from smg.upstream.words import ChatChunk, ChatPrompt
from smg.workers.once import ask_one
from smg.workers.pool import Pool

BYTES_A_TOKEN = 4
"""Of a prompt as JSON; nearer cannot be known without the model's tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamModel:
    """A model served by OpenAI-compatible servers."""

    name: str
    pool: Pool
    new_request_id: Callable[[], str]
    created_at: int

    @property
    def info(self) -> EngineInfo:
        """What the workers say of the model."""
        return self.pool.info or EngineInfo(engine="")

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and output together; 0: not known."""
        return self.info.context_length

    @property
    def is_ready(self) -> bool:
        """Whether a worker is up."""
        return self.pool.is_ready

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The model's sampling defaults: the worker applies its own and does not tell."""
        return {}

    def thinking_kwargs(self, effort: str | None) -> Mapping[str, Any]:
        """The effort goes to the worker as it came."""
        return {} if effort is None else {"reasoning_effort": effort}

    async def count(self, turn: Turn) -> int:
        """About how many tokens the turn's first prompt has."""
        prompt = await self.prepare(turn, (), Generate(0, None))
        return len(prompt.text.encode()) // BYTES_A_TOKEN

    async def prepare(self, turn: Turn, output: Sequence[Item], step: Generate) -> ChatPrompt:
        """Make the request of one generation.

        Raises:
            RequestError: the conversation cannot be put to this model.
        """
        body = new_body(turn, output, step, self.info.engine)
        # Tools first: templates put them before what was said, and engines cache by prefix.
        text = json.dumps([body.get("tools"), body["messages"]], ensure_ascii=False)
        return ChatPrompt(
            text=text,
            body=body,
            routing_key=turn.routing_key,
            turn_id=turn.id,
            separate_reasoning=turn.separate_reasoning,
        )

    async def prepare_text(self, turn: Turn, prompt: str | Sequence[int]) -> ChatPrompt:
        """Make a generation that goes on with a text, or its tokens, as they are."""
        body = new_text_body(turn, prompt, self.info.engine)
        return ChatPrompt(
            text=prompt if isinstance(prompt, str) else json.dumps(list(prompt)),
            path="/completions",
            body=body,
            routing_key=turn.routing_key,
            turn_id=turn.id,
        )

    def text_of(self, ids: Sequence[int]) -> str:
        """Refuse: the tokenizer is the worker's.

        Raises:
            InvalidRequest: always.
        """
        del ids
        raise InvalidRequest(
            "This model's tokenizer is its worker's: token ids cannot be echoed as text.",
            param="echo",
            code="unsupported_parameter",
        )

    async def embed(
        self, texts: Sequence[str | tuple[int, ...]], dimensions: int | None
    ) -> Sequence[Embedding]:
        """A vector for each text, as the worker makes them.

        Raises:
            RequestError: the worker refused a text, or the length of the vectors.
        """
        body: dict[str, Any] = {"input": [t if isinstance(t, str) else list(t) for t in texts]}
        if dimensions is not None:
            body["dimensions"] = dimensions

        async def ask(engine: Engine) -> dict[str, Any]:
            assert isinstance(engine, HttpEngine)  # This model has no other workers.
            return await engine.post("/embeddings", body)

        return read_embeddings(await ask_one(self.pool, len(texts), ask), len(texts))

    def plan(self, prepared: ChatPrompt) -> tuple[str, str] | None:
        """The name of the worker that a generation will be tried on first, and why."""
        place = self.pool.plan(prepared)
        return (place.worker.alias, place.reason) if place else None

    def start_of(self, prepared: ChatPrompt) -> Start:
        """What a generation will start from, and where."""
        planned = self.plan(prepared)
        return Start(prepared.digest, planned[0] if planned else "")

    def worker_of(self, turn_id: str) -> str | None:
        """The name of the worker of a turn's last generation."""
        worker = self.pool.worker_of(turn_id)
        return worker.alias if worker else None

    async def generate(self, prepared: ChatPrompt) -> AsyncGenerator[Spoken, None]:
        """Stream one generation from whichever worker takes it."""
        async with aclosing(self.pool.generate(self.new_request_id, prepared)) as chunks:
            async for chunk in chunks:
                assert isinstance(chunk, ChatChunk)  # HTTP workers give no others.
                yield Spoken(chunk.deltas, chunk.finish, chunk.usage or Usage())
