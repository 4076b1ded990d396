"""A process that saves responses and says so: `python -m tests.storage.writer URL NAME COUNT`."""

import asyncio
import sys

from smg.storage.sql import SqlStore
from tests.contracts.store import ANN, response


async def write(url: str, name: str, count: int) -> None:
    """Save a chain of responses; each is announced after `save` has returned."""
    store = await SqlStore.open(url)
    before: str | None = None
    for number in range(count):
        record = response(f"{name}{number}", after=before)
        await store.responses.save(record)
        before = record.id
        sys.stdout.write(f"{record.id} {ANN}\n")
        sys.stdout.flush()
    await store.close()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3])))
