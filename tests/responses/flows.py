"""What clients ask in the tests of /v1/responses, one body for each kind of answer."""

from typing import Any

Json = dict[str, Any]

WEATHER: Json = {
    "type": "function",
    "name": "weather",
    "description": "Tell the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
PATCH: Json = {"type": "custom", "name": "patch", "description": "Apply a patch"}
NAMESPACE: Json = {
    "type": "namespace",
    "name": "files",
    "description": "Files",
    "tools": [{**WEATHER, "name": "read"}],
}


def server(label: str, *tools: str) -> Json:
    return {"type": "mcp", "server_label": label, "allowed_tools": list(tools)}


FLOWS: dict[str, Json] = {
    "text": {"input": "[[say:It is 42.]]"},
    "reasoning": {"input": "[[think:Let me see.]][[say:It is 42.]]"},
    "function_call": {"input": '[[call:weather {"city": "Oslo"}]]', "tools": [WEATHER]},
    "parallel_calls": {
        "input": '[[call:weather {"city": "Oslo"}]] [[call:weather {"city": "Rome"}]]',
        "tools": [WEATHER],
    },
    "single_call": {
        "input": '[[call:weather {"city": "Oslo"}]] [[call:weather {"city": "Rome"}]]',
        "tools": [WEATHER],
        "parallel_tool_calls": False,
    },
    "namespace": {"input": '[[call:files__read {"city": "x"}]]', "tools": [NAMESPACE]},
    "custom_tool": {"input": '[[call:patch {"input": "a\\nb"}]]', "tools": [PATCH]},
    "mcp_call": {
        "input": '[[think:Add.]][[call:add {"a": 1, "b": 2}]][[say:It is 3.]]',
        "tools": [server("tools", "add")],
    },
    "mcp_calls_and_function_call": {
        "input": '[[call:weather {}]] [[call:add {"a": 1, "b": 2}]]',
        "tools": [server("tools", "add"), WEATHER],
    },
    "tool_error": {
        "input": "[[call:boom {}]][[say:It broke.]]",
        "tools": [server("tools", "boom")],
    },
    "approval": {
        "input": '[[call:add {"a": 1, "b": 2}]]',
        "tools": [server("guarded", "add")],
    },
    "failure": {"input": "[[say:This will never be said whole.]][[fail]]"},
    "incomplete": {"input": "[[long:40]]", "max_output_tokens": 16},
    "incomplete_call": {
        "input": '[[call:weather {"city": "a very long name of a city in the far north"}]]',
        "tools": [WEATHER],
        "max_output_tokens": 20,
    },
    "log_probabilities": {
        "input": "[[say:Yes é.]]",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
    },
    "schema": {
        "input": "Answer.",
        "text": {
            "format": {
                "type": "json_schema",
                "name": "answer",
                "schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
            }
        },
    },
}

TERMINAL = {"failure": "failed", "incomplete": "incomplete", "incomplete_call": "incomplete"}
"""How the flows end that do not complete."""
