"""What durability costs: the storage's part of a response, step by step, on a SQLite file.

python -m benchmarks.durability [database URL]
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from smg.ids import new_id
from smg.items import Message, TextPart
from smg.storage.records import EventBatch, Lease, ResponseRecord, Step
from smg.storage.sql import SqlStore

ROUNDS = 200
FRAME = b"event: response.output_text.delta\ndata: " + b"x" * 220 + b"\n\n"


def record(response_id: str, status: str = "in_progress") -> ResponseRecord:
    """A response as a short turn leaves it."""
    asked = Message(id=new_id("msg"), role="user", parts=(TextPart("What is the weather?"),))
    said = Message(id=new_id("msg"), role="assistant", parts=(TextPart("It is fine. " * 20),))
    return ResponseRecord(
        id=response_id,
        owner="",
        model="m",
        status=status,
        created_at=int(time.time()),
        body={"id": response_id, "object": "response", "tools": [], "metadata": {}},
        input=(asked,),
        output=(said,) if status == "completed" else (),
    )


async def measured(name: str, work: Callable[[int], Awaitable[object]], per: int = 1) -> None:
    """Print the milliseconds of wall and CPU time of one use case."""
    await work(-1)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(ROUNDS):
        await work(number)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    shown = f"{wall / ROUNDS * 1e3:8.2f} ms {cpu / ROUNDS * 1e3:8.2f} ms CPU"
    extra = f"   {wall / ROUNDS / per * 1e6:7.1f} us a frame" if per > 1 else ""
    print(f"{name:44}{shown}{extra}")


async def main() -> None:
    """Measure every use case of a running response."""
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{Path(folder) / 'smg.db'}"
        store = await SqlStore.open(url)
        leases: list[Lease] = []

        async def begin(_: int) -> None:
            step = Step(number=0, kind="order", state={"turn": {"id": "x" * 800}})
            lease = await store.responses.begin_claimed(record(new_id("resp")), "gw", 60, step)
            leases.append(lease)

        async def step(number: int) -> None:
            state = {"items": [{"text": "x" * 600}]}
            await store.journal.append_step(
                leases[0], Step(number=number + 2, kind="calls", state=state)
            )

        def events(streams: int) -> Callable[[int], Awaitable[object]]:
            async def append(number: int) -> None:
                base = streams * 100_000 + (number + 1)
                batch = [(lease, EventBatch(base, [FRAME])) for lease in leases[:streams]]
                held = await store.journal.append_events(batch)
                assert all(held)

            return append

        async def save(number: int) -> None:
            lease = leases[number]
            done = record(lease.response_id, "completed")
            batch = EventBatch(10_000_000, [FRAME] * 5)
            await store.responses.save(done, lease=lease, events=batch)

        await measured("begin, with the order", begin)
        await measured("a step (calls, or a result)", step)
        await measured("one frame of one stream", events(1))
        await measured("one frame of each of 64 streams", events(64), per=64)
        await measured("the end: response, items, last frames", save)
        await measured(
            "stored only at its end",
            lambda _: store.responses.save(record(new_id("resp"), "completed")),
        )
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
