"""The KV cache of a made-up engine: whole blocks, each known by all that stands before it.

Hashes of blocks come in, how many are there and what was dropped for them come out. Blocks of
running generations stay; of the others the one not used for longest makes room, and the end of a
text before its beginning, as in vLLM. It must not know time, engines or texts.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK = 16
"""Tokens in a block."""


@dataclass(frozen=True, slots=True)
class Change:
    """What came into the cache and what left it, at one moment."""

    chain: Sequence[int] = ()
    """The blocks of one text, from its beginning."""
    first_new: int = 0
    """The place in it of the first that was stored; all after it were too."""
    removed: Sequence[int] = ()


def block_hashes(ids: Sequence[int]) -> list[int]:
    """The whole blocks of a text; an incomplete last one has no name."""
    hashes, last = [], 0
    for start in range(0, len(ids) - len(ids) % BLOCK, BLOCK):
        last = hash((last, *ids[start : start + BLOCK]))
        hashes.append(last)
    return hashes


def blocks_of(tokens: int) -> int:
    """The blocks that so many tokens take."""
    return -(-tokens // BLOCK)


class KvBlocks:
    """One engine's cache."""

    def __init__(self, tokens: int) -> None:
        self.capacity = tokens // BLOCK
        self.evicted = 0
        """Blocks that had to make room so far."""
        self._held: Counter[int] = Counter()
        """How many running generations need a block."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Blocks that may be dropped, the first to go first."""
        self._nameless = 0
        """Blocks of answers that are being written, and of ends of prompts."""

    @property
    def used(self) -> float:
        """The part that running generations hold: what may be dropped is not in use."""
        return (len(self._held) + self._nameless) / self.capacity

    def known(self, hashes: Sequence[int]) -> int:
        """How many leading blocks are there."""
        for count, name in enumerate(hashes):
            if name not in self._held and name not in self._idle:
                return count
        return len(hashes)

    def has_room(self, hashes: Sequence[int], nameless: int) -> bool:
        """Whether a generation can be let in, if need be by dropping what is idle."""
        new = sum(name not in self._held for name in set(hashes))
        return len(self._held) + self._nameless + new + nameless <= self.capacity

    def hold(self, hashes: Sequence[int], nameless: int) -> Change:
        """Let a generation in: its blocks stay until it lets go."""
        known = self.known(hashes)
        self._held.update(hashes)
        for name in hashes[:known]:
            self._idle.pop(name, None)
        self._nameless += nameless
        removed = self._make_room()
        return Change(hashes, known, removed)

    def let_go(self, hashes: Sequence[int], nameless: int, written: Sequence[int] = ()) -> Change:
        """The generation has ended: what it read, and the whole blocks it wrote, may be dropped."""
        self._nameless -= nameless
        own, chain = set(hashes), [*hashes, *written]
        known = self.known(chain)
        for name in reversed(chain):
            if name in own:
                self._held[name] -= 1
            if self._held[name] <= 0:  # Else somebody else is reading it.
                del self._held[name]
                self._idle[name] = None
                self._idle.move_to_end(name)
        removed = self._make_room()
        return Change(chain, known, removed)

    def _make_room(self) -> list[int]:
        removed = []
        while self._idle and self._count() > self.capacity:
            removed.append(self._idle.popitem(last=False)[0])
        self.evicted += len(removed)
        return removed

    def _count(self) -> int:
        return len(self._held) + len(self._idle) + self._nameless
