"""/v1/responses over a WebSocket, on a real port with a real client."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.e2e.gateway import PATIENCE_SECONDS, Served
from tests.e2e.gateway import served as serve
from tests.responses.flows import FLOWS, TERMINAL, Json
from tests.responses.reading import validate

ENDS = {"response.completed", "response.failed", "response.incomplete", "error"}


class Client:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, **fields: Any) -> None:
        await self.socket.send(
            json.dumps({"type": "response.create", "model": "scripted", **fields})
        )

    async def next(self) -> Json:
        async with asyncio.timeout(PATIENCE_SECONDS):
            frame = await self.socket.recv()
        assert isinstance(frame, str)
        event: Json = json.loads(frame)
        return event

    async def rest(self) -> list[Json]:
        """The frames up to the end of a turn."""
        events = [await self.next()]
        while events[-1]["type"] not in ENDS:
            events.append(await self.next())
        return events

    async def turn(self, **fields: Any) -> list[Json]:
        await self.send(**fields)
        return await self.rest()

    async def response(self, **fields: Any) -> Json:
        """The response at the end of a turn that goes well."""
        end = (await self.turn(**fields))[-1]
        assert end["type"] == "response.completed", end
        response: Json = end["response"]
        return response

    async def error(self, **fields: Any) -> Json:
        """The error frame that is all the answer."""
        events = await self.turn(**fields)
        assert [event["type"] for event in events] == ["error"], events
        return events[0]


@asynccontextmanager
async def connected(served: Served, **options: Any) -> AsyncIterator[Client]:
    async with connect(address(served), **options) as socket:
        yield Client(socket)


def address(served: Served) -> str:
    return served.url.replace("http", "ws", 1) + "/v1/responses"


def text(response: Json) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


@pytest.mark.parametrize("name", FLOWS)
async def test_a_turn_has_the_events_of_a_stream(served: Served, name: str) -> None:
    async with connected(served) as client:
        events = await client.turn(**FLOWS[name])
    for event in events:
        validate(event)
    streamed = await served.post("/responses", stream=True, **FLOWS[name])
    frames = [line[6:] for line in streamed.text.split("\n") if line.startswith("data: {")]
    assert [event["type"] for event in events] == [json.loads(frame)["type"] for frame in frames]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == f"response.{TERMINAL.get(name, 'completed')}"


async def test_the_official_client_talks_over_it(served: Served) -> None:
    client = AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none")
    async with client, client.responses.connect() as connection:
        await connection.response.create(model="scripted", input="[[say:It works.]]")
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in connection:
                if event.type == "response.completed":
                    break
    assert event.type == "response.completed"
    assert event.response.output_text == "It works."


async def test_a_stored_turn_is_stored_when_its_end_is_told(served: Served) -> None:
    async with connected(served) as client:
        told = await client.response(input="[[say:Kept.]]")
        kept = await served.http.get(f"/responses/{told['id']}")
        assert kept.json() == told
        again = await client.response(input="[[echo]]", previous_response_id=told["id"])
    assert json.loads(text(again))[-3:] == [
        ["user", "[[say:Kept.]]"],
        ["assistant", "Kept."],
        ["user", "[[echo]]"],
    ]


async def test_turns_that_nobody_stores_continue_within_a_connection(served: Served) -> None:
    async with connected(served) as client:
        first = await client.response(input="[[say:One.]]", store=False)
        second = await client.response(
            input="[[say:Two.]]", store=False, previous_response_id=first["id"]
        )
        third = await client.response(
            input="[[echo]]", store=False, previous_response_id=second["id"]
        )
        branch = await client.response(
            input="[[echo]]", store=False, previous_response_id=first["id"]
        )
    assert third["previous_response_id"] == second["id"]
    said = [["user", "[[say:One.]]"], ["assistant", "One."]]
    more = [["user", "[[say:Two.]]"], ["assistant", "Two."]]
    ask = ["user", "[[echo]]"]
    assert json.loads(text(third)) == [*said, *more, ask]
    assert json.loads(text(branch)) == [*said, ask]
    assert (await served.http.get(f"/responses/{first['id']}")).status_code == 404


async def test_calls_are_answered_within_a_connection(served: Served) -> None:
    flow = FLOWS["function_call"]
    async with connected(served) as client:
        asked = await client.response(**flow, store=False)
        output = {
            "type": "function_call_output",
            "call_id": asked["output"][0]["call_id"],
            "output": "sunny",
        }
        answer = await client.response(
            input=[output], store=False, previous_response_id=asked["id"], tools=flow["tools"]
        )
    assert "sunny" in text(answer)


async def test_another_connection_knows_nothing_of_it(served: Served) -> None:
    async with connected(served) as client:
        first = await client.response(input="Hello", store=False)
    async with connected(served) as client:
        error = await client.error(input="Hello", store=False, previous_response_id=first["id"])
        assert error["error"]["code"] == "previous_response_not_found"
        assert await client.response(input="Hello", store=False)


async def test_a_continuation_that_is_refused_makes_its_parent_forgotten(served: Served) -> None:
    orphan = {"type": "function_call_output", "call_id": "call_none", "output": "x"}
    async with connected(served) as client:
        first = await client.response(input="Hello", store=False)
        follow = {"store": False, "previous_response_id": first["id"]}
        refused = await client.error(input=[orphan], **follow)
        assert refused["status"] == 400
        gone = await client.error(input="Hello", **follow)
    assert gone["error"]["code"] == "previous_response_not_found"


async def test_a_continuation_that_fails_makes_its_parent_forgotten(served: Served) -> None:
    async with connected(served) as client:
        first = await client.response(input="Hello", store=False)
        follow = {"store": False, "previous_response_id": first["id"]}
        failed = await client.turn(**FLOWS["failure"], **follow)
        assert failed[-1]["type"] == "response.failed"
        gone = await client.error(input="Hello", **follow)
        failed_itself = await client.error(
            input="Hello", store=False, previous_response_id=failed[-1]["response"]["id"]
        )
    assert gone["error"]["code"] == "previous_response_not_found"
    assert failed_itself["error"]["code"] == "previous_response_not_found"


async def test_a_connection_remembers_only_the_last_few(served: Served) -> None:
    async with connected(served) as client:
        ids = [(await client.response(input="Hello", store=False))["id"] for _ in range(9)]
        last = await client.response(input="Hello", store=False, previous_response_id=ids[2])
        gone = await client.error(input="Hello", store=False, previous_response_id=ids[0])
    assert last["status"] == "completed"
    assert gone["error"]["code"] == "previous_response_not_found"


async def test_what_is_stored_cannot_stand_on_what_is_not(served: Served) -> None:
    async with connected(served) as client:
        first = await client.response(input="Hello", store=False)
        error = await client.error(input="Hello", previous_response_id=first["id"])
    assert error["error"]["param"] == "store"


async def test_a_turn_without_generation_only_takes_its_input_in(served: Served) -> None:
    before = len(served.engine.requests)
    async with connected(served) as client:
        warm = await client.response(input="Remember slate.", store=False, generate=False)
        assert warm["output"] == []
        assert len(served.engine.requests) == before
        answer = await client.response(
            input="[[echo]]", store=False, previous_response_id=warm["id"]
        )
    assert json.loads(text(answer)) == [["user", "Remember slate."], ["user", "[[echo]]"]]


async def test_a_stored_turn_without_generation_can_be_continued_anywhere(served: Served) -> None:
    async with connected(served) as client:
        warm = await client.response(input="Remember slate.", generate=False)
    assert (await served.http.get(f"/responses/{warm['id']}")).json() == warm
    answer = await served.post("/responses", input="[[echo]]", previous_response_id=warm["id"])
    assert json.loads(text(answer.json())) == [["user", "Remember slate."], ["user", "[[echo]]"]]


async def test_a_compaction_begins_a_new_chain(served: Served) -> None:
    compacted = await served.post("/responses/compact", input="Remember slate.")
    kept = [*compacted.json()["output"], {"role": "user", "content": "[[say:Going on.]]"}]
    async with connected(served) as client:
        assert text(await client.response(input=kept, store=False, tools=[])) == "Going on."


async def test_a_second_turn_at_once_is_refused_and_the_first_goes_on(served: Served) -> None:
    async with connected(served) as client:
        await client.send(input="[[slow:0.5]][[long:20]]", store=False)
        created = await client.next()
        await client.send(input="Hello", store=False)
        events = [await client.next()]
        while events[-1]["type"] != "response.completed":
            events.append(await client.next())
        refusals = [event for event in events if event["type"] == "error"]
        assert [(e["status"], e["error"]["code"]) for e in refusals] == [
            (409, "response_in_progress")
        ]
        assert created["response"]["id"] == events[-1]["response"]["id"]
        # The refused frame has changed nothing.
        assert await client.response(
            input="Hello", store=False, previous_response_id=created["response"]["id"]
        )


async def test_the_next_turn_may_come_with_the_last_event(served: Served) -> None:
    async with connected(served) as client:
        for _ in range(20):
            assert await client.response(input="[[say:Yes.]]")


REFUSED: list[tuple[Json, str | None, str]] = [
    ({"type": "response.steer"}, "type", "invalid_value"),
    ({"type": None}, "type", "invalid_value"),
    ({"stream": True}, "stream", "unsupported_parameter"),
    ({"stream_options": {}}, "stream_options", "unsupported_parameter"),
    ({"background": False}, "background", "unsupported_parameter"),
    ({"stream_id": "a"}, "stream_id", "unsupported_parameter"),
    ({"input": 7}, "input", "invalid_type"),
    ({"model": "none"}, "model", "model_not_found"),
    ({"input": [{"type": "song"}]}, "input[0]", "invalid_value"),
    ({"conversation": "conv_none"}, None, "invalid_request_error"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
async def test_a_refusal_is_an_error_frame(
    served: Served, fields: Json, param: str | None, code: str
) -> None:
    async with connected(served) as client:
        error = await client.error(**{"input": "Hello", **fields})
        assert error["status"] in (400, 404)
        assert error["error"]["code"] == code
        assert error["error"]["param"] == param
        assert set(error["error"]) == {"code", "message", "param", "type"}
        assert await client.response(input="Hello")


async def test_nulls_are_as_good_as_nothing(served: Served) -> None:
    async with connected(served) as client:
        assert await client.response(input="Hello", stream=None, background=None, generate=None)


@pytest.mark.parametrize("frame", ["{", "[]", "7", "", b"\x00\xff", '{"a": "\\ud800"}'])
async def test_a_frame_that_is_no_request_is_an_error_frame(
    served: Served, frame: str | bytes
) -> None:
    async with connected(served) as client:
        await client.socket.send(frame)
        error = await client.next()
        assert (error["type"], error["status"]) == ("error", 400)
        assert await client.response(input="Hello")


async def test_a_turn_that_nobody_stores_stops_when_its_client_leaves(served: Served) -> None:
    async with connected(served) as client:
        await client.send(input="[[slow:30]][[long:100]]", store=False)
        while (await client.next())["type"] != "response.output_text.delta":
            pass
        generation = served.engine.requests[-1]
        assert generation.finish is None
    assert await generation.ended() in ("abort", "cancelled")


async def test_a_turn_that_is_stored_goes_on_when_its_client_leaves(served: Served) -> None:
    async with connected(served) as client:
        response_id = ""
        await client.send(input="[[slow:0.3]][[long:5]]")
        while (event := await client.next())["type"] != "response.output_text.delta":
            response_id = event.get("response", {}).get("id") or response_id
    status = ""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while status in ("", "in_progress"):
            kept = await served.http.get(f"/responses/{response_id}")
            status = kept.json().get("status", "")
    assert status == "completed"


async def test_a_frame_larger_than_a_body_may_be_closes_the_connection(tmp_path: Path) -> None:
    async with serve(tmp_path, tools=False, max_body_mib=1) as served, connected(served) as client:
        await client.socket.send("x" * (1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_connection_that_is_too_old_is_closed(tmp_path: Path) -> None:
    async with (
        serve(tmp_path, tools=False, websocket_max_secs=0.2) as served,
        connected(served) as client,
    ):
        error = await client.next()
        with pytest.raises(ConnectionClosed):
            await client.next()
    assert error["error"]["code"] == "websocket_connection_limit_reached"


async def test_a_turn_under_way_ends_before_its_connection(tmp_path: Path) -> None:
    async with (
        serve(tmp_path, tools=False, websocket_max_secs=0.2) as served,
        connected(served) as client,
    ):
        events = await client.turn(input="[[slow:0.6]][[long:8]]", store=False)
        error = await client.next()
    assert events[-1]["type"] == "response.completed"
    assert error["error"]["code"] == "websocket_connection_limit_reached"


async def test_the_key_is_checked_when_the_connection_is_made(tmp_path: Path) -> None:
    async with serve(tmp_path, tools=False, api_key=("secret",)) as served:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(served, additional_headers=headers):
                    pass
            assert refused.value.response.status_code == 401
            assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
        headers = {"Authorization": "Bearer secret"}
        async with connected(served, additional_headers=headers) as client:
            assert await client.response(input="Hello")


async def test_pages_of_other_sites_get_no_connection(served: Served) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connected(served, origin="https://elsewhere.example"):
            pass
    assert refused.value.response.status_code == 403
    async with connected(served, origin=served.url) as client:
        assert await client.response(input="Hello")


async def test_a_turn_that_finds_no_place_is_refused_and_the_next_is_not(tmp_path: Path) -> None:
    limits = {"model_max_concurrent_requests": 1, "queue_size": 0}
    async with (
        serve(tmp_path, tools=False, **limits) as served,
        connected(served) as first,
        connected(served) as second,
    ):
        await first.send(input="[[slow:0.5]][[long:20]]", store=False)
        await first.next()
        error = await second.error(input="Hello", store=False)
        assert (error["status"], error["headers"]) == (429, {"retry-after": "1"})
        assert error["error"]["code"] == "rate_limit_exceeded"
        assert error["error"]["retry_after"] == 1
        assert (await first.rest())[-1]["type"] == "response.completed"
        assert await second.response(input="Hello", store=False)


async def test_turns_wait_in_the_same_line_as_requests_by_the_upgrades_priority(
    tmp_path: Path,
) -> None:
    order: list[str] = []

    async def turn(client: Client, name: str) -> None:
        await client.response(input="Hello", store=False)
        order.append(name)

    high = {"additional_headers": {"x-smg-priority": "high"}}
    async with (
        serve(tmp_path, tools=False, max_concurrent_requests=1) as served,
        connected(served) as first,
        connected(served) as plain,
        connected(served, **high) as urgent,
        asyncio.TaskGroup() as group,
    ):
        await first.send(input="[[slow:60]][[long:20]]", store=False)
        await first.next()
        group.create_task(turn(plain, "plain"))
        await until(served, waiting=1)
        group.create_task(turn(urgent, "urgent"))
        await until(served, waiting=2)
        await first.socket.close()
    assert order == ["urgent", "plain"]


async def until(served: Served, **states: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        doors = served.gateway.doors
        while not states.items() <= doors.states.items():  # noqa: ASYNC110 - doors tell nobody
            await asyncio.sleep(0.002)


async def test_a_key_has_no_more_connections_than_it_may(tmp_path: Path) -> None:
    async with serve(tmp_path, tools=False, key_max_websockets=1) as served:
        async with connected(served):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(served):
                    pass
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["retry-after"] == "1"
        await until(served, sockets=0)
        async with connected(served) as client:
            assert await client.response(input="Hello", store=False)


async def test_at_shutdown_connections_end_with_their_turn_and_idle_ones_at_once(
    tmp_path: Path,
) -> None:
    async with (
        serve(tmp_path, tools=False) as served,
        connected(served) as idle,
        connected(served) as busy,
    ):
        await busy.send(input="[[slow:0.4]][[long:8]]", store=False)
        await busy.next()
        served.gateway.doors.close()
        for client in (idle, busy):
            events = await client.rest()
            if client is busy:
                assert events[-1]["type"] == "response.completed"
                events = await client.rest()
            assert (events[0]["status"], events[0]["error"]["code"]) == (503, "shutting_down")
            with pytest.raises(ConnectionClosed) as closed:
                await client.next()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        with pytest.raises(InvalidStatus) as refused:
            async with connected(served):
                pass
        assert refused.value.response.status_code == 503


async def test_a_gateway_that_stops_ends_its_connections(tmp_path: Path) -> None:
    async with serve(tmp_path, tools=False) as served:
        socket = await connect(address(served))
        client = Client(socket)
        await client.send(input="[[slow:30]][[long:100]]", store=False)
        await client.next()
    with pytest.raises(ConnectionClosed):
        await client.rest()
