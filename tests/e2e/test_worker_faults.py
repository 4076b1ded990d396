"""Workers are killed, hang and come back under a whole gateway: what clients of it notice."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.e2e.engine_processes import EngineProcess, engine_processes
from tests.e2e.gateway import MODEL, PATIENCE_SECONDS, Served
from tests.e2e.gateway import served as serve

Json = dict[str, Any]

NEVER_MS, SLOW_MS, AT_ONCE_MS = 60_000.0, 30.0, 0.0
WORDS = "one two three four five"
SHORT, ENDLESS = f"[[say:{WORDS}]]", "[[long:5000]]"
KINDS = [(path, streamed) for path in ("chat", "responses") for streamed in (False, True)]


@dataclass
class Heard:
    """What a client has heard so far, and in the end."""

    status: int = 0
    worker: str = ""
    """Where a stream was tried first."""
    id: str = ""
    """Of a response that is streamed."""
    text: str = ""
    is_complete: bool = False
    errors: list[Json] = field(default_factory=list)
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with a stream's first text."""

    @property
    def is_whole(self) -> bool:
        return (self.text, self.is_complete, self.errors) == (WORDS, True, [])

    def take(self, event: Json) -> None:
        """Note one event of a stream of either kind."""
        for choice in event.get("choices", ()):
            self.text += choice["delta"].get("content") or ""
            self.is_complete |= choice["finish_reason"] == "stop"
        if event.get("type") == "response.created":
            self.id = event["response"]["id"]
        if event.get("type") == "response.output_text.delta":
            self.text += event["delta"]
        self.is_complete |= event.get("type") == "response.completed"
        if event.get("type") == "response.failed":
            self.errors.append(event["response"]["error"])
        if "error" in event:
            self.errors.append(event["error"])
        if self.text:
            self.has_begun.set()

    def take_whole(self, answer: Json) -> None:
        """Note an answer that was not streamed."""
        if answer.get("error"):
            self.errors.append(answer["error"])
            return
        if "choices" in answer:
            [choice] = answer["choices"]
            self.text, self.is_complete = choice["message"]["content"], True
            return
        self.text = text_of(answer)
        self.is_complete = answer["status"] == "completed"


def text_of(response: Json) -> str:
    [message] = response["output"]
    return str(message["content"][0]["text"])


async def ask(served: Served, path: str, streamed: bool, question: str, heard: Heard) -> Heard:
    said: Json = {"messages": [{"role": "user", "content": question}]}
    url = "/chat/completions"
    if path == "responses":
        url, said = "/responses", {"input": question}
    body = {"model": MODEL, "stream": streamed, **said}
    async with served.http.stream("POST", url, json=body) as answer:
        heard.status = answer.status_code
        heard.worker = answer.headers.get("x-smg-worker", "")
        if not streamed:
            heard.take_whole(json.loads(await answer.aread()))
            return heard
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                heard.take(json.loads(line.removeprefix("data: ")))
    return heard


@asynccontextmanager
async def fleet(folder: Path, *pauses_ms: float, **settings: Any) -> AsyncIterator["Fleet"]:
    """A gateway that prefers the first of some engines, one for each pause."""
    async with engine_processes(*pauses_ms) as engines:
        usual = {
            "worker_urls": tuple(engine.url for engine in engines),
            "policy": "passthrough",
            "expose_workers": True,
            "health_check_interval_secs": 0.2,
            "health_success_threshold": 1,
            # Clients ask more than once in these tests, and a breaker is tested elsewhere.
            "cb_failure_threshold": 1000,
        }
        async with serve(folder, tools=False, **{**usual, **settings}) as served:
            yield Fleet(served, engines)
            # A gateway that ends tells a worker that hangs to abort, and waits for its answer.
            await asyncio.gather(*(engine.kill() for engine in engines))


@dataclass(frozen=True)
class Fleet:
    """A gateway and its engines."""

    served: Served
    engines: list[EngineProcess]

    def begin(self, path: str, streamed: bool, question: str) -> tuple[asyncio.Task[Heard], Heard]:
        """Ask, and go on; the answer to come, and what is heard of it meanwhile."""
        heard = Heard()
        return asyncio.create_task(ask(self.served, path, streamed, question, heard)), heard

    async def metric(self, name: str, engine: EngineProcess) -> float:
        """What the gateway tells of a worker."""
        async with httpx2.AsyncClient() as client:
            page = (await client.get(f"{self.served.url}/metrics")).text
        told = re.search(rf'^{name}{{.*worker="{engine.address}".*}} (\S+)$', page, re.MULTILINE)
        return float(told[1]) if told else 0.0

    async def until(
        self, name: str, engine: EngineProcess, enough: Callable[[float], bool]
    ) -> None:
        """Ask the gateway until it tells so of a worker."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not enough(await self.metric(name, engine)):  # noqa: ASYNC110 - it tells nobody.
                await asyncio.sleep(0.01)

    async def until_sent(self, engine: EngineProcess, generations: int) -> None:
        """Wait until so many generations were sent to an engine that does not answer."""
        await self.until("smg_worker_requests_active", engine, lambda sent: sent >= generations)

    async def until_begun(self, engine: EngineProcess) -> None:
        """Wait until an engine has answered first tokens, and nobody waits for one."""
        await self.until("smg_worker_running_tokens", engine, lambda tokens: tokens > 0)
        await self.until("smg_worker_queued_tokens", engine, lambda tokens: tokens == 0)

    def ask_in_all_ways(self, question: str) -> "asyncio.Future[list[Heard]]":
        """Ask at both endpoints, streamed and not, all at once."""
        return asyncio.gather(*(self.begin(*kind, question)[0] for kind in KINDS))


async def test_a_worker_killed_before_the_first_token_is_not_noticed(tmp_path: Path) -> None:
    async with fleet(tmp_path, NEVER_MS, AT_ONCE_MS) as running:
        first, spare = running.engines
        asking = running.ask_in_all_ways(SHORT)
        await running.until_sent(first, len(KINDS))
        await first.kill()
        outcomes = await asking
        assert await running.metric("smg_worker_errors_total", first) == len(KINDS)
        assert await running.metric("smg_worker_selection_total", spare) == len(KINDS)
    assert [(heard.status, heard.is_whole) for heard in outcomes] == [(200, True)] * len(KINDS)


async def test_a_worker_killed_in_mid_stream_is_told_and_nothing_is_said_twice(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path, SLOW_MS, AT_ONCE_MS) as running:
        first, spare = running.engines
        asking = running.ask_in_all_ways(ENDLESS)
        await running.until_sent(first, len(KINDS))
        await running.until_begun(first)
        await first.kill()
        outcomes = await asking
        assert await running.metric("smg_worker_selection_total", spare) == 0
        [streamed_response] = [heard for heard in outcomes if heard.id]
        stored = (await running.served.http.get(f"/responses/{streamed_response.id}")).json()
    assert (stored["status"], text_of(stored)) == ("failed", streamed_response.text)
    assert [told(heard) for heard in outcomes] == [
        (200 if streamed else 503, streamed, False, ["server_error"]) for _, streamed in KINDS
    ]


def told(heard: Heard) -> tuple[int, bool, bool, list[str]]:
    """The status, whether there was text, whether it was all, and the errors."""
    codes = [error["code"] for error in heard.errors]
    return heard.status, bool(heard.text), heard.is_complete, codes


async def test_a_worker_that_hangs_before_the_first_token_is_passed_over(tmp_path: Path) -> None:
    async with fleet(tmp_path, NEVER_MS, AT_ONCE_MS, first_token_timeout_secs=1.0) as running:
        first, spare = running.engines
        asking = running.ask_in_all_ways(SHORT)
        await running.until_sent(first, len(KINDS))
        first.freeze()
        outcomes = await asking
        assert await running.metric("smg_worker_selection_total", spare) == len(KINDS)
    assert [(heard.status, heard.is_whole) for heard in outcomes] == [(200, True)] * len(KINDS)


async def test_a_worker_that_hangs_in_mid_stream_is_given_up_and_told(tmp_path: Path) -> None:
    async with fleet(tmp_path, SLOW_MS, AT_ONCE_MS, next_token_timeout_secs=1.0) as running:
        first, spare = running.engines
        asking = running.ask_in_all_ways(ENDLESS)
        await running.until_sent(first, len(KINDS))
        await running.until_begun(first)
        first.freeze()
        outcomes = await asking
        assert await running.metric("smg_worker_selection_total", spare) == 0
    assert [told(heard) for heard in outcomes] == [
        (200 if streamed else 504, streamed, False, ["server_error"]) for _, streamed in KINDS
    ]


async def test_a_worker_that_comes_back_gets_work_again(tmp_path: Path) -> None:
    async with fleet(tmp_path, AT_ONCE_MS, AT_ONCE_MS) as running:
        first, spare = running.engines

        async def answered_by(path: str) -> str:
            heard = await ask(running.served, path, True, SHORT, Heard())
            assert heard.is_whole
            return heard.worker

        assert await answered_by("chat") == first.address
        await first.kill()
        heard = await ask(running.served, "responses", True, SHORT, Heard())
        assert heard.is_whole
        assert await running.metric("smg_worker_selection_total", spare) == 1
        await first.start()
        await running.until("smg_worker_health", first, bool)
        assert await answered_by("chat") == first.address


async def test_nothing_is_lost_that_a_flapping_worker_had_not_begun(tmp_path: Path) -> None:
    async with fleet(tmp_path, SLOW_MS, SLOW_MS, policy="round_robin") as running:
        flapping, _ = running.engines
        outcomes: list[Heard] = []
        over = asyncio.Event()

        async def client(kinds: "itertools.cycle[tuple[str, bool]]") -> None:
            while not over.is_set():
                outcomes.append(await ask(running.served, *next(kinds), SHORT, Heard()))

        async with asyncio.TaskGroup() as clients:
            for number in range(8):
                clients.create_task(client(itertools.cycle([*KINDS[number % 4 :], *KINDS])))
            for _ in range(2):
                await running.until_begun(flapping)
                await flapping.kill()
                await flapping.start()
                await running.until("smg_worker_health", flapping, bool)
            over.set()
        lost = [heard for heard in outcomes if not heard.is_whole]
        failed = await running.metric("smg_worker_errors_total", flapping)
    assert failed > 0
    assert all(heard.errors and not heard.is_complete for heard in lost)
    assert all(heard.text for heard in lost if heard.status == 200)


async def test_one_of_three_is_killed_under_64_streams_and_none_is_lost_that_had_not_begun(
    tmp_path: Path,
) -> None:
    # A token takes so long that streams are found waiting for their first.
    async with fleet(tmp_path, *[250.0] * 3, policy="round_robin") as running:
        killed = running.engines[0]

        def begin(streams: int) -> list[tuple[asyncio.Task[Heard], Heard]]:
            return [
                running.begin(("chat", "responses")[n % 2], True, SHORT) for n in range(streams)
            ]

        asked = begin(36)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(heard.has_begun.wait() for _, heard in asked))
        asked += begin(12)
        await running.until("smg_worker_queued_tokens", killed, lambda tokens: tokens > 0)
        await killed.kill()
        asked += begin(16)
        outcomes = [await asking for asking, _ in asked]
        moved = await running.metric("smg_worker_errors_total", killed)
    lost = [heard for heard in outcomes if not heard.is_whole]
    assert {heard.worker for heard in lost} == {killed.address}
    assert all(heard.text and WORDS.startswith(heard.text) for heard in lost)
    assert [len(heard.errors) for heard in lost] == [1] * len(lost)
    assert 0 < len(lost) < moved, (
        "it died with streams that had not begun, and they went on elsewhere"
    )
