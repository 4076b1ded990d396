"""Token ids to text as they come: one object for each generation.

Ids in, `TextDelta`s out. Half a character, and what may begin a stop string, is held back; control
tokens are dropped, or come as deltas of their own if a parser asked for them. Knows no parser.
"""

import codecs
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from smg.tokens.pieces import Pieces
from smg.tokens.stops import StopStrings
from smg.tokens.tokenizer import Tokenizer
from smg.turn import Sampling

LONGEST_WAIT = 8
"""Tokens to wait for the rest of a character before it is taken as broken."""


@dataclass(slots=True)  # Per token: unfrozen for speed.
class TextDelta:
    """New text, and the ids it came from."""

    text: str
    ids: list[int] = field(default_factory=list)
    marker: bool = False
    """Whether the text is exactly one token that was asked to be kept."""


class Detokenizer:
    """The text of one generation."""

    __slots__ = ("_decoder", "_ids", "_markers", "_stop", "_unusual", "stopped")

    def __init__(
        self,
        tokenizer: Tokenizer,
        keep: Collection[str] = frozenset(),
        stop: StopStrings | None = None,
        *,
        stop_ids: Collection[int] | None = None,
        keep_special: bool = False,
    ) -> None:
        """`keep` are added tokens that come as deltas of their own, whatever else they are.

        `stop_ids` end a generation and are not shown (`None`: the model's own); `keep_special`
        shows all other control tokens as text.
        """
        ids = {tokenizer.token_id(marker): marker for marker in keep}
        self._markers = {
            token_id: marker
            for token_id, marker in ids.items()
            if token_id is not None and token_id in tokenizer.added
        }
        unusual = frozenset(tokenizer.eos_ids if stop_ids is None else stop_ids)
        self._unusual = unusual if keep_special else unusual | tokenizer.special_ids
        self._stop = stop
        self._ids: list[int] = []
        pieces = tokenizer.pieces
        self._decoder: _Decoder = _Window(tokenizer) if pieces is None else _ByteStream(pieces)
        self.stopped = False
        """Whether a stop string ended the text; what comes after it is ignored."""

    @property
    def stop_matched(self) -> str | None:
        """The stop string that ended the text."""
        return None if self._stop is None else self._stop.matched

    def feed(self, ids: Sequence[int]) -> list[TextDelta]:
        """Take more tokens; give the text that is certain."""
        deltas: list[TextDelta] = []
        texts: list[str] = []
        for token_id in ids:
            if self.stopped:
                return deltas
            if token_id in self._markers:
                self._release("".join(texts) + self._decoder.flush(), deltas)
                texts.clear()
                self._mark(token_id, deltas)
                continue
            self._ids.append(token_id)
            if token_id not in self._unusual:
                texts.append(self._decoder.feed(token_id))
        self._release("".join(texts), deltas)
        return deltas

    def finish(self) -> list[TextDelta]:
        """Give up what is held back: no more is coming."""
        deltas: list[TextDelta] = []
        self._release(self._decoder.flush(), deltas)
        if self._stop is not None and not self.stopped:
            self._append(self._stop.finish(), deltas)
        return deltas

    def _release(self, text: str, deltas: list[TextDelta]) -> None:
        if self._stop is not None and text:
            text = self._stop.feed(text)
            self.stopped = self._stop.matched is not None
        self._append(text, deltas)

    def _mark(self, token_id: int, deltas: list[TextDelta]) -> None:
        """A marker is shown whole or, if it completes a stop string, only what is before that."""
        if self.stopped:
            return
        marker = self._markers[token_id]
        if self._stop is not None:
            text = self._stop.feed(marker)
            self.stopped = self._stop.matched is not None
            if self.stopped:
                self._append(text, deltas)
                return
            self._append((text + self._stop.finish()).removesuffix(marker), deltas)
        self._ids.append(token_id)
        self._append(marker, deltas, marker=True)

    def _append(self, text: str, deltas: list[TextDelta], *, marker: bool = False) -> None:
        if text:
            deltas.append(TextDelta(text, self._ids, marker))
            self._ids = []


def new_detokenizer(
    tokenizer: Tokenizer, sampling: Sampling, keep: Collection[str] = frozenset()
) -> Detokenizer:
    """The detokenizer that a generation with this sampling needs."""
    stop = StopStrings(sampling.stop, include=sampling.include_stop) if sampling.stop else None
    eos_ids = frozenset[int]() if sampling.ignore_eos else tokenizer.eos_ids
    return Detokenizer(
        tokenizer,
        keep,
        stop,
        stop_ids=eos_ids.union(sampling.stop_token_ids),
        keep_special=sampling.keep_special_tokens,
    )


class _Decoder(Protocol):
    """Tokens to text, in order."""

    def feed(self, token_id: int) -> str:
        """The text that is certain by now."""
        ...

    def flush(self) -> str:
        """Give up what is incomplete: something else follows."""
        ...


class _ByteStream:
    """Tokens that each stand for bytes.

    The table gives nearly every token's text at once; only parts of characters go through UTF-8
    decoding.
    """

    __slots__ = ("_open", "_raw", "_spaces", "_texts", "_utf8")

    def __init__(self, pieces: Pieces) -> None:
        self._texts = pieces.texts
        self._raw = pieces.raw
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._spaces = pieces.first_spaces
        # Nearly always false: neither at the start nor within a character.
        self._open = self._spaces > 0

    def feed(self, token_id: int) -> str:
        # Some engines' vocabularies are larger than the tokenizer's: such ids have no text.
        text = self._texts[token_id] if token_id < len(self._texts) else None
        if text is not None and not self._open:
            return text
        raw = self._raw.get(token_id, b"") if text is None else text.encode()
        return self._after(self._utf8.decode(raw))

    def flush(self) -> str:
        text = self._after(self._utf8.decode(b"", final=True))
        self._spaces = 0
        self._open = False
        return text

    def _after(self, text: str) -> str:
        if text and self._spaces:
            most = len(text) - len(text.lstrip(" "))
            text = text[min(self._spaces, most) :]
            self._spaces = 0
        self._open = self._spaces > 0 or bool(self._utf8.getstate()[0])
        return text


class _Window:
    """Tokens that read differently beside others: decode the last few anew, take what is new."""

    __slots__ = ("_new", "_shown", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []
        self._new: list[int] = []

    def feed(self, token_id: int) -> str:
        self._new.append(token_id)
        text = self._added()
        if text.endswith("\ufffd") and len(self._new) < LONGEST_WAIT:
            return ""
        return self._take(text)

    def flush(self) -> str:
        return self._take(self._added())

    def _added(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode([*self._shown, *self._new])[len(before) :]

    def _take(self, text: str) -> str:
        if text:
            self._shown, self._new = self._new, []
        return text
