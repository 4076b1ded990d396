import time

import pytest

from smg.errors import InvalidRequest
from smg.tokens.guard import SIGNS, Guard, without

CONTROLS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "[INST]", "][")
SIGN = SIGNS[0]


def test_a_sign_stands_behind_the_first_character_of_a_control_string() -> None:
    assert Guard(CONTROLS).mark(["a<tool_call>b"]) == ([f"a<{SIGN}tool_call>b"], SIGN)


def test_control_strings_that_overlap_are_all_marked() -> None:
    marked, _ = Guard(CONTROLS).mark(["[INST][INST]"])
    assert marked == [f"[{SIGN}INST]{SIGN}[{SIGN}INST]"]


def test_text_without_control_strings_stays_as_it_is() -> None:
    values = ["1 < 2", {"role": "user", "content": "<b>"}, None, 7]
    assert Guard(CONTROLS).mark(values) == (values, None)


def test_everything_that_reaches_a_template_is_marked_but_our_own_words() -> None:
    text = "<tool_call>"
    marked = f"<{SIGN}tool_call>"
    message = {
        "role": text,
        "content": [{"type": text, "text": text}],
        "tool_calls": [{"type": text, "function": {"name": text, "arguments": {text: [text, 1]}}}],
    }
    tool = {"type": text, "function": {"parameters": {"type": text, text: {"role": text}}}}
    [said, offered], sign = Guard(CONTROLS).mark([message, tool])
    assert sign == SIGN
    arguments = {marked: [marked, 1]}
    assert said == {
        "role": text,
        "content": [{"type": text, "text": marked}],
        "tool_calls": [{"type": text, "function": {"name": marked, "arguments": arguments}}],
    }
    parameters = {"type": marked, marked: {"role": marked}}
    assert offered == {"type": text, "function": {"parameters": parameters}}


def test_text_that_begins_many_control_strings_is_not_slow() -> None:
    guard = Guard([f"<|reserved_{number}|>" for number in range(500)])
    started = time.monotonic()
    assert guard.mark(["<|reserved_" * 100_000])[1] is None
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("used", [SIGN, r"\ufdd0", r"\uFDD0"])
def test_a_sign_that_the_text_holds_is_not_used(used: str) -> None:
    marked, sign = Guard(CONTROLS).mark([f"<tool_call>{used}"])
    assert (marked, sign) == ([f"<{SIGNS[1]}tool_call>{used}"], SIGNS[1])


def test_text_that_uses_every_sign_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        Guard(CONTROLS).mark(["<tool_call>" + "".join(SIGNS)])


@pytest.mark.parametrize("written", [SIGN, r"\ufdd0", r"\uFDD0"])
def test_the_sign_is_taken_out_however_the_template_wrote_it(written: str) -> None:
    assert without(f"a{written}b", SIGN) == "ab"


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("tool_call", f"t{SIGN}ool_call"),
        ("tool_call>more", f"t{SIGN}ool_call>more"),
        ("a<tool_call", f"a<{SIGN}tool_call"),
    ],
)
def test_text_that_a_template_would_complete_is_marked(text: str, marked: str) -> None:
    # As `'<' ~ key ~ '>'` does with the key `tool_call`.
    guard = Guard(CONTROLS, template_literals=["text <", ">"])
    assert guard.mark([text]) == ([marked], SIGN)
    assert Guard(CONTROLS).mark([text]) == ([text], None)


def test_text_that_normalizing_makes_a_control_string_is_marked_throughout() -> None:
    guard = Guard(["<A>"], normalize=str.lower)
    assert guard.mark(["<a>"]) == ([f"<{SIGN}a{SIGN}>{SIGN}"], SIGN)
    assert guard.mark(["<b>"]) == (["<b>"], None)
