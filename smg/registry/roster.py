"""The workers that are remembered over restarts, their keys sealed.

Named workers go in and come out; the store sees no key.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict

from smg.discovery.named import Description, Named
from smg.seal import NotOurs, Seal
from smg.storage.base import WorkerStore
from smg.storage.records import WorkerRecord

log = logging.getLogger(__name__)

PURPOSE = "worker key"


class Roster:
    """Who is to be there again at the next start."""

    def __init__(self, store: WorkerStore, seal: Seal) -> None:
        self._store = store
        self._seal = seal

    async def add(self, worker: Named) -> None:
        """Remember a worker."""
        await self._store.add(self._record(worker))

    async def change(self, worker: Named) -> None:
        """Remember what is said of a worker now, if it is at all; its key stays if none is said."""
        await self._store.change(self._record(worker))

    async def remove(self, url: str) -> None:
        """Forget a worker, if it was remembered."""
        await self._store.remove(url)

    async def all(self) -> Sequence[Named]:
        """Everybody; a worker whose key cannot be read is left out, and told of."""
        found = [self._named(record) for record in await self._store.all()]
        return [worker for worker in found if worker is not None]

    def _record(self, worker: Named) -> WorkerRecord:
        key = worker.api_key
        return WorkerRecord(
            url=worker.url,
            description=asdict(worker.description),
            # Bound to the URL: in another row it opens nothing.
            sealed_key=None if key is None else self._seal.seal(PURPOSE, worker.url, key),
        )

    def _named(self, record: WorkerRecord) -> Named | None:
        key = record.sealed_key
        try:
            api_key = None if key is None else self._seal.open(PURPOSE, record.url, key)
        except NotOurs:
            log.warning(
                "Worker %s of an earlier run is left out: its key was sealed with another "
                "--seal-key; add it again",
                record.url,
            )
            return None
        return Named(url=record.url, description=Description(**record.description), api_key=api_key)
