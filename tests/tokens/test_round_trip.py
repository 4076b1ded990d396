"""History, the other way round: what a template shows of our items, the family's parser reads.

An assistant's reasoning, text and calls go through `PromptBuilder` into a prompt, and from there
through the parser that reads the family's output; the same names, arguments and reasoning come
back. Templates of the real shapes, written by us, are in templates/; real ones are used where the
project's shared folder is.
"""

import json
import re
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

import pytest

from smg.items import FunctionCall, FunctionCallOutput, Item, Message, Reasoning, TextPart
from smg.parsers.registry import (
    Detected,
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
from tests.tokens.vocabularies import byte_level

OWN = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
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
WORDS_ONLY = {"station": "Oban", "note": "a word"}


class Trip:
    """One template and its family."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        source = path.read_text("utf-8")
        self.families: Detected = detect(model_name=self.name, template=source)
        template = ChatTemplate(source, SPECIAL)
        self.builder = PromptBuilder(Tokenizer(byte_level()), template, call_id=self.call_id)

    def call_id(self, name: str, number: int, public: str) -> str:
        return family_call_id(self.families.tools, name, number, public)

    def prompt(self, *output: Item) -> str:
        question = Message(id="msg", role="user", parts=(TextPart(QUESTION),))
        asked = Turn(
            id="resp", model="m", created_at=0, input=(question, *output), tools=ToolSet(offers=OFFERS)
        )
        return self.builder.build(asked).text

    def read(self, *output: Item) -> list[Part]:
        """What the parser makes of the part that the assistant has written."""
        before, whole = self.prompt(), self.prompt(*output)
        shared = _whole_markers(commonprefix([before, whole]))
        written = whole[len(shared) : whole.index(RESULT)]
        parser = new_parser(
            reasoning=self.families.reasoning,
            tools=self.families.tools,
            offered=OFFERED,
            starts_open=prompt_starts_open(self.families.reasoning, shared),
        )
        return joined([*parser.feed(written), *parser.finish()])


def _whole_markers(text: str) -> str:
    """The text without a marker that it breaks off in."""
    return re.sub(r"(<[^>\n]*|\[[^\]\n]*)\Z", "", text)


def calls(parts: Sequence[Part]) -> list[tuple[str, Any]]:
    return [(one["call"], json.loads(one["arguments"])) for one in parts if "call" in one]


def called(number: int, name: str, arguments: dict[str, Any]) -> FunctionCall:
    call_id = f"call_{number}"
    text = json.dumps(arguments, ensure_ascii=False)
    return FunctionCall(id=f"fc_{number}", call_id=call_id, name=name, arguments=text)


def answered(number: int) -> FunctionCallOutput:
    return FunctionCallOutput(id=f"fco_{number}", call_id=f"call_{number}", output=RESULT)


def check(trip: Trip) -> None:
    thought = Reasoning(id="rs", text=THOUGHT)
    found = trip.read(thought, called(0, "lookup_tide", ARGUMENTS), answered(0))
    assert calls(found) == [("lookup_tide", ARGUMENTS)]
    shown = "".join(part.get("reasoning", "") for part in found)
    assert shown.strip() == (THOUGHT if trip.builder.habits.reasoning_field else "")


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own(path: Path) -> None:
    check(Trip(path))


@each_reference
def test_real(path: Path) -> None:
    trip = Trip(path)
    print(trip.name, trip.families.tools, trip.families.reasoning)
    check(trip)
