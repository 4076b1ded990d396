"""What an engine's prefix cache would know: how much of a prompt it has seen before.

Whole blocks of token ids, each named by a hash of itself and all before it, as vLLM does; ids in,
a count and what has changed out. A full cache drops the block that was not used for longest, and
no block before those that follow it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Block:
    """A cached piece of a prompt."""

    name: int
    parent: int | None
    tokens: Sequence[int]
    children: int = 0


@dataclass(slots=True)
class Meeting:
    """What became of the cache when a prompt came."""

    cached: int
    """How many leading tokens were seen before."""
    stored: list[Block] = field(default_factory=list)
    """New blocks, parent to child."""
    removed: list[int] = field(default_factory=list)
    """Names of those that made room."""


class PrefixCache:
    """The blocks of the prompts so far."""

    def __init__(self, block_size: int, max_blocks: int, seed: int = 0) -> None:
        """Caches with other seeds name the same blocks otherwise."""
        self._size = block_size
        self._max_blocks = max_blocks
        self._seed = seed
        self._blocks: OrderedDict[int, Block] = OrderedDict()

    def meet(self, ids: Sequence[int]) -> Meeting:
        """Remember a prompt.

        The last token is never served from the cache: something must be computed.
        """
        chain = list(self._chain(ids))
        known = 0
        while known < len(chain) and chain[known].name in self._blocks:
            known += 1
        cached = min(known, (len(ids) - 1) // self._size)
        for block in chain[known:]:
            self._blocks[block.name] = block
            if block.parent is not None:
                self._blocks[block.parent].children += 1
        for block in reversed(chain):
            self._blocks.move_to_end(block.name)
        return Meeting(cached * self._size, chain[known:], list(self._make_room()))

    def blocks(self) -> Iterator[Block]:
        """All that is cached, each block after its parent."""
        told: set[int] = set()
        for block in self._blocks.values():
            for each in reversed(list(self._line(block))):
                if each.name not in told:
                    told.add(each.name)
                    yield each

    def clear(self) -> None:
        """Forget all."""
        self._blocks.clear()

    def _line(self, block: Block) -> Iterator[Block]:
        while True:
            yield block
            if block.parent is None:
                return
            block = self._blocks[block.parent]

    def _make_room(self) -> Iterator[int]:
        while len(self._blocks) > self._max_blocks:
            # Children were used no later than their parents, so one of them is the oldest.
            name = next(name for name, block in self._blocks.items() if not block.children)
            block = self._blocks.pop(name)
            if block.parent is not None:
                self._blocks[block.parent].children -= 1
            yield name

    def _chain(self, ids: Sequence[int]) -> Iterator[Block]:
        parent = None
        for start in range(0, len(ids) - self._size + 1, self._size):
            tokens = tuple(ids[start : start + self._size])
            name = hash((self._seed, parent, *tokens))
            yield Block(name, parent, tokens)
            parent = name
