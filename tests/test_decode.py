"""One generation's tokens to parsed deltas, with the real tokenizer of the scripted engine."""

import itertools
from collections.abc import Iterable, Sequence
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from smg.decode import Decoder
from smg.engines.base import EngineChunk, TokenLogprobs
from smg.events import Usage
from smg.items import Logprob
from smg.parsers.base import (
    ParsedDelta,
    ReasoningText,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from smg.parsers.registry import ToolSchema, markers, new_parser
from smg.testing.vocabulary import MODEL_PATH
from smg.tokens.detokenizer import new_detokenizer
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer
from smg.turn import Sampling

THINKING = "Let me see … 🙂."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
OUTPUT = f"<think>\n{THINKING}\n</think>\n\nI look, né? 🙂{CALL}"
WEATHER = ToolSchema(name="weather", parameters={"type": "object"}, strict=None)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(locate(str(MODEL_PATH)), markers("qwen3", "qwen"))


def ids(text: str) -> list[int]:
    """The tokens a model would write: markers are tokens of their own."""
    return tokenizer().encode(text)


def new_decoder(sampling: Sampling | None = None, *, starts_open: bool | None = False) -> Decoder:
    parser = new_parser(reasoning="qwen3", tools="qwen", offered=[WEATHER], starts_open=starts_open)
    keep = markers("qwen3", "qwen")
    detokenizer = new_detokenizer(tokenizer(), sampling or Sampling(), keep)
    return Decoder(detokenizer, parser, tokenizer())


def said(decoder: Decoder, chunks: Iterable[Sequence[int]]) -> list[ParsedDelta]:
    """Everything a generation says, neighbours of one kind joined."""
    joined: list[ParsedDelta] = []
    deltas = [decoder.feed(EngineChunk(list(chunk))) for chunk in chunks]
    for delta in [*itertools.chain(*deltas), *decoder.finish()]:
        match joined[-1] if joined else None, delta:
            case (Text() as last, Text(text)):
                last.text += text
            case (ReasoningText() as last, ReasoningText(text)):
                last.text += text
            case (ToolCallArguments() as last, ToolCallArguments(text)):
                last.text += text
            case _:
                joined.append(delta)
    return joined


WHOLE: list[ParsedDelta] = [
    ReasoningText(THINKING),
    Text("I look, né? 🙂"),
    ToolCallStart("weather"),
    ToolCallArguments('{"city": "Zürich"}'),
    ToolCallEnd(),
]


@given(st.data())
def test_how_the_engine_cuts_its_tokens_changes_neither_deltas_nor_counts(
    data: st.DataObject,
) -> None:
    tokens = ids(OUTPUT)
    cuts = data.draw(st.sets(st.integers(0, len(tokens)), max_size=6))
    edges = [0, *sorted(cuts), len(tokens)]
    decoder = new_decoder()
    assert said(decoder, [tokens[a:b] for a, b in itertools.pairwise(edges)]) == WHOLE
    assert decoder.usage(None, 7) == Usage(
        input_tokens=7, output_tokens=len(tokens), reasoning_tokens=thinking_tokens()
    )


def thinking_tokens() -> int:
    """What stands between the tags, and the closing one."""
    return len(ids(f"<think>\n{THINKING}\n</think>")) - 1


def test_a_chunk_of_many_tokens_gives_few_deltas() -> None:
    deltas = new_decoder().feed(EngineChunk(ids("one two three four five")))
    assert deltas == [Text("one two three four five")]


def test_the_engines_own_count_goes_before_ours() -> None:
    decoder = new_decoder()
    said(decoder, [ids(OUTPUT)])
    told = Usage(input_tokens=5, cached_tokens=4, output_tokens=9)
    assert decoder.usage(told, 7) == Usage(
        input_tokens=5, cached_tokens=4, output_tokens=9, reasoning_tokens=thinking_tokens()
    )


def test_a_prompt_that_opened_the_reasoning_is_gone_on_from() -> None:
    decoder = new_decoder(starts_open=True)
    assert said(decoder, [ids("Hm.\n</think>\n\nYes.")]) == [ReasoningText("Hm."), Text("Yes.")]


def test_a_stop_string_ends_the_text_before_the_engine_knows() -> None:
    decoder = new_decoder(Sampling(stop=("three",)))
    stopped = []
    deltas = []
    for text in ("one two ", "three four", " five"):
        deltas += decoder.feed(EngineChunk(ids(text)))
        stopped.append(decoder.stopped)
    assert stopped == [False, True, True]
    assert "".join(d.text for d in deltas + decoder.finish() if isinstance(d, Text)) == "one two "


# ---- log-probabilities


def with_logprobs(tokens: Sequence[int]) -> EngineChunk:
    entries = [TokenLogprobs(token, -0.5, [(token, -0.5)]) for token in tokens]
    return EngineChunk(list(tokens), logprobs=entries)


def entry(token: int) -> Logprob:
    raw = tokenizer().token_bytes(token)
    alone = Logprob(raw.decode(errors="replace"), -0.5, raw)
    return Logprob(alone.token, alone.logprob, alone.raw, (alone,))


def test_each_token_of_an_answer_has_its_log_probability_on_its_text() -> None:
    tokens = ids("one two")
    deltas = [delta for t in tokens for delta in new_decoder_fed(with_logprobs([t]))]
    assert [delta.logprobs for delta in deltas if isinstance(delta, Text)] == [
        (entry(token),) for token in tokens
    ]


def new_decoder_fed(chunk: EngineChunk) -> list[ParsedDelta]:
    decoder = new_decoder()
    return [*decoder.feed(chunk), *decoder.finish()]


def test_the_tokens_of_half_characters_wait_for_their_text() -> None:
    tokens = ids("🙂")
    assert len(tokens) > 1
    decoder = new_decoder()
    for token in tokens[:-1]:
        assert decoder.feed(with_logprobs([token])) == []
    assert decoder.feed(with_logprobs(tokens[-1:])) == [Text("🙂", tuple(map(entry, tokens)))]


def test_thoughts_and_calls_have_no_log_probabilities() -> None:
    answer = [entry(token) for token in ids("I look, né? 🙂")]
    deltas = new_decoder_fed(with_logprobs(ids(OUTPUT)))
    told = [logprob for d in deltas if isinstance(d, Text) for logprob in d.logprobs]
    # What surrounds the answer (closing tag, line breaks, end of the call) may be told beside it.
    assert [logprob for logprob in told if logprob in answer] == answer
    assert not any(logprob in told for logprob in [entry(token) for token in ids("weather")])
