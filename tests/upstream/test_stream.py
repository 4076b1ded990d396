"""How the streams of OpenAI-compatible servers are understood; they differ, and a unit test can
show each habit by itself.
"""

from typing import Any

import pytest

from smg.engines.base import Finish
from smg.errors import ContextLengthExceeded, EngineError, PromptRejected, WorkerOverloaded
from smg.events import Usage
from smg.items import Logprob
from smg.parsers.base import (
    ParsedDelta,
    ReasoningText,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from smg.upstream.lines import DataLines
from smg.upstream.stream import ChatReader
from smg.upstream.words import ChatChunk
from tests.upstream.raw_server import delta

STOP = delta("stop")
CALLED = delta("tool_calls")
OSLO = '{"city": "Oslo"}'


def read(*told: Any, **how: Any) -> list[ParsedDelta]:
    reader = ChatReader("w", **how)
    chunks = [reader.read(one) for one in told]
    return [d for chunk in (*chunks, reader.finish()) if chunk for d in chunk.deltas]


def call(arguments: Any = None, name: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {k: v for k, v in function.items() if v is not None}}


def calls(*parts: dict[str, Any]) -> dict[str, Any]:
    return delta(tool_calls=list(parts))


def weather(arguments: str = OSLO, call_id: str | None = "a") -> list[ParsedDelta]:
    return [ToolCallStart("weather", call_id), ToolCallArguments(arguments), ToolCallEnd()]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_has_two_names(name: str) -> None:
    assert read(delta(**{name: "Hm."}), delta(content="Yes."), STOP) == [
        ReasoningText("Hm."),
        Text("Yes."),
    ]


def test_reasoning_that_is_not_to_be_told_apart_stands_in_tags() -> None:
    told = (delta(reasoning="H"), delta(reasoning="m"), delta(content="Yes."), STOP)
    said = read(*told, separate_reasoning=False)
    assert "".join(d.text for d in said if isinstance(d, Text)) == ("<think>\nHm\n</think>\n\nYes.")


def test_an_answer_of_thoughts_alone_closes_its_tag() -> None:
    said = read(delta(reasoning="Hm"), STOP, separate_reasoning=False)
    assert said == [Text("<think>\n"), Text("Hm"), Text("\n</think>\n\n")]


def test_empty_pieces_say_nothing() -> None:
    reader = ChatReader("w")
    assert reader.read(delta(role="assistant", content="")) is None
    assert reader.read(delta(content=None, tool_calls=None)) is None
    assert reader.read({"choices": []}) is None


def test_a_refusal_is_text() -> None:
    assert read(delta(refusal="No."), STOP) == [Text("No.")]


STREAMS_OF_ONE_CALL: dict[str, list[dict[str, Any]]] = {
    "as OpenAI": [
        calls(call("", "weather", index=0, id="a", type="function")),
        calls(call('{"city": ', index=0)),
        calls(call('"Oslo"}', index=0)),
    ],
    "whole in one delta": [calls(call(OSLO, "weather", index=0, id="a"))],
    "its id and name repeated": [
        calls(call('{"city": ', "weather", index=0, id="a")),
        calls(call('"Oslo"}', "weather", index=0, id="a")),
    ],
    "without index": [
        calls(call("", "weather", id="a")),
        calls(call('{"city": ')),
        calls(call('"Oslo"}')),
    ],
    "a new id with each piece, as index 0": [
        calls(call('{"city": ', "weather", index=0, id="a")),
        calls(call('"Oslo"}', index=0, id="b")),
    ],
}


@pytest.mark.parametrize("told", STREAMS_OF_ONE_CALL.values(), ids=STREAMS_OF_ONE_CALL)
def test_one_call_is_one_call_however_it_is_told(told: list[dict[str, Any]]) -> None:
    start, *pieces, end = read(*told, CALLED)
    assert (start, end) == (ToolCallStart("weather", "a"), ToolCallEnd())
    assert "".join(d.text for d in pieces if isinstance(d, ToolCallArguments)) == OSLO


STREAMS_OF_TWO_CALLS: dict[str, list[dict[str, Any]]] = {
    "as OpenAI": [
        calls(call(OSLO, "weather", index=0, id="a")),
        calls(call("{}", "weather", index=1, id="b")),
    ],
    "both in one delta": [
        calls(
            call(OSLO, "weather", index=0, id="a"),
            call("{}", "weather", index=1, id="b"),
        )
    ],
    "index 0 for both": [
        calls(call(OSLO, "weather", index=0, id="a")),
        calls(call("{}", "weather", index=0, id="b")),
    ],
    "without index": [
        calls(call(OSLO, "weather", id="a")),
        calls(call("{}", "weather", id="b")),
    ],
}


@pytest.mark.parametrize("told", STREAMS_OF_TWO_CALLS.values(), ids=STREAMS_OF_TWO_CALLS)
def test_two_calls_are_two_calls_however_they_are_told(told: list[dict[str, Any]]) -> None:
    assert read(*told, CALLED) == [*weather(), *weather("{}", "b")]


@pytest.mark.parametrize("index", [{}, {"index": 0}])
def test_calls_without_ids_are_told_apart_by_name_or_index(index: dict[str, int]) -> None:
    second = {name: n + 1 for name, n in index.items()}
    told = (calls(call(OSLO, "weather", **index)), calls(call("{}", "weather", **second)))
    assert read(*told, CALLED) == [*weather(OSLO, None), *weather("{}", None)]


def test_arguments_may_be_an_object() -> None:
    assert read(calls(call({"city": "Oslo"}, "weather", id="a")), CALLED) == weather()


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert read(calls(call("", "weather", id="a")), CALLED) == weather("{}")


def test_a_call_that_was_cut_off_stays_open() -> None:
    told = (calls(call('{"ci', "weather", id="a")), delta("length"))
    assert read(*told) == [ToolCallStart("weather", "a"), ToolCallArguments('{"ci')]


@pytest.mark.parametrize(
    "told",
    [
        [calls(call("{}", index=0))],
        [
            calls(call("{", "weather", index=0, id="a")),
            calls(call("{}", "weather", index=1, id="b")),
            calls(call("}", index=0)),
        ],
        [{"choices": [{"delta": {"tool_calls": 7}}]}],
        [{"choices": ["x"]}],
    ],
    ids=["no call", "interleaved", "a number", "no object"],
)
def test_what_makes_no_sense_is_the_workers_failure(told: list[dict[str, Any]]) -> None:
    with pytest.raises(EngineError, match="makes no sense"):
        read(*told, CALLED)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", Finish.STOP),
        ("tool_calls", Finish.STOP),
        ("function_call", Finish.STOP),
        ("eos", Finish.STOP),
        ("length", Finish.LENGTH),
        ("content_filter", Finish.CONTENT_FILTER),
    ],
)
def test_reasons_to_finish(reason: str, finish: Finish) -> None:
    reader = ChatReader("w")
    reader.read(delta(reason))
    assert reader.finish().finish is finish


def test_a_generation_that_was_given_up_is_a_failure() -> None:
    with pytest.raises(EngineError, match="gave the generation up"):
        read(delta("abort"))


def test_a_stream_without_a_finish_is_a_failure() -> None:
    with pytest.raises(EngineError, match="unfinished"):
        read(delta(content="It is"))


USAGE: dict[str, Any] = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@pytest.mark.parametrize(
    "told", [[STOP, {"choices": [], "usage": USAGE}], [{**STOP, "usage": USAGE}]]
)
def test_usage_comes_with_the_finish_or_after_it(told: list[dict[str, Any]]) -> None:
    reader = ChatReader("w")
    for one in told:
        reader.read(one)
    assert reader.finish().usage == Usage(
        input_tokens=9, cached_tokens=8, output_tokens=4, reasoning_tokens=2
    )


def test_usage_that_never_comes_is_counted_by_the_piece() -> None:
    reader = ChatReader("w")
    for one in (delta(content="It"), delta(content=" is"), STOP):
        reader.read(one)
    assert reader.finish().usage == Usage(output_tokens=2)


def test_log_probabilities_come_with_their_text() -> None:
    told = delta(content="é")
    entry = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    rival = {"token": "e", "logprob": -1.0, "bytes": None}
    told["choices"][0]["logprobs"] = {"content": [{**entry, "top_logprobs": [rival]}]}
    known = Logprob("é", -0.5, "é".encode(), (Logprob("e", -1.0, b"e"),))
    assert read(told, STOP) == [Text("é", (known,))]


def test_text_completions_have_their_own_log_probabilities() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.0}]}
    told = {"choices": [{"text": "a", "logprobs": logprobs, "finish_reason": "stop"}]}
    known = Logprob("a", -0.5, b"a", (Logprob("b", -1.0, b"b"),))
    assert read(told) == [Text("a", (known,))]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "no", "code": 400}, PromptRejected),
        ({"message": "no", "code": "429"}, WorkerOverloaded),
        ({"message": "long", "code": "context_length_exceeded"}, ContextLengthExceeded),
        ({"message": "no", "type": "server_error"}, EngineError),
        ("no", EngineError),
    ],
)
def test_an_error_inside_the_stream_is_told(error: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        read(delta(content="It"), {"error": error})


def test_bytes_may_be_cut_anywhere() -> None:
    # U+2028 ends a line for many readers, but not in this format.
    whole = ': hi\ndata: {"a": "x\u2028é"}\r\n\r\ndata:{"b": 1}\nevent: e\ndata: [DONE]\n'.encode()
    for at in range(len(whole) + 1):
        lines = DataLines()
        found = [*lines.feed(whole[:at]), *lines.feed(whole[at:])]
        assert found == [{"a": "x\u2028é"}, {"b": 1}]
        assert lines.done


@pytest.mark.parametrize("line", [b"data: {\n", b"data: [1]\n", b"data: \xff\n"])
def test_a_line_that_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        list(DataLines().feed(line))


def test_a_chunk_carries_no_ids() -> None:
    assert ChatReader("w").read(delta(content="x")) == ChatChunk(deltas=[Text("x")])
