"""How to make an engine write calls, or an answer, in a given form.

Takes the family, the tools and the request's choice; gives a constraint, and the parser for what
it lets through. Native structural tags where a family has a sensible one; else a JSON list of
calls, which the `json` parser reads. Reasoning that is open may close first: a constraint from the
first token on would forbid thinking. That xgrammar takes the tags, and that they let each family's
own texts through, tests/engines_real asks xgrammar itself.
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


@dataclass(frozen=True)
class Wanted:
    """Which calls the output may hold."""

    tools: Sequence[ToolSchema]
    required: bool
    """Whether there must be one."""
    single: bool
    """Whether there may be one only."""
    forced: bool = False
    """Whether the request asks for calls; where the model is free to call, a tool that is not
    strict gets any object."""

    def schema(self, tool: ToolSchema) -> Schema:
        """What the arguments must be."""
        return arguments_schema(tool) if self.forced or tool.strict else {"type": "object"}

    def typed(self) -> list[ToolSchema]:
        """The tools with the schemas that are enforced."""
        return [ToolSchema(tool.name, self.schema(tool), tool.strict) for tool in self.tools]


NativeForm = Callable[[Wanted], Format]

RAW = "raw_input"
"""The parser of output that is a custom tool's text and nothing else. Not for people to name."""


def guide(
    *, tools: str, native: NativeForm | None, choice: ToolChoice, wanted: Wanted
) -> Guide | None:
    """The guide for one generation, reasoning not yet considered; None if none is needed."""
    if choice.mode == "none" or not wanted.tools:
        return None
    if not wanted.required and not wanted.single and not any(t.strict for t in wanted.tools):
        return None
    if native is not None:
        return Guide(structural_tag(native(wanted)), tools)
    if not wanted.required:
        # A list of calls leaves no room for an answer without any.
        return None
    return Guide(JsonSchema(json.dumps(_list_of(wanted), ensure_ascii=False)), "json")


def answer_or_calls(
    *, tools: str, native: NativeForm | None, wanted: Wanted, answer: Constraint
) -> Guide:
    """The guide for an answer in a given form that calls may come instead of."""
    if native is None:
        form = either(_format(answer), _schema(_list_of(wanted), "json"))
        return Guide(structural_tag(form), "json")
    own = _format(answer)
    if native is harmony_form:
        own = _analysis_then(_final(own))
    return Guide(structural_tag(either(own, native(wanted))), tools)


def raw_input(
    tools: str, tool: ToolSchema, tags: ReasoningTags, starts_open: bool | None
) -> Guide | None:
    """The guide that has a forced custom tool's text written as it is, in the tool's own grammar.

    None if the tool has no grammar, or one that no structural tag can hold where reasoning or a
    header must come before it.
    """
    if tool.form is None:
        return None
    is_tagged = tools == "harmony" or _room_for_reasoning(tags, starts_open)
    if is_tagged and isinstance(tool.form, Grammar) and tool.form.syntax == "lark":
        return None
    if tools == "harmony":
        begin = f"<|channel|>commentary to=functions.{tool.name}<|message|>"
        call = _analysis_then(tag(begin, _format(tool.form), "<|call|>"))
        return Guide(structural_tag(call), tools)
    return Guide(after_reasoning(tool.form, tags, starts_open), RAW)


def _list_of(wanted: Wanted) -> Schema:
    keys = {"name": "name", "arguments": "arguments"}
    return calls_schema(wanted.typed(), keys=keys, extra={}, single=wanted.single)


def wanted_calls(offered: Sequence[ToolSchema], choice: ToolChoice, *, parallel: bool) -> Wanted:
    """What the request's choice lets the output hold. A forced function is called once."""
    tools = [tool for tool in offered if choice.names is None or tool.name in choice.names]
    required = choice.mode == "required"
    named = required and choice.names is not None and len(tools) == 1
    return Wanted(tools, required, named or not parallel, forced=required)


def structural_tag(form: Format) -> StructuralTag:
    """A structural tag as engines take it."""
    return StructuralTag(json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False))


def after_reasoning(
    constraint: Constraint, tags: ReasoningTags, starts_open: bool | None
) -> Constraint:
    """The constraint for what follows reasoning that is, or may be, still to come."""
    if not _room_for_reasoning(tags, starts_open):
        return constraint
    rest = _format(constraint)
    if starts_open or tags.opens:
        return structural_tag(sequence(tag("", ANY_TEXT, tags.ends[0]), rest))
    thought = [
        sequence(tag(start, ANY_TEXT, end), rest)
        for start, end in zip(tags.starts, tags.ends, strict=True)
    ]
    return structural_tag(either(*thought, rest))


def _room_for_reasoning(tags: ReasoningTags, starts_open: bool | None) -> bool:
    return bool(tags.ends) and starts_open is not False


def after_analysis(constraint: Constraint) -> Constraint:
    """The constraint for harmony's final channel, which may follow on the analysis."""
    return structural_tag(_analysis_then(_final(_format(constraint))))


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


def either(*options: Format) -> Format:
    """One of several parts."""
    return {"type": "or", "elements": list(options)}


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


def wrapped(
    outer: tuple[str, str], begin: str, end: str, style: str = "json", *, between: str = ""
) -> NativeForm:
    """Calls inside one wrapper."""

    def form(wanted: Wanted) -> Format:
        calls = _in_a_row(_tags(wanted, begin, end, style), between, single=wanted.single)
        return _triggered(wanted, outer[0].strip(), [tag(outer[0], calls, outer[1])], single=True)

    return form


def listed(outer: tuple[str, str], keys: Mapping[str, str], extra: Schema) -> NativeForm:
    """Calls as a JSON list between two markers."""

    def form(wanted: Wanted) -> Format:
        schema = calls_schema(wanted.typed(), keys=keys, extra=extra, single=wanted.single)
        calls = tag(outer[0], _schema(schema, "json"), outer[1])
        return _triggered(wanted, outer[0], [calls], single=True)

    return form


def _in_a_row(tags: Sequence[Format], between: str, *, single: bool) -> Format:
    return {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": between,
        "at_least_one": True,
        "stop_after_first": single,
    }


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
    outer = "<|tool_calls_section_begin|>"
    calls = _in_a_row(tags, "", single=wanted.single)
    section = tag(outer, calls, "<|tool_calls_section_end|>")
    return _triggered(wanted, outer, [section], single=True)


def mistral_form(wanted: Wanted) -> Format:
    """Mistral: a name and its arguments, as tokenizers from v11 on have it, or a list of calls."""
    begin, keys = "[TOOL_CALLS]", {"name": "name", "arguments": "arguments"}
    schema = calls_schema(wanted.typed(), keys=keys, extra={}, single=wanted.single)
    named = _tags(wanted, f"{begin}{{name}}[ARGS]", "", "json")
    calls = [*named, tag(begin, _schema(schema, "json"), "")]
    return _triggered(wanted, begin, calls, single=wanted.single)


def harmony_form(wanted: Wanted) -> Format:
    """gpt-oss: `<|call|>` ends the generation, so there is one call in it.

    The recipient stands before or behind the channel. Where the model is free to call it may also
    speak, before a call or instead.
    """
    behind = "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    before = " to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>"
    tags = [*_tags(wanted, before, "<|call|>", "json"), *_tags(wanted, behind, "<|call|>", "json")]
    calls = _in_a_row(tags, "", single=True)
    if wanted.required:
        return _analysis_then(calls)
    preamble = tag("<|channel|>commentary<|message|>", ANY_TEXT, f"<|end|>{_NEXT}")
    # Not a tag: one that holds any text must have an end, and here the output ends.
    speech = sequence({"type": "const_string", "value": _FINAL}, ANY_TEXT)
    free = either(calls, speech)
    return _analysis_then(either(free, sequence(preamble, free)))


_NEXT = "<|start|>assistant"
_FINAL = "<|channel|>final<|message|>"


def _final(content: Format) -> Format:
    return tag(_FINAL, content, "")


def _analysis_then(rest: Format) -> Format:
    analysis = tag("<|channel|>analysis<|message|>", ANY_TEXT, f"<|end|>{_NEXT}")
    return either(sequence(analysis, rest), rest)


_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_DEEPSEEK_CALL = "<｜tool▁call▁begin｜>"
_ID: Schema = {"type": "string", "pattern": "^[0-9]+$"}


def _dsml(outer: str) -> NativeForm:
    return wrapped(
        (f"<｜DSML｜{outer}>\n", f"\n</｜DSML｜{outer}>"),
        '<｜DSML｜invoke name="{name}">\n',
        "</｜DSML｜invoke>",
        "deepseek_xml",
        between="\n",
    )


# Families without a row have no notation that a structural tag can express.
NATIVE_FORMS: Mapping[str, NativeForm] = {
    "qwen": flat("<tool_call>", '<tool_call>\n{"name": "{name}", "arguments": ', "}\n</tool_call>"),
    "qwen_coder": flat(
        "<tool_call>",
        "<tool_call>\n<function={name}>\n",
        # The style has white space around parameters, and none without parameters.
        "</function>\n</tool_call>",
        "qwen_xml",
    ),
    "llama": flat('{"name": ', '{"name": "{name}", "parameters": ', "}"),
    "deepseek": wrapped(
        _DEEPSEEK,
        f"{_DEEPSEEK_CALL}function<｜tool▁sep｜>{{name}}\n```json\n",
        "\n```<｜tool▁call▁end｜>",
        between="\n",
    ),
    "deepseek31": wrapped(
        _DEEPSEEK, f"{_DEEPSEEK_CALL}{{name}}<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    ),
    "deepseek_dsml": _dsml("function_calls"),
    "deepseek_v4": _dsml("tool_calls"),
    "mistral": mistral_form,
    "glm45_moe": flat("<tool_call>", "<tool_call>{name}\n", "</tool_call>", "glm_xml"),
    "glm47_moe": flat("<tool_call>", "<tool_call>{name}", "</tool_call>", "glm_xml"),
    "kimik2": kimi_form,
    "minimax_m2": wrapped(
        ("<minimax:tool_call>\n", "\n</minimax:tool_call>"),
        '<invoke name="{name}">\n',
        "</invoke>",
        "minimax_xml",
        between="\n",
    ),
    "cohere": listed(
        ("<|START_ACTION|>", "<|END_ACTION|>"),
        {"name": "tool_name", "arguments": "parameters"},
        {"tool_call_id": _ID},
    ),
    "harmony": harmony_form,
}
