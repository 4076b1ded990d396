"""How each token of a vocabulary reads when it stands among others.

Most tokenizers decode every token apart from its neighbours: byte-level BPE and SentencePiece
with byte fallback both map an id to bytes, whatever comes before it. For those this module makes
a table once; for any other decoder there is no table, and `table` says so with `None`.
A tokenizer's parsed tokenizer.json comes in. Knows no stream and no stop string.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ToBytes = Callable[[str], bytes]

ALL = 1000
"""More spaces than a token has."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """The vocabulary as bytes."""

    texts: list[str | None]
    """By id: the text of an ordinary token that is whole characters; else `None`."""
    raw: Mapping[int, bytes]
    """The bytes of every other token."""
    first_spaces: int
    """How many spaces at the very start of a decoded text are left out."""


def table(
    tokenizer: Mapping[str, Any], vocabulary: Mapping[str, int], added: Mapping[int, str]
) -> Pieces | None:
    """The pieces of a tokenizer whose tokens decode one by one; `None` for any other."""
    reading = _reading(tokenizer.get("decoder"))
    if reading is None:
        return None
    to_bytes, first_spaces = reading
    texts: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    raw: dict[int, bytes] = {}
    for token, token_id in vocabulary.items():
        if token_id in added:
            # Its own text: the decoder would read the letters of `<é>` as bytes.
            raw[token_id] = added[token_id].encode()
            continue
        content = to_bytes(token)
        try:
            texts[token_id] = content.decode()
        except UnicodeDecodeError:
            raw[token_id] = content
    return Pieces(texts, raw, first_spaces)


def _reading(decoder: Any) -> tuple[ToBytes, int] | None:
    """How the decoder reads one token, and how many spaces it drops at the start."""
    match decoder:
        case {"type": "ByteLevel"}:
            return _byte_level, 0
        case {"type": "Metaspace", "replacement": str(mark), **rest}:
            first_spaces = 0 if rest.get("prepend_scheme") == "never" else ALL
            return _sentencepiece(mark, byte_fallback=False), first_spaces
        case {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}:
            return _byte_level, 0
        case {"type": "Sequence", "decoders": list(steps)}:
            return _sequence(steps)
    return None


def _sequence(steps: list[Any]) -> tuple[ToBytes, int] | None:
    """SentencePiece as tokenizer.json spells it: replace, byte fallback, fuse, perhaps strip."""
    mark: str | None = None
    byte_fallback = fused = False
    first_spaces = 0
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": " "}:
                mark = pattern
            case {"type": "ByteFallback"}:
                byte_fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused:
                first_spaces = start
            case _:
                return None
    return (
        (_sentencepiece(mark, byte_fallback=byte_fallback), first_spaces)
        if fused and mark
        else None
    )


def _sentencepiece(mark: str, *, byte_fallback: bool) -> ToBytes:
    def to_bytes(token: str) -> bytes:
        if byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        return token.replace(mark, " ").encode()

    return to_bytes


def _byte_letters() -> dict[int, int]:
    """GPT-2's alphabet: printable Latin-1 letters stand for themselves, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    # A byte that is no letter of the alphabet must not pass for one: send it out of Latin-1.
    letters = {byte: byte if byte in printable else 0xFFFF for byte in range(256)}
    for order, byte in enumerate(sorted(set(range(256)) - printable)):
        letters[0x100 + order] = byte
    return letters


_LETTERS = _byte_letters()


def _byte_level(token: str) -> bytes:
    try:
        return token.translate(_LETTERS).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()
