"""/workers on a real gateway with real engines: added, used, drained, removed, remembered."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from smg.app import gateway
from smg.discovery.fleet import Fleet
from smg.discovery.named import Named
from smg.errors import ConfigError, StorageError
from smg.registry.roster import Roster
from smg.registry.workers import Registry, RegistryRules
from smg.seal import Seal
from smg.settings import Settings
from smg.storage.records import WorkerRecord
from smg.testing.engine import EngineOptions, ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH
from tests.e2e.gateway import MODEL, listening
from tests.upstream.raw_server import as_json, raw_server

KEY = "secret-of-the-operator"
PATIENCE_S = 10.0
NOW = {"retry_max_retries": 1, "policy": "round_robin", "health_success_threshold": 1}

Json = dict[str, Any]


class Operator:
    """Who has the admin key, beside a client who needs none."""

    def __init__(self, http: httpx2.AsyncClient, key: str = KEY) -> None:
        self.http = http
        self.headers = {"authorization": f"Bearer {key}"}

    async def ask(self, method: str, path: str = "", body: Any = None) -> httpx2.Response:
        return await self.http.request(method, f"/workers{path}", json=body, headers=self.headers)

    async def add(self, url: str, **fields: Any) -> Json:
        answer = await self.ask("POST", "", {"url": url, **fields})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == answer.json()["location"]
        return dict(answer.json())

    async def one(self, worker_id: str) -> Json:
        answer = await self.ask("GET", f"/{worker_id}")
        return dict(answer.json())

    async def all(self) -> list[Json]:
        return list((await self.ask("GET")).json()["workers"])

    async def until(self, worker_id: str, status: str) -> Json:
        async def reached() -> Json | None:
            state = await self.one(worker_id)
            return state if state.get("status") == status else None

        return dict(await until(reached))

    async def models(self) -> list[str]:
        return [entry["id"] for entry in (await self.http.get("/v1/models")).json()["data"]]

    async def say(self, text: str = "Yes.", model: str = MODEL) -> httpx2.Response:
        body = {"model": model, "input": f"[[say:{text}]]"}
        return await self.http.post("/v1/responses", json=body)


async def until(reached: Callable[[], Awaitable[Any]]) -> Any:
    """What a question answers once it is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await reached()):
            pass  # A round trip to the gateway is pause enough.
        return found


@asynccontextmanager
async def operated(folder: Path, *urls: str, **settings: Any) -> AsyncIterator[Operator]:
    usual: Json = {
        "worker_urls": urls,
        "model_path": str(MODEL_PATH),
        "database_url": f"sqlite:///{folder / 'smg.db'}",
        "shutdown_grace_seconds": 1.0,
        "admin_key": KEY,
        **NOW,
    }
    async with (
        gateway(Settings(**{**usual, **settings})) as running,
        listening(running) as url,
        httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as http,
    ):
        yield Operator(http)


@pytest.fixture
async def nobody() -> int:
    """A port at which nobody listens."""
    async with ScriptedEngine() as engine:
        return int(engine.address.rpartition(":")[2])


async def streamed(operator: Operator) -> AsyncIterator[str]:
    body = {"model": MODEL, "input": "[[long:12]][[slow:1.5]]", "stream": True}
    async with operator.http.stream("POST", "/v1/responses", json=body) as answer:
        async for line in answer.aiter_lines():
            yield line


async def test_a_worker_that_is_added_while_a_stream_runs_is_used(tmp_path: Path) -> None:
    async with (
        ScriptedEngine() as first,
        ScriptedEngine() as second,
        operated(tmp_path, first.url) as operator,
    ):
        stream = streamed(operator)
        await anext(stream)
        added = await operator.add(second.url, labels={"zone": "a"}, runtime_type="vllm")
        assert (added["status"], added["url"]) == ("accepted", second.url)
        assert added["ignored"] == ["runtime_type"]
        ready = await operator.until(added["worker_id"], "ready")
        assert (ready["model_id"], ready["is_healthy"], ready["load"]) == (MODEL, True, 0)
        for _ in range(2):
            answer = await operator.say()
            assert answer.status_code == 200
        assert second.requests
        assert any("response.completed" in line for line in [line async for line in stream])


async def test_who_is_removed_ends_its_stream_and_gets_nothing_new(tmp_path: Path) -> None:
    async with (
        ScriptedEngine() as first,
        ScriptedEngine() as second,
        operated(tmp_path, first.url, second.url) as operator,
    ):
        stream = streamed(operator)
        await anext(stream)

        async def asked() -> list[ScriptedEngine]:
            await operator.all()
            return [engine for engine in (first, second) if engine.requests]

        [busy] = await until(asked)
        other = second if busy is first else first
        [worker] = [w for w in await operator.all() if w["url"] == busy.url]
        assert worker["load"] == 1
        removed = await operator.ask("DELETE", f"/{worker['id']}")
        assert removed.status_code == 202
        assert removed.json()["worker"]["status"] == "draining"
        assert removed.json()["worker"]["job_status"]["job_type"] == "RemoveWorker"
        assert (await operator.ask("POST", "", {"url": busy.url})).status_code == 409
        again = await operator.ask("PATCH", f"/{worker['id']}", {"draining": False})
        assert again.status_code == 409
        for _ in range(4):
            assert (await operator.say()).status_code == 200
        assert (len(busy.requests), len(other.requests)) == (1, 4)
        assert (await operator.one(worker["id"]))["status"] == "draining"
        assert any("response.completed" in line for line in [line async for line in stream])

        async def is_gone() -> bool:
            return (await operator.ask("GET", f"/{worker['id']}")).status_code == 404

        await until(is_gone)
        assert [w["url"] for w in await operator.all()] == [other.url]


async def test_a_worker_that_is_down_joins_when_it_comes_up(nobody: int, tmp_path: Path) -> None:
    async with ScriptedEngine() as first, operated(tmp_path, first.url) as operator:
        added = await operator.add(f"grpc://127.0.0.1:{nobody}")
        state = await operator.one(added["worker_id"])
        assert (state["status"], state["model_id"], state["is_healthy"]) == ("pending", None, False)
        job = state["job_status"]
        assert (job["job_type"], job["status"]) == ("AddWorker", "processing")
        assert job["worker_url"] == state["url"]
        assert abs(job["timestamp"] - time.time()) < PATIENCE_S
        async with ScriptedEngine(options=EngineOptions(port=nobody)):
            ready = await operator.until(added["worker_id"], "ready")
            assert ready["job_status"] is None


async def test_a_worker_that_never_answered_can_be_removed(nobody: int, tmp_path: Path) -> None:
    async with ScriptedEngine() as first, operated(tmp_path, first.url) as operator:
        added = await operator.add(f"grpc://127.0.0.1:{nobody}")
        await operator.ask("DELETE", f"/{added['worker_id']}")

        async def is_alone() -> bool:
            return len(await operator.all()) == 1

        await until(is_alone)


async def test_models_come_and_go_with_their_workers(tmp_path: Path) -> None:
    other = EngineOptions(model_name="other", told_path=str(MODEL_PATH))
    async with (
        ScriptedEngine() as first,
        ScriptedEngine(options=other) as second,
        operated(tmp_path, first.url) as operator,
    ):
        worker_id = (await operator.add(second.url))["worker_id"]
        await operator.until(worker_id, "ready")
        assert await operator.models() == [MODEL, "other"]
        assert (await operator.say(model="other")).status_code == 200
        listed = (await operator.ask("GET", "?model=other")).json()
        assert ([w["id"] for w in listed["workers"]], listed["total"]) == ([worker_id], 1)
        await operator.ask("DELETE", f"/{worker_id}")
        assert await operator.models() == [MODEL]
        assert (await operator.say(model="other")).status_code == 404


async def test_a_gateway_may_begin_without_workers_and_lose_all_again(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, operated(tmp_path) as operator:
        assert (await operator.http.get("/readiness")).status_code == 503
        for _ in range(2):
            worker_id = (await operator.add(engine.url))["worker_id"]
            await operator.until(worker_id, "ready")
            answer = await operator.say()
            assert answer.status_code == 200
            assert answer.headers["x-smg-worker"] == worker_id
            await operator.ask("DELETE", f"/{worker_id}")

            async def is_empty() -> bool:
                return not await operator.all()

            await until(is_empty)
            assert await operator.models() == []


async def test_http_workers_bring_all_their_models(tmp_path: Path) -> None:
    async with (
        ScriptedEngine() as first,
        raw_server() as web,
        operated(tmp_path, first.url) as operator,
    ):
        web.answers["/v1/models"] = as_json({"data": [{"id": "a"}, {"id": "b"}]})
        added = await operator.add(web.url)
        state = await operator.until(added["worker_id"], "ready")
        assert [model["id"] for model in state["models"]] == ["a", "b"]
        assert state["connection_mode"] == "http"


async def test_a_worker_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    async with (
        ScriptedEngine() as first,
        raw_server() as web,
        operated(tmp_path, first.url) as operator,
    ):
        web.answers["/v1/models"] = as_json({"data": [{"id": MODEL}]})
        added = await operator.add(web.url)
        state = await operator.until(added["worker_id"], "failed")
        assert state["error"] == f"{MODEL} has workers of another kind"
        job = state["job_status"]
        assert (job["status"], job["message"]) == ("failed", state["error"])


async def test_a_draining_worker_is_used_again_when_told_so(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, operated(tmp_path, engine.url) as operator:
        [worker] = await operator.all()
        path = f"/{worker['id']}"
        assert (await operator.ask("PATCH", path, {"draining": True})).status_code == 202
        assert (await operator.one(worker["id"]))["status"] == "draining"
        assert (await operator.say()).status_code == 503
        assert await operator.models() == [MODEL]
        assert (await operator.ask("PATCH", path, {"draining": False})).status_code == 202
        assert (await operator.say()).status_code == 200


async def test_added_workers_outlive_the_gateway_if_it_is_told_so(tmp_path: Path) -> None:
    async with ScriptedEngine() as first, ScriptedEngine() as second:
        async with operated(tmp_path, first.url, persist_workers=True) as operator:
            worker_id = (await operator.add(second.url))["worker_id"]
            await operator.until(worker_id, "ready")
        async with operated(tmp_path, first.url) as operator:
            assert len(await operator.all()) == 1  # Only who asks for them gets them back.
        async with operated(tmp_path, first.url, persist_workers=True) as operator:
            assert [w["url"] for w in await operator.all()] == [first.url, second.url]
            await operator.until(worker_id, "ready")
            await operator.ask("DELETE", f"/{worker_id}")
        async with operated(tmp_path, first.url, persist_workers=True) as operator:
            assert [w["url"] for w in await operator.all()] == [first.url]


async def test_remembered_workers_alone_serve_a_gateway(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine:
        for number in range(2):
            async with operated(tmp_path, persist_workers=True) as operator:
                if not number:
                    worker_id = (await operator.add(engine.url))["worker_id"]
                    await operator.until(worker_id, "ready")
                assert (await operator.say()).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_an_admin_key_nobody_may(method: str, tmp_path: Path) -> None:
    async with (
        ScriptedEngine() as engine,
        operated(tmp_path, engine.url, admin_key=None, api_key=("client",)) as operator,
    ):
        for key in (KEY, "client", "other"):
            operator.headers = {"authorization": f"Bearer {key}"}
            answer = await operator.ask(method, "", {"url": engine.url})
            assert answer.status_code == 403
            assert "--admin-key" in answer.json()["error"]["message"]


async def test_a_clients_key_is_not_the_admins(tmp_path: Path) -> None:
    async with (
        ScriptedEngine() as engine,
        operated(tmp_path, engine.url, api_key=("client",)) as operator,
    ):
        [worker] = await operator.all()
        operator.headers = {"authorization": "Bearer client"}
        body = {"url": "grpc://127.0.0.1:9"}
        assert (await operator.ask("GET")).status_code == 401
        assert (await operator.ask("POST", "", body)).status_code == 401
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            answer = await operator.ask(method, f"/{worker['id']}", body)
            assert answer.status_code == 401


async def test_one_key_cannot_be_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--admin-key"):
        async with operated(tmp_path, api_key=(KEY,)):
            pass


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "url"),
        ({"url": "ftp://127.0.0.1:1"}, "url"),
        ({"url": "grpc://127.0.0.1"}, "url"),
        ({"url": "http://u:p@127.0.0.1:1"}, "url"),
        ({"url": "grpc://127.0.0.1:1", "worker_type": "prefill"}, "worker_type"),
        ({"url": "grpc://127.0.0.1:1", "api_key": "k"}, "api_key"),
        ({"url": "http://127.0.0.1:1", "api_key": "two\nlines"}, "api_key"),
        ({"url": "http://127.0.0.1:1", "labels": {"zone": 1}}, "labels.zone"),
        ({"url": "http://127.0.0.1:1", "priority": "high"}, "priority"),
        ({"url": "http://127.0.0.1:1", "cost": -1}, "cost"),
        ({"url": "grpc://127.0.0.1:1", "dp_rank": 1}, "dp_rank"),
    ],
)
async def test_what_is_not_done_is_refused_by_name(body: Json, param: str, tmp_path: Path) -> None:
    async with operated(tmp_path) as operator:
        answer = await operator.ask("POST", "", body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert await operator.all() == []


async def test_a_worker_stays_what_it_is(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, operated(tmp_path, engine.url) as operator:
        [worker] = await operator.all()
        path = f"/{worker['id']}"
        same = await operator.ask("PUT", path, {"url": engine.url, "health": {}})
        assert (same.status_code, same.json()["ignored"]) == (202, ["health"])
        moved = await operator.ask("PUT", path, {"url": "grpc://127.0.0.1:1"})
        assert (moved.status_code, moved.json()["error"]["param"]) == (400, "url")
        for body, param in (({"health": {}, "draining": True}, "health"), ({}, None)):
            answer = await operator.ask("PATCH", path, body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        taken = await operator.ask("POST", "", {"url": engine.url})
        assert taken.json()["error"]["code"] == "WORKER_ALREADY_EXISTS"
        assert (await operator.ask("DELETE", "/nobody")).status_code == 404


async def test_with_several_processes_workers_are_only_shown(tmp_path: Path) -> None:
    async with (
        ScriptedEngine() as engine,
        operated(tmp_path, engine.url, processes=2) as operator,
    ):
        [worker] = await operator.all()
        for method, path in (("POST", ""), ("DELETE", f"/{worker['id']}")):
            answer = await operator.ask(method, path, {"url": "grpc://127.0.0.1:1"})
            assert answer.json()["error"]["code"] == "several_processes"


async def test_what_is_said_of_a_worker_is_shown_changed_and_replaced(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, operated(tmp_path) as operator:
        said = {"labels": {"zone": "a", "rack": "7"}, "priority": 7, "cost": 0.5}
        worker_id = (await operator.add(engine.url, **said))["worker_id"]
        path = f"/{worker_id}"

        async def described() -> Json:
            state = await operator.one(worker_id)
            return {name: state[name] for name in said}

        assert await described() == said
        changed = await operator.ask("PATCH", path, {"labels": {"zone": "b"}, "cost": 2})
        assert changed.status_code == 202
        assert await described() == {"labels": {"zone": "b"}, "priority": 7, "cost": 2.0}
        assert (await operator.ask("PUT", path, {"url": engine.url})).status_code == 202
        assert await described() == {"labels": {}, "priority": 50, "cost": 1.0}
        state = await operator.until(worker_id, "ready")
        assert state["status"] == "ready"
        both = await operator.ask("PATCH", path, {"priority": 1, "draining": True})
        assert both.json()["worker"]["priority"] == 1
        assert both.json()["worker"]["status"] == "draining"


async def test_a_change_that_cannot_be_made_whole_is_not_made(nobody: int, tmp_path: Path) -> None:
    async with operated(tmp_path) as operator:
        worker_id = (await operator.add(f"grpc://127.0.0.1:{nobody}"))["worker_id"]
        for refused in ({"draining": True}, {"api_key": "k"}):
            answer = await operator.ask("PATCH", f"/{worker_id}", {"priority": 1, **refused})
            assert answer.status_code in (400, 409)
            assert (await operator.one(worker_id))["priority"] == 50


def in_files(folder: Path, text: bytes) -> bool:
    return any(text in path.read_bytes() for path in folder.iterdir())


async def test_a_worker_has_a_key_of_its_own_that_nobody_is_shown(tmp_path: Path) -> None:
    kept: Json = {"persist_workers": True, "worker_api_key": "general", "seal_key": "sealing"}
    chat = "/v1/chat/completions"
    async with raw_server() as web:
        web.answers["/v1/models"] = as_json({"data": [{"id": "a"}]})

        async def key_for_a_generation(operator: Operator) -> str:
            await operator.say(model="a")
            return [headers["authorization"] for path, headers, _ in web.requests if path == chat][
                -1
            ]

        async with operated(tmp_path, **kept) as operator:
            added = await operator.ask("POST", "", {"url": web.url, "api_key": "its own"})
            assert added.status_code == 400  # No blanks in a key.
            worker_id = (await operator.add(web.url, api_key="its-own"))["worker_id"]
            state = await operator.until(worker_id, "ready")
            assert "its-own" not in json.dumps(state)
            assert await key_for_a_generation(operator) == "Bearer its-own"
            changed = await operator.ask("PATCH", f"/{worker_id}", {"api_key": "a-new-one"})
            assert "a-new-one" not in changed.text
            assert await key_for_a_generation(operator) == "Bearer a-new-one"
            await operator.ask("PUT", f"/{worker_id}", {"url": web.url, "labels": {"zone": "a"}})
        assert not in_files(tmp_path, b"a-new-one")
        async with operated(tmp_path, **kept) as operator:
            state = await operator.until(worker_id, "ready")
            assert state["labels"] == {"zone": "a"}
            assert await key_for_a_generation(operator) == "Bearer a-new-one"
        async with operated(tmp_path, **{**kept, "seal_key": "another"}) as operator:
            assert await operator.all() == []  # Rather than with another key.


class FullStore:
    """A WorkerStore that takes nothing."""

    async def add(self, worker: WorkerRecord) -> None:
        raise StorageError(f"No room for {worker.url}.")

    async def change(self, worker: WorkerRecord) -> None:
        raise StorageError(f"No room for {worker.description}.")

    async def remove(self, url: str) -> None:
        raise StorageError(f"{url} cannot be forgotten.")

    async def all(self) -> list[WorkerRecord]:
        return []


async def test_what_cannot_be_remembered_is_not_taken_in(nobody: int) -> None:
    fleet = Fleet(Settings(admin_key=KEY, model_path=str(MODEL_PATH)), {}, 0)
    await fleet.start()
    registry = Registry(fleet, RegistryRules(drain_s=1.0), Roster(FullStore(), Seal(b"key")))
    with pytest.raises(StorageError):
        await registry.add(Named(url=f"grpc://127.0.0.1:{nobody}"))

    async def is_empty() -> bool:
        await asyncio.sleep(0)
        return not registry.all()

    await until(is_empty)
    await fleet.close()


async def test_the_ranks_of_a_worker_are_named_and_go_with_it(tmp_path: Path) -> None:
    async with (
        ScriptedEngine(options=EngineOptions(ranks=2)) as divided,
        ScriptedEngine() as whole,
        operated(tmp_path, whole.url, dp_aware=True) as operator,
    ):
        worker_id = (await operator.add(divided.url))["worker_id"]
        ready = await operator.until(worker_id, "ready")
        assert (ready["models"], ready["dp_size"]) == ([{"id": MODEL}], 2)
        assert ready["ranks"] == [
            {"rank": n, "id": f"{worker_id}@{n}", "url": f"{divided.url}@{n}", "load": 0}
            for n in (0, 1)
        ]
        names = [(await operator.say()).headers["x-smg-worker"] for _ in range(6)]
        assert {f"{worker_id}@0", f"{worker_id}@1"} < set(names)
        assert {received.rank for received in divided.requests} == {0, 1}
        metrics = (await operator.http.get("/metrics")).text
        for rank in (0, 1):
            assert f'worker="{divided.address}@{rank}"' in metrics
        await operator.ask("PATCH", f"/{worker_id}", {"draining": True})
        asked = len(divided.requests)
        for _ in range(3):
            assert (await operator.say()).status_code == 200
        assert len(divided.requests) == asked
        await operator.ask("DELETE", f"/{worker_id}")

        async def alone() -> bool:
            return [each["url"] for each in await operator.all()] == [whole.url]

        await until(alone)
        [left] = await operator.all()
        assert (left["dp_size"], left["ranks"]) == (None, [])
        assert (
            f'smg_worker_health{{model="{MODEL}",worker="{divided.address}@0"}}'
            not in (await operator.http.get("/metrics")).text
        )
