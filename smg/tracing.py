"""Traces: a client's W3C trace context goes on to the workers, with spans for what is done here.

Without the extra `otel` and an endpoint no span is made or sent, and a client's own context is
passed on as it came. Only `traceparent` and `tracestate` go to workers: what else a client attaches
is none of their business. Spans tell names and numbers, never what was said.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from opentelemetry.context import attach, create_key, detach, get_value, set_value
from opentelemetry.trace import NoOpTracer, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smg.errors import ConfigError

NAME: Final = "smg"
HEADERS: Final = ("traceparent", "tracestate")
EXPORT_S: Final = 3.0
"""How long a collector may take; at shutdown that is waited for."""
_W3C: Final = TraceContextTextMapPropagator()
_TRACER: Final = create_key("smg-tracer")


def outgoing() -> Sequence[tuple[str, str]]:
    """What a call made now should carry; nothing outside a trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return tuple(carrier.items())


@contextmanager
def step(name: str, **attributes: str | int) -> Generator[None, None, None]:
    """A span of what the block does for a request; outside one, or without an endpoint, nothing.

    Not around a `yield` of a generator of one's own: whoever reads it would be in the span, too.
    """
    tracer = get_value(_TRACER)
    if not isinstance(tracer, Tracer):
        yield
        return
    told = {f"smg.{key}": value for key, value in attributes.items()}
    with tracer.start_as_current_span(name, attributes=told):
        yield


class Traced:
    """Middleware in plain ASGI: a request's work belongs to the trace that its headers name."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on within its trace."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        context = _W3C.extract(_carrier(scope))
        if not isinstance(self._tracer, NoOpTracer):
            context = set_value(_TRACER, self._tracer, context)
        token = attach(context)
        try:
            await self._within(scope, receive, send)
        finally:
            detach(token)

    async def _within(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method", "WEBSOCKET")
        with self._tracer.start_as_current_span(method, kind=SpanKind.SERVER) as span:

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            span.set_attribute("http.request.method", method)
            try:
                await self._app(scope, receive, send_noted)
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:  # Known only after routing, and never the path itself.
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)


def _carrier(scope: Scope) -> dict[str, str]:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return {name: headers[name] for name in HEADERS if name in headers}


@asynccontextmanager
async def tracing(endpoint: str | None) -> AsyncGenerator[Tracer, None]:
    """Makes spans and sends them to an OTLP endpoint for as long as the block lasts.

    Without an endpoint it makes none.

    Raises:
        ConfigError: the extra is not installed.
    """
    if endpoint is None:
        yield NoOpTracer()
        return
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("--otlp-endpoint needs an extra: pip install 'smg[otel]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": NAME}))
    exporter = OTLPSpanExporter(
        endpoint=endpoint, insecure=not endpoint.startswith("https"), timeout=EXPORT_S
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider.get_tracer(NAME)
    finally:
        await asyncio.to_thread(provider.shutdown)  # What is left is sent, while others work on.
