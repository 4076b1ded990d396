"""Streams of /v1/chat/completions: their bytes, and what official clients make of them."""

import json
from collections.abc import Sequence

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.chat.flows import FLOWS, USAGE, Json, user
from tests.e2e.gateway import Served
from tests.golden.transcript import GOLDEN, check, frames, normalised_json
from tests.responses.test_streams import replaying

FINE = [flow for flow in FLOWS if flow != "failure"]


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_stream_is_byte_for_byte_what_it_was(
    flow: str, served: Served, update_golden: bool
) -> None:
    answer = await served.post("/chat/completions", stream=True, **FLOWS[flow])
    assert answer.headers["content-type"].startswith("text/event-stream")
    check(f"chat/{flow}.sse", answer.text, update=update_golden)


def test_there_is_a_transcript_for_each_flow_and_none_that_is_not_checked() -> None:
    assert {path.stem for path in (GOLDEN / "chat").iterdir()} == set(FLOWS)


def transcript(flow: str) -> str:
    return (GOLDEN / f"chat/{flow}.sse").read_text()


def read(sent: str) -> list[Json]:
    """The chunks of a stream that ended as it should."""
    *chunks, done = frames(sent)
    assert done == "data: [DONE]"
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def fold(chunks: Sequence[Json], index: int = 0) -> Json:
    """One choice as a client has it that only ever appends."""
    message: Json = {"role": "", "content": ""}
    calls: list[Json] = []
    logprobs: list[Json] = []
    finish = None
    for choice in (c for chunk in chunks for c in chunk["choices"] if c["index"] == index):
        assert finish is None, "Nothing comes after the finish"
        finish = choice["finish_reason"]
        logprobs += (choice["logprobs"] or {}).get("content", [])
        for key, value in choice["delta"].items():
            if key == "tool_calls":
                _add_call(calls, value)
            else:
                message[key] = message.get(key, "") + value
    folded: Json = {"message": message, "finish_reason": finish}
    if calls:
        message["tool_calls"] = calls
    if logprobs:
        folded["logprobs"] = logprobs
    return folded


def _add_call(calls: list[Json], deltas: Sequence[Json]) -> None:
    [delta] = deltas
    number = delta.pop("index")
    if number == len(calls):
        assert set(delta) == {"id", "type", "function"}
        calls.append(delta)
    else:  # The call's id and name come once: clients join what they are given.
        assert delta == {"function": {"arguments": delta["function"]["arguments"]}}
        assert number == len(calls) - 1
        calls[number]["function"]["arguments"] += delta["function"]["arguments"]


@pytest.mark.parametrize("flow", FINE)
def test_each_chunk_is_what_the_official_package_says_it_is(flow: str) -> None:
    chunks = read(transcript(flow))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    heads = {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}
    assert len(heads) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    asked = "stream_options" in FLOWS[flow]
    assert all(("usage" in chunk) == asked for chunk in chunks)
    assert all(chunk["choices"] for chunk in (chunks[:-1] if asked else chunks))


@pytest.mark.parametrize("flow", FINE)
async def test_streaming_or_not_the_completion_is_the_same(flow: str, served: Served) -> None:
    body = {key: value for key, value in FLOWS[flow].items() if key != "stream_options"}
    answer = await served.post("/chat/completions", **body)
    whole = answer.json()
    ChatCompletion.model_validate(whole, strict=True)
    [choice] = normalised_json(whole)["choices"]
    folded = fold(read(transcript(flow)))
    assert choice["finish_reason"] == folded["finish_reason"]
    message = {k: v for k, v in choice["message"].items() if v is not None}
    assert message == {k: v for k, v in folded["message"].items() if v != ""}
    assert (choice["logprobs"] or {}).get("content") == folded.get("logprobs")


@pytest.mark.parametrize("flow", FINE)
async def test_the_official_stream_helper_ends_with_the_completion(flow: str) -> None:
    sent = transcript(flow)
    folded = fold(read(sent))
    client = openai.AsyncOpenAI(api_key="none", http_client=replaying(sent))
    async with client, client.chat.completions.stream(model="m", messages=[]) as stream:
        async for _ in stream:
            pass
    [choice] = stream.current_completion_snapshot.choices
    assert choice.finish_reason == folded["finish_reason"]
    assert (choice.message.content or "") == folded["message"]["content"]
    calls = [(c.id, c.function.arguments) for c in choice.message.tool_calls or ()]
    assert calls == [
        (c["id"], c["function"]["arguments"]) for c in folded["message"].get("tool_calls", ())
    ]


async def test_a_failure_mid_stream_is_raised_by_the_official_client() -> None:
    sent = transcript("failure")
    *chunks, last = frames(sent)
    assert set(json.loads(last.removeprefix("data: "))["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }
    client = openai.AsyncOpenAI(api_key="none", http_client=replaying(sent))
    async with client:
        stream = await client.chat.completions.create(model="m", messages=[], stream=True)
        for _ in chunks:
            await anext(stream)
        with pytest.raises(openai.APIError) as raised:
            await anext(stream)
    assert raised.value.code == "server_error"


async def test_without_a_stream_a_failing_engine_is_an_http_error(served: Served) -> None:
    answer = await served.post("/chat/completions", **FLOWS["failure"])
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "server_error"


async def test_the_usage_of_a_stream_is_that_of_the_whole(served: Served) -> None:
    streamed = await served.post("/chat/completions", stream=True, **FLOWS["usage"])
    *_, last = read(streamed.text)
    whole = await served.post("/chat/completions", messages=FLOWS["usage"]["messages"])
    assert last["choices"] == []
    assert without_cache(last["usage"]) == without_cache(whole.json()["usage"])
    assert last["usage"]["total_tokens"] == (
        last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    )


def without_cache(usage: Json) -> Json:
    return {**usage, "prompt_tokens_details": None}


async def test_several_choices_come_with_their_index_and_one_usage(served: Served) -> None:
    asked: Json = {"messages": user("[[say:It is 42.]]"), "n": 2}
    streamed = await served.post("/chat/completions", stream=True, stream_options=USAGE, **asked)
    chunks = read(streamed.text)
    said = {"message": {"role": "assistant", "content": "It is 42."}, "finish_reason": "stop"}
    assert [fold(chunks, 0), fold(chunks, 1)] == [said, said]
    whole = (await served.post("/chat/completions", **asked)).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert {choice["message"]["content"] for choice in whole["choices"]} == {"It is 42."}
    one = (await served.post("/chat/completions", **{**asked, "n": 1})).json()["usage"]
    for usage in (chunks[-1]["usage"], whole["usage"]):
        assert usage["prompt_tokens"] == one["prompt_tokens"]
        assert usage["completion_tokens"] == 2 * one["completion_tokens"]
