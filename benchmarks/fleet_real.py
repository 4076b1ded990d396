"""Which policy serves a fleet best, in real processes, beside the published `smg` package.

    python -m benchmarks.fleet_real [--peer SMG_PROGRAM] [--policy NAME ...] [--record]

The engines of `engine_model.py` speak vLLM's gRPC on ports of their own (`stand_ins.py`), the
traffic of `workload.py` comes over HTTP as streamed chat completions, each at its time. For each
row engines and gateway are started anew, and the texts and times are the same. The gateways take
turns within a policy. Engines, texts and times are made up; sockets, processes and gateways are
real. One prompt more or less costs seconds at an engine and milliseconds in a gateway, and the
table says what part of a core each gateway used, so that nobody has to believe that.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.engines import MODEL, engines
from benchmarks.fleet_table import Row, report
from benchmarks.gateways import Command, ours, peer
from benchmarks.kv_blocks import BLOCK
from benchmarks.load import percentile
from benchmarks.open_loop import Outcome, Question, ask_all
from benchmarks.processes import Running, free_port, running
from benchmarks.report import record
from benchmarks.workload import Conversation, Passage, workload
from smg.errors import ConfigError
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer

MODEL_NAME = "made-up"
LONGEST_ANSWER = 512
ROUND_TRIP_S = 0.5
"""What a client takes to read an answer and to ask again, beside its pause."""
STEP_S = 0.0145
"""A token of an answer, where a few are written at once."""
SETTLE_S = 1.0
POLICIES = ("round_robin", "least_load", "cache_aware")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured."""

    peer: str | None
    policy: Sequence[str]
    workers: int
    requests: int
    rate: float
    slower: float
    kv_tokens: int
    kv_events: bool
    seed: int
    record: bool


def main() -> None:
    """Run all rows; print the table."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="smg-fleet-") as folder:
        rows = list(asyncio.run(bench(options, Path(folder))))
    text = report(rows, _facts(options))
    print(text)
    if options.record:
        record(text)


def _options() -> Options:
    parser = argparse.ArgumentParser(description="Policies before a fleet of made-up engines")
    parser.add_argument("--peer", help="the published package's `smg` program")
    parser.add_argument("--policy", nargs="+", default=POLICIES, help="round_robin is the measure")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=300, help="of each row")
    parser.add_argument("--rate", type=float, default=7.0, help="requests a second")
    parser.add_argument(
        "--slower", type=float, default=2.0, help="engines, times the usual seconds"
    )
    parser.add_argument("--kv-tokens", type=int, default=120_000, help="an engine's KV cache")
    parser.add_argument("--kv-events", action="store_true", help="engines tell how caches change")
    parser.add_argument("--seed", type=int, default=7, help="of the workload")
    parser.add_argument("--record", action="store_true", help="add the table to RESULTS.md")
    return Options(**vars(parser.parse_args()))


def _facts(options: Options) -> str:
    told = "told" if options.kv_events else "not told"
    return (
        f"{options.workers} engines, {options.slower:g} times slower than in the simulation, KV "
        f"cache of {options.kv_tokens} tokens each, cache events {told}; {options.requests} "
        f"requests a row, {options.rate:g} a second, seed {options.seed}"
    )


async def bench(options: Options, folder: Path) -> list[Row]:
    made = engines(None, folder, LONGEST_ANSWER)
    (folder / "ids.txt").write_text(" ".join(map(str, made.ids)))
    words, tokenizer = _words(), Tokenizer.load(locate(str(MODEL)))
    questions = [
        question
        for told in workload(options.requests, options.rate * options.slower, options.seed)
        for question in _questions(
            told, words, tokenizer.decode(made.ids[: told.answer]), options.slower
        )
    ]
    rows = []
    for policy in options.policy:
        for name in ["ours"] + ["peer"] * (options.peer is not None):
            rows.append(await _row(name, policy, questions, options, folder))
            print(f"{rows[-1].gateway}, {policy}: {rows[-1].line()}", file=sys.stderr, flush=True)
    return rows


def _words() -> list[str]:
    """Words that are one token each, wherever they stand."""
    vocabulary = json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(
        word[1:] for word in vocabulary if word[0] == "Ġ" and word[1:].isalpha() and len(word) > 2
    )


def _questions(
    told: Conversation, words: Sequence[str], answer: str, slower: float
) -> Iterator[Question]:
    """A conversation's questions, each with all that was said before it.

    The answers in it are what the engines say: what they wrote is found in their caches, too.
    """
    *system, asked = told.opening
    messages = [{"role": "system", "content": _text(each, words)} for each in system]
    messages.append({"role": "user", "content": _text(asked, words)})
    every = told.answer * STEP_S + told.pause + ROUND_TRIP_S
    for step in range(told.steps):
        yield Question(
            at=slower * (told.at + step * every),
            body=_body(list(messages), told.answer),
            headers={"x-smg-routing-key": told.key},
            tokens=told.answer,
        )
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": _text(told.added(step + 1), words)})


def _text(passage: Passage, words: Sequence[str]) -> str:
    return "".join(f" {word}" for word in passage.drawn(words))


def _body(messages: list[dict[str, str]], tokens: int) -> dict[str, Any]:
    return {
        "model": MODEL_NAME,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _row(
    name: str, policy: str, questions: Sequence[Question], options: Options, folder: Path
) -> Row:
    ports = [free_port() for _ in range(options.workers)]
    told = folder / "report.json"
    workers = [f"grpc://127.0.0.1:{port}" for port in ports]
    flags = ["--policy", policy]
    command = (
        ours(workers, MODEL, folder / f"{policy}.db", *flags)
        if name == "ours"
        else peer(str(options.peer), workers, MODEL, *flags)
    )
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(
            running("engines", ports[-1], _fleet(ports, options, folder, told), folder / "e.log")
        )
        try:
            gateway = await _start(stack, command, len(ports), folder / "gateway.log")
        except ConfigError as error:
            return Row(gateway=command.name, policy=policy, failed=str(error)[-300:])
        processes = (gateway, fleet)
        before = [each.cpu_seconds() for each in processes], sum(os.times()[:2])
        outcomes = await ask_all(gateway.port, questions)
        used = [each.cpu_seconds() - then for each, then in zip(processes, before[0], strict=True)]
        used.append(sum(os.times()[:2]) - before[1])
    return _measured(command.name, policy, outcomes, used, json.loads(told.read_text()))


def _fleet(ports: Sequence[int], options: Options, folder: Path, told: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.stand_ins", "--ports", *map(str, ports)),
        *("--ids", str(folder / "ids.txt"), "--model", str(MODEL), "--report", str(told)),
        *("--slower", str(options.slower), "--kv-tokens", str(options.kv_tokens)),
        *(["--kv-events"] if options.kv_events else []),
    ]


async def _start(stack: AsyncExitStack, command: Command, workers: int, log: Path) -> Running:
    started = running(command.name, command.port, command.words, log, "/readiness")
    gateway = await stack.enter_async_context(started)
    # The peer is ready with its first worker; ours has asked all of them by then.
    async with asyncio.timeout(60):
        while await asyncio.to_thread(  # noqa: ASYNC110 - another process tells nobody.
            _ready_workers, command.port
        ) not in (workers, None):
            await asyncio.sleep(0.1)
    await asyncio.sleep(SETTLE_S)
    return gateway


def _ready_workers(port: int) -> int | None:
    """How many workers a gateway has found; `None`: it does not tell."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness", timeout=5) as answer:
        told: dict[str, Any] = json.loads(answer.read())
    return told.get("healthy_workers")


def _measured(
    gateway: str,
    policy: str,
    outcomes: Sequence[Outcome],
    used: Sequence[float],
    engines: Sequence[dict[str, float]],
) -> Row:
    good = [each for each in outcomes if not each.error]
    errors = [each.error for each in outcomes if each.error]
    if not good:
        return Row(gateway=gateway, policy=policy, failed=errors[0])
    firsts = [each.first_s for each in good]
    seconds = max(each.ended_at for each in good)
    read = [each["read"] for each in engines]
    return Row(
        gateway=gateway,
        policy=policy,
        p50_s=percentile(firsts, 0.5),
        p99_s=percentile(firsts, 0.99),
        mean_s=mean(firsts),
        tokens_per_s=sum(each.tokens for each in good) / seconds,
        found=sum(each["found"] for each in engines) / sum(read),
        evicted_tokens=BLOCK * sum(each["evicted_blocks"] for each in engines),
        busiest=max(read) / mean(read),
        late_p99_s=percentile([each.late_s for each in good], 0.99),
        slowed=sum(each["took_s"] for each in engines) / sum(each["meant_s"] for each in engines),
        errors=errors,
        cores=[each / seconds for each in used],
    )


if __name__ == "__main__":
    main()
