"""What workers know of a prompt: by their own word where they give it, else by what was sent.

A worker's word is better: it tells what was evicted, and what others have sent. But it begins when
the gateway begins to listen, and says nothing of a prompt that was cached before. So it counts for
prompts whose first block the worker has told of, and for all others what was sent to it counts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from smg.engines.kv import Cleared, KvEvent, Removed, Stored
from smg.workers.policies.blocks import BlockIndex, Place
from smg.workers.policies.prefixes import PrefixTree
from smg.workers.worker import Worker

TOLD: Final = "kv events"
SENT: Final = "sent before"

EXPECTED_S: Final = 5.0
"""How long a worker may take to tell of a prompt that it has read ..."""
READ_PER_SECOND: Final = 2000
"""... after it has read, at this pace, all that waits there ..."""
LONGEST_S: Final = 60.0
"""... but not longer than this: then the prompt is taken not to be cached after all."""


@dataclass(frozen=True, slots=True)
class Known:
    """How many leading tokens of a prompt a worker knows, and how that is known."""

    tokens: int
    how: str


NOTHING: Final = Known(0, SENT)


class Knowledge:
    """What the workers of one model know."""

    def __init__(
        self,
        max_tokens: int,
        index: BlockIndex | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_tokens` are those remembered of what was sent."""
        self.index = index or BlockIndex()
        self._sent = PrefixTree(max_tokens)
        self._clock = clock
        self._names: dict[str, set[str]] = {}
        """The names of a worker and of its ranks, by its address."""

    def known(self, ids: Sequence[int], workers: Sequence[Worker]) -> dict[Worker, Known]:
        """What each worker knows of a prompt; who knows nothing is not named."""
        sent = self._sent.match(ids)
        told = self.index.overlaps(ids, self._clock())
        found = {}
        for worker in workers:
            lengths = [told[place] for place in self._places(worker) if place in told]
            if lengths:
                found[worker] = Known(max(lengths), TOLD)
            elif worker.address in sent:
                found[worker] = Known(sent[worker.address], SENT)
        return found

    def placed(self, ids: Sequence[int], worker: Worker) -> None:
        """Note a prompt that is sent to a worker; at once, for the next may come at once."""
        self._sent.insert(ids, worker.address)
        self._names.setdefault(worker.engine.address, set()).add(worker.address)
        waits_s = (worker.waiting_tokens + len(ids)) / READ_PER_SECOND
        until = self._clock() + min(EXPECTED_S + waits_s, LONGEST_S)
        for place in self._places(worker):
            self.index.expect(place, ids, until)

    def removed(self, worker: Worker) -> None:
        """Forget a worker that is gone for good."""
        self._sent.remove(worker.address)
        names = self._names.get(worker.engine.address, set())
        names.discard(worker.address)
        if not names:
            self._names.pop(worker.engine.address, None)
        for place in self._places(worker):
            self.index.forget(place)

    # ---- what workers tell

    def listen(self, place: Place, block_size: int) -> None:
        """A rank will be listened to; its blocks are of this size, if that is known."""
        if block_size:
            self.index.suppose_size(place, block_size)

    def hear(self, place: Place, event: KvEvent) -> None:
        """One thing that a rank's cache went through."""
        match event:
            case Stored():
                self.index.store(place, event)
            case Removed():
                self.index.remove(place, event)
            case Cleared():
                self.index.clear(place)
                self._forget_sent(place.address)

    def forget(self, address: str) -> None:
        """Know nothing of a worker any more: what it tells has a hole, or it is another by now."""
        for place in self.index.places(address):
            self.index.forget(place)
        self._forget_sent(address)

    def _forget_sent(self, address: str) -> None:
        for name in self._names.get(address, ()):
            self._sent.forget(name)

    def _places(self, worker: Worker) -> Sequence[Place]:
        """A rank's own place; those of all ranks where the worker chooses among them."""
        address = worker.engine.address
        if worker.rank is not None:
            return (Place(address, worker.rank),)
        return self.index.places(address)
