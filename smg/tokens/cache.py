"""Remembers how text was encoded: whole prompts, and the pieces between control tokens.

A rendered prompt comes in, the ids that the tokenizer alone would give come out. A control token
ends whatever a tokenizer does with the text before it, so the pieces that begin with one are
encoded apart from each other: the next prompt of a conversation costs only what is new in it, and
a system prompt that many share is encoded once.
"""

import re
import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any

from smg.tokens.tokenizer import Tokenizer

CACHE_BYTES = 64 * 1024 * 1024
WHOLE_SHARE = 0.25
"""The part of the memory for whole prompts; the rest is for pieces."""
ENTRY_BYTES = 250
"""What an entry takes beside its text and its ids."""

Key = tuple[str | None, str]
"""The sign, if the text holds it, and the text."""


@dataclass(slots=True)
class Hits:
    """What was found, and what was not."""

    whole_hits: int = 0
    whole_misses: int = 0
    piece_hits: int = 0
    piece_misses: int = 0
    letters_found: int = 0
    """Of prompts that were not found whole."""
    letters_encoded: int = 0


class EncodeCache:
    """A tokenizer that remembers. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_bytes: int) -> None:
        """With no bytes it only passes on."""
        self.hits = Hits()
        self._is_off = max_bytes <= 0
        self._tokenizer = tokenizer
        self._whole = _Memory(int(max_bytes * WHOLE_SHARE))
        self._pieces = _Memory(max_bytes - int(max_bytes * WHOLE_SHARE))
        starts = boundaries(tokenizer.entries, tokenizer.controls)
        self._start = re.compile("|".join(map(re.escape, starts)) or "(?!)")
        self._lock = Lock()

    @property
    def bytes(self) -> int:
        """The memory taken, about."""
        return self._whole.bytes + self._pieces.bytes

    def encode(self, rendered: str, sign: str | None = None) -> list[int]:
        """As the tokenizer's own."""
        if self._is_off:
            return self._tokenizer.encode(rendered, sign)
        key = _key(rendered, sign)
        with self._lock:
            known = self._whole.get(key)
            self.hits.whole_hits += known is not None
            self.hits.whole_misses += known is None
        if known is None:
            known = self._joined(self._keys(rendered, sign))
            with self._lock:
                self._whole.put(key, known)
        return known.tolist()

    def _keys(self, rendered: str, sign: str | None) -> list[Key]:
        places = [found.start() for found in self._start.finditer(rendered)]
        cuts = [0, *(place for place in places if place), len(rendered)]
        pieces = (rendered[start:end] for start, end in pairwise(cuts))
        return [_key(piece, sign) for piece in pieces]

    def _joined(self, keys: list[Key]) -> "array[int]":
        with self._lock:
            found = [self._pieces.get(key) for key in keys]
        fresh: dict[Key, array[int]] = {}
        joined = array("I")
        for key, known in zip(keys, found, strict=True):
            ids = known if known is not None else fresh.get(key)
            if ids is None:
                # Outside the lock: this is what takes the time.
                ids = fresh[key] = array("I", self._tokenizer.encode(key[1], key[0]))
            joined.extend(ids)
        with self._lock:
            for key, ids in fresh.items():
                self._pieces.put(key, ids)
            self._count(keys, fresh)
        return joined

    def _count(self, keys: list[Key], fresh: Mapping[Key, Any]) -> None:
        letters = sum(len(text) for _, text in fresh)
        self.hits.piece_misses += len(fresh)
        self.hits.piece_hits += len(keys) - len(fresh)
        self.hits.letters_encoded += letters
        self.hits.letters_found += sum(len(text) for _, text in keys) - letters


def boundaries(entries: Iterable[Mapping[str, Any]], controls: Iterable[str]) -> list[str]:
    """The control tokens before each of which a prompt may be cut without changing its ids.

    Wherever the text of one stands it must be that token, whatever surrounds it: nothing may be
    swallowed before it, no rule about words or normalizing may decide, and no other token may
    begin before it and reach into it. Nor may it be what tells another that it is not alone.
    """
    added = list(entries)
    some_stand_alone = any(entry["single_word"] for entry in added)
    contents = [entry["content"] for entry in added if entry["content"]]
    wanted = set(controls)
    return sorted(
        entry["content"]
        for entry in added
        if entry["content"] in wanted
        and not (entry["lstrip"] or entry["normalized"] or entry["single_word"])
        and len(entry["content"]) > 1
        and entry["content"] == entry["content"].strip()
        and not (some_stand_alone and re.match(r"\w", entry["content"]))
        and not any(_reaches_into(other, entry["content"]) for other in contents)
    )


def _reaches_into(other: str, content: str) -> bool:
    """Whether `other` can begin before `content` and cover its beginning."""
    if other.find(content, 1) > 0:
        return True
    most = min(len(other), len(content)) - 1
    return any(other.endswith(content[:length]) for length in range(1, most + 1))


def _key(text: str, sign: str | None) -> Key:
    # A piece without the sign is the same piece in a prompt that has none.
    return sign if sign is not None and sign in text else None, text


class _Memory:
    """What was encoded, up to so many bytes; the least recently used goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._known: OrderedDict[Key, array[int]] = OrderedDict()

    def get(self, key: Key) -> "array[int] | None":
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def put(self, key: Key, ids: "array[int]") -> None:
        size = _size(key, ids)
        if size > self._max_bytes or key in self._known:
            return
        self._known[key] = ids
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= _size(*self._known.popitem(last=False))


def _size(key: Key, ids: "array[int]") -> int:
    return sys.getsizeof(key[1]) + len(ids) * ids.itemsize + ENTRY_BYTES
