"""History, the other way round: what a template shows of our items, the family's parser reads.

An assistant's reasoning, text and calls go through `PromptBuilder` into a prompt, and from there
through the parser that reads the family's output; the same names, arguments and reasoning come
back. Templates of the real shapes, written by us, are in shapes.py; real ones are used where the
project's shared folder is.
"""

import json
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from smg.items import FunctionCall, FunctionCallOutput, Item, Message, Reasoning, TextPart
from smg.parsers.registry import (
    TOOLS,
    detect,
    family_call_id,
    new_parser,
    prompt_starts_open,
)
from smg.tokens.prompt import PromptBuilder
from smg.tokens.template import ChatTemplate
from smg.tokens.tokenizer import Tokenizer
from smg.turn import FunctionTool, Offer, ToolSet, Turn
from tests.parsers.transcripts import OFFERED, Part, joined
from tests.tokens.reference import each_reference
from tests.tokens.shapes import SHAPES
from tests.tokens.vocabularies import byte_level

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
OFFERS = tuple(
    Offer(tool.name, FunctionTool(name=tool.name, description="A tool", parameters=tool.parameters))
    for tool in OFFERED
)
QUESTION, RESULT, THOUGHT, SPEECH = "How high?", "resultq", "Let me see: <b>.", "One moment."
ARGUMENTS: dict[str, Any] = {
    "station": 'Öban "Süd" & <b>',
    "days": 3,
    "height": -1.5,
    "exact": True,
    "note": None,
    "options": {"unit": "m", "nested": {"list": [1, "two"]}},
    "marks": [1, 2],
}
WORDS = {"station": "Oban", "note": "a word"}


class Trip:
    """One template and its family."""

    def __init__(self, source: str, tools: str, reasoning: str) -> None:
        self.tools, self.reasoning = tools, reasoning
        template = ChatTemplate(source, SPECIAL)
        tokenizer = Tokenizer(byte_level())
        self.builder = PromptBuilder(tokenizer, template, call_id=self.call_id)

    def call_id(self, name: str, number: int, public: str) -> str:
        return family_call_id(self.tools, name, number, public)

    def prompt(self, *output: Item) -> str:
        question = Message(id="msg", role="user", parts=(TextPart(QUESTION),))
        tools = ToolSet(offers=OFFERS)
        asked = Turn(id="resp", model="m", created_at=0, input=(question, *output), tools=tools)
        return self.builder.build(asked).text

    def read(self, *output: Item) -> list[Part]:
        """What the parser makes of what the assistant has written before the first result."""
        before, whole = self.prompt(), self.prompt(*output)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
        shared = _whole_markers("".join(char for char, _ in same))
        written = whole[len(shared) : whole.index(RESULT)]
        starts_open = prompt_starts_open(self.reasoning, shared)
        if starts_open is None and not any(isinstance(item, Reasoning) for item in output):
            starts_open = False  # Families that begin inside would have shown it.
        parser = new_parser(
            reasoning=self.reasoning,
            tools=self.tools,
            offered=OFFERED,
            starts_open=starts_open,
        )
        return joined([*parser.feed(written), *parser.finish()])


def _whole_markers(text: str) -> str:
    """The text without a marker that it breaks off in."""
    return re.sub(r"(<[^>\n]*|\[[^\]\n]*)\Z", "", text)


def own(family: str) -> Trip:
    return Trip(SHAPES[family].template, family, SHAPES[family].reasoning)


def calls(parts: Sequence[Part]) -> list[tuple[str, Any]]:
    return [(one["call"], json.loads(one["arguments"])) for one in parts if "call" in one]


def thoughts(parts: Sequence[Part]) -> str:
    return "".join(part.get("reasoning", "") for part in parts).strip()


def called(number: int, name: str, arguments: dict[str, Any]) -> FunctionCall:
    text = json.dumps(arguments, ensure_ascii=False)
    return FunctionCall(id=f"fc_{number}", call_id=f"call_{number}", name=name, arguments=text)


def answered(number: int) -> FunctionCallOutput:
    return FunctionCallOutput(id=f"fco_{number}", call_id=f"call_{number}", output=RESULT)


REASONED = Reasoning(id="rs", text=THOUGHT)


def test_every_family_that_writes_calls_has_a_shape() -> None:
    assert set(SHAPES) == set(TOOLS) - {"passthrough"}


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_a_call_comes_back_with_its_reasoning(family: str) -> None:
    trip = own(family)
    found = trip.read(REASONED, called(0, "lookup_tide", ARGUMENTS), answered(0))
    assert calls(found) == [("lookup_tide", ARGUMENTS)]
    assert all(part["complete"] for part in found if "call" in part)
    has_tags = trip.reasoning != "passthrough"
    assert thoughts(found) == (THOUGHT if has_tags else "")


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_calls_side_by_side_come_back_with_the_text_before_them(family: str) -> None:
    speech = Message(id="msg_1", role="assistant", parts=(TextPart(SPEECH),))
    output = (speech, called(0, "lookup_tide", WORDS), called(1, "ping_probe", {}))
    found = own(family).read(*output, answered(0), answered(1))
    if family == "llama":
        # Its calls begin the answer, or are none: text beside them is the answer.
        assert calls(found) == []
        return
    assert calls(found) == [("lookup_tide", WORDS), ("ping_probe", {})]
    assert SPEECH in found[0]["text"]


IDS = {
    "kimik2": ["functions.lookup_tide:0", "functions.ping_probe:1"],
    "cohere": ["0", "1"],
}


@pytest.mark.parametrize("family", sorted(IDS))
def test_a_template_sees_ids_of_its_family(family: str) -> None:
    output = (called(0, "lookup_tide", WORDS), called(1, "ping_probe", {}))
    prompt = own(family).prompt(*output, answered(0), answered(1))
    for family_id in IDS[family]:
        assert f"<|tool|>{family_id}: {RESULT}" in prompt
    assert "call_0" not in prompt


def test_mistrals_template_sees_nine_characters_and_the_same_for_call_and_result() -> None:
    prompt = own("mistral").prompt(called(0, "ping_probe", {}), answered(0))
    written, resulted = re.findall(r"\[CALL_ID\](.*?)\[ARGS\]|TS\](.*?)\[TOOL_CON", prompt)
    assert re.fullmatch("[A-Za-z0-9]{9}", written[0])
    assert written[0] == resulted[1]


SHOWS_NO_CALLS = {"gemma-3", "phi-4-mini"}
"""Calls are said in words there: nothing for a parser to read."""
FAMILIES = {"phi-4-mini-vllm-tools": "json"}
"""Where nothing in the template tells."""
LOSSY: dict[str, dict[str, Any]] = {
    # vLLM's examples: every value in quotes and nothing escaped; no commas between arguments.
    "llama-4-pythonic": WORDS,
    "gemma-3-vllm-pythonic": {"station": "Oban"},
    # Jinja writes null as Python does: a nullable string is "None" then.
    **{
        name: {key: value for key, value in ARGUMENTS.items() if value is not None}
        for name in ("qwen3-coder", "qwen3.5", "step3.5-flash")
    },
}
"""What real templates write so that it can be read again; elsewhere everything."""


@each_reference
def test_a_call_comes_back_through_the_real_templates(path: Path) -> None:
    source = path.read_text("utf-8")
    found = detect(model_name=path.stem, template=source)
    trip = Trip(source, FAMILIES.get(path.stem, found.tools), found.reasoning)
    habits = trip.builder.habits
    assert habits.renders_calls is (path.stem not in SHOWS_NO_CALLS)
    arguments = LOSSY.get(path.stem, ARGUMENTS)
    if habits.renders_calls:
        parts = trip.read(REASONED, called(0, "lookup_tide", arguments), answered(0))
        assert calls(parts) == [("lookup_tide", arguments)]
        assert thoughts(parts) == (THOUGHT if habits.reasoning_field else "")
