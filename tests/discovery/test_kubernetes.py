"""Pods to workers: what counts as one, and what happens as they come and go."""

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from kubernetes.aio.config import incluster_config
from starlette.responses import PlainTextResponse

from smg.app import gateway
from smg.discovery.pods import read_wanted, worker_urls
from smg.errors import ConfigError
from smg.settings import Settings
from smg.testing.engine import EngineOptions, ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH
from tests.discovery.cluster import Cluster, Json, cluster, pod, refusal
from tests.durability.world import until
from tests.e2e.gateway import PATIENCE_SECONDS, listening
from tests.engines.certificates import new_certificates


@dataclass(frozen=True, slots=True)
class World:
    cluster: Cluster
    engine: ScriptedEngine
    http: httpx2.AsyncClient

    @property
    def port(self) -> int:
        return int(self.engine.address.rpartition(":")[2])

    async def models(self) -> list[str]:
        answer = await self.http.get("/v1/models")
        return [model["id"] for model in answer.json()["data"]]

    async def serves(self, count: int) -> None:
        async def does() -> bool:
            return len(await self.models()) == count

        await until(does)

    async def workers(self) -> dict[str, str]:
        """The status of each worker; who asks has the admin key."""
        answer = await self.http.get("/workers", headers={"authorization": "Bearer admin"})
        return {worker["url"]: worker["status"] for worker in answer.json()["workers"]}

    async def is_ready(self) -> bool:
        return (await self.http.get("/readiness")).status_code == 200


@asynccontextmanager
async def world(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *pods: Json, **settings: Any
) -> AsyncIterator[World]:
    """A gateway, a cluster and an engine; nothing is known of the engine yet."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    usual: dict[str, Any] = {
        "service_discovery": True,
        "selector": ("app=engine", "tier=gpu"),
        "model_path": str(MODEL_PATH),
        "database_url": f"sqlite:///{folder / 'smg.db'}",
        "shutdown_grace_seconds": 1.0,
    }
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ScriptedEngine(options=EngineOptions()))
        fake = await stack.enter_async_context(cluster(folder))
        for one in pods:
            await fake.put(one)
        running = await stack.enter_async_context(gateway(Settings(**{**usual, **settings})))
        url = await stack.enter_async_context(listening(running))
        http = httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS)
        yield World(fake, engine, await stack.enter_async_context(http))


async def test_a_pod_that_appears_is_served_from_and_one_that_goes_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as it:
        await it.cluster.asks(watches=True, times=1)
        assert await it.models() == []
        assert not await it.is_ready()

        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        await until(it.is_ready)
        [model] = await it.models()
        asked = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        answer = await it.http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        assert len(it.engine.requests) == 1

        await it.cluster.delete("engine-1")
        await it.serves(0)
        assert not await it.is_ready()

        await it.cluster.put(pod("engine-2", it.port))
        await it.serves(1)


async def test_the_cluster_is_asked_by_label_in_one_namespace_or_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for namespace, path in [(None, "/api/v1/pods"), ("llm", "/api/v1/namespaces/llm/pods")]:
        flags = {"service_discovery_namespace": namespace}
        async with world(tmp_path, monkeypatch, **flags) as it:
            await it.cluster.asks(watches=True, times=1)
            [(list_path, listed), (watch_path, watched)] = it.cluster.asked
            assert list_path == watch_path == path
            assert listed == {"labelSelector": "app=engine,tier=gpu"}
            assert watched["labelSelector"] == "app=engine,tier=gpu"
            assert watched["resourceVersion"] == "1"
            assert watched["timeoutSeconds"] == "60"


async def test_a_pod_is_let_go_before_it_ends_or_while_it_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as it:
        await it.cluster.asks(watches=True, times=1)
        ready = pod("engine-1", it.port)
        await it.cluster.put(ready)
        await it.serves(1)
        unready = {"conditions": [{"type": "Ready", "status": "False"}]}
        await it.cluster.put(pod("engine-1", it.port, **unready))
        await it.serves(0)
        await it.cluster.put(ready)
        await it.serves(1)
        ending = {**ready["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
        await it.cluster.put({**ready, "metadata": ending})
        await it.serves(0)


async def test_a_generation_that_runs_when_its_pod_goes_is_heard_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as it:
        await it.cluster.asks(watches=True, times=1)
        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        [model] = await it.models()
        asked = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        async with it.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            lines = answer.aiter_lines()
            first = await anext(lines)
            await it.cluster.delete("engine-1")
            await it.serves(0)
            rest = [line async for line in lines if line]
        assert first.startswith("data: ")
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"stop"' in rest[-2].replace(" ", "")


ENDS: dict[str, Callable[[Cluster], Awaitable[None]]] = {
    "well": Cluster.hang_up,
    "too old": lambda fake: fake.tell_error(410),
    "error": lambda fake: fake.tell_error(500),
    "reset": Cluster.break_off,
}


@pytest.mark.parametrize("end", ENDS)
async def test_after_a_watch_that_ends_the_pods_are_listed_again(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as it:
        await it.cluster.asks(watches=True, times=1)
        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        it.cluster.miss("engine-1")
        await ENDS[end](it.cluster)
        await it.serves(0)
        await it.cluster.asks(watches=True, times=2)
        await it.cluster.put(pod("engine-2", it.port))
        await it.serves(1)


@pytest.mark.parametrize("code", [410, 429])
async def test_a_watch_that_is_refused_begins_with_a_list_again(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path, monkeypatch) as it:
        await it.cluster.asks(watches=True, times=1)
        it.cluster.watch_refusal = refusal(code, "not that one")
        await it.cluster.hang_up()
        await it.cluster.asks(watches=True, times=3)
        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        assert it.cluster.count(watches=False) >= 3
        # That a version is too old is how it is, and nothing to warn of.
        assert ("not that one" in caplog.text) is (code != 410)


async def test_a_bookmark_is_no_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch) as it:
        await it.cluster.asks(watches=True, times=1)
        await it.cluster.bookmark()
        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        assert it.cluster.count(watches=True) == 1


async def test_workers_stay_while_the_cluster_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {"service_discovery_namespace": "llm"}
    async with world(tmp_path, monkeypatch, **flags) as it:
        await it.cluster.asks(watches=True, times=1)
        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        forbidden = 'pods is forbidden: User "system:serviceaccount:llm:smg" cannot list resource'
        it.cluster.refusal = refusal(403, forbidden)
        it.cluster.miss("engine-1")
        lists = it.cluster.count(watches=False)
        await it.cluster.hang_up()
        await it.cluster.asks(watches=False, times=lists + 2)
        assert len(await it.models()) == 1
        assert (
            f"Kubernetes does not tell of pods, trying again: 403 {forbidden} "
            "(the gateway's account needs list and watch for pods in the namespace llm)"
        ) in caplog.text
        it.cluster.refusal = PlainTextResponse("<h1>Bad gateway</h1>", 502)
        await it.cluster.asks(watches=False, times=lists + 3)
        it.cluster.refusal = None
        await it.serves(0)
        assert "trying again: 502 <h1>Bad gateway</h1>" in caplog.text


async def test_a_pod_that_is_ready_again_is_used_at_once_though_it_still_runs_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as it:
        await it.cluster.asks(watches=True, times=1)
        ready = pod("engine-1", it.port)
        await it.cluster.put(ready)
        await it.serves(1)
        [model] = await it.models()
        asked = {"model": model, "messages": [{"role": "user", "content": "[[long:40]][[slow:8]]"}]}
        url = "/v1/chat/completions"
        async with it.http.stream("POST", url, json={**asked, "stream": True}) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            unready = {"conditions": [{"type": "Ready", "status": "False"}]}
            for _ in range(2):
                await it.cluster.put(pod("engine-1", it.port, **unready))
                await it.serves(0)
                await it.cluster.put(ready)
                await it.serves(1)
            other = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
            assert (await it.http.post(url, json=other)).status_code == 200
            assert not any("[DONE]" in line for line in [await anext(lines)])
        await it.cluster.delete("engine-1")
        await it.serves(0)


async def test_a_pod_that_moves_is_used_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"admin_key": "admin"}
    async with world(tmp_path, monkeypatch, **flags) as it, ScriptedEngine() as other:
        await it.cluster.asks(watches=True, times=1)
        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        await it.cluster.put(pod("engine-1", int(other.address.rpartition(":")[2])))

        async def moved() -> bool:
            return await it.workers() == {other.url: "ready"}

        await until(moved)
        answer = await it.http.get("/workers", headers={"authorization": "Bearer admin"})
        [worker] = answer.json()["workers"]
        assert worker["labels"] == {
            "smg.ai/pod-name": "engine-1",
            "smg.ai/pod-namespace": "llm",
            "smg.ai/pod-uid": "uid-engine-1",
        }


async def test_another_pod_at_the_same_address_is_another_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "smg.discovery.kubernetes")
    flags = {"admin_key": "admin"}
    async with world(tmp_path, monkeypatch, **flags) as it:
        await it.cluster.asks(watches=True, times=1)
        await it.cluster.put(pod("engine-1", it.port))
        await it.serves(1)
        # Both while nobody watched: only the list tells, and the address is the same in it.
        it.cluster.miss("engine-1")
        it.cluster.put_unseen(pod("engine-2", it.port))
        await it.cluster.hang_up()

        async def is_new() -> bool:
            comes = caplog.text.count(f"{it.engine.url} comes")
            return comes == 2 and await it.workers() == {it.engine.url: "ready"}

        await until(is_new)
        assert caplog.text.count(f"{it.engine.url} leaves") == 1
        assert "stays" not in caplog.text


async def test_a_pod_with_an_ipv6_address_is_served_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions(host="[::1]")
    async with world(tmp_path, monkeypatch) as it, ScriptedEngine(options=options) as engine:
        await it.cluster.asks(watches=True, times=1)
        port = int(engine.address.rpartition(":")[2])
        await it.cluster.put(pod("engine-1", port, podIP="::1"))
        await it.serves(1)
        [model] = await it.models()
        asked = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        assert (await it.http.post("/v1/chat/completions", json=asked)).status_code == 200
        assert engine.requests


async def test_in_a_pod_the_accounts_token_is_read_again_as_it_changes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = new_certificates(tmp_path_factory.mktemp("certificates"))
    token = tmp_path / "token"
    token.write_text("first")
    # Where a pod has them, and how long the client believes what it has read.
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificates / "ca.crt"))
    no_time = SimpleNamespace(
        timedelta=lambda minutes: datetime.timedelta(0), datetime=datetime.datetime
    )
    monkeypatch.setattr(incluster_config, "datetime", no_time)
    async with cluster(tmp_path, certificates) as fake:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", fake.url.rpartition(":")[2])
        flags: Json = {"service_discovery": True, "selector": ("app=engine",)}
        settings = Settings(**flags, database_url=f"sqlite:///{tmp_path / 'smg.db'}")
        async with gateway(settings):
            await fake.asks(watches=True, times=1)
            token.write_text("second")
            await fake.hang_up()
            await fake.asks(watches=True, times=2)
    assert fake.tokens == ["bearer first", "bearer first", "bearer second", "bearer second"]


async def test_pods_of_one_model_that_come_together_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"policy": "round_robin"}
    async with world(tmp_path, monkeypatch, **flags) as it, ScriptedEngine() as other:
        await it.cluster.asks(watches=True, times=1)
        second = int(other.address.rpartition(":")[2])
        await it.cluster.put(pod("engines", it.port, second))
        await it.serves(1)
        [model] = await it.models()
        asked = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}

        async def both_are_used() -> bool:
            answers = [it.http.post("/v1/chat/completions", json=asked) for _ in range(8)]
            assert {one.status_code for one in await asyncio.gather(*answers)} == {200}
            return bool(it.engine.requests and other.requests)

        await until(both_are_used)


def test_a_ready_pod_is_at_the_flags_port_or_at_those_it_says_itself() -> None:
    assert worker_urls(pod("a"), 50051) == {"grpc://127.0.0.1:50051"}
    assert worker_urls(pod("a", 1, 2), 50051) == {"grpc://127.0.0.1:1", "grpc://127.0.0.1:2"}
    assert worker_urls(pod("a", podIP="fd00::1"), 7) == {"grpc://[fd00::1]:7"}


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Pending"},
        {"phase": "Succeeded"},
        {"podIP": None},
        {"conditions": None},
        {"conditions": [{"type": "Ready", "status": "Unknown"}]},
    ],
)
def test_a_pod_that_is_not_ready_is_no_worker(status: Json) -> None:
    assert worker_urls(pod("a", **status), 50051) == frozenset()


@pytest.mark.parametrize("said", ["", "http", "0", "70000", "1,,2"])
def test_a_pod_with_wrong_ports_is_left_out_and_told_of(
    said: str, caplog: pytest.LogCaptureFixture
) -> None:
    strange = pod("a")
    strange["metadata"]["annotations"] = {"smg.ai/worker-ports": said}
    assert worker_urls(strange, 50051) == frozenset()
    assert "Pod llm/a is left out" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"service_discovery": True}, "--selector must say"),
        ({"selector": ("app=engine",)}, "needs --service-discovery"),
        ({"service_discovery": True, "selector": ("engine",)}, "expected LABEL=VALUE"),
        ({"service_discovery": True, "selector": ("a=1,b=2",)}, "expected LABEL=VALUE"),
    ],
)
def test_a_wrong_selector_is_refused(settings: Json, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_wanted(Settings(**settings))


async def test_without_a_cluster_the_gateway_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    flags: Json = {"service_discovery": True, "selector": ("app=engine",)}
    settings = Settings(**flags, database_url=f"sqlite:///{tmp_path / 'smg.db'}")
    with pytest.raises(ConfigError, match="where is the cluster"):
        async with gateway(settings):
            pass
