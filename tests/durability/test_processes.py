"""One port, several processes: what one begins another follows, cancels, and goes on with."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from smg.errors import ConfigError
from smg.settings import Settings
from smg.sockets import bind
from smg.supervisor import Patience, Team, settings_of_child, supervise
from tests.durability.test_kill import BOOK, text_of
from tests.durability.world import PATIENCE_SECONDS, Process, World, until, world

TEN = "one two three four five six seven eight nine ten"


def connections(pid: int) -> set[tuple[int, int]]:
    """The TCP sockets of a process, each as its own port and the other's; 0: it listens."""
    folder = f"/proc/{pid}/fd"
    held = set()
    for entry in os.listdir(folder):
        with suppress(FileNotFoundError):  # Closed while it was looked at.
            held.add(os.readlink(f"{folder}/{entry}"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        (int(row[1].split(":")[1], 16), int(row[2].split(":")[1], 16))
        for row in rows
        if f"socket:[{row[9]}]" in held
    }


def listeners(supervisor: int, port: int) -> list[int]:
    """The children of a process that listen on a port."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    found = []
    for child in map(int, children):
        with suppress(FileNotFoundError):  # Ended while it was looked at.
            if (port, 0) in connections(child):
                found.append(child)
    return found


class Pair:
    """Two gateways behind one port, and a way to choose between them."""

    def __init__(self, front: Process) -> None:
        self.front = front
        self.port = httpx2.URL(front.url).port or 0

    @property
    def supervisor(self) -> int:
        return self.front.process.pid

    async def whole(self, without: int = 0) -> list[int]:
        """The two processes, once both listen."""
        found: list[int] = []

        async def are_two() -> bool:
            found[:] = listeners(self.supervisor, self.port)
            return len(found) == 2 and without not in found

        await until(are_two)
        return found

    @asynccontextmanager
    async def through(self, pid: int) -> AsyncIterator[httpx2.AsyncClient]:
        """A client whose one connection this process answers."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                client = httpx2.AsyncClient(
                    base_url=f"{self.front.url}/v1",
                    limits=httpx2.Limits(max_connections=1),
                    timeout=PATIENCE_SECONDS,
                )
                await client.get(f"{self.front.url}/health")
                if self._answers(pid):
                    break
                await client.aclose()
        try:
            yield client
        finally:
            await client.aclose()

    def _answers(self, pid: int) -> bool:
        mine = {(there, here) for here, there in connections(os.getpid()) if there == self.port}
        return bool(mine & connections(pid))


@asynccontextmanager
async def pair(around: World, *flags: str) -> AsyncIterator[Pair]:
    """Two processes that listen, stopped as an operator would."""
    front = await around.start("--processes", "2", *flags)
    both = Pair(front)
    await both.whole()
    try:
        yield both
    finally:
        assert await stopped(front) == 0


async def stopped(front: Process, told: signal.Signals = signal.SIGTERM) -> int:
    front.process.send_signal(told)
    # What it still says is read, for otherwise it might wait for a reader.
    async with asyncio.timeout(PATIENCE_SECONDS):
        await front.process.communicate()
    assert front.process.returncode is not None
    return front.process.returncode


def events_in(stream: bytes) -> list[dict[str, Any]]:
    frames = [frame for frame in stream.split(b"\n\n") if frame.startswith(b"event:")]
    return [json.loads(frame.split(b"data: ", 1)[1]) for frame in frames]


async def created(client: httpx2.AsyncClient, text: str) -> str:
    body = {"model": "scripted", "input": text, "background": True}
    answer = await client.post("/responses", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_what_one_process_begins_another_follows(tmp_path: Path) -> None:
    async with world(tmp_path, itl_ms=20) as around, pair(around) as both:
        one, two = await both.whole()
        async with both.through(one) as here, both.through(two) as there:
            response_id = await created(here, f"[[say:{TEN}]]")
            followed = await there.get(f"/responses/{response_id}?stream=true")
            events = events_in(followed.content)
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert events[-1]["type"] == "response.completed"
            assert text_of(events[-1]["response"]) == TEN
            assert (await here.get(f"/responses/{response_id}")).json() == events[-1]["response"]


async def test_what_one_process_works_on_another_cancels(tmp_path: Path) -> None:
    async with world(tmp_path) as around, pair(around) as both:
        around.ledger.open = False
        one, two = await both.whole()
        async with both.through(one) as here, both.through(two) as there:
            response_id = await created(here, BOOK)
            await around.ledger.reached(1)
            answer = await there.post(f"/responses/{response_id}/cancel")
            assert answer.json()["status"] == "cancelled"
            assert (await here.get(f"/responses/{response_id}")).json()["status"] == "cancelled"
            # This one's stream ends with the run: it does not go on behind the client's back.
            told = events_in((await here.get(f"/responses/{response_id}?stream=true")).content)
            assert "response.completed" not in {event["type"] for event in told}
            await around.ledger.release()
            assert len(around.engine.requests) == 1


async def test_a_killed_process_is_started_again_and_its_work_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, itl_ms=40) as around, pair(around) as both:
        one, two = await both.whole()
        async with both.through(one) as here, both.through(two) as there:
            response_id = await created(here, f"[[say:{TEN}]]")
            await around.engine.arrived(1)
            os.kill(one, signal.SIGKILL)
            followed = await there.get(f"/responses/{response_id}?stream=true")
            last = events_in(followed.content)[-1]
            assert (last["type"], text_of(last["response"])) == ("response.completed", TEN)
        again = await both.whole(without=one)
        assert two in again
        [new] = set(again) - {two}
        async with both.through(new) as fresh:
            assert (await fresh.get(f"/responses/{response_id}")).json() == last["response"]


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_all_of_them_and_gives_the_port_back(
    tmp_path: Path, told: signal.Signals
) -> None:
    async with world(tmp_path) as around:
        front = await around.start("--processes", "2")
        both = Pair(front)
        children = await both.whole()
        assert await stopped(front, told) == 0
        assert [pid for pid in children if is_alive(pid)] == []
        with socket.create_server(("127.0.0.1", both.port)):
            pass


async def test_children_do_not_outlive_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        front = await around.start("--processes", "2")
        children = await Pair(front).whole()
        await front.kill()

        async def are_gone() -> bool:
            return not [pid for pid in children if is_alive(pid)]

        await until(are_gone)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# The supervisor alone, with children that are a few words of Python


def team(code: str, *, count: int = 1, stop_seconds: float = 20.0) -> Team:
    patience = Patience(stop_seconds=stop_seconds, quick_deaths=3, backoff_seconds=0.001)
    return Team([sys.executable, "-c", code], count, patience)


async def appeared(path: Path) -> None:
    async def is_there() -> bool:
        return path.name in os.listdir(path.parent)

    await until(is_there)


async def test_a_child_that_dies_again_and_again_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await team("raise SystemExit(7)").run() == 7
    assert [record.getMessage() for record in caplog.records if record.levelno > 20] == [
        *["Process 0 ended with status 7: starting again"] * 2,
        "Process 0 ended with status 7: giving up",
    ]


async def test_a_child_that_was_given_something_wrong_is_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await team("raise SystemExit(2)").run() == 2
    assert "starting again" not in caplog.text


async def test_giving_up_one_ends_the_others() -> None:
    code = (
        "import os, time\n"
        "if os.environ['SMG_PROCESS_NUMBER'] == '1': raise SystemExit(3)\n"
        "time.sleep(60)"
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await team(code, count=2).run() == 3


async def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(deaf)!r}).touch()\n"
        "time.sleep(60)"
    )
    children = team(code, stop_seconds=0.1)
    running = asyncio.create_task(children.run())
    await appeared(deaf)
    children.stop(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await running == 1


async def test_a_hangup_is_passed_on(tmp_path: Path) -> None:
    heard, ready = tmp_path / "heard", tmp_path / "ready"
    code = (
        "import pathlib, signal, time\n"
        f"signal.signal(signal.SIGHUP, lambda *_: pathlib.Path({str(heard)!r}).touch())\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)"
    )
    children = team(code)
    running = asyncio.create_task(children.run())
    await appeared(ready)
    children.tell(signal.SIGHUP)
    await appeared(heard)
    children.stop(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await running == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(processes=2, port=0), "give them one --port"),
        (Settings(processes=2, database_url="sqlite:///:memory:"), "in memory cannot be shared"),
        (Settings(processes=2, database_url="sqlite://"), "in memory cannot be shared"),
    ],
)
async def test_what_processes_cannot_share_is_refused(settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await supervise(settings, [])


async def test_a_port_that_another_gateway_would_share_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        settings = Settings(processes=2, port=other.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot listen on"):
            await supervise(settings, [])


def test_a_port_is_shared_only_by_those_who_ask_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with bind(Settings(port=port), shared=True) as one, bind(Settings(port=port), shared=True):
        one.listen()
        with pytest.raises(ConfigError, match="cannot listen on"):
            bind(Settings(port=port))


def test_each_process_tells_its_metrics_on_a_port_of_its_own() -> None:
    assert settings_of_child(Settings(metrics_port=9100), 2).metrics_port == 9102
    assert settings_of_child(Settings(metrics_port=0), 2).metrics_port == 0
    assert settings_of_child(Settings(), 2) == Settings()
