"""Properties that hold for every transcript in tests/golden/parsers."""

import json
from itertools import combinations

import pytest

from smg.parsers.registry import TOOLS
from tests.parsers.transcripts import Part, Transcript, transcripts

ALL = list(transcripts())
SHORT = list(transcripts(longest=2000))
# The shortest transcript with a call: all pairs of cuts of one text per family are affordable.
SHORTEST = [
    min(
        (one for one in SHORT if one.family == family and one.name in {"one", "no_arguments"}),
        key=lambda one: len(one.text),
    )
    for family in TOOLS
    if family != "passthrough"
]


def calls(parts: list[Part]) -> list[Part]:
    return [part for part in parts if "call" in part]


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("family", sorted(set(TOOLS) - {"passthrough"}))
def test_every_family_has_at_least_fifteen_transcripts(family: str) -> None:
    assert sum(one.family == family for one in ALL) >= 15


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_transcript_means_what_its_file_says(case: Transcript) -> None:
    assert case.parse([case.text]) == case.expected


@pytest.mark.parametrize("case", ALL, ids=str)
def test_pieces_of_any_size_mean_the_same(case: Transcript) -> None:
    for size in (1, 2, 3, 7, 64):
        assert case.parse(pieces(case.text, size)) == case.expected, size


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_a_cut_anywhere_does_not_matter(case: Transcript) -> None:
    for cut in range(len(case.text) + 1):
        assert case.parse([case.text[:cut], case.text[cut:]]) == case.expected, cut


@pytest.mark.parametrize("case", SHORTEST, ids=str)
def test_two_cuts_anywhere_do_not_matter(case: Transcript) -> None:
    text = case.text
    for i, j in combinations(range(len(text) + 1), 2):
        assert case.parse([text[:i], text[i:j], text[j:]]) == case.expected, (i, j)


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_every_prefix_parses_alike_in_one_piece_and_in_two(case: Transcript) -> None:
    complete = calls(case.expected)
    for end in range(len(case.text)):
        prefix = case.text[:end]
        parts = case.parse([prefix])
        # Not in the middle: what is held back at the end is what can differ.
        assert parts == case.parse([prefix[:-3], prefix[-3:]])
        assert_a_beginning(calls(parts), complete)


def assert_a_beginning(found: list[Part], complete: list[Part]) -> None:
    """Only the last call of a truncated output may be open; nothing is invented."""
    assert all(call["complete"] for call in found[:-1])
    for call, whole in zip(found, complete, strict=False):
        assert call["call"] == whole["call"]
        assert whole["arguments"].startswith(call["arguments"])
        if call["complete"]:
            assert call["arguments"] == whole["arguments"]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_arguments_of_complete_calls_are_json_objects(case: Transcript) -> None:
    for call in calls(case.expected):
        if call["complete"]:
            assert isinstance(json.loads(call["arguments"]), dict)


@pytest.mark.parametrize(
    "case",
    [one for one in ALL if one.reasoning == "passthrough" and not calls(one.expected)],
    ids=str,
)
def test_text_without_a_call_comes_back_to_the_last_character(case: Transcript) -> None:
    assert case.parse(pieces(case.text, 3)) == [{"text": case.text}]


@pytest.mark.parametrize("case", [one for one in ALL if one.name == "no_call"], ids=str)
def test_a_tail_that_could_have_become_a_marker_is_not_lost(case: Transcript) -> None:
    for tail in ("<", "[", "{", "<|", "<tool_call", "\n", " <", "`", "<｜"):
        text = case.text + tail
        assert case.parse(pieces(text, 2)) == [{"text": text}]
