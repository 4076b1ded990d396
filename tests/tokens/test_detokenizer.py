import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from smg.tokens.detokenizer import Detokenizer, TextDelta, new_detokenizer
from smg.tokens.stops import StopStrings
from smg.tokens.tokenizer import Tokenizer
from smg.turn import Sampling
from tests.tokens.vocabularies import (
    byte_fallback,
    byte_level,
    metaspace,
    word_piece,
)

TEXTS = (
    "It is the answer.",
    " leading and trailing ",
    "systeme\u0300 e\u0301o\u0308 naïve",
    "你好，世界 龘 𠮷",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 done",
    "\ufffd a replacement character of its own",
)
VOCABULARIES = {
    "byte level": byte_level(),
    "byte fallback": byte_fallback(),
    "byte fallback without prefix": byte_fallback(prepend=False),
    "metaspace": metaspace(),
    "word piece": word_piece(),
}

by_vocabulary = pytest.mark.parametrize("backend", VOCABULARIES.values(), ids=VOCABULARIES.keys())


def joined(detokenizer: Detokenizer, ids: list[int], size: int) -> str:
    chunks = [ids[at : at + size] for at in range(0, len(ids), size)]
    deltas = [delta for chunk in chunks for delta in detokenizer.feed(chunk)]
    return "".join(delta.text for delta in deltas + detokenizer.finish())


@by_vocabulary
@pytest.mark.parametrize("text", TEXTS)
def test_the_text_is_the_same_however_its_tokens_come(
    backend: tokenizers.Tokenizer, text: str
) -> None:
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode(text)
    expected = tokenizer.decode(ids, skip_special=True)
    for size in (1, 2, 3, len(ids)):
        assert joined(Detokenizer(tokenizer), ids, size) == expected


@given(
    ids=st.lists(st.integers(0, byte_level().get_vocab_size(with_added_tokens=False) - 1)),
    size=st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_any_tokens_at_all_read_as_when_decoded_together(ids: list[int], size: int) -> None:
    tokenizer = Tokenizer(byte_level())
    assert joined(Detokenizer(tokenizer), ids, size) == tokenizer.decode(ids)


@by_vocabulary
def test_no_delta_shows_half_a_character(backend: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode("你好 😀 龘")
    detokenizer = Detokenizer(tokenizer)
    assert not any("\ufffd" in delta.text for id in ids for delta in detokenizer.feed([id]))


@pytest.mark.parametrize("backend", [byte_level(), byte_fallback()], ids=["level", "fallback"])
def test_a_character_cut_off_by_the_end_is_one_replacement_character(
    backend: tokenizers.Tokenizer,
) -> None:
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode("a 𠮷")
    assert joined(Detokenizer(tokenizer), ids[:-1], 1) == "a \ufffd"


def test_a_delta_names_the_ids_it_came_from() -> None:
    tokenizer = Tokenizer(byte_level())
    smile = tokenizer.encode("龘")
    [letter] = tokenizer.encode("x")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.feed(smile[:1]) == []
    assert detokenizer.feed([*smile[1:], letter]) == [TextDelta("龘x", [*smile, letter])]


def test_control_tokens_are_not_shown() -> None:
    tokenizer = Tokenizer(byte_level(), named={"eos_token": "<|im_end|>"})
    ids = tokenizer.encode("It<|im_start|> is<|im_end|>")
    assert Detokenizer(tokenizer).feed(ids) == [TextDelta("It is", ids)]


def test_a_control_token_within_a_character_does_not_break_it() -> None:
    tokenizer = Tokenizer(byte_level())
    first, *rest = tokenizer.encode("龘")
    [control] = tokenizer.encode("<|im_start|>")
    assert joined(Detokenizer(tokenizer), [first, control, *rest], 1) == "龘"


def test_a_kept_token_is_a_delta_of_its_own() -> None:
    tokenizer = Tokenizer(byte_level())
    marker, ending = tokenizer.encode("<tool_call><|im_end|>")
    text = tokenizer.encode("It")
    detokenizer = Detokenizer(tokenizer, frozenset({"<tool_call>", "<|im_end|>", "unknown"}))
    assert detokenizer.feed([*text, marker, *text, ending]) == [
        TextDelta("It", text),
        TextDelta("<tool_call>", [marker], marker=True),
        TextDelta("It", text),
        TextDelta("<|im_end|>", [ending], marker=True),
    ]


def test_a_marker_spelled_in_ordinary_tokens_is_text() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("<tool") + tokenizer.encode("_call>")
    assert Detokenizer(tokenizer, {"<tool_call>"}).feed(ids) == [TextDelta("<tool_call>", ids)]


def test_a_marker_ends_a_broken_character() -> None:
    tokenizer = Tokenizer(byte_level())
    first = tokenizer.encode("龘")[0]
    [marker] = tokenizer.encode("<tool_call>")
    detokenizer = Detokenizer(tokenizer, {"<tool_call>"})
    assert [delta.text for delta in detokenizer.feed([first, marker])] == ["\ufffd", "<tool_call>"]


def test_an_added_token_that_nobody_asked_for_is_text() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("a<unused>b")
    assert Detokenizer(tokenizer).feed(ids) == [TextDelta("a<unused>b", ids)]


def test_special_tokens_are_shown_when_the_request_says_so() -> None:
    tokenizer = Tokenizer(byte_level(), named={"eos_token": "<|im_end|>"})
    ids = tokenizer.encode("It<|im_start|><|im_end|>")
    detokenizer = new_detokenizer(tokenizer, Sampling(keep_special_tokens=True))
    assert joined(detokenizer, ids, 1) == "It<|im_start|>"
    detokenizer = new_detokenizer(tokenizer, Sampling(keep_special_tokens=True, ignore_eos=True))
    assert joined(detokenizer, ids, 1) == "It<|im_start|><|im_end|>"


def test_a_stop_token_of_the_request_is_not_shown() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("It!")
    detokenizer = new_detokenizer(tokenizer, Sampling(stop_token_ids=(ids[-1],)))
    assert joined(detokenizer, ids, 1) == "It"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stop_string_ends_the_text_wherever_its_tokens_are_cut(size: int) -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("the answer 龘 and the end")
    detokenizer = new_detokenizer(tokenizer, Sampling(stop=("龘 an", "the end")))
    assert joined(detokenizer, ids, size) == "the answer "
    assert (detokenizer.stopped, detokenizer.stop_matched) == (True, "龘 an")


def test_nothing_comes_after_a_stop_string() -> None:
    tokenizer = Tokenizer(byte_level())
    detokenizer = Detokenizer(tokenizer, {"<tool_call>"}, StopStrings([" is"]))
    assert [d.text for d in detokenizer.feed(tokenizer.encode("It is<tool_call>it"))] == ["It"]
    assert detokenizer.feed(tokenizer.encode("more")) == []
    assert detokenizer.finish() == []


def test_what_may_begin_a_stop_string_is_given_up_at_the_end() -> None:
    tokenizer = Tokenizer(byte_level())
    detokenizer = Detokenizer(tokenizer, stop=StopStrings(["answer!"]))
    assert joined(detokenizer, tokenizer.encode("the answer"), 1) == "the answer"
    assert not detokenizer.stopped


def test_text_held_for_a_stop_string_comes_before_a_marker() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("ab<tool_call>")
    detokenizer = Detokenizer(tokenizer, {"<tool_call>"}, StopStrings(["bc"]))
    assert detokenizer.feed(ids[:2]) == [TextDelta("a", ids[:2])]
    assert detokenizer.feed(ids[2:]) == [
        TextDelta("b"),
        TextDelta("<tool_call>", ids[2:], marker=True),
    ]


def test_a_stop_string_may_be_a_marker() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("ab<tool_call>")
    detokenizer = Detokenizer(tokenizer, {"<tool_call>"}, StopStrings(["b<tool_call>"]))
    assert joined(detokenizer, ids, 1) == "a"
    assert detokenizer.stopped


def test_ids_outside_the_vocabulary_have_no_text() -> None:
    tokenizer = Tokenizer(byte_level())
    assert Detokenizer(tokenizer).feed([tokenizer.vocab_size, 10**6]) == []


def test_an_answer_keeps_the_space_that_follows_a_marker() -> None:
    tokenizer = Tokenizer(byte_fallback())
    ids = [*tokenizer.encode("</s>")[-1:], *tokenizer.encode("the")]
    detokenizer = Detokenizer(tokenizer, {"</s>"})
    assert [delta.text for delta in detokenizer.feed(ids)] == ["</s>", " the"]
