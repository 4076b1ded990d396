"""Which worker has which blocks of prompts in its KV cache, by its own word.

What ranks of workers tell (`smg/engines/kv.py`) comes in, how much of a prompt each has goes out.
An engine's names of blocks are its own, so a block is known here by a key made of its tokens and
the key of the block before it: a prompt is looked up by its own tokens. Whoever has a block is a
bit of a number, so that a look-up is one pass over the prompt for all workers whose blocks are of
one size.

What was sent to a worker a moment ago is expected there: the engine tells of it only when it has
read it. An expectation ends when it is fulfilled, or when its time is over.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from smg.engines.kv import Removed, Stored

WIDTH: Final = 4
"""Bytes of a token."""
MAX_BLOCKS: Final = 262_144
"""Of one rank, at about 200 bytes each: with 16 tokens a block more than most devices hold."""
MAX_ROOTS: Final = 65_536
MAX_COPIES: Final = 8
SWEEP: Final = 512
"""Blocks of those that are gone that are tidied away with each event."""


class Place(NamedTuple):
    """One rank of the worker at an address; engines without ranks have number 0."""

    address: str
    rank: int


@dataclass(slots=True, eq=False)
class _Cache:
    """What one rank has told."""

    bit: int
    """Its bit among the holders; 0 once it is gone."""
    size: int = 0
    """Tokens in a block; 0: not known yet."""
    group: int | None = None
    """The kind of cache that counts, where a model has several: the first that was told of."""
    keys: dict[int, int] = field(default_factory=dict)
    """Our keys by the engine's names, the oldest first."""
    copies: dict[int, int] = field(default_factory=dict)
    """How often a block is there, if more than once: an engine removes copies one by one."""
    roots: set[int] = field(default_factory=set)
    """Every first block that was told of, also those that are gone again."""


class BlockIndex:
    """The caches of all workers of a model."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        """`max_blocks` are those remembered of one rank."""
        self._max_blocks = max_blocks
        self._caches: dict[Place, _Cache] = {}
        self._holders: dict[int, int] = {}
        self._expected: dict[int, dict[_Cache, float]] = {}
        self._deadlines: deque[tuple[float, _Cache, Sequence[int]]] = deque()
        self._gone: deque[tuple[int, Iterator[int]]] = deque()
        self._free_bits: list[int] = []
        self._bits = 0

    def __len__(self) -> int:
        """How many blocks are known, one that several have counted once."""
        return len(self._holders)

    def count(self, place: Place) -> int:
        """How many blocks a rank has."""
        cache = self._caches.get(place)
        return len(cache.keys) if cache else 0

    def places(self, address: str) -> list[Place]:
        """The ranks of a worker that have told anything."""
        return [place for place in self._caches if place.address == address]

    # ---- what engines tell

    def suppose_size(self, place: Place, size: int) -> None:
        """Take blocks to be of this size until the first is told of."""
        cache = self._cache(place)
        if not cache.keys:
            cache.size = size

    def store(self, place: Place, stored: Stored) -> None:
        """Note blocks that are cached now."""
        cache = self._cache(place)
        if cache.group is None:
            cache.group = stored.group
        # Where a beginning is not known (told before we listened), no prompt leads to the rest.
        key = 0 if stored.parent is None else cache.keys.get(stored.parent)
        if key is None or stored.group != cache.group or not stored.blocks:
            return
        size = len(stored.blocks[0].tokens) // WIDTH
        if not cache.keys:
            cache.size = size
        if size != cache.size:
            return
        for block in stored.blocks:
            child = hash((key, block.tokens))
            if key == 0:
                self._note_root(cache, child)
            key = child
            self._hold(cache, block.hash, key)
        if len(cache.keys) > self._max_blocks:
            self._release(cache, list(islice(cache.keys, 1 + self._max_blocks // 8)))
        self._sweep()

    def remove(self, place: Place, removed: Removed) -> None:
        """Note blocks that are cached no longer."""
        cache = self._cache(place)
        if cache.group not in (None, removed.group):
            return
        for name in removed.hashes:
            copies = cache.copies.pop(name, 1)
            if copies > 2:
                cache.copies[name] = copies - 1
            elif copies == 1:
                self._release(cache, (name,))
        self._sweep()

    def clear(self, place: Place) -> None:
        """Note that nothing is cached now."""
        old = self._cache(place)
        self.forget(place)
        cache = self._cache(place)
        cache.size, cache.group = old.size, old.group

    def forget(self, place: Place) -> None:
        """Know nothing of a rank any more; what it had is tidied away later, piece by piece."""
        cache = self._caches.pop(place, None)
        if cache is not None:
            self._gone.append((cache.bit, iter(cache.keys.values())))
            cache.bit = 0

    # ---- what is asked

    def overlaps(self, ids: Sequence[int], now: float) -> dict[Place, int]:
        """How many leading tokens each rank has, or will soon.

        Only ranks that have ever told of the first block are named: of the others it is not known
        whether they had it before anybody listened.
        """
        self._end_expectations(now)
        found: dict[Place, int] = {}
        tokens = array("I", ids).tobytes() if self._caches else b""
        for size in {cache.size for cache in self._caches.values() if cache.size}:
            found |= self._overlaps(tokens, size, now)
        return found

    def expect(self, place: Place, ids: Sequence[int], until: float) -> None:
        """Take a prompt to be cached there soon; until then it is, unless the time passes."""
        cache = self._caches.get(place)
        if cache is None or not cache.size:
            return
        keys = [
            key
            for key in _chain(array("I", ids).tobytes(), cache.size)
            if not self._holders.get(key, 0) & cache.bit
        ]
        for key in keys:
            waiting = self._expected.setdefault(key, {})
            waiting[cache] = max(until, waiting.get(cache, until))
        if keys:
            self._deadlines.append((until, cache, keys))

    def _overlaps(self, tokens: bytes, size: int, now: float) -> dict[Place, int]:
        # `alive` are those that have every block so far.
        alive, ends, depth = self._told_root(tokens, size), list[tuple[int, int]](), 0
        for key in _chain(tokens, size):
            if not alive:
                break
            here = alive & (self._holders.get(key, 0) | self._expecting(key, now))
            if here != alive:
                ends.append((alive & ~here, depth))
                alive = here
            depth += size
        ends.append((alive, depth))
        return {
            place: length
            for place, cache in self._caches.items()
            for bits, length in ends
            if cache.bit & bits
        }

    def _told_root(self, tokens: bytes, size: int) -> int:
        """Those with blocks of this size that have ever told of the prompt's first one."""
        root = next(_chain(tokens, size), None)
        if root is None:
            return 0
        told = (c.bit for c in self._caches.values() if c.size == size and root in c.roots)
        return sum(told)

    def _expecting(self, key: int, now: float) -> int:
        waiting = self._expected.get(key)
        return sum(cache.bit for cache, until in waiting.items() if until > now) if waiting else 0

    # ---- holders

    def _cache(self, place: Place) -> _Cache:
        cache = self._caches.get(place)
        if cache is None:
            cache = self._caches[place] = _Cache(self._new_bit())
        return cache

    def _new_bit(self) -> int:
        if self._free_bits:
            return self._free_bits.pop()
        self._bits += 1
        return 1 << (self._bits - 1)

    def _note_root(self, cache: _Cache, key: int) -> None:
        if len(cache.roots) >= MAX_ROOTS:
            cache.roots.clear()  # It is as if these had been told of before anybody listened.
        cache.roots.add(key)

    def _hold(self, cache: _Cache, name: int, key: int) -> None:
        if cache.keys.get(name) == key:
            cache.copies[name] = min(cache.copies.get(name, 1) + 1, MAX_COPIES)
            return
        self._release(cache, (name,))  # The same name for other tokens: the engine has begun anew.
        cache.keys[name] = key
        self._holders[key] = self._holders.get(key, 0) | cache.bit
        if cache in self._expected.get(key, ()):
            self._end_expectation(key, cache)

    def _release(self, cache: _Cache, names: Iterable[int]) -> None:
        for name in names:
            cache.copies.pop(name, None)
            key = cache.keys.pop(name, None)
            if key is not None:
                self._drop_bit(key, cache.bit)

    def _drop_bit(self, key: int, bit: int) -> None:
        left = self._holders.get(key, 0) & ~bit
        if left:
            self._holders[key] = left
        else:
            self._holders.pop(key, None)

    def _sweep(self) -> None:
        """Tidy away some of what ranks had that are forgotten."""
        if not self._gone:
            return
        bit, keys = self._gone[0]
        some = list(islice(keys, SWEEP))
        for key in some:
            self._drop_bit(key, bit)
        if len(some) < SWEEP:
            self._gone.popleft()
            self._free_bits.append(bit)

    def _end_expectation(self, key: int, cache: _Cache) -> None:
        waiting = self._expected[key]
        del waiting[cache]
        if not waiting:
            del self._expected[key]

    def _end_expectations(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            until, cache, keys = self._deadlines.popleft()
            for key in keys:
                if self._expected.get(key, {}).get(cache) == until:
                    self._end_expectation(key, cache)


def _chain(tokens: bytes, size: int) -> Iterator[int]:
    """The keys of a prompt's whole blocks; Python hashes bytes with a secret of the process."""
    width, key = size * WIDTH, 0
    for at in range(0, len(tokens) - width + 1, width):
        key = hash((key, tokens[at : at + width]))
        yield key
