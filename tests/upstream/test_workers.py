"""HTTP workers through the whole gateway. The worker is another gateway: a real server of the API,
with an engine that answers from rules.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from smg.app import gateway
from smg.settings import Settings
from tests.durability.world import until
from tests.e2e.gateway import PATIENCE_SECONDS, Served, listening, served, write_tools
from tests.upstream.raw_server import (
    RawServer,
    as_json,
    delta,
    raw_server,
    stream,
)

WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@asynccontextmanager
async def in_front_of(folder: Path, *urls: str, **settings: Any) -> AsyncIterator[AsyncOpenAI]:
    """A gateway over these workers, by its client."""
    usual: dict[str, Any] = {
        "worker_urls": urls,
        "database_url": f"sqlite:///{folder / 'front.db'}",
        "worker_startup_timeout_secs": PATIENCE_SECONDS,
        "shutdown_grace_seconds": 1.0,
        "retry_initial_backoff_ms": 1.0,
    }
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(gateway(Settings(**{**usual, **settings})))
        url = await stack.enter_async_context(listening(running))
        yield await stack.enter_async_context(
            AsyncOpenAI(
                base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS
            )
        )


@pytest.fixture(scope="module")
async def worker(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("worker"), tools=False) as running:
        yield running


@pytest.fixture(scope="module")
async def client(
    worker: Served, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncOpenAI]:
    folder = tmp_path_factory.mktemp("front")
    config = str(write_tools(folder))
    async with in_front_of(folder, worker.url, mcp_config_path=config) as opened:
        yield opened


async def test_the_worker_names_the_model_and_its_context(client: AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert (model.id, model.model_extra) == ("scripted", {"max_model_len": 32768})


async def ask(client: AsyncOpenAI, text: str, **fields: Any) -> Any:
    return await client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": text}], **fields
    )


async def test_a_chat_completion_is_the_workers_own(worker: Served, client: AsyncOpenAI) -> None:
    text, options = "[[think:Let me see.]][[say:It is 42.]]", {"seed": 3, "stop": ["!"]}
    await ask(worker.openai, text, **options)  # So that the engine knows the prompt both times.
    theirs, ours = await ask(worker.openai, text, **options), await ask(client, text, **options)
    assert ours.choices == theirs.choices
    assert ours.usage == theirs.usage
    assert ours.choices[0].message.reasoning_content.strip() == "Let me see."


async def test_a_stream_is_the_workers_own(worker: Served, client: AsyncOpenAI) -> None:
    async def pieces(of: AsyncOpenAI) -> list[Any]:
        stream = await ask(
            of,
            "[[think:Hm.]][[say:Wait.]] [[call:weather {}]]",
            tools=[WEATHER],
            stream=True,
            stream_options={"include_usage": True},
        )
        found = [c async for c in stream]
        calls = [t for c in found for x in c.choices for t in x.delta.tool_calls or ()]
        for call in calls:
            call.id = None
        return [[x.model_dump() for x in c.choices] or c.usage for c in found]

    await pieces(worker.openai)  # So that the engine knows the prompt both times.
    assert await pieces(client) == await pieces(worker.openai)


async def test_log_probabilities_pass_through(worker: Served, client: AsyncOpenAI) -> None:
    options = {"logprobs": True, "top_logprobs": 1}
    theirs = await ask(worker.openai, "[[say:Yes é.]]", **options)
    ours = await ask(client, "[[say:Yes é.]]", **options)
    assert ours.choices[0].logprobs == theirs.choices[0].logprobs


async def test_a_text_completion_is_the_workers_own(worker: Served, client: AsyncOpenAI) -> None:
    asked: Any = {"model": "scripted", "prompt": "Once upon a time", "logprobs": 1}
    theirs = await worker.openai.completions.create(**asked)
    ours = await client.completions.create(**asked)
    assert ours.choices == theirs.choices
    assert ours.usage == theirs.usage


async def test_token_ids_cannot_be_echoed(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="echoed"):
        await client.completions.create(model="scripted", prompt=[5, 6], echo=True)


async def test_responses_run_the_agent_loop_over_chat_completions(client: AsyncOpenAI) -> None:
    response = await client.responses.create(
        model="scripted",
        input="What is 21 times 2?",
        tools=[{"type": "mcp", "server_label": "tools", "require_approval": "never"}],
    )
    kinds = [item.type for item in response.output]
    assert kinds[0] == "mcp_list_tools"
    assert "mcp_call" in kinds
    assert "42" in response.output_text
    again = await client.responses.create(
        model="scripted", input="[[history]]", previous_response_id=response.id
    )
    assert again.status == "completed"
    stored = await client.responses.retrieve(response.id)
    assert stored.output_text == response.output_text


async def test_a_response_streams_reasoning_and_calls(client: AsyncOpenAI) -> None:
    function: Any = {**WEATHER["function"], "type": "function"}
    stream: Any = await client.responses.create(
        model="scripted",
        input='[[think:Hm.]][[call:weather {"city": "Oslo"}]]',
        tools=[function],
        stream=True,
    )
    events = [event async for event in stream]
    arguments = "".join(
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    )
    assert json.loads(arguments) == {"city": "Oslo"}
    assert events[-1].type == "response.completed"
    assert [item.type for item in events[-1].response.output] == ["reasoning", "function_call"]


async def test_a_structured_answer_is_asked_of_the_worker(client: AsyncOpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = await ask(
        client,
        "Answer.",
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["n"], int)


async def test_a_prompt_the_worker_refuses_is_refused_with_its_words(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(client, "long " * 40000)
    assert refused.value.code == "context_length_exceeded"


# ---- servers that misbehave, and several of them


@asynccontextmanager
async def over(folder: Path, *servers: RawServer, **settings: Any) -> AsyncIterator[AsyncOpenAI]:
    async with in_front_of(folder, *(s.url for s in servers), **settings) as client:
        yield client


async def hello(client: AsyncOpenAI, model: str = "m", **fields: Any) -> Any:
    return await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], **fields
    )


GOOD = stream(delta(content="Hi"), delta("stop"))


async def test_a_worker_that_fails_at_once_is_replaced(tmp_path: Path) -> None:
    sick = as_json({"error": {"message": "no memory"}}, 500)
    async with raw_server(sick) as first, raw_server(GOOD) as second:
        async with over(tmp_path, first, second, policy="round_robin") as client:
            for _ in range(2):
                answer = await hello(client)
                assert answer.choices[0].message.content == "Hi"
        assert first.requests


async def test_a_full_worker_is_passed_over_and_told_if_there_is_no_other(tmp_path: Path) -> None:
    full = as_json({"error": {"message": "busy"}}, 429)
    async with raw_server(full) as server, over(tmp_path, server) as client:
        with pytest.raises(openai.InternalServerError, match="busy") as failed:
            await hello(client)
        assert failed.value.code == "rate_limit_exceeded"


async def hear(said: list[str], stream: Any) -> None:
    async for chunk in stream:
        said += [chunk.choices[0].delta.content]


BROKEN = {
    "no finish": (stream(delta(content="Hi"), done=False), "unfinished"),
    "done without finish": (stream(delta(content="Hi")), "unfinished"),
    "an error": (stream(delta(content="Hi"), {"error": {"message": "cuda"}}), "cuda"),
    "nonsense": (stream(delta(content="Hi"), [1]), "makes no sense"),
    "reset": (stream(delta(content="Hi"), done=False, resets=True), "Worker"),
}


@pytest.mark.parametrize(("answer", "told"), BROKEN.values(), ids=BROKEN)
async def test_a_stream_that_breaks_is_a_failure_told_once(
    answer: Any, told: str, tmp_path: Path
) -> None:
    async with raw_server(answer) as server, over(tmp_path, server) as client:
        said: list[str] = []
        with pytest.raises(openai.APIError, match=told):
            await hear(said, await hello(client, stream=True))
        assert said == ["", "Hi"]
        assert len(server.requests) == 1


@pytest.mark.parametrize("word", ["context_length_exceeded", None])
async def test_a_context_that_is_too_short_is_known_by_code_or_words(
    word: str | None, tmp_path: Path
) -> None:
    error = {"message": "This model's maximum context length is 100 tokens.", "code": word or 400}
    refusal = as_json({"error": error}, 400)
    async with raw_server(refusal) as server, over(tmp_path, server) as client:
        with pytest.raises(openai.BadRequestError, match="is 100 tokens") as refused:
            await hello(client)
    assert refused.value.code == "context_length_exceeded"


async def test_a_stream_that_stalls_is_given_up(tmp_path: Path) -> None:
    slow = stream(delta(content="Hi"), done=False, hangs=True)
    brief = {"next_token_timeout_secs": 0.05}
    async with raw_server(slow) as server, over(tmp_path, server, **brief) as client:
        with pytest.raises(openai.APIError, match="no token"):
            await hello(client)
        await asyncio.wait_for(server.left.wait(), PATIENCE_SECONDS)


async def test_closing_the_stream_closes_the_connection(tmp_path: Path) -> None:
    slow = stream(delta(content="Hi"), done=False, hangs=True)
    async with raw_server(slow) as server, over(tmp_path, server) as client:
        answer = await hello(client, stream=True)
        await anext(aiter(answer))
        assert not server.left.is_set()
        await answer.close()
        await asyncio.wait_for(server.left.wait(), PATIENCE_SECONDS)


async def test_each_worker_gets_its_own_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITS_KEY", "own")
    async with raw_server(GOOD) as first, raw_server(GOOD) as second:
        keys = {"worker_api_key": "shared", "worker_api_key_env": (f"{second.url}=ITS_KEY",)}
        async with over(tmp_path, first, second, policy="round_robin", **keys) as client:
            await hello(client)
            await hello(client)
        sent = [server.requests[0][1]["authorization"] for server in (first, second)]
    assert sent == ["Bearer shared", "Bearer own"]


async def test_the_clients_trace_reaches_the_worker(tmp_path: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with raw_server(GOOD) as server, over(tmp_path, server) as client:
        await hello(client, extra_headers={"traceparent": trace, "cookie": "secret"})
        headers = server.requests[0][1]
    assert headers["traceparent"].split("-")[1] == trace.split("-")[1]
    assert headers["x-request-id"].startswith("gen_")
    assert "cookie" not in headers


async def test_the_worker_is_asked_by_its_own_name_for_the_model(tmp_path: Path) -> None:
    names = {"served_model_name": "ours", "model_alias": ("gpt-4=ours",)}
    async with raw_server(GOOD) as server, over(tmp_path, server, **names) as client:
        assert (await hello(client, "ours")).model == "ours"
        assert (await hello(client, "gpt-4")).model == "ours"
        with pytest.raises(openai.NotFoundError, match="ours, gpt-4"):
            await hello(client, "m")
        assert [body["model"] for _, _, body in server.requests] == ["m", "m"]


async def test_a_server_may_have_many_models(tmp_path: Path) -> None:
    two = {"data": [{"id": "small"}, {"id": "large", "max_model_len": 9}]}
    async with raw_server(GOOD) as server:
        server.answers["/v1/models"] = as_json(two)
        async with over(tmp_path, server) as client:
            await hello(client, "large")
            models = (await client.models.list()).data
    assert [(m.id, m.model_extra) for m in models] == [
        ("small", {}),
        ("large", {"max_model_len": 9}),
    ]
    assert server.requests[0][2]["model"] == "large"


async def test_models_on_tokens_and_over_http_stand_side_by_side(
    worker: Served, tmp_path: Path
) -> None:
    """Each has its own tokenizer and template, or none here at all."""
    async with raw_server(GOOD) as server:
        urls = (worker.engine.url, server.url)
        path = worker.gateway.settings.model_path
        async with in_front_of(tmp_path, *urls, model_path=path) as client:
            assert (await hello(client)).choices[0].message.content == "Hi"
            ours = await hello(client, "scripted")
            assert ours.usage.prompt_tokens > 0
            names = [model.id for model in (await client.models.list()).data]
    assert names == ["scripted", "m"]


async def test_a_worker_that_comes_late_brings_its_model(tmp_path: Path) -> None:
    async with raw_server(GOOD) as early, raw_server(GOOD) as late:
        late.answers["/v1/models"] = as_json({}, 503)
        async with over(tmp_path, early, late) as client:
            late.answers["/v1/models"] = as_json({"data": [{"id": "new"}]})

            async def is_there() -> bool:
                return len((await client.models.list()).data) == 2

            await until(is_there)
            assert (await hello(client, "new")).choices[0].message.content == "Hi"


async def test_health_is_asked_of_health_or_else_of_the_models(tmp_path: Path) -> None:
    async with raw_server(GOOD) as server:
        del server.answers["/health"]
        async with over(tmp_path, server) as client:
            base = str(client.base_url).removesuffix("/v1/")
            async with httpx2.AsyncClient() as plain:
                assert (await plain.get(f"{base}/readiness")).status_code == 200
