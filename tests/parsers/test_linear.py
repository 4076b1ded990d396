"""Ten times the text takes about ten times as long, for the most hostile text too."""

import time

import pytest

from smg.parsers.registry import REASONING, TOOLS, new_parser
from tests.parsers.transcripts import OFFERED, Transcript, transcripts

SMALL = 10_000
HOSTILE = (
    "<",
    "<tool_call>",
    '<tool_call>{"name": "',
    "<tool_call><function=x>\n<parameter=y>\n",
    "<tool_call>x<arg_key>k</arg_key>",
    "[",
    "{",
    '[{"',
    '{"a": ',
    "[f(x=[",
    "\\",
    '"',
    " \n",
    "<|",
    "<｜",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
    "<|tool_calls_section_begin|> x ",
    "<|channel|>",
    "<|start|>assistant to=functions.x<|channel|>",
    "[TOOL_CALLS]",
    "<think>",
    "</think",
    "<|tool_call>call:f{a:[",
    "<minimax:tool_call><invoke name=",
    "<｜DSML｜function_calls><｜DSML｜invoke",
    "<|START_ACTION|>[{",
)
ONES = [one for one in transcripts(longest=500) if one.name == "one"]


def seconds(tools: str, reasoning: str, text: str, size: int) -> float:
    parser = new_parser(reasoning=reasoning, tools=tools, offered=OFFERED, starts_open=None)
    started = time.process_time()
    for at in range(0, len(text), size):
        parser.feed(text[at : at + size])
    parser.finish()
    return time.process_time() - started


def assert_linear(tools: str, reasoning: str, unit: str, size: int, times: int = 10) -> None:
    text, ratio = unit * (SMALL // len(unit)), 0.0
    # A busy machine may spoil a measurement; a quadratic parser spoils all.
    for _ in range(10):
        large = seconds(tools, reasoning, text * times, size)
        ratio = large / seconds(tools, reasoning, text, size)
        if ratio <= times * 1.2:
            return
    raise AssertionError(f"{tools} with {reasoning} on {unit!r} by {size}: {ratio:.1f} times")


@pytest.mark.parametrize("tools", sorted(TOOLS))
def test_hostile_text_takes_linear_time(tools: str) -> None:
    for unit in HOSTILE:
        assert_linear(tools, "qwen3_thinking", unit, 50)


@pytest.mark.parametrize("reasoning", sorted(REASONING))
def test_hostile_text_takes_linear_time_in_reasoning(reasoning: str) -> None:
    for unit in HOSTILE[:4]:
        assert_linear("qwen", reasoning, unit, 50)


@pytest.mark.parametrize("unit", ["<tool_call>", '<tool_call>{"name": "', HOSTILE[3]])
def test_a_megabyte_takes_a_hundred_times_as_long_as_ten_kilobytes(unit: str) -> None:
    assert_linear("qwen_coder", "qwen3", unit, 50, times=100)


@pytest.mark.parametrize("case", ONES, ids=str)
def test_a_value_that_never_ends_takes_linear_time(case: Transcript) -> None:
    opened = case.text[: case.text.index("Oban")]
    parser = new_parser(
        reasoning="passthrough", tools=case.family, offered=OFFERED, starts_open=None
    )
    parser.feed(opened)
    assert_linear(case.family, "passthrough", opened + "Oban <{[ " * 200, 7)
