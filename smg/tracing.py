"""Traces: a client's W3C trace context goes on to the workers, with a span for each request.

Without the extra `otel` and an endpoint no span is made or sent, and a client's own context is
passed on as it came. Only `traceparent` and `tracestate` go to workers: what else a client attaches
is none of their business.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import attach, detach
from opentelemetry.trace import NoOpTracer, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smg.errors import ConfigError

NAME: Final = "smg"
HEADERS: Final = ("traceparent", "tracestate")
_W3C: Final = TraceContextTextMapPropagator()


def outgoing() -> Sequence[tuple[str, str]]:
    """What a call made now should carry; nothing outside a trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return tuple(carrier.items())


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
        token = attach(_W3C.extract(_carrier(scope)))
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


@contextmanager
def tracing(endpoint: str | None) -> Generator[Tracer, None, None]:
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
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider.get_tracer(NAME)
    finally:
        provider.shutdown()
