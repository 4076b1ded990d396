"""What Prometheus reads after work has been done; and that nobody can make it grow."""

import asyncio
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from smg.errors import ConfigError
from smg.telemetry import Telemetry, published
from smg.web.measured import GONE, Measured
from tests.e2e.gateway import MODEL, Served, served

KEY = "key-of-ann"


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Page:
    """A page of metrics, to be asked for one sample."""

    def __init__(self, text: str) -> None:
        self._samples = samples(text)
        self.names = {name for name, _ in self._samples}

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all samples with these labels."""
        wanted = set(labels.items())
        found = [v for (n, ls), v in self._samples.items() if n == name and wanted <= ls]
        assert found, f"{name}{labels} is not there"
        return sum(found)


async def page_of(gateway: Served) -> Page:
    answer = await gateway.http.get(f"{gateway.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Page(answer.text)


async def test_what_a_generation_did_is_counted(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway:
        body = {"model": MODEL, "input": "[[say:one two three]]"}
        usages = [(await gateway.http.post("/responses", json=body)).json()["usage"] for _ in "ab"]
        page = await page_of(gateway)
        labels = {"model": MODEL, "worker": gateway.engine.address}
        assert page("smg_worker_selection_total", **labels) == 2
        assert page("smg_router_ttft_seconds_count", **labels) == 2
        assert page("smg_router_tpot_seconds_count", **labels) == 2
        read = sum(usage["input_tokens"] for usage in usages)
        assert page("smg_router_tokens_total", type="input", **labels) == read
        cached = sum(usage["input_tokens_details"]["cached_tokens"] for usage in usages)
        assert page("smg_router_tokens_total", type="cached", **labels) == cached
        # Engines do not send the stop token, which they count.
        written = page("smg_router_tokens_total", type="output", **labels)
        assert 0 < written <= sum(usage["output_tokens"] for usage in usages)
        route = {"route": "/v1/responses", "method": "POST", "status": "200"}
        assert page("smg_http_requests_total", **route) == 2
        assert page("smg_http_request_duration_seconds_count", route="/v1/responses") == 2
        assert page("smg_tokenizer_cache_total", model=MODEL, level="whole", hit="true") == 1


async def test_what_is_there_is_looked_at(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway:
        body = {"model": MODEL, "input": "[[slow:60]][[say:a b]]", "stream": True}
        async with gateway.http.stream("POST", "/responses", json=body):
            await gateway.engine.arrived()
            page = await page_of(gateway)
            assert page("smg_worker_health") == 1
            assert page("smg_worker_cb_state") == 0
            assert page("smg_worker_requests_active") == 1
            assert page("smg_worker_queued_tokens") + page("smg_worker_running_tokens") > 0
            assert page("smg_requests_running") == 1
            assert page("smg_requests_waiting") == 0


async def test_failures_and_retries_are_counted_by_kind(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, retry_initial_backoff_ms=0) as gateway:
        await gateway.engine.__aexit__(None, None, None)
        answer = await gateway.http.post("/responses", json={"model": MODEL, "input": "hello"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        page = await page_of(gateway)
        assert page("smg_worker_errors_total", error="WorkerUnavailable") == 5
        assert page("smg_worker_retries_total") == 4
        assert page("smg_worker_health") == 0
        assert (await gateway.http.get(f"{gateway.url}/readiness")).status_code == 503


async def test_clients_cannot_make_new_labels(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway:
        for number in range(20):
            await gateway.http.get(f"/nowhere/{number}")
            await gateway.http.get(f"/responses/resp_{number}")
            await gateway.http.request(f"BREW{number}", "/responses")
            await gateway.http.post("/responses", json={"model": f"m{number}", "input": "x"})
        text = (await gateway.http.get(f"{gateway.url}/metrics")).text
        for made_up in ("nowhere", "resp_1", "BREW", 'm7"'):
            assert made_up not in text
        page = Page(text)
        assert page("smg_http_requests_total", route="other", status="404") == 20
        assert page("smg_http_requests_total", route="/v1/responses/{response_id}") == 20


async def test_with_keys_the_page_needs_one(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, api_key=(KEY,)) as gateway:
        path = f"{gateway.url}/metrics"
        assert (await gateway.http.get(path)).status_code == 401
        headers = {"authorization": f"Bearer {KEY}"}
        assert (await gateway.http.get(path, headers=headers)).status_code == 200


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


async def test_on_a_port_of_its_own_it_needs_none_and_is_on_no_other(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False, api_key=(KEY,), metrics_port=0) as gateway:
        headers = {"authorization": f"Bearer {KEY}"}
        answer = await gateway.http.get(f"{gateway.url}/metrics", headers=headers)
        assert answer.status_code == 404
    telemetry = Telemetry()
    telemetry.request("/x", "GET", 200, 0.1)
    with published(telemetry, "127.0.0.1", 0) as port:
        page = Page(await asyncio.to_thread(fetch, port))
        assert page("smg_http_requests_total", route="/x") == 1
        with (
            pytest.raises(ConfigError, match="--metrics-port"),
            published(telemetry, "127.0.0.1", port),
        ):
            pass


async def test_a_client_that_left_before_the_status_is_told_apart() -> None:
    told: list[tuple[str, str, int]] = []

    async def app(scope: object, receive: object, send: object) -> None:
        return

    measured = Measured(app, lambda route, method, status, _: told.append((route, method, status)))
    scope = {"type": "http", "method": "GET"}

    async def nothing(*_: object) -> dict[str, str]:
        raise NotImplementedError

    await measured(scope, nothing, nothing)  # type: ignore[arg-type] # neither is called
    assert told == [("other", "GET", GONE)]
