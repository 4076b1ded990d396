"""Random text made of marker fragments: no cut matters, nothing raises, nothing is lost."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from smg.parsers.registry import REASONING, TOOLS, markers
from tests.parsers.transcripts import joined, parse

FRAGMENTS = sorted(
    set().union(*(markers(reasoning, tools) for reasoning in REASONING for tools in TOOLS))
    | {
        *'{}[](),:;=<>"`\\\n |',
        *("lookup_tide", "ping_probe", "station", "days", "name", "arguments", "parameters"),
        *("function", "<function=", "<parameter=", "</parameter>", "</function>", "call:"),
        *('{"name": "ping_probe", "arguments": {', '"a": 1', "functions.ping_probe:0", " to="),
        *('<invoke name="ping_probe">', '<parameter name="station">', "</invoke>", "```json\n"),
        *("commentary", "analysis", "final", "[ping_probe(", "station='x'", "é", "🌊", "1.5"),
    }
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)
CHOICES = {
    "text": TEXTS,
    "tools": st.sampled_from(sorted(TOOLS)),
    "reasoning": st.sampled_from(sorted(REASONING)),
    "starts_open": st.sampled_from([None, True, False]),
}


@settings(max_examples=1500, deadline=None)
@given(**CHOICES, size=st.integers(1, 9))
def test_the_size_of_pieces_does_not_matter(
    text: str, tools: str, reasoning: str, starts_open: bool | None, size: int
) -> None:
    whole = joined(parse([text], tools, reasoning, starts_open))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert joined(parse(pieces, tools, reasoning, starts_open)) == whole
    for part in whole:
        if part.get("complete"):
            assert isinstance(json.loads(part["arguments"]), dict)


@settings(max_examples=600, deadline=None)
@given(text=TEXTS, tools=st.sampled_from(sorted(set(TOOLS) - {"cohere", "kimi_k3", "harmony"})))
def test_text_without_a_call_is_never_changed(text: str, tools: str) -> None:
    parts = joined(parse([text], tools))
    if not any("call" in part for part in parts):
        assert "".join(part["text"] for part in parts) == text
