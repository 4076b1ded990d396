"""Bends neutral chat messages to one template's habits.

Messages of smg.tokens.messages and `Habits` in, messages that the template renders rightly out.
Each step is one function from messages to messages, applied in the order of `STEPS`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smg.tokens.arguments import as_object
from smg.tokens.habits import EMPTY, Habits
from smg.tokens.template import ChatMessage

Step = Callable[[Sequence[ChatMessage], Habits], Iterator[ChatMessage]]

RULES = ("system", "developer")


def fit(messages: Sequence[ChatMessage], habits: Habits) -> list[ChatMessage]:
    """The messages as this template wants them."""
    fitted = list(messages)
    for step in STEPS:
        fitted = list(step(fitted, habits))
    return fitted


def _known_roles(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    for message in messages:
        unknown = message["role"] == "developer" and not habits.developer
        yield {**message, "role": "system"} if unknown else message


def _leading_rules(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    """Merge leading rules where only one is shown; put them to the user where none is."""
    count = next((n for n, m in enumerate(messages) if m["role"] not in RULES), len(messages))
    leading, rest = messages[:count], messages[count:]
    if leading and not (habits.system and habits.many_systems):
        merged = "\n\n".join(message["content"] for message in leading)
        leading = [{**leading[0], "content": merged}]
        if not habits.system:
            leading = [{"role": "user", "content": merged}]
            if rest and rest[0]["role"] == "user":
                merged = f"{merged}\n\n{rest[0]['content']}"
                leading, rest = [{**rest[0], "content": merged}], rest[1:]
    yield from leading
    yield from rest


def _late_rules(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    leading = True
    for message in messages:
        leading = leading and message["role"] in RULES
        late = message["role"] in RULES and not leading and not habits.late_system
        yield {**message, "role": "user"} if late else message


def _calls_in_words(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    """Where a template shows no calls, say them: a conversation may come from another model."""
    for message in messages:
        if habits.renders_calls:
            yield message
        elif message["role"] == "tool":
            yield {"role": "user", "content": f"Result of {message['name']}: {message['content']}"}
        elif "tool_calls" in message:
            functions = [call["function"] for call in message["tool_calls"]]
            calls = [f"Call {function['name']}: {function['arguments']}" for function in functions]
            said = {key: value for key, value in message.items() if key != "tool_calls"}
            yield {**said, "content": "\n".join(filter(None, [message["content"], *calls]))}
        else:
            yield message


def _text_apart(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    for message in messages:
        if habits.text_beside_calls == "together" or not message.get("tool_calls"):
            yield message
            continue
        if message["content"] and habits.text_beside_calls == "apart":
            yield {"role": "assistant", "content": message["content"]}
        yield {**message, "content": ""}


def _calls_apart(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    """Successive pairs of call and result, where a message may hold one call only."""
    results = [message for message in messages if message["role"] == "tool"]
    for message in messages:
        calls = message.get("tool_calls", ())
        if habits.parallel_calls or (message["role"] != "tool" and len(calls) < 2):
            yield message
            continue
        if message["role"] == "tool":
            if results and results[0] is message:
                yield results.pop(0)
            continue
        for number, call in enumerate(calls):
            said = message if number == 0 else {"role": "assistant", "content": ""}
            yield {**said, "tool_calls": [call]}
            yield results.pop(0)


def _answered_results(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    before = ""
    for message in messages:
        if habits.answers_results and before == "tool" and message["role"] == "user":
            yield {"role": "assistant", "content": ""}
        yield message
        before = message["role"]


def _taking_turns(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    """Merge neighbours who both speak as user, or both as assistant."""
    last: ChatMessage | None = None
    for message in messages:
        if last is not None and habits.alternates and _same_speaker(last, message):
            text = "\n\n".join(filter(None, [last["content"], message["content"]]))
            last = {**last, **message, "content": text}
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _same_speaker(one: ChatMessage, other: ChatMessage) -> bool:
    return (
        one["role"] == other["role"]
        and one["role"] in {"user", "assistant"}
        and not one.get("tool_calls")
        and not other.get("tool_calls")
    )


def _form(messages: Sequence[ChatMessage], habits: Habits) -> Iterator[ChatMessage]:
    """Content, arguments and reasoning in the form the template reads."""
    for message in messages:
        formed = dict(message)
        thought = formed.pop("reasoning_content", None)
        if thought is not None and habits.reasoning_field is not None:
            formed[habits.reasoning_field] = thought
        if calls := formed.get("tool_calls"):
            formed["tool_calls"] = [_formed_call(call, habits) for call in calls]
        if calls and not formed["content"]:
            del formed["content"]
            formed |= EMPTY[habits.empty_content]
        elif habits.content_parts:
            formed["content"] = [{"type": "text", "text": formed["content"]}]
        yield formed


def _formed_call(call: dict[str, Any], habits: Habits) -> dict[str, Any]:
    if habits.arguments == "string":
        return call
    function = call["function"]
    return {**call, "function": {**function, "arguments": as_object(function["arguments"])}}


STEPS: tuple[Step, ...] = (
    _known_roles,
    _leading_rules,
    _late_rules,
    _calls_in_words,
    _text_apart,
    _calls_apart,
    _answered_results,
    _taking_turns,
    _form,
)
