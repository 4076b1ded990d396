"""What an engine's prefix cache would know: how much of a prompt it has seen before.

Whole blocks of token ids, each hashed with all before it, as vLLM does; ids in, a count out.
"""

from collections.abc import Sequence

BLOCK = 16
MAX_BLOCKS = 1 << 16  # A million tokens; then it forgets all, as a full cache would forget some.


class PrefixCache:
    """The blocks of all prompts so far."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def meet(self, ids: Sequence[int]) -> int:
        """How many leading tokens were seen before; the prompt is remembered.

        The last token is never served from the cache: something must be computed.
        """
        blocks = _hashes(ids)
        known = 0
        while known < (len(ids) - 1) // BLOCK and blocks[known] in self._seen:
            known += 1
        if len(self._seen) > MAX_BLOCKS:
            self._seen.clear()
        self._seen.update(blocks)
        return known * BLOCK


def _hashes(ids: Sequence[int]) -> list[int]:
    hashes = []
    last = 0
    for start in range(0, len(ids) - len(ids) % BLOCK, BLOCK):
        last = hash((last, *ids[start : start + BLOCK]))
        hashes.append(last)
    return hashes
