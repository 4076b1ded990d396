"""How to make an engine write calls, or an answer, in a given form.

Takes the family, the tools and the request's choice; gives a constraint, and the parser for what
it lets through. Native structural tags where a family has a sensible one; else a JSON list of
calls, which the `json` parser reads. Reasoning that is open may close first: a constraint from the
first token on would forbid thinking.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smg.parsers.reading import ToolSchema
from smg.parsers.schemas import Schema, arguments_schema, calls_schema
from smg.parsers.tagged import ReasoningTags
from smg.turn import Constraint, Grammar, JsonSchema, Regex, StructuralTag, ToolChoice

Format = dict[str, Any]
"""A part of a structural tag."""


@dataclass(frozen=True)
class Guide:
    """What makes the engine produce calls."""

    constraint: Constraint
    tools: str
    """The parser for output under this constraint."""
    forced_name: str | None
    """The one function that must be called."""


@dataclass(frozen=True)
class Wanted:
    """Which calls the output may hold."""

    tools: Sequence[ToolSchema]
    required: bool
    single: bool

    def schema(self, tool: ToolSchema) -> Schema:
        """What the arguments must be; where the model is free to call, only if strict."""
        if self.required or tool.strict:
            return arguments_schema(tool)
        return {"type": "object"}


NativeForm = Callable[[Wanted], Format]


def guide(
    *, tools: str, native: NativeForm | None, choice: ToolChoice, wanted: Wanted
) -> Guide | None:
    """The guide for one generation, reasoning not yet considered; None if none is needed."""
    if choice.mode == "none" or not wanted.tools:
        return None
    names = [tool.name for tool in wanted.tools]
    forced = names[0] if wanted.required and choice.names is not None and len(names) == 1 else None
    if not wanted.required and not wanted.single and not any(t.strict for t in wanted.tools):
        return None
    if native is not None:
        return Guide(structural_tag(native(wanted)), tools, forced)
    if not wanted.required:
        # A list of calls leaves no room for an answer without any.
        return None
    keys = {"name": "name", "arguments": "arguments"}
    schema = calls_schema(wanted.tools, keys=keys, extra={}, single=wanted.single)
    return Guide(JsonSchema(json.dumps(schema, ensure_ascii=False)), "json", forced)


def wanted_calls(offered: Sequence[ToolSchema], choice: ToolChoice, *, parallel: bool) -> Wanted:
    """What the request's choice lets the output hold. A forced function is called once."""
    tools = [tool for tool in offered if choice.names is None or tool.name in choice.names]
    required = choice.mode == "required"
    named = required and choice.names is not None and len(tools) == 1
    return Wanted(tools, required, named or not parallel)


def structural_tag(form: Format) -> StructuralTag:
    """A structural tag as engines take it."""
    return StructuralTag(json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False))


def after_reasoning(
    constraint: Constraint, tags: ReasoningTags, starts_open: bool | None
) -> Constraint:
    """The constraint for what follows reasoning that is, or may be, still to come."""
    if not tags.ends or starts_open is False:
        return constraint
    rest = _format(constraint)
    if starts_open or tags.opens:
        return structural_tag(sequence(tag("", ANY_TEXT, tags.ends[0]), rest))
    thought = [
        sequence(tag(start, ANY_TEXT, end), rest)
        for start, end in zip(tags.starts, tags.ends, strict=True)
    ]
    return structural_tag({"type": "or", "elements": [*thought, rest]})


def after_analysis(constraint: Constraint) -> Constraint:
    """The constraint for harmony's final channel, which may follow on the analysis."""
    final = tag("<|channel|>final<|message|>", _format(constraint), "")
    return structural_tag(_analysis_then(final))


def _format(constraint: Constraint) -> Format:
    match constraint:
        case JsonSchema(schema):
            return {"type": "json_schema", "json_schema": json.loads(schema)}
        case Regex(pattern):
            return {"type": "regex", "pattern": pattern}
        case Grammar(text):
            return {"type": "grammar", "grammar": text}
        case StructuralTag(text):
            form: Format = json.loads(text)["format"]
            return form


# Parts of structural tags.

ANY_TEXT: Format = {"type": "any_text"}


def tag(begin: str, content: Format, end: str) -> Format:
    """Content between two literals."""
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def sequence(*elements: Format) -> Format:
    """One part after the other."""
    return {"type": "sequence", "elements": list(elements)}


def _schema(schema: Schema, style: str) -> Format:
    form: Format = {"type": "json_schema", "json_schema": schema}
    return {**form, "style": style} if style != "json" else form


def _triggered(wanted: Wanted, trigger: str, tags: Sequence[Format], *, single: bool) -> Format:
    return {
        "type": "triggered_tags",
        "triggers": [trigger],
        "tags": list(tags),
        "at_least_one": wanted.required,
        "stop_after_first": single,
    }


def flat(trigger: str, begin: str, end: str, style: str = "json") -> NativeForm:
    """Calls that stand by themselves; `{name}` in `begin` is the tool's name."""

    def form(wanted: Wanted) -> Format:
        return _triggered(wanted, trigger, _tags(wanted, begin, end, style), single=wanted.single)

    return form


def wrapped(outer: tuple[str, str], begin: str, end: str, style: str = "json") -> NativeForm:
    """Calls inside one wrapper, newlines between them where the wrapper has any."""

    def form(wanted: Wanted) -> Format:
        calls = {
            "type": "tags_with_separator",
            "tags": _tags(wanted, begin, end, style),
            "separator": "\n" if outer[0].endswith("\n") else "",
            "at_least_one": True,
            "stop_after_first": wanted.single,
        }
        return _triggered(wanted, outer[0].strip(), [tag(outer[0], calls, outer[1])], single=True)

    return form


def listed(outer: tuple[str, str], keys: Mapping[str, str], extra: Schema) -> NativeForm:
    """Calls as a JSON list between two markers."""

    def form(wanted: Wanted) -> Format:
        tools = [ToolSchema(tool.name, wanted.schema(tool), tool.strict) for tool in wanted.tools]
        schema = calls_schema(tools, keys=keys, extra=extra, single=wanted.single)
        calls = tag(outer[0], _schema(schema, "json"), outer[1])
        return _triggered(wanted, outer[0], [calls], single=True)

    return form


def _tags(wanted: Wanted, begin: str, end: str, style: str) -> list[Format]:
    return [
        tag(begin.replace("{name}", tool.name), _schema(wanted.schema(tool), style), end)
        for tool in wanted.tools
    ]


def kimi_form(wanted: Wanted) -> Format:
    """Kimi K2: the number in a call's header counts over the conversation, so any will do."""
    begin, argument = "<|tool_call_begin|>functions.{name}:", "<|tool_call_argument_begin|>"
    number: Format = {"type": "regex", "pattern": "[0-9]+"}
    between: Format = {"type": "const_string", "value": argument}
    tags = [
        {**one, "content": sequence(number, between, one["content"])}
        for one in _tags(wanted, begin, "<|tool_call_end|>", "json")
    ]
    calls = {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": "",
        "at_least_one": True,
        "stop_after_first": wanted.single,
    }
    outer = "<|tool_calls_section_begin|>"
    section = tag(outer, calls, "<|tool_calls_section_end|>")
    return _triggered(wanted, outer, [section], single=True)


def harmony_form(wanted: Wanted) -> Format:
    """gpt-oss: `<|call|>` ends the generation, so there is one call in it."""
    begin = "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    calls = _triggered(
        wanted,
        "<|channel|>commentary to=functions.",
        _tags(wanted, begin, "<|call|>", "json"),
        single=True,
    )
    return _analysis_then(calls) if wanted.required else calls


def _analysis_then(rest: Format) -> Format:
    analysis = tag("<|channel|>analysis<|message|>", ANY_TEXT, "<|end|><|start|>assistant")
    return {"type": "or", "elements": [sequence(analysis, rest), rest]}


_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_DEEPSEEK_CALL = "<｜tool▁call▁begin｜>"
_ID: Schema = {"type": "string", "pattern": "^[0-9]+$"}


def _dsml(outer: str) -> NativeForm:
    return wrapped(
        (f"<｜DSML｜{outer}>\n", f"\n</｜DSML｜{outer}>"),
        '<｜DSML｜invoke name="{name}">\n',
        "</｜DSML｜invoke>",
        "deepseek_xml",
    )


# Families without a row have no notation that a structural tag can express.
NATIVE_FORMS: Mapping[str, NativeForm] = {
    "qwen": flat("<tool_call>", '<tool_call>\n{"name": "{name}", "arguments": ', "}\n</tool_call>"),
    "qwen_coder": flat(
        "<tool_call>",
        "<tool_call>\n<function={name}>\n",
        "\n</function>\n</tool_call>",
        "qwen_xml",
    ),
    "llama": flat('{"name": ', '{"name": "{name}", "parameters": ', "}"),
    "deepseek": wrapped(
        _DEEPSEEK,
        f"{_DEEPSEEK_CALL}function<｜tool▁sep｜>{{name}}\n```json\n",
        "\n```<｜tool▁call▁end｜>",
    ),
    "deepseek31": wrapped(
        _DEEPSEEK, f"{_DEEPSEEK_CALL}{{name}}<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    ),
    "deepseek_dsml": _dsml("function_calls"),
    "deepseek_v4": _dsml("tool_calls"),
    "mistral": listed(("[TOOL_CALLS]", ""), {"name": "name", "arguments": "arguments"}, {}),
    "glm45_moe": flat("<tool_call>", "<tool_call>{name}\n", "\n</tool_call>", "glm_xml"),
    "glm47_moe": flat("<tool_call>", "<tool_call>{name}", "</tool_call>", "glm_xml"),
    "kimik2": kimi_form,
    "minimax_m2": wrapped(
        ("<minimax:tool_call>\n", "\n</minimax:tool_call>"),
        '<invoke name="{name}">\n',
        "</invoke>",
        "minimax_xml",
    ),
    "cohere": listed(
        ("<|START_ACTION|>", "<|END_ACTION|>"),
        {"name": "tool_name", "arguments": "parameters"},
        {"tool_call_id": _ID},
    ),
    "harmony": harmony_form,
}
