"""Real engines behind the whole gateway: what clients see, and that nothing brings them down.

The model is random, so answers are judged by their form: how long, how they end, what they fit.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from smg.app import gateway
from smg.engines.registry import connect
from smg.settings import Settings
from smg.testing.vocabulary import MODEL_PATH
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer
from tests.durability.world import until
from tests.e2e.gateway import listening
from tests.engines_real.servers import KINDS, Kind, Running, running

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

HELLO: Any = [{"role": "user", "content": "Hello, who are you?"}]
ANSWER: Any = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}


@cache
def terse() -> dict[str, float]:
    """A bias against blanks: JSON allows any number of them, and a random model likes many."""
    tokenizer = Tokenizer.load(locate(str(MODEL_PATH)))
    texts = [(token, tokenizer.token_text(token)) for token in range(tokenizer.vocab_size)]
    return {str(token): -100 for token, text in texts if not text.strip()}


@dataclass(frozen=True, slots=True)
class Bench:
    """A gateway over one real engine."""

    kind: Kind
    engine: Running
    client: AsyncOpenAI

    async def chat(self, **fields: Any) -> Any:
        usual: dict[str, Any] = {"messages": HELLO, "max_completion_tokens": 12, "temperature": 0}
        return await self.client.chat.completions.create(model="tiny", **{**usual, **fields})


@pytest.fixture(scope="module", params=KINDS)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with running(KINDS[request.param], tmp_path_factory.mktemp("engine")) as started:
        yield started


@pytest.fixture(scope="module")
async def bench(
    anyio_backend: str, engine: Running, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    """The worker's own word is all the gateway is told: model, context, tokenizer, template."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(
        worker_urls=(engine.url,),
        served_model_name="tiny",
        # A random model's thoughts, which may come before any answer, have no end.
        reasoning_parser="passthrough",
        database_url=f"sqlite:///{folder / 'smg.db'}",
        shutdown_grace_seconds=1.0,
    )
    async with AsyncExitStack() as stack:
        started = await stack.enter_async_context(gateway(settings))
        url = await stack.enter_async_context(listening(started))
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        yield Bench(engine.kind, engine, await stack.enter_async_context(client))


async def test_the_model_is_known_with_its_context(bench: Bench) -> None:
    (model,) = (await bench.client.models.list()).data
    assert (model.id, model.model_extra) == ("tiny", {"max_model_len": 2048})


async def test_a_chat_streams_to_its_limit(bench: Bench) -> None:
    usage = {"include_usage": True}
    stream = await bench.chat(stream=True, stream_options=usage)
    *chunks, last = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == 12
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = await bench.chat()
    assert whole.choices[0].message.content == text
    assert whole.usage.prompt_tokens == last.usage.prompt_tokens > 5


async def test_a_response_is_stored_and_gone_on_with(bench: Bench) -> None:
    first = await bench.client.responses.create(
        model="tiny", input="Hello", max_output_tokens=16, temperature=0
    )
    assert (first.status, first.usage and first.usage.output_tokens) == ("incomplete", 16)
    stream = await bench.client.responses.create(
        model="tiny",
        input="Go on",
        previous_response_id=first.id,
        max_output_tokens=16,
        stream=True,
    )
    *_, last = [event async for event in stream]
    assert last.type == "response.incomplete"
    assert first.usage is not None
    assert last.response.usage is not None
    assert last.response.usage.input_tokens > first.usage.input_tokens
    stored = await bench.client.responses.retrieve(last.response.id)
    assert stored.output == last.response.output


async def test_an_answer_fits_its_schema(bench: Bench) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": ANSWER, "strict": True}}
    if not bench.kind.constrains:
        with pytest.raises(openai.BadRequestError, match="response_format"):
            await bench.chat(response_format=form)
        return
    answer = await bench.chat(response_format=form, max_completion_tokens=400, logit_bias=terse())
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(answer.choices[0].message.content)["answer"] in ("yes", "no")


async def test_a_call_that_is_required_is_made(bench: Bench) -> None:
    function = {"name": "decide", "parameters": ANSWER, "strict": True}
    fields = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    if not bench.kind.constrains:
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            await bench.chat(**fields)
        return
    answer = await bench.chat(
        **fields, parallel_tool_calls=False, max_completion_tokens=400, logit_bias=terse()
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "decide"
    assert json.loads(call.function.arguments)["answer"] in ("yes", "no")


async def test_a_stop_string_ends_the_text_before_it(bench: Bench) -> None:
    text = (await bench.chat()).choices[0].message.content
    stop = text[len(text) // 2 :][:4]
    answer = await bench.chat(stop=[stop])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == text[: text.index(stop)]


async def test_log_probabilities_are_of_the_tokens_said(bench: Bench) -> None:
    answer = await bench.chat(logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 12
    assert b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace").strip() == (
        answer.choices[0].message.content.strip()
    )
    # Greedy: what was said is the best there was.
    assert all(entry.top_logprobs[0].logprob <= entry.logprob + 1e-4 for entry in entries)
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


async def test_a_client_that_goes_frees_the_engine(bench: Bench) -> None:
    stream = await bench.chat(
        stream=True, max_completion_tokens=1900, extra_body={"ignore_eos": True}
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    if bench.kind.tells_load:
        direct = connect(bench.engine.url)

        async def is_idle() -> bool:
            return (await direct.load()).running == 0

        await until(is_idle)
        await direct.close()
    answer = await bench.chat()
    assert answer.usage.completion_tokens == 12


FATAL: dict[str, Any] = {
    "longer than the context": [5] * 2100,
    "no token at all": [],
    "a token beyond the vocabulary": [5, 1_000_000],
}


@pytest.mark.parametrize("prompt", FATAL.values(), ids=FATAL)
async def test_prompts_that_kill_engines_are_refused(prompt: list[int], bench: Bench) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await bench.client.completions.create(model="tiny", prompt=prompt, max_tokens=4)
    if len(prompt) > 2048:
        assert refused.value.code == "context_length_exceeded"
    assert (await bench.chat()).usage.completion_tokens == 12
    assert bench.engine.process.poll() is None


async def test_a_conversation_that_is_too_long_is_refused(bench: Bench) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await bench.client.responses.create(model="tiny", input="word " * 4000)
    assert refused.value.code == "context_length_exceeded"


async def test_what_an_engine_has_cached_is_known_by_its_own_word(bench: Bench) -> None:
    messages: Any = [{"role": "user", "content": " ".join(f"word{n}" for n in range(200))}]

    async def reason() -> str:
        create = bench.client.chat.completions.with_raw_response.create
        answer = await create(model="tiny", messages=messages, max_completion_tokens=4)
        return str(answer.headers["x-smg-worker-reason"])

    how = "kv events" if bench.kind.tells_cache else "sent before"

    async def is_known() -> bool:  # What it tells comes a moment after its answer.
        return (await reason()).endswith(f" known, {how}")

    await until(is_known)
