"""Every family, and how to get a parser: names in, `OutputParser` out.

Also says which markers the detokenizer must keep, whether a prompt left reasoning open, and under
which id a family's template knows a call. The only module of this package others need.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from smg.parsers import (
    bare_json,
    cohere,
    deepseek,
    gemma4,
    glm,
    harmony,
    invoke,
    kimi,
    llama,
    mistral,
    pythonic,
    qwen,
)
from smg.parsers.base import OutputParser
from smg.parsers.chained import ChainedParser
from smg.parsers.detection import Detected
from smg.parsers.detection import detect as detect_families
from smg.parsers.guides import (
    NATIVE_FORMS,
    RAW,
    Guide,
    NativeForm,
    Wanted,
    after_analysis,
    after_reasoning,
    raw_input,
    wanted_calls,
)
from smg.parsers.guides import answer_or_calls as new_answer_or_calls
from smg.parsers.guides import guide as new_guide
from smg.parsers.raw_input import RawInputParser
from smg.parsers.reading import ToolSchema
from smg.parsers.tagged import NO_REASONING, ReasoningTags, TaggedParser, ToolSyntax
from smg.turn import Constraint, StructuralTag, ToolChoice

FamilyCallId = Callable[[str, int, str], str]
"""From a call's name, its number in the conversation and its public id to the family's id."""


def _public(_name: str, _number: int, public_id: str) -> str:
    return public_id


def _kimi_id(name: str, number: int, _public_id: str) -> str:
    return f"functions.{name}:{number}"


def _kimi_k3_id(name: str, number: int, _public_id: str) -> str:
    return f"{name}:{number}"


def _number_id(_name: str, number: int, _public_id: str) -> str:
    return str(number)


def _mistral_id(_name: str, _number: int, public_id: str) -> str:
    """Nine letters and digits: Mistral's templates refuse anything else."""
    if re.fullmatch(r"[A-Za-z0-9]{9}", public_id):
        return public_id
    return hashlib.sha256(public_id.encode()).hexdigest()[:9]


@dataclass(frozen=True)
class ToolFamily:
    """A way to write calls."""

    syntax: ToolSyntax | None
    """None: no calls (passthrough), or a parser of its own (harmony)."""
    call_id: FamilyCallId = _public


@dataclass(frozen=True)
class ReasoningFamily:
    """A way to write reasoning."""

    tags: ReasoningTags


TOOLS: Mapping[str, ToolFamily] = {
    "json": ToolFamily(bare_json.TOOLS),
    "llama": ToolFamily(llama.TOOLS),
    "pythonic": ToolFamily(pythonic.TOOLS),
    "deepseek": ToolFamily(deepseek.TOOLS),
    "deepseek31": ToolFamily(deepseek.TOOLS),
    "deepseek_dsml": ToolFamily(deepseek.DSML),
    "mistral": ToolFamily(mistral.TOOLS, _mistral_id),
    "qwen": ToolFamily(qwen.TOOLS),
    "qwen_coder": ToolFamily(qwen.CODER),
    "glm45_moe": ToolFamily(glm.TOOLS),
    "glm47_moe": ToolFamily(glm.TOOLS),
    "step3": ToolFamily(invoke.STEP3),
    "kimik2": ToolFamily(kimi.TOOLS, _kimi_id),
    "kimi_k3": ToolFamily(kimi.K3, _kimi_k3_id),
    "minimax_m2": ToolFamily(invoke.MINIMAX),
    "cohere": ToolFamily(cohere.TOOLS, _number_id),
    "harmony": ToolFamily(None),
    "gemma4": ToolFamily(gemma4.TOOLS),
    "passthrough": ToolFamily(None),
}

REASONING: Mapping[str, ReasoningFamily] = {
    "deepseek_r1": ReasoningFamily(deepseek.R1),
    "deepseek_v31": ReasoningFamily(deepseek.V31),
    "qwen3": ReasoningFamily(qwen.REASONING),
    "qwen3_thinking": ReasoningFamily(qwen.THINKING),
    "kimi": ReasoningFamily(kimi.REASONING),
    "kimi_thinking": ReasoningFamily(kimi.THINKING),
    "kimi_k25": ReasoningFamily(kimi.THINKING),
    "kimi_k3": ReasoningFamily(kimi.K3_REASONING),
    "glm45": ReasoningFamily(glm.REASONING),
    "step3": ReasoningFamily(invoke.OPEN),
    "minimax": ReasoningFamily(invoke.OPEN),
    "cohere_cmd": ReasoningFamily(cohere.REASONING),
    "nano_v3": ReasoningFamily(qwen.THINKING),
    "mistral": ReasoningFamily(mistral.REASONING),
    "gemma4": ReasoningFamily(gemma4.REASONING),
    "harmony": ReasoningFamily(NO_REASONING),
    "passthrough": ReasoningFamily(NO_REASONING),
}

TOOL_ALIASES: Mapping[str, str] = {
    "deepseek32": "deepseek_dsml",
    "deepseek_v4": "deepseek_dsml",
    "qwen_xml": "qwen_coder",
    "gpt_oss": "harmony",
}
REASONING_ALIASES: Mapping[str, str] = {"gpt_oss": "harmony", "deepseek_v4": "deepseek_v31"}


def resolve_tools(name: str) -> str:
    """The tool family of this name or alias. Raises ValueError with all names if there is none."""
    return _resolved(name, TOOLS, TOOL_ALIASES, "tool-call parser")


def resolve_reasoning(name: str) -> str:
    """The reasoning family of this name or alias. Raises ValueError with all names if none is."""
    return _resolved(name, REASONING, REASONING_ALIASES, "reasoning parser")


def _resolved(
    name: str, families: Mapping[str, object], aliases: Mapping[str, str], what: str
) -> str:
    wanted = name.strip().lower().replace("-", "_")
    wanted = aliases.get(wanted, wanted)
    if wanted not in families:
        known = ", ".join(sorted([*families, *aliases]))
        raise ValueError(f"Unknown {what} {name!r}; known are {known}")
    return wanted


def new_parser(
    *, reasoning: str, tools: str, offered: Sequence[ToolSchema], starts_open: bool | None
) -> OutputParser:
    """The parser for one output.

    `starts_open` is what the rendered prompt shows: reasoning is open, or is closed or off; None
    if it shows nothing, which leaves it to the family.
    """
    if tools == RAW:
        inner = new_parser(
            reasoning=reasoning, tools="passthrough", offered=(), starts_open=starts_open
        )
        return RawInputParser(inner, offered[0].name)
    return _family_parser(reasoning, tools, offered, starts_open)


def _family_parser(
    reasoning: str, tools: str, offered: Sequence[ToolSchema], starts_open: bool | None
) -> OutputParser:
    reasoning, tools = resolve_reasoning(reasoning), resolve_tools(tools)
    tags, syntax = REASONING[reasoning].tags, TOOLS[tools].syntax
    if reasoning == "harmony":
        reads_calls = tools == "harmony"
        outer = harmony.HarmonyParser(offered, reads_calls=reads_calls)
        if syntax is None:
            return outer
        return ChainedParser(outer, TaggedParser(NO_REASONING, syntax, offered, None))
    if tools == "harmony":
        inner = harmony.HarmonyParser(offered, reads_calls=True)
        if reasoning == "passthrough":
            return inner
        return ChainedParser(TaggedParser(tags, None, (), starts_open), inner)
    return TaggedParser(tags, syntax, offered, starts_open)


def prompt_starts_open(reasoning: str, rendered_prompt: str) -> bool | None:
    """Whether a prompt ends inside reasoning (True) or just behind it (False).

    None if its end shows neither. Only the very end counts: earlier markers belong to other turns.
    """
    family = resolve_reasoning(reasoning)
    tags = REASONING[family].tags
    end = rendered_prompt[-_TAIL:].rstrip()
    if end.endswith(tags.starts):
        return True
    # Channels of siblings leave no room for reasoning either.
    if end.endswith((*tags.ends, *tags.also_ends)):
        return False
    return None


# Longer than any tag with the white space a template may put behind it.
_TAIL = 256
_CONTROL = re.compile(r"<[|｜][^<>]*>|<[^<>]*[|｜]>|｜DSML｜")


def markers(reasoning: str, tools: str) -> frozenset[str]:
    """Literals that the detokenizer must keep if the tokenizer has them as special tokens."""
    tools = "passthrough" if tools == RAW else tools
    reasoning, tools = resolve_reasoning(reasoning), resolve_tools(tools)
    tags, syntax = REASONING[reasoning].tags, TOOLS[tools].syntax
    found = {*tags.starts, *tags.ends, *tags.also_ends, *tags.framing}
    if syntax is not None:
        found |= {*syntax.openers, *syntax.framing, *syntax.inner}
    if "harmony" in (reasoning, tools):
        found |= set(harmony.MARKERS)
    # Some markers are several tokens in a row.
    return frozenset(found).union(*(_CONTROL.findall(literal) for literal in found))


def family_call_id(tools: str, name: str, number: int, public_id: str) -> str:
    """The id under which the family's chat template is shown a call and its result.

    The same for the same call: where the family's ids are random it is made from the public id.
    """
    return TOOLS[resolve_tools(tools)].call_id(name, number, public_id)


def guide(
    *,
    tools: str,
    reasoning: str,
    offered: Sequence[ToolSchema],
    choice: ToolChoice,
    parallel: bool,
    starts_open: bool | None,
) -> Guide | None:
    """What makes the engine produce the calls that the request asks for.

    None if there is nothing to enforce, or if the family offers no way to enforce it while the
    model stays free to answer without a call.
    """
    family, native = resolve_tools(tools), _native_form(tools)
    wanted = wanted_calls(offered, choice, parallel=parallel)
    tags = REASONING[resolve_reasoning(reasoning)].tags
    if wanted.required and len(wanted.tools) == 1 and choice.names is not None:
        raw = raw_input(family, wanted.tools[0], tags, starts_open)
        if raw is not None:
            return raw
    found = new_guide(tools=family, native=native, choice=choice, wanted=wanted)
    if found is None or not (wanted.required or native is None):
        # Under auto, text is free until a call begins: reasoning closes in it.
        return found
    return replace(found, constraint=after_reasoning(found.constraint, tags, starts_open))


def answer_or_calls(
    *,
    tools: str,
    reasoning: str,
    offered: Sequence[ToolSchema],
    answer: Constraint,
    parallel: bool,
    starts_open: bool | None,
) -> Guide:
    """What keeps an answer to its form, while the model stays free to call instead."""
    wanted = Wanted(offered, required=True, single=not parallel)
    found = new_answer_or_calls(
        tools=resolve_tools(tools), native=_native_form(tools), wanted=wanted, answer=answer
    )
    tags = REASONING[resolve_reasoning(reasoning)].tags
    return replace(found, constraint=after_reasoning(found.constraint, tags, starts_open))


def _native_form(tools: str) -> NativeForm | None:
    # DeepSeek V4 reads as V3.2 does, but writes another wrapper.
    return NATIVE_FORMS.get(tools if tools in NATIVE_FORMS else resolve_tools(tools))


def answer_constraint(
    reasoning: str, constraint: Constraint, starts_open: bool | None
) -> Constraint:
    """The constraint on an answer, where reasoning may have to close before it."""
    family = resolve_reasoning(reasoning)
    if isinstance(constraint, StructuralTag):
        return constraint
    if family == "harmony":
        return after_analysis(constraint)
    return after_reasoning(constraint, REASONING[family].tags, starts_open)


def detect(
    *,
    model_name: str,
    template: str = "",
    special_tokens: Collection[str] = (),
    architectures: Sequence[str] = (),
    model_type: str = "",
) -> Detected:
    """The families of a model, with the reason for each."""
    return detect_families(
        model_name=model_name,
        template=template,
        special_tokens=special_tokens,
        architectures=architectures,
        model_type=model_type,
    )


__all__ = [
    "RAW",
    "REASONING",
    "TOOLS",
    "Detected",
    "Guide",
    "ReasoningFamily",
    "ToolFamily",
    "ToolSchema",
    "answer_constraint",
    "answer_or_calls",
    "detect",
    "family_call_id",
    "guide",
    "markers",
    "new_parser",
    "prompt_starts_open",
    "resolve_reasoning",
    "resolve_tools",
]
