"""Streams of /v1/responses: their bytes, their order, and what official clients make of them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from tests.e2e.gateway import PATIENCE_SECONDS, Served
from tests.golden.transcript import GOLDEN, check, normalised_json
from tests.responses.flows import FLOWS, TERMINAL
from tests.responses.reading import Fold, Json, read, validate, validate_body

GOLDEN_FLOWS = [*FLOWS, "cancelled"]


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_stream_is_byte_for_byte_what_it_was(
    flow: str, served: Served, update_golden: bool
) -> None:
    answer = await served.post("/responses", stream=True, **FLOWS[flow])
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] in ("no-cache", "no-store")
    check(f"responses/{flow}.sse", answer.text, update=update_golden)


async def test_a_cancelled_stream_ends_without_a_last_event(
    served: Served, update_golden: bool
) -> None:
    body = {
        "model": "scripted",
        "input": "[[think:This will hang.]][[call:hang {}]]",
        "tools": [{"type": "mcp", "server_label": "tools", "allowed_tools": ["hang"]}],
        "background": True,
        "stream": True,
    }
    sent = ""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        served.http.stream("POST", "/responses", json=body) as answer,
    ):
        async for text in answer.aiter_text():
            sent += text
            if "event: response.mcp_call_arguments.done" in sent and "[DONE]" not in sent:
                [*_, created] = sent.split('"id":"resp_')
                response_id = f"resp_{created[:48]}"
                cancelled = await served.http.post(f"/responses/{response_id}/cancel")
                assert cancelled.json()["status"] == "cancelled"
    check("responses/cancelled.sse", sent, update=update_golden)
    assert read(sent)[-1]["type"] == "response.mcp_call_arguments.done"
    stored = (await served.http.get(f"/responses/{response_id}")).json()
    assert [item["type"] for item in stored["output"]] == [
        "mcp_list_tools",
        "reasoning",
        "mcp_call",
    ]
    assert stored["output"][-1]["status"] == "incomplete"
    replayed = await served.http.get(f"/responses/{response_id}", params={"stream": "true"})
    assert replayed.text == sent


def test_there_is_a_transcript_for_each_flow_and_none_that_is_not_checked() -> None:
    kept = {path.stem for path in (GOLDEN / "responses").iterdir()}
    assert kept == set(GOLDEN_FLOWS)


def transcript(name: str) -> str:
    return (GOLDEN / f"responses/{name}.sse").read_text()


@pytest.mark.parametrize("name", GOLDEN_FLOWS)
def test_each_event_is_what_the_official_package_says_it_is(name: str) -> None:
    for event in read(transcript(name)):
        validate(event)
        if "response" in event:
            validate_body(event["response"])


@pytest.mark.parametrize("name", GOLDEN_FLOWS)
def test_a_client_that_only_appends_has_the_same_output(name: str) -> None:
    fold, events = Fold(), read(transcript(name))
    for event in events:
        fold.take(event)
    assert [event["type"] for event in events[:2]] in (
        ["response.created", "response.in_progress"],
        ["response.created", "response.queued"],
    )
    if name == "cancelled":
        return
    last = events[-1]
    outcome = TERMINAL.get(name, "completed")
    assert last["type"] == f"response.{outcome}"
    assert last["response"]["status"] == outcome
    if outcome == "failed":  # What was half said is told by the last event alone.
        [half] = last["response"]["output"]
        assert half == {**fold.items[0], "status": "incomplete"}
        assert fold.done == []
    else:
        assert last["response"]["output"] == fold.items
        assert len(fold.done) == len(fold.items)


@pytest.mark.parametrize("name", GOLDEN_FLOWS)
async def test_the_official_client_reads_a_transcript_whole(name: str) -> None:
    sent = transcript(name)
    async with AsyncOpenAI(api_key="none", http_client=replaying(sent)) as client:
        stream = await client.responses.create(model="m", input="x", stream=True)
        events = [event async for event in stream]
    assert [event.type for event in events] == [event["type"] for event in read(sent)]


@pytest.mark.parametrize("name", FLOWS)
async def test_the_official_stream_helper_ends_with_the_response_as_it_was_sent(name: str) -> None:
    sent = transcript(name)
    last = read(sent)[-1]["response"]
    async with (
        AsyncOpenAI(api_key="none", http_client=replaying(sent)) as client,
        client.responses.stream(model="m", input="x") as stream,
    ):
        events = [event async for event in stream]
        if last["status"] == "completed":
            final = await stream.get_final_response()
            assert without_parsed(final.to_dict()["output"]) == last["output"]
    assert events[-1].type == f"response.{last['status']}"


def without_parsed(output: Any) -> Sequence[Json]:
    """The output without what the helper adds to it."""
    items: list[Json] = [
        {key: value for key, value in item.items() if key != "parsed_arguments"} for item in output
    ]
    for item in items:
        for part in item.get("content", ()):
            part.pop("parsed", None)
    return items


class Replay(httpx2.AsyncBaseTransport):
    """Answers every request with one stream."""

    def __init__(self, sent: str) -> None:
        self._sent = sent.encode()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=self._sent)


def replaying(sent: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=Replay(sent))


@pytest.mark.parametrize("flow", [flow for flow in FLOWS if flow != "failure"])
async def test_streaming_or_not_the_response_is_the_same(flow: str, served: Served) -> None:
    whole = await served.post("/responses", **FLOWS[flow])
    assert whole.status_code == 200
    validate_body(whole.json())
    assert normalised_json(whole.json()) == read_final(transcript(flow))


@pytest.mark.parametrize("flow", FLOWS)
async def test_the_stored_response_is_the_one_that_was_streamed(flow: str, served: Served) -> None:
    answer = await served.post("/responses", stream=True, **FLOWS[flow])
    sent = read(answer.text)[-1]["response"]
    stored = await served.http.get(f"/responses/{sent['id']}")
    assert stored.json() == sent
    replayed = await served.http.get(f"/responses/{sent['id']}", params={"stream": "true"})
    assert replayed.text == answer.text


def read_final(sent: str) -> Any:
    return normalised_json(read(sent)[-1]["response"])


async def test_without_a_stream_a_failing_engine_is_an_http_error(served: Served) -> None:
    answer = await served.post("/responses", **FLOWS["failure"])
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert {key: error[key] for key in ("type", "param", "code")} == {
        "type": "server_error",
        "param": None,
        "code": "server_error",
    }


async def test_a_stream_is_read_again_from_any_event(served: Served) -> None:
    answer = await served.post("/responses", stream=True, **FLOWS["text"])
    events = answer.text.split("\n\n")
    response_id = read(answer.text)[0]["response"]["id"]
    rest = await served.http.get(
        f"/responses/{response_id}", params={"stream": "true", "starting_after": "3"}
    )
    assert rest.text == "\n\n".join(events[4:])
