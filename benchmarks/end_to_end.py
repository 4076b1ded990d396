"""The whole gateway under load, beside the published `smg` package on the same engine.

    python -m benchmarks.end_to_end [--peer SMG_PROGRAM] [--seconds 3] [--rounds 3] [--record]

Every process is real: engine, gateways, and this one, which plays all clients. The gateways take
turns within each load, so that whatever else the machine does meets both. `make bench` runs it.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.engines import MODEL, Engines, built_engine, engines, first_token_seconds
from benchmarks.gateways import ours, peer
from benchmarks.load import Ask, Measured, drive, percentile, post
from benchmarks.processes import Running, running
from benchmarks.report import Cell, Run, record, report

BUILT = Path("build/bench")
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PAUSE_MS = 8
CLIENTS_PLAIN = 16


@dataclass(frozen=True, slots=True)
class Load:
    """One thing that clients do all the time."""

    name: str
    path: str
    streamed: bool
    extra: dict[str, Any] = field(default_factory=dict)

    def ask(self, model: str, answer: str) -> Ask:
        """The request, and how its answer begins and ends."""
        text = f"Please answer. [[say:{answer}]]"  # The scripted engine does as it is told.
        said = (
            {"messages": [{"role": "user", "content": text}]} if self.is_chat else {"input": text}
        )
        body = {"model": model, "temperature": 0, **said, **self.extra}
        if self.streamed:
            body["stream"] = True
        return Ask(
            post(self.path, json.dumps(body).encode()),
            b'"finish_reason":"stop"' if self.is_chat else b'"status":"completed"',
            self._first() if self.streamed else None,
        )

    @property
    def is_chat(self) -> bool:
        """Whether it is chat, which has shorter frames and no state."""
        return self.path == CHAT

    def _first(self) -> re.Pattern[bytes]:
        first = rb'"content": ?"[^"]' if self.is_chat else rb"event: response\.output_text\.delta"
        return re.compile(first)


LOADS = tuple(
    Load(f"{name}, {kind}", path, streamed, extra)
    for streamed, kind in ((False, "whole"), (True, "streamed"))
    for name, path, extra in (
        ("chat", CHAT, {}),
        ("responses, not stored", RESPONSES, {"store": False}),
        ("responses, stored", RESPONSES, {"store": True}),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and with what."""

    engine: Path | None
    peer: str | None
    seconds: float
    rounds: int
    streams: int
    tokens: int
    record: bool


def main() -> None:
    """Run all loads; print the table."""
    options = _options()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(_bench(options))
    text = report(run)
    print(text)
    BUILT.mkdir(parents=True, exist_ok=True)
    (BUILT / "latest.md").write_text(text)
    if options.record:
        record(text)


def _options() -> Options:
    parser = argparse.ArgumentParser(description="Gateways under load, side by side")
    parser.add_argument("--engine", type=Path, default=built_engine(BUILT), help="load_engine")
    parser.add_argument("--peer", help="the published package's `smg` program")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each load")
    parser.add_argument("--streams", type=int, default=64, help="streams at once")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--record", action="store_true", help="add the table to RESULTS.md")
    return Options(**vars(parser.parse_args()))


async def _bench(options: Options) -> Run:
    run = Run(engine="", tokens=options.tokens, options=vars_of(options))
    with tempfile.TemporaryDirectory(prefix="smg-bench-") as folder:
        made = engines(options.engine, Path(folder), options.tokens)
        run.engine = made.name
        for itl_ms in (0, PAUSE_MS):
            async with _started(made, itl_ms, options) as (engine, gateways):
                firsts = await first_token_seconds(engine, made.ids)
                run.engine_first_ms[itl_ms] = statistics.median(firsts) * 1e3
                for load in LOADS:
                    if load.streamed == bool(itl_ms):
                        await _measure(run, load, engine, gateways, made, options)
                for gateway in gateways:
                    run.memory[gateway.name] = _memory(gateway, run)
    return run


def vars_of(options: Options) -> dict[str, object]:
    return {
        "seconds": options.seconds,
        "rounds": options.rounds,
        "streams": options.streams,
        "connections": CLIENTS_PLAIN,
        "pause_ms": PAUSE_MS,
    }


@asynccontextmanager
async def _started(
    made: Engines, itl_ms: int, options: Options
) -> AsyncGenerator[tuple[Running, list[Running]], None]:
    """An engine of this speed and the gateways in front of it."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(made.start(itl_ms))
        worker = f"grpc://127.0.0.1:{engine.port}"
        commands = [ours([worker], MODEL, made.folder / f"{itl_ms}.db")]
        if options.peer is not None:
            commands.append(peer(options.peer, [worker], MODEL))
        gateways = []
        for command in commands:
            log = made.folder / f"{command.name.replace(' ', '-')}.log"
            started = running(command.name, command.port, command.words, log, "/readiness")
            gateways.append(await stack.enter_async_context(started))
        yield engine, gateways


async def _measure(
    run: Run,
    load: Load,
    engine: Running,
    gateways: list[Running],
    made: Engines,
    options: Options,
) -> None:
    connections = options.streams if load.streamed else CLIENTS_PLAIN
    ask = load.ask("scripted" if options.engine is None else "load", made.answer)
    for gateway in gateways:
        await drive(gateway.port, ask, connections=connections, seconds=1.0)  # To warm it up.
    for _ in range(options.rounds):
        for gateway in gateways:
            before = gateway.cpu_seconds(), engine.cpu_seconds(), sum(os.times()[:2])
            got = await drive(gateway.port, ask, connections=connections, seconds=options.seconds)
            after = gateway.cpu_seconds(), engine.cpu_seconds(), sum(os.times()[:2])
            used = [now - then for now, then in zip(after, before, strict=True)]
            run.add(load.name, gateway.name, _cell(got, used, run, PAUSE_MS * load.streamed))
            print(".", end="", flush=True, file=sys.stderr)


def _cell(got: Measured, used: list[float], run: Run, itl_ms: int) -> Cell:
    answers = len(got.took)
    firsts = [after * 1e3 - run.engine_first_ms[itl_ms] for after in got.first_after]
    return Cell(
        per_second=answers / got.seconds,
        cpu_ms=used[0] / answers * 1e3,
        first_ms=firsts,
        took_p50_ms=percentile(got.took, 0.5) * 1e3,
        took_p99_ms=percentile(got.took, 0.99) * 1e3,
        bytes_per_answer=got.received / answers,
        cores=[seconds / got.seconds for seconds in used],
    )


def _memory(gateway: Running, run: Run) -> tuple[float, float]:
    """Resident now and at most, of both runs the higher."""
    old = run.memory.get(gateway.name, (0.0, 0.0))
    return max(old[0], gateway.memory_mib()), max(old[1], gateway.memory_mib("VmHWM"))


if __name__ == "__main__":
    main()
