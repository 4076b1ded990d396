"""One model as clients name it: tokenizer, template, parsers and workers, put together.

In goes a turn, out come parsed deltas. Which engine, which family and which template it is, is
decided once, when the model is loaded; nothing above this module knows.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from smg.agent.loop import Generate
from smg.agent.run import Spoken, Start
from smg.decode import Decoder
from smg.engines.base import EngineInfo, Finish, PromptTokens
from smg.engines.embedding import Embedding, check_text
from smg.engines.guards import check_prompt
from smg.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    PromptRejected,
)
from smg.guidance import NO_TOOLS, Asked, new_guide, offered_schemas
from smg.items import Item
from smg.parsers.base import Text, ToolCallEnd
from smg.parsers.registry import (
    RAW,
    REASONING,
    ToolSchema,
    markers,
    new_parser,
    prompt_starts_open,
)
from smg.tokens.detokenizer import new_detokenizer
from smg.tokens.prompt import Prompt, PromptBuilder
from smg.tracing import step as traced
from smg.turn import Constraint, Sampling, ToolChoice, Turn
from smg.workers.once import embed_all
from smg.workers.pd import PdPool
from smg.workers.pool import Pool

_SWITCHES = ("enable_thinking", "thinking")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One generation, ready to be sent."""

    tokens: PromptTokens
    reasoning: str
    tools: str
    """The family that reads the calls of this output."""
    offered: Sequence[ToolSchema]
    starts_open: bool | None
    prefix: str = ""
    """Text that belongs to the answer though the prompt holds it: a tag that is to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model served here."""

    name: str
    builder: PromptBuilder
    pool: Pool | PdPool
    reasoning: str
    tools: str
    new_request_id: Callable[[], str]
    created_at: int
    extra_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling defaults from the model's own generation_config.json."""

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
        """The model's sampling defaults; what the worker says counts more than the files."""
        return {**self.extra_defaults, **self.info.default_sampling}

    def thinking_kwargs(self, effort: str | None) -> Mapping[str, Any]:
        """The template arguments that stand for a reasoning effort."""
        habits, kwargs = self.builder.habits, dict[str, Any]()
        if effort is None:
            return kwargs
        if habits.thinking_switch is not None:
            kwargs[habits.thinking_switch] = effort not in ("none", "minimal")
        if habits.reads_effort:
            kwargs["reasoning_effort"] = _EFFORTS.get(effort, effort)
        return kwargs

    async def count(self, turn: Turn) -> int:
        """How many tokens the turn's first prompt has."""
        turn, most = self._fitted(turn), self.context_length
        return len((await self.builder.build_async(turn, most_tokens=most)).ids)

    async def prepare(self, turn: Turn, output: Sequence[Item], step: Generate) -> Prepared:
        """Make the prompt of one generation and decide how its output is read.

        Raises:
            ContextLengthExceeded: the prompt leaves no room for a token.
            RequestError: the conversation cannot be put to this model.
        """
        self._check_generates()
        turn = self._fitted(turn)
        most = self.context_length
        with traced("prepare", model=self.name):
            prompt = await self.builder.build_async(turn, output, step.starts, most_tokens=most)
        starts_open = prompt_starts_open(self.reasoning, prompt.text)
        asked = self._asked(turn, step, starts_open)
        guided = new_guide(asked)
        constraint = guided.constraint if guided else None
        tokens = self._tokens(turn, prompt, constraint, step.max_tokens)
        shows_tags = not turn.separate_reasoning and starts_open is True
        return Prepared(
            tokens=tokens,
            reasoning=self.reasoning if turn.separate_reasoning else NO_TOOLS,
            tools=guided.tools if guided else asked.tools,
            offered=asked.offered,
            starts_open=starts_open,
            prefix=f"{REASONING[self.reasoning].tags.starts[0]}\n" if shows_tags else "",
        )

    async def prepare_text(self, turn: Turn, prompt: str | Sequence[int]) -> Prepared:
        """Make a generation that goes on with a text, or its tokens: no template, no parsers.

        Raises:
            ContextLengthExceeded: the prompt leaves no room for a token.
            PromptRejected: it is empty, or has ids the model does not know.
        """
        self._check_generates()
        text = prompt if isinstance(prompt, str) else ""
        ids = prompt
        if isinstance(ids, str):
            await self.builder.check_length(ids, self.context_length)
            ids = await asyncio.to_thread(self.builder.tokenizer.encode_text, ids)
        tokens = self._tokens(turn, Prompt(list(ids), text), None, turn.limits.max_output_tokens)
        return Prepared(
            tokens=tokens, reasoning=NO_TOOLS, tools=NO_TOOLS, offered=(), starts_open=None
        )

    def text_of(self, ids: Sequence[int]) -> str:
        """What tokens read."""
        return self.builder.tokenizer.decode(ids)

    async def embed(
        self, texts: Sequence[str | tuple[int, ...]], dimensions: int | None
    ) -> Sequence[Embedding]:
        """A vector for each text.

        Raises:
            ContextLengthExceeded: a text is longer than the model's context.
            PromptRejected: the model makes no vectors, or none of this text or length.
        """
        if dimensions is not None:
            raise PromptRejected("This model's vectors have one length", param="dimensions")
        for text in texts:
            if isinstance(text, str):
                await self.builder.check_length(text, self.context_length)
        encode = self.builder.tokenizer.encode_text
        encoded = await asyncio.to_thread(
            lambda: [encode(text) if isinstance(text, str) else text for text in texts]
        )
        for ids in encoded:
            check_text(ids, self.info)
        return await embed_all(self.pool, encoded, self.new_request_id)

    def plan(self, prepared: Prepared) -> tuple[str, str] | None:
        """The name of the worker that a generation will be tried on first, and why."""
        place = self.pool.plan(prepared.tokens)
        return (place.worker.alias, place.reason) if place else None

    def start_of(self, prepared: Prepared) -> Start:
        """What a generation will start from, and where."""
        planned = self.plan(prepared)
        return Start(prepared.tokens.digest, planned[0] if planned else "")

    def worker_of(self, turn_id: str) -> str | None:
        """The name of the worker of a turn's last generation."""
        worker = self.pool.worker_of(turn_id)
        return worker.alias if worker else None

    async def generate(self, prepared: Prepared) -> AsyncGenerator[Spoken, None]:
        """Stream one generation from whichever worker takes it."""
        decoder = self._decoder(prepared)
        prompt = prepared.tokens
        if prepared.prefix:
            yield Spoken([Text(prepared.prefix)])
        async with aclosing(self.pool.generate(self.new_request_id, prompt)) as chunks:
            async for chunk in chunks:
                deltas = decoder.feed(chunk)
                if chunk.finish is not None or decoder.stopped:
                    deltas += decoder.finish()
                    if prepared.tools == RAW and chunk.finish is Finish.LENGTH:
                        # Its end is the output's end: cut short, it is not whole.
                        deltas = [d for d in deltas if not isinstance(d, ToolCallEnd)]
                    usage = decoder.usage(chunk.usage, len(prompt.ids))
                    yield Spoken(deltas, chunk.finish or Finish.STOP, usage)
                    return
                if deltas:
                    yield Spoken(deltas)

    def _check_generates(self) -> None:
        if not self.info.is_generation:
            raise InvalidRequest(
                f"The model '{self.name}' makes embeddings and generates no text.", param="model"
            )

    def _fitted(self, turn: Turn) -> Turn:
        """The turn with its thinking switch under the name this template reads."""
        switch, kwargs = self.builder.habits.thinking_switch, turn.template_kwargs
        other = next((name for name in _SWITCHES if name in kwargs and name != switch), None)
        if switch is None or other is None or switch in kwargs:
            return turn
        return replace(turn, template_kwargs={**kwargs, switch: kwargs[other]})

    def _asked(self, turn: Turn, step: Generate, starts_open: bool | None) -> Asked:
        offered = offered_schemas(turn.tools.callable_offers(), self.info)
        return Asked(
            # A call that was forced has been made after the first step; the model may answer.
            choice=turn.tools.choice if step.number == 0 else ToolChoice(),
            parallel=turn.tools.parallel,
            offered=offered,
            answer=turn.output_constraint,
            reasoning=self.reasoning,
            tools=self.tools if offered else NO_TOOLS,
            engine=self.info,
            starts_open=starts_open,
        )

    def _tokens(
        self, turn: Turn, prompt: Prompt, constraint: Constraint | None, max_tokens: int | None
    ) -> PromptTokens:
        sampling = replace(_filled(turn.sampling, self.defaults), max_tokens=max_tokens)
        tokens = PromptTokens(
            ids=prompt.ids,
            sampling=sampling,
            constraint=constraint,
            text=prompt.text,
            routing_key=turn.routing_key,
            turn_id=turn.id,
        )
        try:
            check_prompt(tokens, self.info)
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(error.message, param="input") from error
        return tokens

    def _decoder(self, prepared: Prepared) -> Decoder:
        parser = new_parser(
            reasoning=prepared.reasoning,
            tools=prepared.tools,
            offered=prepared.offered,
            starts_open=prepared.starts_open,
        )
        keep = markers(prepared.reasoning, prepared.tools)
        tokenizer = self.builder.tokenizer
        detokenizer = new_detokenizer(tokenizer, prepared.tokens.sampling, keep)
        return Decoder(detokenizer, parser, tokenizer)


_EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}
"""Efforts that templates do not know, to the nearest of low, medium and high."""


def _filled(sampling: Sampling, defaults: Mapping[str, Any]) -> Sampling:
    """Sampling with the model's defaults where the request says nothing."""
    missing = {
        name: defaults[name]
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        if getattr(sampling, name) is None and name in defaults
    }
    return replace(sampling, **missing) if missing else sampling
