"""What clients ask in the tests of /v1/chat/completions, one body for each kind of answer."""

from typing import Any

Json = dict[str, Any]

WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
USAGE: Json = {"include_usage": True}


def user(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


FLOWS: dict[str, Json] = {
    "text": {"messages": user("[[say:It is 42.]]")},
    "usage": {"messages": user("[[say:It is 42.]]"), "stream_options": USAGE},
    "reasoning": {"messages": user("[[think:Let me see.]][[say:It is 42.]]")},
    "reasoning_not_separated": {
        "messages": user("[[think:Let me see.]][[say:It is 42.]]"),
        "separate_reasoning": False,
    },
    "tool_call": {"messages": user('[[call:weather {"city": "Oslo"}]]'), "tools": [WEATHER]},
    "parallel_tool_calls": {
        "messages": user('[[call:weather {"city": "Oslo"}]] [[call:weather {"city": "Rome"}]]'),
        "tools": [WEATHER],
    },
    "single_tool_call": {
        "messages": user('[[call:weather {"city": "Oslo"}]] [[call:weather {"city": "Rome"}]]'),
        "tools": [WEATHER],
        "parallel_tool_calls": False,
    },
    "stop": {"messages": user("[[say:one two three]]"), "stop": ["two"]},
    "stop_kept": {
        "messages": user("[[say:one two three]]"),
        "stop": "two",
        "include_stop_str_in_output": True,
    },
    "length": {"messages": user("[[long:40]]"), "max_completion_tokens": 4},
    "log_probabilities": {
        "messages": user("[[say:Yes é.]]"),
        "logprobs": True,
        "top_logprobs": 1,
    },
    "failure": {"messages": user("[[say:This will never be said whole.]][[fail]]")},
    "schema": {
        "messages": user("Answer."),
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
            },
        },
    },
}
