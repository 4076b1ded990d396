"""The page that Prometheus reads: on a port of its own, or as bytes for the gateway's."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from smg.errors import ConfigError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def page_of(registry: CollectorRegistry) -> bytes:
    """Everything, as Prometheus reads it."""
    return generate_latest(registry)


@contextmanager
def published(registry: CollectorRegistry, host: str, port: int) -> Generator[int, None, None]:
    """Metrics on a port of their own, for as long as the block lasts; gives the port.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as error:
        raise ConfigError(f"--metrics-port {port}: {error.strerror}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
