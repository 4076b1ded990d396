"""One model put together: a turn in, prompts out to the engine, parsed deltas back."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from smg.agent.loop import Generate
from smg.agent.run import Spoken
from smg.directory import ModelDirectory
from smg.engines.base import EngineChunk, EngineInfo, EngineLoad, Finish, PromptTokens
from smg.errors import ContextLengthExceeded, ModelNotFound, WorkerUnavailable
from smg.events import Usage
from smg.items import Message, TextPart
from smg.model import Prepared, ServedModel
from smg.parsers.base import ReasoningText, Text, ToolCallArguments, ToolCallEnd, ToolCallStart
from smg.parsers.registry import markers
from smg.testing.vocabulary import MODEL_PATH
from smg.tokens.prompt import PromptBuilder
from smg.tokens.source import locate
from smg.turn import (
    FunctionTool,
    JsonSchema,
    Offer,
    Sampling,
    StructuralTag,
    ToolChoice,
    ToolSet,
    Turn,
)
from smg.workers.policies.simple import RoundRobin
from smg.workers.pool import Pool
from smg.workers.worker import Worker

WEATHER = Offer("weather", FunctionTool(name="weather", parameters={"type": "object"}))
USAGE = Usage(input_tokens=7, output_tokens=3)


@cache
def builder() -> PromptBuilder:
    return PromptBuilder.load(locate(str(MODEL_PATH)), markers("qwen3", "qwen"))


def ids(text: str) -> list[int]:
    return builder().tokenizer.encode(text)


class Engine:
    """Says the chunks it was given, and remembers what it was asked."""

    address = "one"

    def __init__(self, *chunks: EngineChunk | Exception) -> None:
        self._chunks = chunks
        self.asked: list[PromptTokens] = []
        self.closed = 0

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        self.asked.append(prompt)
        try:
            for chunk in self._chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.closed += 1

    async def info(self) -> EngineInfo:
        return EngineInfo(
            engine="fake",
            model="m",
            context_length=200,
            vocab_size=5000,
            default_sampling={"temperature": 0.25},
        )

    async def check(self) -> None:
        """Always healthy."""

    async def load(self) -> EngineLoad:
        return EngineLoad()

    async def close(self) -> None:
        """Nothing to give up."""


async def served(engine: Engine, **fields: Any) -> ServedModel:
    worker = Worker(engine)
    await worker.probe()
    usual: dict[str, Any] = {
        "name": "m",
        "builder": builder(),
        "pool": Pool([worker], RoundRobin()),
        "reasoning": "qwen3",
        "tools": "qwen",
        "new_request_id": lambda: "gen_1",
        "created_at": 5,
    }
    return ServedModel(**{**usual, **fields})


def new_turn(text: str = "Hello", **fields: Any) -> Turn:
    question = Message(id="msg_1", role="user", parts=(TextPart(text),))
    return Turn(**{"id": "resp_1", "model": "m", "created_at": 0, "input": (question,), **fields})


def chunks(*texts: str, finish: Finish = Finish.STOP) -> list[EngineChunk]:
    said = [EngineChunk(ids(text)) for text in texts]
    return [*said, EngineChunk(finish=finish, usage=USAGE)]


async def prepare(model: ServedModel, turn: Turn, number: int = 0) -> Prepared:
    return await model.prepare(turn, (), Generate(number, 50))


async def speak(model: ServedModel, turn: Turn) -> list[Spoken]:
    async with aclosing(model.generate(await prepare(model, turn))) as words:
        return [spoken async for spoken in words]


def deltas(words: Sequence[Spoken]) -> list[Any]:
    return [delta for spoken in words for delta in spoken.deltas]


async def test_tokens_come_back_as_thoughts_answer_and_calls() -> None:
    engine = Engine(
        *chunks(
            "<think>\nHm.\n</think>\n\n",
            "Yes.",
            '<tool_call>\n{"name": "weather", "arguments": {"a": 1}}\n</tool_call>',
        )
    )
    words = await speak(await served(engine), new_turn(tools=ToolSet(offers=(WEATHER,))))
    assert deltas(words) == [
        ReasoningText("Hm."),
        Text("Yes."),
        ToolCallStart("weather"),
        ToolCallArguments('{"a": 1}'),
        ToolCallEnd(),
    ]
    assert [spoken.finish for spoken in words][-1] is Finish.STOP
    assert words[-1].usage.input_tokens == 7
    assert words[-1].usage.reasoning_tokens > 0


async def test_without_tools_what_looks_like_a_call_is_text() -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    words = await speak(await served(Engine(*chunks(text))), new_turn())
    assert "".join(delta.text for delta in deltas(words)) == text


async def test_reasoning_that_is_not_told_apart_is_text_with_its_tags() -> None:
    text = "<think>\nHm.\n</think>\n\nYes."
    words = await speak(await served(Engine(*chunks(text))), new_turn(separate_reasoning=False))
    assert all(isinstance(delta, Text) for delta in deltas(words))
    assert "".join(delta.text for delta in deltas(words)) == text


async def test_a_stop_string_ends_the_generation_and_frees_the_worker() -> None:
    engine = Engine(*chunks("one two", " three", " four"))
    turn = new_turn(sampling=Sampling(stop=("three",)))
    words = await speak(await served(engine), turn)
    assert "".join(delta.text for delta in deltas(words)) == "one two "
    assert words[-1].finish is Finish.STOP
    assert words[-1].usage.output_tokens == len(ids("one two") + ids(" three"))
    assert engine.closed == 1


async def test_an_engine_that_breaks_breaks_the_generation() -> None:
    engine = Engine(EngineChunk(ids("one")), WorkerUnavailable("gone"))
    with pytest.raises(WorkerUnavailable):
        await speak(await served(engine), new_turn())
    assert engine.closed == 1


async def test_what_the_request_leaves_open_is_the_models_default() -> None:
    model = await served(Engine(), extra_defaults={"temperature": 0.75, "top_p": 0.5})
    sampling = (await prepare(model, new_turn(sampling=Sampling(top_k=3)))).tokens.sampling
    # The worker's word counts more than the files': it may have been told otherwise.
    assert sampling == Sampling(top_k=3, temperature=0.25, top_p=0.5, max_tokens=50)
    asked = new_turn(sampling=Sampling(temperature=0.0))
    assert (await prepare(model, asked)).tokens.sampling.temperature == 0.0


async def test_a_prompt_that_leaves_no_room_is_refused_by_its_field() -> None:
    model = await served(Engine())
    with pytest.raises(ContextLengthExceeded) as raised:
        await prepare(model, new_turn("word " * 300))
    assert raised.value.param == "input"


async def test_the_count_is_that_of_the_first_prompt() -> None:
    model, turn = await served(Engine()), new_turn()
    assert await model.count(turn) == len((await prepare(model, turn)).tokens.ids)


async def test_a_required_call_is_demanded_of_the_engine_once() -> None:
    model = await served(Engine())
    tools = ToolSet(offers=(WEATHER,), choice=ToolChoice(mode="required"))
    first = await prepare(model, new_turn(tools=tools))
    assert isinstance(first.tokens.constraint, StructuralTag | JsonSchema)
    assert "weather" in str(first.tokens.constraint)
    assert (await prepare(model, new_turn(tools=tools), number=1)).tokens.constraint is None


async def test_the_form_of_the_answer_is_demanded_of_the_engine() -> None:
    schema = '{"type": "object"}'
    turn = new_turn(output_constraint=JsonSchema(schema))
    prepared = await prepare(await served(Engine()), turn)
    assert prepared.tokens.constraint is not None
    assert "object" in str(prepared.tokens.constraint)


@pytest.mark.parametrize(
    ("effort", "thinks"), [(None, None), ("none", False), ("minimal", False), ("high", True)]
)
async def test_an_effort_turns_thinking_on_or_off(effort: str | None, thinks: bool | None) -> None:
    kwargs = (await served(Engine())).thinking_kwargs(effort)
    assert kwargs.get("enable_thinking") is thinks


async def test_the_other_name_of_the_thinking_switch_is_understood() -> None:
    model, turn = await served(Engine()), new_turn()
    off = await prepare(model, replace(turn, template_kwargs={"enable_thinking": False}))
    other = await prepare(model, replace(turn, template_kwargs={"thinking": False}))
    assert other.tokens.text == off.tokens.text
    assert off.tokens.text != (await prepare(model, turn)).tokens.text


async def test_models_are_found_by_name() -> None:
    model = await served(Engine())
    models = ModelDirectory([model])
    assert models.find("m") is model
    assert models.all() == (model,)
    with pytest.raises(ModelNotFound) as raised:
        models.find("n")
    assert (raised.value.param, "served: m" in raised.value.message) == ("model", True)


async def test_a_model_is_ready_while_a_worker_is_up() -> None:
    model = await served(Engine())
    assert (model.is_ready, model.context_length) == (True, 200)
    model.pool.workers[0].mark_down(WorkerUnavailable("gone"))
    assert not model.is_ready
