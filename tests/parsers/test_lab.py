"""The parser lab's functions."""

import pytest

from smg.parsers.lab import Parsed, ParsedCall, parse_function_call, parse_reasoning
from tests.parsers.transcripts import OFFERED

CALL = '<tool_call>\n{"name": "ping_probe", "arguments": {}}\n</tool_call>'


def test_calls_are_taken_out_of_a_text() -> None:
    found = parse_function_call(f"Wait. {CALL} Done.", "qwen", OFFERED)
    assert found == ("Wait.Done.", (ParsedCall("ping_probe", "{}"),))


def test_a_call_that_was_cut_off_is_not_reported() -> None:
    cut = '<tool_call>\n{"name": "ping_probe", "arguments": {"a": '
    assert parse_function_call(f"{CALL}{cut}", "qwen", OFFERED)[1] == (
        ParsedCall("ping_probe", "{}"),
    )


def test_reasoning_is_told_apart() -> None:
    assert parse_reasoning("why</think>because", "deepseek_r1") == ("because", "why")
    assert parse_reasoning("why</think>because", "qwen3") == ("why</think>because", "")
    assert parse_reasoning("why</think>because", "qwen3", True) == ("because", "why")
    assert parse_reasoning("because", "deepseek_r1", False) == ("because", "")


def test_an_unknown_parser_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="qwen_coder"):
        parse_function_call("", "no_such", ())
    with pytest.raises(ValueError, match="deepseek_r1"):
        parse_reasoning("", "no_such")


def test_parsed_values_compare_by_content() -> None:
    assert Parsed("a", "", ()) != Parsed("b", "", ())
