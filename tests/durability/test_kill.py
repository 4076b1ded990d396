"""`kill -9` at every edge of an agent turn (security.md F1 to F5, F26, F29, F36)."""

import asyncio
import json
from array import array
from hashlib import sha256
from pathlib import Path
from typing import Any

from smg.testing.vocabulary import MODEL_PATH
from tests.durability.world import Process, finished, journal, until, world

BOOK = '[[call:book {"what": "a table"}]]'


async def ask(gateway: Process, text: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "scripted", "input": text, "background": True, **fields}
    answer = await gateway.http.post("/responses", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def of_type(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item for item in body["output"] if item["type"] == kind]


def text_of(body: dict[str, Any]) -> str:
    return "".join(part["text"] for m in of_type(body, "message") for part in m["content"])


async def test_a_call_in_flight_at_the_crash_is_not_run_again(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        around.ledger.open = False
        first = await around.start()
        response = await ask(first, BOOK)
        await around.ledger.reached(1)
        await first.kill()
        await around.ledger.release()
        second = await around.start()
        body = await finished(second, response["id"])
        [call] = of_type(body, "mcp_call")
        assert body["status"] == "completed"
        assert call["status"] == "failed"
        assert "nobody knows whether it ran" in call["error"]["message"]
        assert around.ledger.calls == ["a table"]


async def test_a_call_in_flight_is_run_again_if_the_operator_says_it_may(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        around.idempotent = True
        around.ledger.open = False
        first = await around.start()
        response = await ask(first, BOOK)
        await around.ledger.reached(1)
        await first.kill()
        await around.ledger.release()
        second = await around.start()
        body = await finished(second, response["id"])
        [call] = of_type(body, "mcp_call")
        assert (body["status"], call["output"]) == ("completed", "booked a table")
        assert around.ledger.calls == ["a table", "a table"]


async def test_an_uncertain_call_can_become_a_question(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        around.ledger.open = False
        first = await around.start("--on-unknown-outcome", "ask")
        response = await ask(first, BOOK)
        await around.ledger.reached(1)
        await first.kill()
        await around.ledger.release()
        second = await around.start("--on-unknown-outcome", "ask")
        body = await finished(second, response["id"])
        [question] = of_type(body, "mcp_approval_request")
        assert json.loads(question["arguments"]) == {"what": "a table"}
        answer = {
            "type": "mcp_approval_response",
            "approval_request_id": question["id"],
            "approve": True,
        }
        after = await ask(
            second,
            "",
            input=[answer],
            previous_response_id=response["id"],
            tools=[{"type": "mcp", "server_label": "desk"}],
        )
        done = await finished(second, after["id"])
        assert of_type(done, "mcp_call")[0]["output"] == "booked a table"
        assert around.ledger.calls == ["a table", "a table"]


async def test_a_result_that_was_stored_is_used_and_its_tool_not_called_again(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, itl_ms=30) as around:
        first = await around.start()
        response = await ask(first, BOOK)
        await around.engine.arrived(2)  # The model is answering with the result before it.
        await first.kill()
        second = await around.start()
        body = await finished(second, response["id"])
        assert body["status"] == "completed"
        assert of_type(body, "mcp_call")[0]["output"] == "booked a table"
        assert "booked a table" in text_of(body)
        assert around.ledger.calls == ["a table"]


async def test_a_turn_killed_before_its_first_token_starts_over(tmp_path: Path) -> None:
    async with world(tmp_path, itl_ms=30) as around:
        first = await around.start()
        response = await ask(first, "[[say:one two three four five]]")
        await around.engine.arrived(1)
        await first.kill()
        second = await around.start()
        body = await finished(second, response["id"])
        assert (body["status"], text_of(body)) == ("completed", "one two three four five")


async def test_a_stream_goes_on_after_the_crash_where_its_reader_was(tmp_path: Path) -> None:
    async with world(tmp_path, itl_ms=30) as around:
        first = await around.start()
        say = "[[say:one two three four five six seven eight nine ten]]"
        seen: list[bytes] = []
        body = {"model": "scripted", "input": say, "background": True, "stream": True}
        async with first.http.stream("POST", "/responses", json=body) as stream:
            buffer = b""
            async for piece in stream.aiter_bytes():
                buffer += piece
                *whole, buffer = buffer.split(b"\n\n")
                seen += [frame for frame in whole if frame.startswith(b"event:")]
                if len(seen) > 8:
                    break
            await first.kill()
        second = await around.start()
        response_id = json.loads(seen[0].split(b"data: ", 1)[1])["response"]["id"]
        done = await finished(second, response_id)
        replay = (await second.http.get(f"/responses/{response_id}?stream=true")).content
        frames = [f for f in replay.split(b"\n\n") if f.startswith(b"event:")]
        assert frames[: len(seen)] == seen
        events = [json.loads(frame.split(b"data: ", 1)[1]) for frame in frames]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["response"] == done
        assert text_of(done) == "one two three four five six seven eight nine ten"
        after = len(seen) - 1
        tail = await second.http.get(f"/responses/{response_id}?stream=true&starting_after={after}")
        rest = [f for f in tail.content.split(b"\n\n") if f.startswith(b"event:")]
        assert rest == frames[len(seen) :]


async def test_a_foreground_stream_that_died_is_told_as_failed(tmp_path: Path) -> None:
    async with world(tmp_path, itl_ms=30) as around:
        first = await around.start()
        stream = await first.openai.responses.create(
            model="scripted", input="[[say:one two three four five]]", stream=True
        )
        created = await anext(aiter(stream))
        assert created.type == "response.created"
        await around.engine.arrived(1)
        await first.kill()
        second = await around.start()
        body = await finished(second, created.response.id)
        assert body["status"] == "failed"
        assert body["error"]["code"] == "gateway_restarted"  # type: ignore[index]


async def test_a_finished_response_is_there_after_a_crash(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        first = await around.start()
        done = await first.openai.responses.create(model="scripted", input="[[say:blue]]")
        await first.kill()
        second = await around.start()
        again = await second.openai.responses.retrieve(done.id)
        assert again.model_dump() == done.model_dump()
        more = await second.openai.responses.create(
            model="scripted", input="[[echo]]", previous_response_id=done.id
        )
        assert ["assistant", "blue"] in json.loads(more.output_text)


async def test_a_response_that_kills_its_gateway_thrice_is_given_up(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        around.ledger.open = False
        around.idempotent = True
        gateway = await around.start()
        response = await ask(gateway, BOOK)
        for crash in range(1, 4):
            await around.ledger.reached(crash)
            await gateway.kill()
            gateway = await around.start()
        body = await finished(gateway, response["id"])
        assert body["status"] == "failed"
        assert body["error"]["code"] == "recovery_limit"  # type: ignore[index]
        assert len(around.ledger.calls) == 3


async def test_an_idempotency_key_gives_the_same_response_and_no_second_run(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as around:
        gateway = await around.start()
        body = {"model": "scripted", "input": BOOK}
        headers = {"idempotency-key": "order-66"}
        one, two = await asyncio.gather(
            gateway.http.post("/responses", json=body, headers=headers),
            gateway.http.post("/responses", json=body, headers=headers),
        )
        await gateway.kill()
        gateway = await around.start()
        three = await gateway.http.post("/responses", json=body, headers=headers)
        assert {k: (v, two.json()[k]) for k, v in one.json().items() if v != two.json()[k]} == {}
        assert one.json() == three.json()
        assert around.ledger.calls == ["a table"]
        other = await gateway.http.post("/responses", json={**body, "input": "x"}, headers=headers)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


async def test_a_gateway_that_slept_through_its_lease_cannot_write(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        around.ledger.open = False
        sleeper = await around.start()
        response = await ask(sleeper, BOOK)
        await around.ledger.reached(1)
        await sleeper.freeze(tmp_path / "smg.db")
        second = await around.start()
        body = await finished(second, response["id"])  # The lease ran out: taken over, and ended.
        await around.ledger.release()
        sleeper.thaw()

        async def is_awake() -> bool:
            answer = await sleeper.http.get(f"/responses/{response['id']}")
            return answer.status_code == 200

        await until(is_awake)
        again = await second.http.get(f"/responses/{response['id']}")
        assert again.json() == body
        assert around.ledger.calls == ["a table"]


async def test_a_stream_can_be_followed_on_another_gateway(tmp_path: Path) -> None:
    async with world(tmp_path, itl_ms=20) as around:
        first = await around.start()
        second = await around.start()
        response = await ask(first, "[[say:one two three four five six]]", stream=False)
        follow = await second.http.get(f"/responses/{response['id']}?stream=true")
        frames = [f for f in follow.content.split(b"\n\n") if f.startswith(b"event:")]
        events = [json.loads(frame.split(b"data: ", 1)[1]) for frame in frames]
        assert events[-1]["type"] == "response.completed"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_a_background_response_is_handed_over_at_shutdown(tmp_path: Path) -> None:
    async with world(tmp_path, itl_ms=40) as around:
        first = await around.start()
        response = await ask(first, "[[say:one two three four five six seven eight nine ten]]")
        await around.engine.arrived(1)
        first.process.terminate()
        await first.process.wait()
        second = await around.start()
        body = await finished(second, response["id"])
        assert (body["status"], text_of(body)) == (
            "completed",
            "one two three four five six seven eight nine ten",
        )


async def test_the_journal_tells_what_each_generation_started_from(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        gateway = await around.start()
        response = await ask(gateway, BOOK)
        body = await finished(gateway, response["id"])
        prompts = [
            sha256(array("I", asked.prompt_ids).tobytes()) for asked in around.engine.requests
        ]
        entries = journal(tmp_path / "smg.db")
        worker = entries[0][1]["first"]["worker"]
    assert body["status"] == "completed"
    assert [kind for kind, _ in entries] == ["order", "calls", "result", "generation"]
    assert [entries[0][1]["first"], entries[3][1]] == [
        {"number": n, "prompt": prompt.hexdigest(), "worker": worker}
        for n, prompt in enumerate(prompts)
    ]
    assert worker


async def test_a_prompt_that_is_another_after_the_restart_is_told(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(f"As of today. {(MODEL_PATH / 'chat_template.jinja').read_text()}")
    async with world(tmp_path, itl_ms=30) as around:
        first = await around.start()
        response = await ask(first, "[[say:one two three four five]]")
        await around.engine.arrived(1)
        await first.kill()
        second = await around.start("--chat-template", str(template))
        body = await finished(second, response["id"])
        said = await second.log_until("reads another prompt than before the restart")
    assert body["status"] == "completed"
    assert f"Response {response['id']}: generation 0" in said
