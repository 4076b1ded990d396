"""Guided decoding, as far as an engine needs it that knows what it wants to say.

A request's constraint in, a demand out: nothing, an answer that fits a schema, or a call in a given
form. A structural tag that only may be used demands nothing: the family's own form fits it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smg.testing.chatml import Conversation
from smg.testing.instances import SchemaUnusable, minimal_instance
from smg.testing.reply import Call, compact


class ConstraintInvalid(ValueError):
    """Raised when a constraint cannot be read, or not be followed without a model."""


@dataclass(frozen=True, slots=True)
class MustSay:
    """The output must be one of these texts, or follow a pattern that nobody can guess (none)."""

    choices: Sequence[str]
    kind: str


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a call of one tool is written: before, arguments, after."""

    before: str
    schema: Mapping[str, Any]
    after: str
    root: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MustCall:
    """The output must be calls; the forms are in the order of the tools."""

    forms: Mapping[str, CallForm] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    separator: str = "\n"
    only_one: bool = False

    def write(self, calls: Sequence[Call]) -> str:
        """Those of the calls that are allowed; if there is none, the smallest of the first tool."""
        allowed = [call for call in calls if call.name in self.forms]
        if not allowed and not self.forms:
            raise ConstraintInvalid("The constraint demands a call of no tool that is offered")
        if not allowed:
            name, form = next(iter(self.forms.items()))
            allowed = [Call(name, _minimal(form.schema, form.root))]
        if self.only_one:
            allowed = allowed[:1]
        written = [
            self.forms[call.name].before + call.arguments + self.forms[call.name].after
            for call in allowed
        ]
        return self.before + self.separator.join(written) + self.after


@dataclass(frozen=True, slots=True)
class MustAnswer:
    """The output must fit a JSON schema."""

    schema: Mapping[str, Any]
    calls: MustCall | None = None
    """The form of calls that fit too."""

    def minimal(self) -> str:
        """The smallest output that does."""
        return _minimal(self.schema)


Answerable = MustAnswer | MustCall
Demand = MustAnswer | MustSay | MustCall


def read_constraint(sampling: Any, conversation: Conversation) -> Demand | None:
    """What a request's sampling parameters demand.

    Raises:
        ConstraintInvalid: the constraint is malformed.
    """
    try:
        return _read(sampling, conversation)
    except (AttributeError, TypeError, KeyError) as error:  # A part has not the form it must have.
        raise ConstraintInvalid(f"The constraint is malformed: {error}") from error


def _read(sampling: Any, conversation: Conversation) -> Demand | None:
    match sampling.WhichOneof("constraint"):
        case "json_schema":
            return _read_schema(_load("json_schema", sampling.json_schema))
        case "json_object":
            return MustAnswer({"type": "object"}) if sampling.json_object else None
        case "structural_tag":
            tag = _load("structural_tag", sampling.structural_tag)
            return _read_tag(tag.get("format", {}), conversation)
        case "choice":
            return MustSay(tuple(sampling.choice.choices), "choice")
        case "regex" | "grammar" as kind:
            return MustSay((), kind)
    return None


def _load(kind: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConstraintInvalid(f"{kind} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConstraintInvalid(f"{kind} must be an object")
    return value


def _minimal(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> str:
    try:
        return compact(minimal_instance(schema, root))
    except SchemaUnusable as error:
        raise ConstraintInvalid(str(error)) from error


def _read_schema(schema: Mapping[str, Any]) -> Answerable:
    """A schema of an answer, or of an array of calls."""
    items = schema.get("items")
    if schema.get("type") != "array" or not isinstance(items, dict):
        return MustAnswer(schema)
    forms: dict[str, CallForm] = {}
    for option in items.get("anyOf") or items.get("oneOf") or [items]:
        forms.update(_call_forms(option.get("properties", {}), schema))
    if not forms:
        return MustAnswer(schema)
    only_one = schema.get("maxItems") == 1
    return MustCall(forms=forms, before="[", after="]", separator=", ", only_one=only_one)


def _call_forms(properties: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, CallForm]:
    name = properties.get("name", {})
    names = name.get("enum") or [name[key] for key in ("const",) if key in name]
    key = next((key for key in ("parameters", "arguments") if key in properties), None)
    if key is None:
        return {}
    return {
        name: CallForm(f'{{"name": {compact(name)}, "{key}": ', properties[key], "}", root)
        for name in names
    }


def _read_tag(part: Mapping[str, Any], conversation: Conversation) -> Answerable | None:
    """What one part of a structural tag demands, with the text that stands around calls."""
    match part.get("type"):
        case "json_schema":
            return _read_schema(part.get("json_schema", {}))
        case "triggered_tags" | "tags_with_separator" if part.get("at_least_one"):
            return _read_tags(part, conversation)
        case "tag":
            return _read_one_tag(part, conversation)
        case "sequence":
            return _read_sequence(part.get("elements", []), conversation)
        case "or":
            options = [_read_tag(inner, conversation) for inner in part.get("elements", [])]
            return _either(options)
    return None


def _read_tags(part: Mapping[str, Any], conversation: Conversation) -> Answerable | None:
    """Calls side by side; or the first wrapper around calls."""
    tags = part.get("tags", [])
    forms = _tag_forms(tags, conversation)
    if tags and not forms:
        return _read_one_tag(tags[0], conversation)
    return MustCall(
        forms=forms,
        separator=part.get("separator", "\n"),
        only_one=bool(part.get("stop_after_first")),
    )


def _either(options: Sequence[Answerable | None]) -> Answerable | None:
    """Alternatives: the same with and without thoughts before it, or an answer or calls."""
    if not options or not all(options):
        return None
    answer = next((option for option in options if isinstance(option, MustAnswer)), None)
    calls = next((option for option in options if isinstance(option, MustCall)), None)
    return replace(answer, calls=calls) if answer and calls else options[0]


def _read_one_tag(part: Mapping[str, Any], conversation: Conversation) -> Answerable | None:
    if forms := _tag_forms([part], conversation):
        return MustCall(forms=forms, only_one=True)
    inner = _read_tag(part.get("content", {}), conversation)
    if not isinstance(inner, MustCall):
        return inner
    return replace(
        inner, before=_begin(part) + inner.before, after=inner.after + part.get("end", "")
    )


def _read_sequence(
    elements: Sequence[Mapping[str, Any]], conversation: Conversation
) -> Answerable | None:
    before = after = ""
    found: Answerable | None = None
    for element in elements:
        constant = element.get("value", "") if element.get("type") == "const_string" else ""
        if found is not None:
            after += constant
        elif inner := _read_tag(element, conversation):
            found = inner
        else:
            before += constant
    if not isinstance(found, MustCall):
        return found
    return replace(found, before=before + found.before, after=found.after + after)


NAME = re.compile(r'"name":\s*("(?:[^"\\]|\\.)*")')


def _tag_forms(
    tags: Sequence[Mapping[str, Any]], conversation: Conversation
) -> dict[str, CallForm]:
    forms = {}
    for tag in tags:
        name = _tag_name(_begin(tag), conversation)
        if name is not None:
            content = tag.get("content", {})
            tool = conversation.find_tool(name)
            free = tool.parameters if tool else {"type": "object"}
            schema = content.get("json_schema", free or {"type": "object"})
            forms[name] = CallForm(_begin(tag), schema, _end(tag))
    return forms


def _tag_name(begin: str, conversation: Conversation) -> str | None:
    """The tool that a tag's opening names."""
    if found := NAME.search(begin):
        return str(json.loads(found[1]))
    named = [tool.name for tool in conversation.tools if tool.name in begin]
    return max(named, key=len, default=None)


def _begin(tag: Mapping[str, Any]) -> str:
    return str(tag.get("begin", ""))


def _end(tag: Mapping[str, Any]) -> str:
    end = tag.get("end", "")  # A list names alternatives.
    return str(end[0] if isinstance(end, list) else end)
