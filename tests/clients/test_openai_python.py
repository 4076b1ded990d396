"""The official Python client: https://github.com/openai/openai-python."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.conftest import Served
from tests.clients.waiting import until

pytestmark = pytest.mark.clients

MODEL = "scripted"
MULTIPLY: Any = {
    "type": "function",
    "name": "multiply",
    "description": "Multiply two numbers",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Weather(BaseModel):
    city: str
    sky: Literal["clear", "cloudy"]


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_creates_and_retrieves_a_response(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="[[think:hm]][[say:Good morning]]")
    assert made.output_text == "Good morning"
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()


def test_chains_turns_with_previous_response_id(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="[[say:blue]] My colour?")
    second = client.responses.create(
        model=MODEL, input="[[echo]]", previous_response_id=first.id, instructions="Be short."
    )
    assert json.loads(second.output_text)[-3:] == [
        ["user", "[[say:blue]] My colour?"],
        ["assistant", "blue"],
        ["user", "[[echo]]"],
    ]


def test_replays_dumped_output_as_input(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="[[think:hm]][[say:blue]]")
    history: list[Any] = [{"role": "user", "content": "My colour?"}]
    history += [item.model_dump() for item in first.output]
    history += [{"role": "user", "content": "[[echo]]"}]
    second = client.responses.create(model=MODEL, input=history, store=False)
    assert ["assistant", "blue"] in json.loads(second.output_text)


def test_streams_raw_events_in_order(client: OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input="[[say:one two]]", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "one two"


def test_stream_helper_gives_the_final_response(client: OpenAI) -> None:
    question = '[[think:hm]][[call:multiply {"a": 6, "b": 7}]]'
    with client.responses.stream(model=MODEL, input=question, tools=[MULTIPLY]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.reasoning_text.delta", "response.function_call_arguments.done"} <= kinds
    call = final.output[-1]
    assert call.type == "function_call"
    assert call.parsed_arguments == {"a": 6, "b": 7}
    assert client.responses.retrieve(final.id).to_dict()["output"] == [
        {key: value for key, value in item.to_dict().items() if key != "parsed_arguments"}
        for item in final.output
    ]


def test_function_calls_are_answered_by_the_client(client: OpenAI) -> None:
    asked = client.responses.create(model=MODEL, input="What is 6 times 7?", tools=[MULTIPLY])
    call = asked.output[-1]
    assert call.type == "function_call"
    done = client.responses.create(
        model=MODEL,
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "42"}],
        tools=[MULTIPLY],
    )
    assert done.output_text == "6 times 7 is 42."


def test_parses_structured_output(client: OpenAI) -> None:
    answer = '[[say:{"city": "Oslo", "sky": "cloudy"}]]'
    parsed = client.responses.parse(model=MODEL, input=answer, text_format=Weather)
    assert parsed.output_parsed == Weather(city="Oslo", sky="cloudy")
    with client.responses.stream(model=MODEL, input=answer, text_format=Weather) as stream:
        assert stream.until_done().get_final_response().output_parsed == parsed.output_parsed


def test_hosted_mcp_tools_run_on_the_server(client: OpenAI) -> None:
    tool: Any = {"type": "mcp", "server_label": "calculator", "require_approval": "never"}
    with client.responses.stream(model=MODEL, input="6 times 7?", tools=[tool]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.mcp_call.completed" in kinds
    assert [item.type for item in final.output if item.type.startswith("mcp")] == [
        "mcp_list_tools",
        "mcp_call",
    ]
    assert final.output_text == "6 times 7 is 42."


def test_pages_through_input_items(client: OpenAI) -> None:
    texts = [f"line {number}" for number in range(5)]
    messages: Any = [{"role": "user", "content": text} for text in texts]
    made = client.responses.create(model=MODEL, input=messages)
    found: list[Any] = list(client.responses.input_items.list(made.id, limit=2, order="asc"))
    assert [item.content[0].text for item in found] == texts
    newest = client.responses.input_items.list(made.id, limit=1)
    assert newest.data[0].id == found[-1].id


def test_deletes_a_response(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="Hello")
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_counts_input_tokens_as_the_engine_does(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="What is 6 times 7?", tools=[MULTIPLY])
    counted = client.responses.input_tokens.count(
        model=MODEL, input="What is 6 times 7?", tools=[MULTIPLY]
    )
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens


def test_compacts_a_conversation(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="[[say:blue]] My colour?")
    compacted = client.responses.compact(model=MODEL, previous_response_id=first.id)
    assert compacted.output[-1].type == "compaction"
    history: Any = [item.to_dict(warnings=False) for item in compacted.output]
    after = client.responses.create(
        model=MODEL, input=[*history, {"role": "user", "content": "Hi"}]
    )
    assert after.status == "completed"


def test_background_responses_are_polled(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="[[say:later]][[slow:0.3]]", background=True)
    assert made.status in {"queued", "in_progress"}
    done = until(
        lambda: client.responses.retrieve(made.id),
        lambda response: response.status not in {"queued", "in_progress"},
    )
    assert (done.status, done.output_text) == ("completed", "later")


def test_background_responses_are_cancelled(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="[[long:50]][[slow:30]]", background=True)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_background_streams_are_resumed_where_they_were_left(client: OpenAI) -> None:
    seen: list[Any] = []
    stream = client.responses.create(
        model=MODEL, input="[[long:30]][[slow:1]]", background=True, stream=True
    )
    with stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    response_id, last = seen[0].response.id, seen[-1].sequence_number
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=last))
    assert [event.sequence_number for event in rest] == list(range(last + 1, last + 1 + len(rest)))
    assert rest[-1].type == "response.completed"


def test_stream_helper_resumes_a_background_response(client: OpenAI) -> None:
    with client.responses.stream(
        model=MODEL, input="[[long:30]][[slow:1]]", background=True
    ) as stream:
        first = next(iter(stream))
    assert first.type == "response.created"
    with client.responses.stream(response_id=first.response.id, starting_after=5) as resumed:
        numbers = [event.sequence_number for event in resumed]
        final = resumed.get_final_response()
    assert numbers[0] == 6
    assert final.output_text.split() == [f"w{number}" for number in range(30)]


def test_conversations_are_kept_and_edited(client: OpenAI) -> None:
    made = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "My colour is blue."}],
        metadata={"topic": "colours"},
    )
    assert client.conversations.retrieve(made.id).metadata == {"topic": "colours"}
    updated = client.conversations.update(made.id, metadata={"topic": "paint"})
    assert updated.metadata == {"topic": "paint"}
    added = client.conversations.items.create(
        made.id, items=[{"type": "message", "role": "user", "content": "And green."}]
    )
    item_id = added.data[0].id
    assert item_id is not None
    assert client.conversations.items.retrieve(item_id, conversation_id=made.id).id == item_id
    listed: list[Any] = list(client.conversations.items.list(made.id, order="asc", limit=1))
    assert [item.content[0].text for item in listed] == ["My colour is blue.", "And green."]
    client.conversations.items.delete(item_id, conversation_id=made.id)
    assert len(client.conversations.items.list(made.id).data) == 1
    assert client.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_conversations_carry_turns(client: OpenAI) -> None:
    conversation = client.conversations.create()
    client.responses.create(
        model=MODEL, input="[[say:blue]] My colour?", conversation=conversation.id
    )
    second = client.responses.create(model=MODEL, input="[[echo]]", conversation=conversation.id)
    assert second.conversation is not None
    assert second.conversation.id == conversation.id
    assert ["assistant", "blue"] in json.loads(second.output_text)
    listed: list[Any] = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in listed] == ["user", "assistant"] * 2


def test_encrypted_reasoning_is_replayed_without_storage(client: OpenAI) -> None:
    first = client.responses.create(
        model=MODEL,
        input="[[think:hm]][[say:blue]]",
        store=False,
        include=["reasoning.encrypted_content"],
    )
    reasoning = first.output[0]
    assert reasoning.type == "reasoning"
    assert reasoning.encrypted_content
    history: Any = [item.model_dump(exclude_none=True) for item in first.output]
    again = client.responses.create(
        model=MODEL, input=[*history, {"role": "user", "content": "[[say:ok]]"}], store=False
    )
    assert again.output_text == "ok"


def test_chat_completions_are_created(client: OpenAI) -> None:
    made = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "[[say:Hello]]"}]
    )
    assert made.choices[0].message.content == "Hello"
    assert made.usage is not None


def test_chat_stream_helper_accumulates_calls(client: OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "function": {key: value for key, value in MULTIPLY.items() if key != "type"},
    }
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "What is 6 times 7?"}],
        tools=[tool],
        stream_options={"include_usage": True},
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == {"a": 6, "b": 7}
    assert final.usage is not None


def test_chat_parses_structured_output(client: OpenAI) -> None:
    made = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": '[[say:{"city": "Oslo", "sky": "clear"}]]'}],
        response_format=Weather,
    )
    assert made.choices[0].message.parsed == Weather(city="Oslo", sky="clear")


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("wrong", "error", "code", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found", "model"),
        (
            {"previous_response_id": "resp_none"},
            openai.BadRequestError,
            "previous_response_not_found",
            "previous_response_id",
        ),
        (
            {"temperature": 3},
            openai.BadRequestError,
            "decimal_above_max_value",
            "temperature",
        ),
    ],
    ids=["unknown model", "unknown parent", "value out of range"],
)
def test_mistakes_are_errors_of_the_right_class(
    client: OpenAI, wrong: dict[str, Any], error: type[openai.APIStatusError], code: str, param: str
) -> None:
    with pytest.raises(error) as raised:
        client.responses.create(**{"model": MODEL, "input": "Hello", **wrong})
    assert (raised.value.code, raised.value.param) == (code, param)
    assert raised.value.request_id


def test_engine_failures_end_the_stream_as_failed(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="[[say:a b c]][[fail]]") as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None


def test_sends_what_was_recorded(session_on_tape: Callable[..., None]) -> None:
    def session(base_url: str) -> None:
        with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            asked = client.responses.create(
                model=MODEL, input="What is 6 times 7?", tools=[MULTIPLY]
            )
            call = asked.output[-1]
            assert call.type == "function_call"
            output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
            with client.responses.stream(
                model=MODEL, previous_response_id=asked.id, input=[output], tools=[MULTIPLY]
            ) as stream:
                assert stream.until_done().get_final_response().output_text == "6 times 7 is 42."
            answer = '[[say:{"city": "Oslo", "sky": "cloudy"}]]'
            parsed = client.responses.parse(model=MODEL, input=answer, text_format=Weather)
            assert parsed.output_parsed == Weather(city="Oslo", sky="cloudy")
            listed = client.responses.input_items.list(asked.id, order="asc", limit=1)
            assert len(list(listed)) == 1
            client.responses.delete(asked.id)

    session_on_tape("openai-python", session)
