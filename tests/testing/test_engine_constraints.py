import json
from typing import Any

import grpc
import grpc.aio
import pytest

from smg.testing.engine import ScriptedEngine
from smg.testing.instances import SchemaUnusable, minimal_instance
from tests.testing.asking import answer, ask, calls_in, render, request, tool, user

WEATHER = tool("get_weather", location={"type": "string"})
ADD = tool("add", a={"type": "integer"}, b={"type": "integer"})
PARIS = '[[call:get_weather {"location": "Paris"}]]'
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def parameters(offered: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = offered["function"]["parameters"]
    return found


def name(offered: dict[str, Any]) -> str:
    return str(offered["function"]["name"])


def array_of_calls(*tools: dict[str, Any], **more: Any) -> str:
    options = [
        {
            "properties": {
                "name": {"enum": [name(one)]},
                "parameters": parameters(one),
            },
            "required": ["name", "parameters"],
        }
        for one in tools
    ]
    return json.dumps(
        {"type": "array", "minItems": 1, "items": {"type": "object", "anyOf": options}, **more}
    )


def tags(*tools: dict[str, Any], **more: Any) -> str:
    """The structural tag that xgrammar's own table gives for the Qwen form."""
    return json.dumps(
        {
            "type": "structural_tag",
            "format": {
                "type": "triggered_tags",
                "triggers": ["<tool_call>"],
                "tags": [
                    {
                        "begin": f'<tool_call>\n{{"name": "{name(one)}", "arguments": ',
                        "content": {"type": "json_schema", "json_schema": parameters(one)},
                        "end": "}\n</tool_call>",
                    }
                    for one in tools
                ],
                **more,
            },
        }
    )


async def test_a_demanded_call_is_the_smallest_of_the_first_tool() -> None:
    async with ScriptedEngine() as engine:
        text = await answer(
            engine,
            user("Hello"),
            tools=[ADD, WEATHER],
            structural_tag=tags(ADD, WEATHER, at_least_one=True),
        )
    assert text == '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 1}}\n</tool_call>'


async def test_a_directive_chooses_among_the_calls_that_are_allowed() -> None:
    async with ScriptedEngine() as engine:
        question = user(PARIS + "[[call:add]]" + PARIS)
        text = await answer(
            engine,
            question,
            tools=[ADD, WEATHER],
            structural_tag=tags(WEATHER, at_least_one=True),
        )
        alone = await answer(
            engine,
            question,
            tools=[ADD, WEATHER],
            structural_tag=tags(WEATHER, at_least_one=True, stop_after_first=True),
        )
    call = {"name": "get_weather", "arguments": {"location": "Paris"}}
    assert (calls_in(text), calls_in(alone)) == ([call, call], [call])


async def test_a_tag_that_only_may_be_used_demands_nothing() -> None:
    async with ScriptedEngine() as engine:
        text = await answer(engine, user("[[say:no]]"), tools=[ADD], structural_tag=tags(ADD))
    assert text == "no"


async def test_an_array_schema_is_answered_with_an_array() -> None:
    async with ScriptedEngine() as engine:
        both = user("[[call:add]]" + PARIS)
        schema = array_of_calls(ADD, WEATHER)
        text = await answer(engine, both, tools=[ADD, WEATHER], json_schema=schema)
        one = await answer(
            engine,
            both,
            tools=[ADD, WEATHER],
            json_schema=array_of_calls(ADD, WEATHER, maxItems=1),
        )
        forced = await answer(engine, user("Hello"), tools=[ADD, WEATHER], json_schema=schema)
    add = {"name": "add", "parameters": {}}
    weather = {"name": "get_weather", "parameters": {"location": "Paris"}}
    assert json.loads(text) == [add, weather]
    assert json.loads(one) == [add]
    assert json.loads(forced) == [{"name": "add", "parameters": {"a": 1, "b": 1}}]


async def test_a_schema_that_is_a_tools_is_answered_with_its_arguments_alone() -> None:
    async with ScriptedEngine() as engine:
        schema = json.dumps(parameters(WEATHER))
        text = await answer(engine, user(PARIS), tools=[ADD, WEATHER], json_schema=schema)
        minimal = await answer(engine, user("Hello"), tools=[ADD, WEATHER], json_schema=schema)
    assert (json.loads(text), json.loads(minimal)) == ({"location": "Paris"}, {"location": "x"})


async def test_an_answers_schema_gets_its_smallest_instance_unless_a_directive_breaks_it() -> None:
    async with ScriptedEngine() as engine:
        schema = json.dumps(PERSON)
        text = await answer(engine, user("Invent a person."), json_schema=schema)
        broken = await answer(engine, user("[[say:no]]"), json_schema=schema)
        thought = await answer(engine, user("[[think:hm]] Who?"), json_schema=schema)
        anything = await answer(engine, user("Hello"), json_object=True)
    assert json.loads(text) == {"name": "x", "age": 1}
    assert (broken, anything) == ("no", "{}")
    assert thought == '<think>\nhm\n</think>\n\n{"name": "x", "age": 1}'


async def test_a_demanded_call_is_made_again_after_a_result() -> None:
    async with ScriptedEngine() as engine:
        asked = [user(PARIS), {"role": "tool", "content": "sunny"}]
        text = await answer(
            engine, *asked, tools=[WEATHER], structural_tag=tags(WEATHER, at_least_one=True)
        )
    assert calls_in(text) == [{"name": "get_weather", "arguments": {"location": "Paris"}}]


async def test_a_tag_inside_a_sequence_keeps_what_stands_around_it() -> None:
    tag = {"type": "tag", **json.loads(tags(ADD))["format"]["tags"][0]}
    sequence = {
        "type": "sequence",
        "elements": [
            {
                "type": "tag",
                "begin": "<think>",
                "content": {"type": "any_text"},
                "end": "</think>",
            },
            {"type": "const_string", "value": "<"},
            {"type": "or", "elements": [tag, tag]},
            {"type": "const_string", "value": ">"},
        ],
    }
    async with ScriptedEngine() as engine:
        text = await answer(
            engine,
            user("[[think:hm]]"),
            tools=[ADD],
            structural_tag=json.dumps({"type": "structural_tag", "format": sequence}),
        )
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 1}}\n</tool_call>'
    assert text == f"<think>\nhm\n</think>\n\n<{call}>"


async def test_tags_with_a_separator_inside_a_tag_become_a_list() -> None:
    inner = {
        "type": "tags_with_separator",
        "separator": ", ",
        "at_least_one": True,
        "tags": [
            {
                "begin": '{"name": "add", "arguments": ',
                "content": {"type": "any_text"},
                "end": ["}", "!"],
            }
        ],
    }
    outer = {"type": "tag", "begin": "[TOOL_CALLS] [", "content": inner, "end": "]"}
    async with ScriptedEngine() as engine:
        text = await answer(
            engine,
            user("[[call:add {}]][[call:add]]"),
            tools=[ADD],
            structural_tag=json.dumps({"type": "structural_tag", "format": outer}),
        )
    call = '{"name": "add", "arguments": {}}'
    assert text == f"[TOOL_CALLS] [{call}, {call}]"


async def test_a_choice_is_made_and_a_pattern_needs_a_directive() -> None:
    async with ScriptedEngine() as engine:
        assert await answer(engine, user("Hello"), choice={"choices": ["yes", "no"]}) == "yes"
        assert await answer(engine, user("[[say:abc]]"), regex="[a-z]+") == "abc"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await answer(engine, user("Hello"), regex="[a-z]+")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "schema", ["{", "[]", '{"$ref": "#/$defs/a"}', '{"type": "array", "items": {"anyOf": [1]}}']
)
async def test_a_schema_that_cannot_be_read_is_refused(schema: str) -> None:
    async with ScriptedEngine() as engine:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(engine, request(render([user("Hello")]), json_schema=schema))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


NODE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({}, {}),
        (True, {}),
        ({"const": 3}, 3),
        ({"enum": ["b", "a"]}, "b"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": ["integer", "null"], "minimum": 5}, 5),
        ({"type": "number", "maximum": -2}, -2),
        ({"type": "string", "minLength": 3}, "xxx"),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"properties": {"a": {"type": "array"}, "b": {"type": "object"}}}, {"a": [], "b": {}}),
        ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"const": 1}}}, 1),
        (
            {
                "allOf": [
                    {"$ref": "#/$defs/a"},
                    {"properties": {"b": {"const": 2}}, "required": ["b"]},
                ],
                "$defs": {"a": {"properties": {"a": {"const": 1}}, "required": ["a"]}},
            },
            {"a": 1, "b": 2},
        ),
    ],
    ids=str,
)
def test_the_smallest_instance(schema: Any, instance: Any) -> None:
    assert minimal_instance(schema) == instance


def test_a_schema_that_requires_itself_has_no_instance() -> None:
    with pytest.raises(SchemaUnusable, match="no finite instance"):
        minimal_instance(NODE)


async def test_a_rule_that_calls_a_tool_with_such_a_schema_is_refused() -> None:
    endless = {"type": "function", "function": {"name": "f", "parameters": NODE}}
    async with ScriptedEngine() as engine:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await answer(engine, user("weather"), tools=[endless])
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
