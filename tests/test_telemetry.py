"""What Prometheus reads after work has been done; and that nobody can make it grow."""

import asyncio
import re
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from smg.errors import ConfigError, StorageError
from smg.items import McpTool
from smg.storage.admin import Stats
from smg.telemetry.calls import BROUGHT, UNKNOWN, TimedServer, label_of
from smg.telemetry.counters import Telemetry
from smg.telemetry.lag import watch_loop
from smg.telemetry.page import published
from smg.telemetry.sizes import DatabaseSizes
from smg.turn import ToolResult
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
        assert page("smg_router_itl_seconds_count", **labels) == written - len(usages)
        assert page("smg_request_wait_seconds_count", priority="default") == 2
        assert page("smg_requests_running") == 0
        assert page("smg_responses", state="in_progress") == 0
        assert page("smg_db_operations_total", kind="write", outcome="ok") > 0
        assert page("smg_db_operation_duration_seconds_count", kind="read") > 0
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
        why = {"model": MODEL, "error": "WorkerUnavailable"}
        assert page("smg_worker_retries_total", **why) == 4
        assert page("smg_worker_retries_exhausted_total", **why) == 1
        assert page("smg_worker_health") == 0
        assert (await gateway.http.get(f"{gateway.url}/readiness")).status_code == 503


async def test_what_is_refused_is_told_by_its_limit(tmp_path: Path) -> None:
    limits = {"model_rate_limit_tokens_per_second": 0.01}
    async with served(tmp_path, tools=False, **limits) as gateway:
        body = {"model": MODEL, "input": "hello"}
        answers = [await gateway.http.post("/responses", json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        page = await page_of(gateway)
        limits = {"gateway": 0, "key": 0, "model": 2, "websockets": 0}
        found = {limit: page("smg_requests_refused_total", limit=limit) for limit in limits}
        assert found == limits


async def test_calls_of_tools_are_counted_by_server_and_outcome(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        tools = [{"type": "mcp", "server_label": "tools", "require_approval": "never"}]
        for call in ('add {"a": 1, "b": 2}', "boom {}"):
            body = {"model": MODEL, "input": f"[[call:{call}]]", "tools": tools}
            assert (await gateway.http.post("/responses", json=body)).status_code == 200
        page = await page_of(gateway)
        outcomes = {
            outcome: page("smg_mcp_tool_calls_total", server="tools", outcome=outcome)
            for outcome in ("ok", "mcp_tool_execution_error")
        }
        assert outcomes == {"ok": 1, "mcp_tool_execution_error": 1}
        assert page("smg_mcp_tool_duration_seconds_count", server="tools") == 2


async def test_what_clients_and_files_call_servers_is_no_label() -> None:
    told: list[tuple[str, str]] = []
    tool = McpTool(name="x", input_schema={})

    class Server:
        async def tools(self) -> tuple[McpTool, ...]:
            return (tool,)

        async def call(self, name: str, arguments: str) -> ToolResult:
            return ToolResult(output=name + arguments)

    server = TimedServer(Server(), lambda *facts: told.append(facts[:2]))
    assert await server.tools() == (tool,)
    assert await server.call("a", "b") == ToolResult(output="ab")
    assert told == [(BROUGHT, "ok")]
    assert (label_of("tools", ("tools",)), label_of("old", ("tools",))) == ("tools", UNKNOWN)


async def test_how_full_the_database_is_is_counted_in_the_background(tmp_path: Path) -> None:
    async with served(tmp_path, tools=False) as gateway, asyncio.timeout(5):
        page = await page_of(gateway)
        while "smg_database_table_rows" not in page.names:
            page = await page_of(gateway)
        assert page("smg_database_table_rows", table="responses") == 0
        assert page("smg_database_table_bytes", table="responses") > 0
        assert page("smg_database_unfinished_responses") == 0
        assert page("smg_database_bytes", part="unused") >= 0


async def test_a_database_that_does_not_answer_leaves_the_last_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def count() -> Stats:
        raise StorageError("gone")

    watching = asyncio.create_task(DatabaseSizes(count, dict).watch())
    async with asyncio.timeout(5):
        while not caplog.messages:  # noqa: ASYNC110 - the log tells nobody
            await asyncio.sleep(0.001)
    watching.cancel()
    assert caplog.messages == ["The database's size is not known: gone"]


async def test_what_holds_everybody_up_is_measured_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lags: list[tuple[float, float]] = []
    watching = asyncio.create_task(watch_loop(lambda *lag: lags.append(lag)))
    async with asyncio.timeout(5):
        while not lags:  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(0.01)
        for _ in range(2):
            seen = len(lags)
            time.sleep(0.4)  # noqa: ASYNC251 - that is the point
            while len(lags) == seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    watching.cancel()
    longest = max(late for late, _ in lags)
    assert longest >= 0.29  # At most a tenth of a second of it was due anyway.
    assert lags[-1][1] == longest
    assert len(caplog.messages) == 1  # Not one for each.
    assert "held up" in caplog.messages[0]


async def test_clients_cannot_make_new_labels(tmp_path: Path) -> None:
    async def flood(gateway: Served, numbers: range) -> None:
        for number in numbers:
            await gateway.http.get(f"/nowhere/{number}")
            await gateway.http.get(f"/responses/resp_{number}")
            await gateway.http.request(f"BREW{number}", "/responses")
            await gateway.http.post("/responses", json={"model": f"m{number}", "input": "x"})
            headers = {"x-smg-priority": f"p{number}", "authorization": f"Bearer k{number}"}
            body = {"model": MODEL, "input": "x", "store": False}
            await gateway.http.post("/responses", json=body, headers=headers)

    async with served(tmp_path, tools=False) as gateway, asyncio.timeout(30):
        while "smg_database_table_rows" not in (await page_of(gateway)).names:
            pass
        await flood(gateway, range(10))
        before = samples((await gateway.http.get(f"{gateway.url}/metrics")).text)
        await flood(gateway, range(10, 20))
        text = (await gateway.http.get(f"{gateway.url}/metrics")).text
        assert set(samples(text)) == set(before)
        for made_up in ("nowhere", "resp_1", "BREW", 'm7"', 'p7"', 'k7"'):
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
    with published(telemetry.registry, "127.0.0.1", 0) as port:
        page = Page(await asyncio.to_thread(fetch, port))
        assert page("smg_http_requests_total", route="/x") == 1
        with (
            pytest.raises(ConfigError, match="--metrics-port"),
            published(telemetry.registry, "127.0.0.1", port),
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


ROW = re.compile(r"^\| `(smg_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", re.MULTILINE)


async def test_the_page_of_metrics_lists_what_is_there(tmp_path: Path) -> None:
    """When it fails, the right table is what was found."""
    page = await asyncio.to_thread(Path("docs/metrics.md").read_text)
    listed = {
        name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels))), told)
        for name, kind, labels, told in ROW.findall(page)
    }
    async with served(tmp_path, tools=False) as gateway:
        body = {"model": MODEL, "input": "hello"}
        assert (await gateway.http.post("/responses", json=body)).status_code == 200
        while "smg_database_table_rows" not in (await page_of(gateway)).names:
            pass
        text = (await gateway.http.get(f"{gateway.url}/metrics")).text
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    }
    # Of what has not happened yet the labels are not seen.
    found = {
        name: (family.type, _labels(family) or listed.get(name, ("", ()))[1], family.documentation)
        for name, family in families.items()
    }
    assert listed == found


def _labels(family: Metric) -> tuple[str, ...]:
    [*samples] = family.samples[:1]
    return tuple(sorted(name for sample in samples for name in sample.labels if name != "le"))
