"""How long /health takes while the gateway is as busy as it gets.

    python -m benchmarks.health [--seconds 10] [--streams 64]

Real processes: the scripted engine, a gateway with SQLite on disk, and this one, which plays all
clients. Health is asked fifty times a second, each time on a new connection. The
loads come one after the other: nothing; streams; the same with prompts of 100k tokens, none of
them seen before; the same with bodies of 10 MB. Beside it stands what the gateway's own watch of
its event loop says.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import smg.testing
from benchmarks.load import percentile, post
from benchmarks.processes import Running, free_port, running

MODEL = Path(smg.testing.__file__).parent / "model"
PAUSE_S = 0.02
TOKENS = 100_000
BODY_BYTES = 10_000_000
SENTENCE = "The tool said that it rains in Oslo, so take a coat. "

Client = Callable[["Load"], Awaitable[None]]


async def answered(port: int, request: bytes) -> int:
    """Send one request on a connection of its own and read the answer to its end; its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        closing = request.replace(b"\r\nhost:", b"\r\nconnection: close\r\nhost:", 1)
        writer.write(closing)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        while await reader.read(1 << 16):
            pass
        return status
    finally:
        writer.close()


def responses(text: str) -> bytes:
    body = {"model": "scripted", "input": text, "stream": True}
    return post("/v1/responses", json.dumps(body).encode())


class Load:
    """Clients that ask again and again; what they were answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._number = itertools.count()
        self.statuses: dict[str, dict[int, int]] = {}

    async def ask(self, kind: str, text: Callable[[int], str]) -> None:
        while True:
            status = await answered(self._port, responses(text(next(self._number))))
            seen = self.statuses.setdefault(kind, {})
            seen[status] = seen.get(status, 0) + 1

    async def stream(self) -> None:
        await self.ask("streams", lambda _: "[[long:100]]")

    async def prompt(self) -> None:
        words = SENTENCE * (TOKENS // 14)
        await self.ask("prompts", lambda n: f"Number {n}. {words} [[say:Read.]]")

    async def body(self) -> None:
        words = SENTENCE * (BODY_BYTES // len(SENTENCE))
        await self.ask("bodies", lambda n: f"Number {n}. {words}")


async def health(port: int, seconds: float) -> list[float]:
    """The seconds that each question took, connecting included, as a prober asks."""
    took: list[float] = []
    request = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    until = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        assert await answered(port, request) == 200
        took.append(time.perf_counter() - begun)
        await asyncio.sleep(PAUSE_S)
    return took


@asynccontextmanager
async def gateway(folder: Path) -> AsyncGenerator[Running, None]:
    engine_port, port = free_port(), free_port()
    engine = [sys.executable, "-m", "smg.testing.engine", "--port", str(engine_port)]
    flags = {
        "--port": port,
        "--worker-urls": f"grpc://127.0.0.1:{engine_port}",
        "--model-path": MODEL,
        "--database-url": f"sqlite:///{folder / 'smg.db'}",
    }
    program = [sys.executable, "-m", "smg", *(str(w) for pair in flags.items() for w in pair)]
    async with AsyncExitStack() as stack:
        slow = [*engine, "--itl-ms", "20", "--max-context", "200000"]
        await stack.enter_async_context(running("engine", engine_port, slow, folder / "engine.log"))
        yield await stack.enter_async_context(
            running("gateway", port, program, folder / "gateway.log", "/readiness")
        )


def worst_lag_ms(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    name = "smg_event_loop_lag_worst_seconds "
    return next(float(line[len(name) :]) for line in lines if line.startswith(name)) * 1000


async def measure(name: str, port: int, clients: Sequence[Client], seconds: float) -> None:
    load = Load(port)
    tasks = [asyncio.create_task(client(load)) for client in clients]
    try:
        await asyncio.sleep(min(2.0, seconds / 4))
        took = await health(port, seconds)
    finally:
        for task in tasks:
            task.cancel()
        failed = [e for e in await asyncio.gather(*tasks, return_exceptions=True) if _is_bug(e)]
    cells = [f"{percentile(took, part) * 1000:.1f}" for part in (0.5, 0.99, 1)]
    lag = await asyncio.to_thread(worst_lag_ms, port)
    answers = ", ".join(f"{kind} {count}" for kind, count in load.statuses.items())
    print(f"| {name} | {len(took)} | {' | '.join(cells)} | {lag:.0f} | {answers} |", flush=True)
    for error in failed:
        raise error


def _is_bug(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, asyncio.CancelledError)


async def run(seconds: float, streams: int) -> None:
    print("| load | asked | p50 ms | p99 ms | max ms | worst lag ms | answers |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        async with gateway(Path(folder)) as process:
            many: list[Client] = [Load.stream] * streams
            loads: dict[str, list[Client]] = {
                "nothing": [],
                f"{streams} streams": many,
                "... and 2 prompts of 100k tokens at a time": [*many, *[Load.prompt] * 2],
                "... and 2 bodies of 10 MB at a time": [
                    *many,
                    *[Load.prompt] * 2,
                    *[Load.body] * 2,
                ],
            }
            for name, clients in loads.items():
                await measure(name, process.port, clients, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--streams", type=int, default=64)
    options = parser.parse_args()
    asyncio.run(run(options.seconds, options.streams))


if __name__ == "__main__":
    main()
