"""What goes to the engine so that it writes the calls, or the answer, that were asked for."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from smg.parsers.base import ToolCallEnd
from smg.parsers.registry import (
    RAW,
    TOOLS,
    Guide,
    ToolSchema,
    answer_constraint,
    answer_or_calls,
    guide,
    markers,
    new_parser,
)
from smg.turn import Grammar, JsonSchema, Regex, StructuralTag, ToolChoice
from tests.parsers.transcripts import joined, parse

TIDE = {"type": "object", "properties": {"station": {"type": "string"}}, "required": ["station"]}
OFFERED = (ToolSchema("lookup_tide", TIDE, None), ToolSchema("ping_probe", None, None))
STRICT = (ToolSchema("lookup_tide", TIDE, True), ToolSchema("ping_probe", None, None))
REQUIRED = ToolChoice(mode="required")
NAMED = ToolChoice(mode="required", names=frozenset({"ping_probe"}))
AUTO = ToolChoice()


def guided(
    tools: str,
    choice: ToolChoice = REQUIRED,
    *,
    reasoning: str = "passthrough",
    offered: tuple[ToolSchema, ...] = OFFERED,
    parallel: bool = True,
    starts_open: bool | None = None,
) -> Guide:
    found = guide(
        tools=tools,
        reasoning=reasoning,
        offered=offered,
        choice=choice,
        parallel=parallel,
        starts_open=starts_open,
    )
    assert found is not None
    return found


def tag_of(found: Guide) -> dict[str, Any]:
    assert isinstance(found.constraint, StructuralTag)
    whole = json.loads(found.constraint.tag)
    assert whole["type"] == "structural_tag"
    form: dict[str, Any] = whole["format"]
    return form


def test_qwen_is_guided_in_its_own_format() -> None:
    assert tag_of(guided("qwen")) == {
        "type": "triggered_tags",
        "triggers": ["<tool_call>"],
        "tags": [
            {
                "type": "tag",
                "begin": '<tool_call>\n{"name": "lookup_tide", "arguments": ',
                "content": {"type": "json_schema", "json_schema": TIDE},
                "end": "}\n</tool_call>",
            },
            {
                "type": "tag",
                "begin": '<tool_call>\n{"name": "ping_probe", "arguments": ',
                "content": {
                    "type": "json_schema",
                    "json_schema": {"type": "object", "properties": {}},
                },
                "end": "}\n</tool_call>",
            },
        ],
        "at_least_one": True,
        "stop_after_first": False,
    }


def test_one_call_at_most_stops_after_the_first() -> None:
    assert tag_of(guided("qwen", parallel=False))["stop_after_first"] is True


def test_a_named_function_is_the_only_one_and_called_once() -> None:
    found = guided("qwen", NAMED)
    form = tag_of(found)
    assert [one["begin"] for one in form["tags"]] == [
        '<tool_call>\n{"name": "ping_probe", "arguments": '
    ]
    assert form["stop_after_first"] is True


@pytest.mark.parametrize("tools", ["json", "pythonic", "step3", "gemma4", "kimi_k3", "passthrough"])
def test_other_families_are_guided_to_a_list_of_json(tools: str) -> None:
    found = guided(tools)
    assert isinstance(found.constraint, JsonSchema)
    assert found.tools == "json"
    schema = json.loads(found.constraint.schema)
    fits = Draft202012Validator(schema).is_valid
    assert fits([{"name": "lookup_tide", "arguments": {"station": "Oban"}}])
    assert fits([{"name": "ping_probe", "arguments": {}}] * 2)
    assert not fits([])
    assert not fits([{"name": "lookup_tide", "arguments": {}}])
    assert not fits([{"name": "other", "arguments": {}}])


def test_a_list_of_json_for_one_call_holds_one() -> None:
    found = guided("json", NAMED)
    assert isinstance(found.constraint, JsonSchema)
    schema = json.loads(found.constraint.schema)
    fits = Draft202012Validator(schema).is_valid
    assert fits([{"name": "ping_probe", "arguments": {}}])
    assert not fits([{"name": "ping_probe", "arguments": {}}] * 2)
    assert not fits([{"name": "lookup_tide", "arguments": {"station": "Oban"}}])


def test_definitions_of_two_tools_do_not_meet() -> None:
    def tool(name: str, kind: str) -> ToolSchema:
        schema = {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/X"}, "next": {"$ref": "#"}},
            "required": ["x"],
            "$defs": {"X": {"type": kind}},
        }
        return ToolSchema(name, schema, None)

    found = guided("json", offered=(tool("f", "string"), tool("g", "integer")))
    assert isinstance(found.constraint, JsonSchema)
    schema = json.loads(found.constraint.schema)
    Draft202012Validator.check_schema(schema)
    fits = Draft202012Validator(schema).is_valid
    assert fits([{"name": "f", "arguments": {"x": "a", "next": {"x": "b"}}}])
    assert fits([{"name": "g", "arguments": {"x": 1}}])
    assert not fits([{"name": "g", "arguments": {"x": "a"}}])
    assert not fits([{"name": "f", "arguments": {"x": "a", "next": {"x": 1}}}])


@pytest.mark.parametrize("tools", ["qwen", "json"])
def test_open_reasoning_may_close_first(tools: str) -> None:
    form = tag_of(guided(tools, reasoning="deepseek_r1", starts_open=True))
    assert form["type"] == "sequence"
    assert form["elements"][0] == {
        "type": "tag",
        "begin": "",
        "content": {"type": "any_text"},
        "end": "</think>",
    }


def test_reasoning_the_model_may_open_itself_is_allowed() -> None:
    form = tag_of(guided("qwen", reasoning="qwen3"))
    assert form["type"] == "or"
    assert form["elements"][0]["elements"][0]["begin"] == "<think>"
    assert form["elements"][1]["type"] == "triggered_tags"


def test_closed_reasoning_needs_no_room() -> None:
    form = tag_of(guided("qwen", reasoning="deepseek_r1", starts_open=False))
    assert form["type"] == "triggered_tags"


def test_strict_tools_are_kept_to_their_schema_when_the_model_is_free() -> None:
    form = tag_of(guided("qwen", AUTO, offered=STRICT, reasoning="deepseek_r1"))
    assert form["at_least_one"] is False
    assert [one["content"]["json_schema"] for one in form["tags"]] == [TIDE, {"type": "object"}]


@pytest.mark.parametrize(
    ("choice", "offered", "parallel", "tools"),
    [
        (AUTO, OFFERED, True, "qwen"),
        (ToolChoice(mode="none"), STRICT, False, "qwen"),
        (REQUIRED, (), True, "qwen"),
        (AUTO, STRICT, True, "pythonic"),
    ],
)
def test_where_there_is_nothing_to_enforce_there_is_no_guide(
    choice: ToolChoice, offered: tuple[ToolSchema, ...], parallel: bool, tools: str
) -> None:
    found = guide(
        tools=tools,
        reasoning="passthrough",
        offered=offered,
        choice=choice,
        parallel=parallel,
        starts_open=None,
    )
    assert found is None


def written(form: dict[str, Any], name: str) -> str:
    """A text that a structural tag lets through: the shortest, with this tool where it says."""
    return str(WRITERS[form["type"]](form, name))


def _one_of_the_tags(form: dict[str, Any], name: str) -> str:
    fitting = [one for one in form["tags"] if name in one["begin"]] or form["tags"]
    return written(fitting[0], name)


def _arguments(form: dict[str, Any], name: str) -> str:
    if form["json_schema"].get("type") == "array":
        keys = form["json_schema"]["items"]["anyOf"][0]["required"]
        values: dict[str, Any] = {key: {"station": "Oban"} for key in keys}
        values |= {key: name for key in keys if key.endswith("name")}
        values |= {key: "7" for key in keys if key.endswith("_id")}
        return json.dumps([values])
    return {
        "json": '{"station": "Oban"}',
        "qwen_xml": "<parameter=station>\nOban\n</parameter>",
        "glm_xml": "<arg_key>station</arg_key><arg_value>Oban</arg_value>",
        "minimax_xml": '<parameter name="station">Oban</parameter>',
        "deepseek_xml": '<｜DSML｜parameter name="station" string="true">Oban</｜DSML｜parameter>',
    }[form.get("style", "json")]


WRITERS: dict[str, Callable[[dict[str, Any], str], str]] = {
    "tag": lambda form, name: form["begin"] + written(form["content"], name) + form["end"],
    "triggered_tags": _one_of_the_tags,
    "tags_with_separator": _one_of_the_tags,
    "sequence": lambda form, name: "".join(written(one, name) for one in form["elements"]),
    "or": lambda form, name: written(form["elements"][-1], name),
    "const_string": lambda form, _: form["value"],
    "regex": lambda *_: "7",
    "json_schema": _arguments,
}


@pytest.mark.parametrize("tools", [*sorted(TOOLS), "deepseek_v4"])
def test_what_a_guide_lets_through_its_parser_reads(tools: str) -> None:
    found = guided(tools)
    if isinstance(found.constraint, JsonSchema):
        text = json.dumps([{"name": "lookup_tide", "arguments": {"station": "Oban"}}])
    else:
        text = written(tag_of(found), "lookup_tide")
    (call,) = joined(parse([text], found.tools))
    assert call["call"] == "lookup_tide"
    assert call["complete"]
    assert json.loads(call["arguments"]) == {"station": "Oban"}


def test_an_answer_in_json_waits_for_open_reasoning() -> None:
    schema = JsonSchema('{"type": "object"}')
    tag = answer_constraint("deepseek_r1", schema, True)
    assert isinstance(tag, StructuralTag)
    assert json.loads(tag.tag)["format"]["elements"] == [
        {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</think>"},
        {"type": "json_schema", "json_schema": {"type": "object"}},
    ]


def test_an_answer_without_reasoning_before_it_is_constrained_as_it_is() -> None:
    schema = JsonSchema('{"type": "object"}')
    assert answer_constraint("deepseek_r1", schema, False) is schema
    assert answer_constraint("passthrough", schema, None) is schema
    own = StructuralTag("{}")
    assert answer_constraint("deepseek_r1", own, True) is own


@pytest.mark.parametrize(
    ("constraint", "form"),
    [
        (Regex("a+"), {"type": "regex", "pattern": "a+"}),
        (Grammar("root ::= x"), {"type": "grammar", "grammar": "root ::= x"}),
    ],
)
def test_other_constraints_wait_too(constraint: Regex | Grammar, form: dict[str, str]) -> None:
    tag = answer_constraint("qwen3_thinking", constraint, None)
    assert isinstance(tag, StructuralTag)
    assert json.loads(tag.tag)["format"]["elements"][1] == form


def test_an_answer_of_gpt_oss_is_constrained_in_its_final_channel() -> None:
    tag = answer_constraint("harmony", JsonSchema('{"type": "object"}'), None)
    assert isinstance(tag, StructuralTag)
    form = json.loads(tag.tag)["format"]
    assert form["elements"][-1]["begin"] == "<|channel|>final<|message|>"
    assert form["elements"][0]["elements"][0]["begin"] == "<|channel|>analysis<|message|>"


ANSWER = JsonSchema('{"type": "object", "required": ["n"]}')


def answer_guide(tools: str, **fields: Any) -> Guide:
    usual: dict[str, Any] = {"reasoning": "passthrough", "parallel": True, "starts_open": None}
    return answer_or_calls(tools=tools, offered=STRICT, answer=ANSWER, **{**usual, **fields})


@pytest.mark.parametrize("tools", sorted(TOOLS))
def test_an_answer_in_a_form_leaves_the_model_free_to_call(tools: str) -> None:
    found = answer_guide(tools)
    form = tag_of(found)
    assert form["type"] == "or"
    called = written(form["elements"][-1], "lookup_tide")
    (call,) = joined(parse([called], found.tools))
    assert (call["call"], call["complete"]) == ("lookup_tide", True)
    answered = {"harmony": '<|channel|>final<|message|>{"n": 1}'}.get(tools, '{"n": 1}')
    assert joined(parse([answered], found.tools)) == [{"text": '{"n": 1}'}]


def test_an_answer_in_a_form_is_one_call_at_most_where_one_is_allowed() -> None:
    assert tag_of(answer_guide("qwen", parallel=False))["elements"][1]["stop_after_first"] is True
    listed = tag_of(answer_guide("json", parallel=False))["elements"][1]["json_schema"]
    assert listed["maxItems"] == 1


def test_tools_that_are_not_strict_get_any_object_beside_an_answer() -> None:
    calls = tag_of(answer_guide("qwen"))["elements"][1]
    assert [one["content"]["json_schema"] for one in calls["tags"]] == [TIDE, {"type": "object"}]


def test_an_answer_or_calls_wait_for_open_reasoning() -> None:
    form = tag_of(answer_guide("qwen", reasoning="deepseek_r1", starts_open=True))
    assert form["elements"][0]["end"] == "</think>"
    assert form["elements"][1]["type"] == "or"


def raw(pieces: list[str], starts_open: bool | None) -> list[dict[str, Any]]:
    offered = (ToolSchema("patch", None, None, free_text=True, form=Regex(".+")),)
    parser = new_parser(reasoning="qwen3", tools=RAW, offered=offered, starts_open=starts_open)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    return joined([*deltas, *parser.feed_marker(""), *parser.finish()])


def test_the_text_under_a_tools_own_grammar_is_its_input() -> None:
    text = 'Hm.</think>*** "add"\n\\ 🌊 <tool_call> \n'
    call = {"call": "patch", "complete": True}
    arguments = json.dumps({"input": '*** "add"\n\\ 🌊 <tool_call> \n'}, ensure_ascii=False)
    expected = [{"reasoning": "Hm."}, {**call, "arguments": arguments}]
    assert raw([text], True) == expected
    for cut in range(len(text)):
        assert raw([text[:cut], text[cut:]], True) == expected
    assert raw([], False) == [{**call, "arguments": '{"input": ""}'}]
    assert {"<think>", "</think>"} <= markers("qwen3", RAW)


def test_a_raw_call_ends_with_the_output_only() -> None:
    parser = new_parser(
        reasoning="passthrough",
        tools=RAW,
        offered=(ToolSchema("patch", None, None, free_text=True),),
        starts_open=None,
    )
    assert not parser.reasoning
    assert not any(isinstance(delta, ToolCallEnd) for delta in parser.feed("text"))
    assert isinstance(parser.finish()[-1], ToolCallEnd)
