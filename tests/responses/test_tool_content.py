"""What a tool answers beside text: kept with the response, given to clients, not told to models."""

import base64
import json
from typing import Any

from tests.e2e.gateway import Served
from tests.responses.flows import Json, server
from tests.responses.reading import read, validate, validate_body

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PICTURE = {"type": "image", "data": PNG, "mimeType": "image/png"}
ASKED: Json = {"input": "[[call:image {}]][[say:Seen.]]", "tools": [server("tools", "image")]}


def the_call(items: list[Json]) -> Json:
    (call,) = [item for item in items if item["type"] == "mcp_call"]
    return call


async def create(served: Served, **fields: Any) -> Json:
    answer = await served.post("/responses", **fields)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    validate_body(body)
    return body


async def test_a_picture_is_kept_with_the_call_and_given_wherever_the_call_is(
    served: Served,
) -> None:
    body = await create(served, **ASKED)
    call = the_call(body["output"])
    stored = (await served.http.get(f"/responses/{body['id']}")).json()
    assert (call["output"], call["content"]) == ("[image image/png, 8 bytes]", [PICTURE])
    assert the_call(stored["output"]) == call


async def test_a_stream_shows_it_when_the_call_is_done(served: Served) -> None:
    events = read((await served.post("/responses", stream=True, **ASKED)).text)
    for event in events:
        validate(event)
    items = {
        event["type"]: event["item"]
        for event in events
        if event["type"].startswith("response.output_item") and event["item"]["type"] == "mcp_call"
    }
    assert "content" not in items["response.output_item.added"]
    assert items["response.output_item.done"]["content"] == [PICTURE]
    assert the_call(events[-1]["response"]["output"])["content"] == [PICTURE]


async def test_no_model_ever_reads_the_picture_itself(served: Served) -> None:
    before = len(served.engine.requests)
    body = await create(served, **ASKED)
    await create(served, input="[[echo]]", previous_response_id=body["id"])
    prompts = [received.prompt for received in list(served.engine.requests)[before:]]
    assert len(prompts) == 3
    assert "[image image/png, 8 bytes]" in prompts[1]
    assert all(PNG not in prompt for prompt in prompts)


async def test_a_client_that_keeps_the_conversation_itself_can_send_it_back(
    served: Served,
) -> None:
    first = await served.openai.responses.create(model="scripted", store=False, **ASKED)
    items = [item.model_dump(exclude_none=True) for item in first.output]
    again = await create(
        served, input=[*items, {"role": "user", "content": "[[echo]]"}], tools=ASKED["tools"]
    )
    told = json.loads(again["output"][-1]["content"][0]["text"])
    assert ["tool", "[image image/png, 8 bytes]"] in told
    kept = (await served.http.get(f"/responses/{again['id']}/input_items")).json()["data"]
    assert the_call(kept)["content"] == [PICTURE]
