"""One generation's tokens to parsed deltas: detokenizer, parser, log-probabilities, usage.

This is the per-token path: no await, no logging, no pydantic.
"""

from collections.abc import Sequence
from dataclasses import replace

from smg.engines.base import EngineChunk, TokenLogprobs
from smg.events import Usage
from smg.items import Logprob
from smg.parsers.base import OutputParser, ParsedDelta, Text
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
        if self._parser.reasoning:
            self._reasoning += len(chunk.ids)
        if not chunk.logprobs:
            return self._feed(chunk.ids)
        deltas: list[ParsedDelta] = []
        for token, entry in zip(chunk.ids, chunk.logprobs, strict=True):
            self._pending.append(self._named(entry))
            deltas += self._with_logprobs(self._feed((token,)))
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

    def _feed(self, ids: Sequence[int]) -> list[ParsedDelta]:
        deltas: list[ParsedDelta] = []
        for delta in self._detokenizer.feed(ids):
            if delta.marker:
                deltas += self._parser.feed_marker(delta.text)
            else:
                deltas += self._parser.feed(delta.text)
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
