"""What engines make of our constraints: xgrammar, which vLLM and SGLang compile them with.

It comes with an engine (`pip install 'smg[local]'`, `make test-engines`); without one, these are
skipped.
"""

import json
from functools import cache
from typing import Any

import pytest

from smg.parsers.guides import NATIVE_FORMS
from smg.parsers.registry import (
    RAW,
    REASONING,
    TOOLS,
    Guide,
    ToolSchema,
    answer_constraint,
    answer_or_calls,
    guide,
)
from smg.turn import Constraint, Grammar, JsonSchema, Regex, StructuralTag, ToolChoice
from tests.parsers.transcripts import OFFERED, transcripts

xgrammar = pytest.importorskip(
    "xgrammar", reason="xgrammar comes with an engine: make test-engines"
)
testing = pytest.importorskip("xgrammar.testing")
pytestmark = pytest.mark.engines

REQUIRED = ToolChoice(mode="required")
NAMED = ToolChoice(mode="required", names=frozenset({"ping_probe"}))
STRICT = tuple(ToolSchema(one.name, one.parameters, strict=True) for one in OFFERED)
ANSWER = JsonSchema(
    '{"type": "object", "properties": {"verdict": {"type": "string"}}, "required": ["verdict"]}'
)
FAMILIES = [*sorted(TOOLS), "deepseek_v4"]
WRITTEN = {(one.family, one.name): one.text for one in transcripts(longest=4000)}


def text_of(family: str, name: str) -> str:
    """A family's own text, from its transcripts."""
    if family == "deepseek_v4":
        return WRITTEN["deepseek_dsml", name].replace("function_calls>", "tool_calls>")
    return WRITTEN[family, name]


@cache
def compiled(constraint: Constraint) -> Any:
    match constraint:
        case JsonSchema(schema):
            return xgrammar.Grammar.from_json_schema(schema)
        case Regex(pattern):
            return xgrammar.Grammar.from_regex(pattern)
        case Grammar(text, "lark"):
            return xgrammar.Grammar.from_lark(text)
        case Grammar(text):
            return xgrammar.Grammar.from_ebnf(text)
        case StructuralTag(tag):
            return xgrammar.Grammar.from_structural_tag(tag)


def lets_through(constraint: Constraint, text: str) -> bool:
    return bool(testing._is_grammar_accept_string(compiled(constraint), text))


def guided(
    family: str,
    choice: ToolChoice = REQUIRED,
    *,
    offered: tuple[ToolSchema, ...] = OFFERED,
    parallel: bool = True,
    reasoning: str = "passthrough",
    starts_open: bool | None = None,
) -> Guide:
    found = guide(
        tools=family,
        reasoning=reasoning,
        offered=offered,
        choice=choice,
        parallel=parallel,
        starts_open=starts_open,
    )
    assert found is not None
    return found


def texts(found: Guide, family: str) -> tuple[str, str]:
    """Two calls, and one call without arguments, in the form of a guide."""
    if found.tools == "json":
        two = [
            {"name": "lookup_tide", "arguments": {"station": "Oban"}},
            {"name": "ping_probe", "arguments": {}},
        ]
        return json.dumps(two), json.dumps(two[1:])
    return text_of(family, "two"), text_of(family, "no_arguments")


ONE_AT_A_TIME = {"harmony"}
"""Families that write one call in a generation."""


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_that_must_be_made_can_be_written_as_the_family_does(family: str) -> None:
    found = guided(family)
    two, one = texts(found, family)
    assert lets_through(found.constraint, two) is (family not in ONE_AT_A_TIME)
    assert lets_through(found.constraint, one)
    assert not lets_through(found.constraint, "No call is needed.")
    assert not lets_through(found.constraint, one.replace("ping_probe", "other_tool"))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_call_is_one_call(family: str) -> None:
    for found in (guided(family, parallel=False), guided(family, NAMED)):
        two, one = texts(found, family)
        assert lets_through(found.constraint, one)
        assert not lets_through(found.constraint, two)


TAGGED = [name for name, family in sorted(REASONING.items()) if family.tags.ends]
FREE_TO_SPEAK = {"harmony": "<|channel|>final<|message|>No call is needed."}


@pytest.mark.parametrize("family", sorted({*NATIVE_FORMS} & {*FAMILIES}))
def test_strict_tools_are_kept_to_their_schemas_and_speech_is_free(family: str) -> None:
    found = guided(family, ToolChoice(), offered=STRICT, parallel=False)
    one = text_of(family, "no_arguments")
    assert lets_through(found.constraint, FREE_TO_SPEAK.get(family, "No call is needed."))
    assert lets_through(found.constraint, one)
    assert not lets_through(found.constraint, one.replace("ping_probe", "other_tool"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reasoning", TAGGED)
def test_reasoning_may_come_before_forced_calls(family: str, reasoning: str) -> None:
    tags = REASONING[reasoning].tags
    thought, one = f"Let me see.{tags.ends[0]}", texts(guided(family), family)[1]
    opened = guided(family, reasoning=reasoning, starts_open=True)
    assert lets_through(opened.constraint, thought + one)
    assert not lets_through(opened.constraint, one)
    closed = guided(family, reasoning=reasoning, starts_open=False)
    assert lets_through(closed.constraint, one)
    assert not lets_through(closed.constraint, thought + one)
    unknown = guided(family, reasoning=reasoning)
    opener = "" if tags.opens else tags.starts[0]
    assert lets_through(unknown.constraint, opener + thought + one)
    assert lets_through(unknown.constraint, one) is not tags.opens


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_in_a_form_may_be_a_call_instead(family: str) -> None:
    found = answer_or_calls(
        tools=family,
        reasoning="passthrough",
        offered=OFFERED,
        answer=ANSWER,
        parallel=False,
        starts_open=None,
    )
    before = "<|channel|>final<|message|>" if family == "harmony" else ""
    two, one = texts(found, family)
    assert lets_through(found.constraint, before + '{"verdict": "fine"}')
    assert lets_through(found.constraint, one)
    assert not lets_through(found.constraint, two)
    assert not lets_through(found.constraint, before + '{"verdict": 1}')
    assert not lets_through(found.constraint, f"{before}It is fine.")


@pytest.mark.parametrize("reasoning", sorted(REASONING))
def test_an_answer_in_a_form_waits_for_the_reasoning(reasoning: str) -> None:
    constraint = answer_constraint(reasoning, ANSWER, True)
    tags = REASONING[reasoning].tags
    start, end = ("", f"Hm.{tags.ends[0]}") if tags.ends else ("", "")
    if reasoning == "harmony":
        start, end = "", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
        end += "<|channel|>final<|message|>"
    assert lets_through(constraint, start + end + '{"verdict": "fine"}')
    assert not lets_through(constraint, start + end + "fine")


LARK = Grammar('start: "add " /[a-z]+/', "lark")


@pytest.mark.parametrize(
    ("form", "fits"),
    [(Regex("[a-z]+!"), "hello!"), (LARK, "add file"), (Grammar('root ::= "x" [0-9]+'), "x12")],
)
@pytest.mark.parametrize("starts_open", [False, True])
def test_a_forced_custom_tool_gets_text_of_its_grammar(
    form: Constraint, fits: str, starts_open: bool
) -> None:
    tool = ToolSchema("ping_probe", None, None, free_text=True, form=form)
    found = guided("qwen", NAMED, offered=(tool,), reasoning="qwen3", starts_open=starts_open)
    if form is LARK and starts_open:
        # No tag can hold it: the call is forced in its usual form.
        text = '<tool_call>\n{"name": "ping_probe", "arguments": {"input": "?"}}\n</tool_call>'
        assert lets_through(found.constraint, f"Hm.</think>{text}")
        return
    before = "Hm.</think>" if starts_open else ""
    assert found.tools == RAW
    assert lets_through(found.constraint, before + fits)
    assert not lets_through(found.constraint, f"{before}?{fits}")


def test_a_forced_custom_tool_of_gpt_oss_is_called_in_its_channel() -> None:
    tool = ToolSchema("ping_probe", None, None, free_text=True, form=Regex("[a-z]+!"))
    found = guided("harmony", NAMED, offered=(tool,), reasoning="harmony")
    call = "<|channel|>commentary to=functions.ping_probe<|message|>{}<|call|>"
    assert lets_through(found.constraint, call.replace("{}", "hello!"))
    assert not lets_through(found.constraint, call.replace("{}", "hello"))
