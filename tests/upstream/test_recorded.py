"""Answers of a real vLLM server, through the whole gateway."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI

from tests.upstream.recorded import ask, replayed
from tests.upstream.test_workers import in_front_of


@pytest.fixture(scope="module")
async def client(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncOpenAI]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    async with replayed() as server, in_front_of(folder, server.url) as opened:
        yield opened


async def test_the_model_is_known(client: AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert (model.id, model.model_extra) == ("tiny", {"max_model_len": 2048})


async def test_a_chat_is_as_long_as_was_asked(client: AsyncOpenAI) -> None:
    answer = await ask(client, "chat")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens > 5


async def test_log_probabilities_are_read(client: AsyncOpenAI) -> None:
    entries = (await ask(client, "logprobs")).choices[0].logprobs.content
    assert len(entries) == 8
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


async def test_an_answer_fits_its_schema(client: AsyncOpenAI) -> None:
    answer = (await ask(client, "schema")).choices[0]
    assert json.loads(answer.message.content)["answer"] in ("yes", "no")


async def test_a_required_call_is_read(client: AsyncOpenAI) -> None:
    (call, *_) = (await ask(client, "call")).choices[0].message.tool_calls
    assert call.function.name == "decide"
    assert json.loads(call.function.arguments)["answer"] in ("yes", "no")


async def test_a_text_is_gone_on_with(client: AsyncOpenAI) -> None:
    answer = await ask(client, "text")
    assert answer.choices[0].text
    assert len(answer.choices[0].logprobs.tokens) == 8


async def test_a_response_is_made(client: AsyncOpenAI) -> None:
    response = await ask(client, "response")
    assert response.status == "incomplete"
    assert response.usage.output_tokens == 16


async def test_a_prompt_that_is_too_long_is_told_by_its_code(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length") as refused:
        await ask(client, "too long")
    assert refused.value.code == "context_length_exceeded"
