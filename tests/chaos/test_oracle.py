"""The judge of the chaos tests sees what he is there to see."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from smg.testing.chaos.oracle import Json, Remains, judge
from smg.testing.chaos.turns import Kind, Trial

STREAM = Kind(name="stream with a call", streamed=True, calls=1)
BOOKED = Counter({"t1-0": 1})
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "content": [{"type": "output_text", "text": "all done"}],
}
CALL = {
    "id": "mcp_1",
    "type": "mcp_call",
    "status": "completed",
    "arguments": '{"what": "t1-0"}',
    "error": None,
}
HALF = {
    "id": "msg_0",
    "type": "message",
    "status": "incomplete",
    "content": [{"type": "output_text", "text": "al"}],
}
BODY = {"id": "resp_1", "status": "completed", "error": None, "output": [CALL, MESSAGE]}


def shown(place: int, item: Json, *texts: str) -> list[Json]:
    part = {"type": "response.output_text.delta", "output_index": place}
    return [
        {"type": "response.output_item.added", "output_index": place, "item": item},
        *({**part, "delta": text} for text in texts),
        {"type": "response.output_item.done", "output_index": place, "item": item},
    ]


def stream(*events: Json, body: Json = BODY) -> bytes:
    told = [*events, {"type": f"response.{body['status']}", "response": body}]
    numbered = [{**event, "sequence_number": n} for n, event in enumerate(told)]
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in numbered)


SOUND = stream(*shown(0, CALL), *shown(1, HALF, "al"), *shown(2, MESSAGE, "all ", "done"))


def verdict(replay: bytes = SOUND, *, body: Json = BODY, saw: bytes = b"", **changed: Any) -> str:
    trial = Trial("t1", changed.pop("kind", STREAM), saw=saw, told=changed.pop("told", None))
    left = changed.pop("left", [Remains(body, replay, changed.pop("rest", None))])
    return "\n".join(judge(trial, left, changed.pop("ledger", BOOKED), changed.pop("deaths", 1)))


def test_what_is_sound_is_not_complained_of() -> None:
    cut = SOUND.index(b"\n\n") + 2
    assert verdict(saw=SOUND[: cut + 7], rest=SOUND[cut:]) == ""


def test_a_double_call_is_seen() -> None:
    assert "t1-0 was booked 2 times" in verdict(ledger=Counter({"t1-0": 2}))


def test_a_result_without_a_call_is_seen() -> None:
    assert "has a result, and was booked 0 times" in verdict(ledger=Counter())


def test_a_second_response_is_seen() -> None:
    remains = Remains(BODY, SOUND, None)
    assert "there are 2 responses" in verdict(left=[remains, remains])


def test_a_lost_response_is_seen() -> None:
    assert "is unknown now" in verdict(left=[], saw=SOUND)


def test_a_response_that_was_never_acknowledged_may_be_missing() -> None:
    assert verdict(left=[]) == ""


def test_a_gap_is_seen() -> None:
    assert "sequence numbers" in verdict(
        SOUND.replace(b'"sequence_number": 3', b'"sequence_number": 9')
    )


def test_another_beginning_is_seen() -> None:
    assert "not the beginning" in verdict(saw=SOUND[:40].replace(b"output", b"throughput"))


def test_an_event_that_comes_twice_is_seen() -> None:
    assert "is not the whole" in verdict(saw=SOUND, rest=SOUND[-300:])


def test_a_stream_without_an_end_is_seen() -> None:
    whole = SOUND.rindex(b"event:")
    assert "the stream has no end" in verdict(SOUND[:whole])


def test_an_item_that_was_shown_and_is_not_kept_is_seen() -> None:
    body = {**BODY, "output": [CALL, {**MESSAGE, "id": "msg_9"}]}
    events = [*shown(0, CALL), *shown(1, MESSAGE, "all done")]
    complaints = verdict(stream(*events, body=body), body=body)
    assert "the response has None" in complaints
    assert "never ends in the stream" in complaints


def test_an_end_of_what_never_began_is_seen() -> None:
    events = [*shown(0, CALL), shown(1, MESSAGE)[-1]]
    assert "item 1, which is not open" in verdict(stream(*events))


def test_lost_words_are_seen() -> None:
    events = [*shown(0, CALL), *shown(1, MESSAGE, "all ")]
    assert "the deltas of msg_1 are 'all '" in verdict(stream(*events))


@pytest.mark.parametrize(
    ("code", "background", "deaths", "is_allowed"),
    [
        ("gateway_restarted", False, 1, True),
        ("gateway_restarted", True, 1, False),
        ("recovery_limit", True, 3, True),
        ("recovery_limit", True, 2, False),
        ("server_error", False, 3, False),
    ],
)
def test_a_failure_needs_a_reason(
    code: str, background: bool, deaths: int, is_allowed: bool
) -> None:
    body = {**BODY, "status": "failed", "error": {"code": code}, "output": []}
    complaints = verdict(
        stream(body=body), body=body, kind=replace(STREAM, background=background), deaths=deaths
    )
    assert ("it failed" not in complaints) is is_allowed


def test_an_answer_that_is_not_what_is_stored_is_seen() -> None:
    whole = Kind(name="whole", calls=1)
    assert verdict(kind=whole, told={**BODY, "output": []}) != ""
    assert "was acknowledged" in verdict(kind=whole, told={**BODY, "id": "resp_2"})
