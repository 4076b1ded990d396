"""A trace goes through the gateway: in by HTTP headers, out by gRPC metadata."""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from smg.errors import ConfigError
from smg.tracing import Traced, outgoing, step, tracing
from tests.e2e.gateway import MODEL, served

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("path", ["/responses", "/chat/completions"])
async def test_a_clients_trace_reaches_the_worker(tmp_path: Path, path: str) -> None:
    async with served(tmp_path, tools=False) as gateway:
        body: dict[str, Any] = {"model": MODEL, "input": "hello"}
        if path != "/responses":
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
        headers = {"traceparent": PARENT, "tracestate": "vendor=1", "baggage": "secret=1"}
        assert (await gateway.http.post(path, json=body, headers=headers)).status_code == 200
        sent = (await gateway.engine.arrived()).metadata
        assert sent["traceparent"] == PARENT
        assert sent["tracestate"] == "vendor=1"
        assert "baggage" not in sent


@pytest.mark.parametrize("header", [None, "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_without_a_trace_the_worker_gets_none(tmp_path: Path, header: str | None) -> None:
    async with served(tmp_path, tools=False) as gateway:
        headers = {"traceparent": header} if header else {}
        body = {"model": MODEL, "input": "hello"}
        assert (
            await gateway.http.post("/responses", json=body, headers=headers)
        ).status_code == 200
        assert "traceparent" not in (await gateway.engine.arrived()).metadata


def test_outside_a_request_there_is_no_trace() -> None:
    assert outgoing() == ()


class Spans:
    """An application within traces, and the spans it leaves."""

    def __init__(self, status: int = 200) -> None:
        """With status 0 it fails without an answer."""
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.seen: dict[str, str] = {}
        self._status = status
        self.app = Traced(self._answer, provider.get_tracer("test"))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen = dict(outgoing())
        if self._status:
            await PlainTextResponse("", self._status)(scope, receive, send)
            return
        raise ValueError("a bug")

    async def ask(self, *headers: tuple[bytes, bytes]) -> Any:
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": list(headers)}

        async def receive() -> dict[str, Any]:
            raise NotImplementedError

        async def send(message: object) -> None:
            pass

        await self.app(scope, receive, send)


async def test_a_request_is_a_span_of_the_clients_trace_and_the_parent_of_what_follows() -> None:
    spans = Spans()
    await spans.ask((b"traceparent", PARENT.encode()))
    [span] = spans.exporter.get_finished_spans()
    assert span.context is not None
    assert format_trace_id(span.context.trace_id) == TRACE
    own = format_span_id(span.context.span_id)
    assert spans.seen["traceparent"] == f"00-{TRACE}-{own}-01"
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
    }
    assert outgoing() == ()


async def test_without_a_clients_trace_a_new_one_begins() -> None:
    spans = Spans()
    await spans.ask()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", spans.seen["traceparent"])


async def test_failures_show_in_the_span() -> None:
    spans = Spans(503)
    await spans.ask()
    crashing = Spans(0)
    with pytest.raises(ValueError, match="a bug"):
        await crashing.ask()
    for each in (spans, crashing):
        [span] = each.exporter.get_finished_spans()
        assert span.status.status_code is StatusCode.ERROR


async def test_what_sends_traces_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ConfigError, match="smg\\[otel\\]"):
        async with tracing("http://127.0.0.1:1"):
            pass


def test_outside_a_request_a_step_is_no_span() -> None:
    with step("prepare", model="m"):
        assert outgoing() == ()


# ---- to a real collector


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans over OTLP as a collector does; in threads, for the loop may be busy."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.service = ""

    def Export(  # noqa: N802 - gRPC's
        self, request: ExportTraceServiceRequest, context: Any
    ) -> ExportTraceServiceResponse:
        for resource in request.resource_spans:
            [self.service] = [
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            ]
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return ExportTraceServiceResponse()

    def named(self, name: str) -> Span:
        [span] = [span for span in self.spans if span.name == name]
        return span


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector on a free port, and its endpoint."""
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    add = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


CANARY = "canary-in-the-body"


async def test_spans_of_a_chat_reach_a_collector(tmp_path: Path) -> None:
    with collecting() as (collector, endpoint):
        async with served(
            tmp_path, tools=False, api_key=("key-canary",), otlp_endpoint=endpoint
        ) as gateway:
            headers = {"traceparent": PARENT, "authorization": "Bearer key-canary"}
            body = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}]}
            answer = await gateway.http.post("/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200
            sent = (await gateway.engine.arrived()).metadata
            worker = gateway.engine.address
        assert collector.service == "smg"
        request = collector.named("POST /v1/chat/completions")
        prepare, first = collector.named("prepare"), collector.named("first token")
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
        assert request.parent_span_id.hex() == PARENT.split("-")[2]
        assert {prepare.parent_span_id, first.parent_span_id} == {request.span_id}
        # The worker's own spans hang below the try that it answers.
        assert sent["traceparent"] == f"00-{TRACE}-{first.span_id.hex()}-01"
        assert attributes(request) == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "http.route": "/v1/chat/completions",
        }
        assert attributes(prepare) == {"smg.model": MODEL}
        assert attributes(first) == {"smg.model": MODEL, "smg.worker": worker}
        told = "".join(map(str, collector.spans))
        assert "canary" not in told


async def test_spans_of_an_agents_turn_tell_its_calls(tmp_path: Path) -> None:
    with collecting() as (collector, endpoint):
        async with served(tmp_path, otlp_endpoint=endpoint) as gateway:
            tools = [{"type": "mcp", "server_label": "tools", "require_approval": "never"}]
            body = {"model": MODEL, "input": '[[call:add {"a": 1, "b": 2}]]', "tools": tools}
            headers = {"traceparent": PARENT}
            answer = await gateway.http.post("/responses", json=body, headers=headers)
            assert answer.json()["status"] == "completed"
        request = collector.named("POST /v1/responses")
        call = collector.named("tool call")
        assert (request.trace_id.hex(), call.parent_span_id) == (TRACE, request.span_id)
        assert attributes(call) == {"smg.server": "tools", "smg.tool": "add"}
        names = sorted(span.name for span in collector.spans)
        assert names == [
            "POST /v1/responses",
            *["first token"] * 2,
            *["prepare"] * 2,
            "tool call",
        ]
