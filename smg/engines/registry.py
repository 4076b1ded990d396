"""The engines there are, and how a worker's URL becomes one.

In goes `grpc://host:port`, out comes a `RemoteEngine`; no call is made yet.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from smg.engines.dialect import Dialect
from smg.engines.mlx import MlxDialect
from smg.engines.remote import RemoteEngine, Timeouts
from smg.engines.sglang import SglangDialect
from smg.engines.tokenspeed import TokenspeedDialect
from smg.engines.transport import GrpcTransport, NewMetadata, Tls, no_metadata
from smg.engines.trtllm import TrtllmDialect
from smg.engines.vllm import VllmDialect
from smg.errors import ConfigError

ENGINES: Final[dict[str, Dialect]] = {
    "vllm": VllmDialect(),
    "sglang": SglangDialect(),
    "trtllm": TrtllmDialect(),
    "mlx": MlxDialect(),
    "tokenspeed": TokenspeedDialect(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to talk to workers."""

    tls: Tls = Tls()
    """For `grpcs://`."""
    timeouts: Timeouts = Timeouts()
    metadata: NewMetadata = no_metadata
    """What each call carries beside its message: the trace it belongs to."""


def connect(
    url: str, backend: str | None = None, connection: Connection | None = None
) -> RemoteEngine:
    """The engine behind a worker's URL; it need not run yet.

    `grpc://host:port` finds out which engine answers, `grpc+sglang://` and `backend` say it,
    `grpcs://` is encrypted. Call it inside the event loop.

    Raises:
        ConfigError: the URL or the backend's name is wrong.
    """
    options = connection or Connection()
    parts = _split(url)
    scheme, _, named = parts.scheme.partition("+")
    name = named or backend
    if name is not None and name not in ENGINES:
        raise ConfigError(f"Unknown engine {name!r}; there are {', '.join(ENGINES)}")
    transport = GrpcTransport(
        parts.netloc, options.tls if scheme == "grpcs" else None, options.metadata
    )
    dialects = tuple(ENGINES.values()) if name is None else (ENGINES[name],)
    return RemoteEngine(parts.netloc, transport, dialects, options.timeouts)


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    try:
        complete = bool(parts.hostname and parts.port)
    except ValueError:  # A port that is no number, or too large.
        complete = False
    rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme.partition("+")[0] not in {"grpc", "grpcs"} or not complete or rest:
        raise ConfigError(f"Worker URL {url!r} is not of the form grpc://host:port")
    return parts
