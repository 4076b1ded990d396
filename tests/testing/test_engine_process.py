import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from tests.testing.asking import Client, render, request, user

DOCS = Path(__file__).parents[2] / "docs/scripted-engine.md"


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "smg.testing.engine", "--port", "0", *arguments]
    started = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(20):
            yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def address(started: Process) -> str:
    assert started.stdout is not None
    line = (await started.stdout.readline()).decode()
    assert line.startswith("listening on 127.0.0.1:")
    return line.removeprefix("listening on ").strip()


async def test_a_process_announces_its_port_answers_and_stops_when_told() -> None:
    flags = ["--announce", "--itl-ms", "0.5", "--per-chunk", "2", "--servicer", "rust"]
    async with process(*flags, "--max-context", "500", "--model-name", "other") as started:
        async with grpc.aio.insecure_channel(await address(started)) as channel:
            stream = Client(channel).generate(request(render([user("[[say:one two three]]")])))
            counts = [
                message.chunk.completion_tokens or message.complete.completion_tokens
                async for message in stream
            ]
        assert counts == [2, 4, 4]
        started.send_signal(signal.SIGTERM)
        assert await started.wait() == 0


async def test_a_mistake_in_the_rules_is_one_line_and_status_two(tmp_path: Path) -> None:
    rules = tmp_path / "wrong.yaml"
    rules.write_text("rules: [{name: mine, say: 1}]")
    async with process("--rules", str(rules)) as started:
        _, errors = await started.communicate()
    assert errors.decode() == f"{rules}: rule 1 (mine): 1 must be text (in quotes)\n"
    assert started.returncode == 2


async def test_a_flag_out_of_range_is_refused() -> None:
    for flag in (["--per-chunk", "0"], ["--itl-ms", "-1"], ["--servicer", "go"]):
        async with process(*flag) as started:
            _, errors = await started.communicate()
        assert (flag[0] in errors.decode(), started.returncode) == (True, 2)


async def test_every_flag_is_in_the_documents() -> None:
    async with process("--help") as started:
        text, _ = await started.communicate()
    flags = set(re.findall(r"--[a-z-]+", text.decode())) - {"--help"}
    table = DOCS.read_text("utf-8").partition("| flag |")[2].partition("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", table)) - {"---"} >= flags


async def test_the_engine_ends_with_the_process_it_was_told_to_watch() -> None:
    watched = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)
    try:
        async with process("--announce", "--parent-pid", str(watched.pid)) as started:
            await address(started)
            await watched.communicate(b"\n")
            assert await started.wait() == 0
    finally:
        if watched.returncode is None:
            watched.kill()
            await watched.wait()


async def test_the_engine_ends_with_its_parent() -> None:
    # A shell between us and the engine: the engine is orphaned when the shell is killed.
    command = f"{sys.executable} -m smg.testing.engine --port 0 --announce --parent-pid $$ & wait"
    shell = await asyncio.create_subprocess_exec("sh", "-c", command, stdout=PIPE, stderr=PIPE)
    assert shell.stdout is not None
    async with asyncio.timeout(20):
        await address(shell)
        os.kill(shell.pid, signal.SIGKILL)
        assert await shell.stdout.read() == b""  # The engine has closed it: it is gone.
        await shell.communicate()
