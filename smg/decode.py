"""One generation's tokens to parsed deltas: detokenizer, parser, log-probabilities, usage.

This is the per-token path: no await, no logging, no pydantic.
"""

from dataclasses import replace

from smg.engines.base import EngineChunk, TokenLogprobs
from smg.events import Usage
from smg.items import Logprob
from smg.parsers.base import OutputParser, ParsedDelta, ReasoningText, Text, ToolCallArguments
from smg.tokens.detokenizer import Detokenizer
from smg.tokens.tokenizer import Tokenizer


class Decoder:
    """What one generation has said."""

    __slots__ = ("_detokenizer", "_parser", "_pending", "_reasoning", "_tokenizer", "_tokens")

    def __init__(
        self, detokenizer: Detokenizer, parser: OutputParser, tokenizer: Tokenizer
    ) -> None:
        self._detokenizer = detokenizer
        self._parser = parser
        self._tokenizer = tokenizer
        self._tokens = 0
        self._reasoning = 0
        self._pending: list[Logprob] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text; the engine may not know yet."""
        return self._detokenizer.stopped

    def feed(self, chunk: EngineChunk) -> list[ParsedDelta]:
        """Take new tokens; give what is certain."""
        self._tokens += len(chunk.ids)
        if chunk.logprobs:
            return self._feed_with_logprobs(chunk)
        if len(chunk.ids) == 1:
            return self._feed_one(chunk.ids[0])
        deltas: list[ParsedDelta] = []
        for token in chunk.ids:  # One by one: reasoning may end inside a chunk, and is counted.
            _join(deltas, self._feed_one(token))
        return deltas

    def finish(self) -> list[ParsedDelta]:
        """Give up what is held back: no more is coming."""
        deltas: list[ParsedDelta] = []
        for delta in self._detokenizer.finish():
            deltas += self._parser.feed(delta.text)
        deltas += self._parser.finish()
        return self._with_logprobs(deltas) if self._pending else deltas

    def usage(self, told: Usage | None, prompt_tokens: int) -> Usage:
        """The tokens of the generation: as the engine tells, or as counted here."""
        counted = told or Usage(input_tokens=prompt_tokens, output_tokens=self._tokens)
        return replace(counted, reasoning_tokens=self._reasoning)

    def _feed_one(self, token: int) -> list[ParsedDelta]:
        if self._parser.reasoning:
            self._reasoning += 1
        deltas: list[ParsedDelta] = []
        for delta in self._detokenizer.feed((token,)):
            if delta.marker:
                deltas += self._parser.feed_marker(delta.text)
            else:
                deltas += self._parser.feed(delta.text)
        return deltas

    def _feed_with_logprobs(self, chunk: EngineChunk) -> list[ParsedDelta]:
        deltas: list[ParsedDelta] = []
        for token, entry in zip(chunk.ids, chunk.logprobs, strict=True):
            self._pending.append(self._named(entry))
            deltas += self._with_logprobs(self._feed_one(token))
        return deltas

    def _with_logprobs(self, deltas: list[ParsedDelta]) -> list[ParsedDelta]:
        """Hang the waiting entries on the first answer text; those of other text are dropped.

        A token may bring no text yet (half a character, a possible marker): its entry waits.
        """
        if not deltas:
            return deltas
        entries, self._pending = tuple(self._pending), []
        first = next((delta for delta in deltas if isinstance(delta, Text)), None)
        if first is not None:
            first.logprobs = entries
        return deltas

    def _named(self, entry: TokenLogprobs) -> Logprob:
        rivals = tuple(self._one(token, value) for token, value in entry.top)
        return replace(self._one(entry.id, entry.logprob), top=rivals)

    def _one(self, token: int, value: float) -> Logprob:
        raw = self._tokenizer.token_bytes(token)
        return Logprob(raw.decode(errors="replace"), value, raw)


def _join(deltas: list[ParsedDelta], more: list[ParsedDelta]) -> None:
    """Add deltas to others; text goes on in the last one if it is of the same kind."""
    for delta in more:
        match deltas[-1] if deltas else None, delta:
            case (Text() as last, Text(text)):
                last.text += text
            case (ReasoningText() as last, ReasoningText(text)):
                last.text += text
            case (ToolCallArguments() as last, ToolCallArguments(text)):
                last.text += text
            case _:
                deltas.append(delta)
