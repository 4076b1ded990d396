"""Worker URLs to engines that have said what they serve.

A URL comes in; who is behind it goes out, once it answers. An HTTP server may have several models
and counts as one engine for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from smg.discovery.named import Description, Named
from smg.engines.base import Engine, EngineInfo
from smg.engines.registry import Connection, connect
from smg.engines.remote import RemoteEngine
from smg.errors import ConfigError, EngineError
from smg.settings import Settings
from smg.startup import now
from smg.upstream.engine import HttpEngine

HTTP: Final = ("http", "https")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An engine, and what it says of itself."""

    engine: Engine
    info: EngineInfo
    speaks_http: bool


class Candidate(Protocol):
    """A URL behind which there may be a worker."""

    url: str
    speaks_http: bool
    description: Description
    since: int
    """When it was named, or told to go; in Unix seconds."""

    @property
    def address(self) -> str:
        """That of its engines."""
        ...

    async def ask(self) -> Sequence[Known]:
        """Who is there. What it returns is the caller's to close.

        Raises:
            EngineError: nobody answers, or nobody who serves a model.
        """
        ...

    async def close(self) -> None:
        """Give it up, if it was never known."""
        ...


class GrpcCandidate:
    """A gRPC worker: one engine with one model."""

    speaks_http = False

    def __init__(self, url: str, engine: RemoteEngine) -> None:
        self.url = url
        self.description = Description()
        self.since = now()
        self._engine = engine
        self._is_released = False

    @property
    def address(self) -> str:
        """That of its engine."""
        return self._engine.address

    async def ask(self) -> Sequence[Known]:
        """Ask for its model."""
        info = await self._engine.info()
        return (Known(engine=self.release(), info=info, speaks_http=False),)

    def release(self) -> RemoteEngine:
        """The engine, which is now the caller's to close."""
        self._is_released = True
        return self._engine

    async def close(self) -> None:
        """Give up the connection."""
        if not self._is_released:
            await self._engine.close()


class HttpCandidate:
    """An OpenAI-compatible server: any number of models."""

    speaks_http = True

    def __init__(self, url: str, api_key: str | None, connection: Connection) -> None:
        self.url = url
        self.description = Description()
        self.since = now()
        self._api_key = api_key
        self._connection = connection
        self._scout = HttpEngine(url, api_key=api_key, timeouts=connection.timeouts)

    @property
    def address(self) -> str:
        """That of its engines, whatever their models."""
        return self._scout.address

    async def ask(self) -> Sequence[Known]:
        """Ask for its models."""
        infos = await self._scout.models()
        if not infos:
            raise EngineError(f"Worker {self._scout.address} lists no models")
        return tuple(
            Known(engine=self._engine(info.model), info=info, speaks_http=True) for info in infos
        )

    def use_key(self, api_key: str) -> None:
        """Have another key from now on; engines that are known already have to be told too."""
        self._api_key = api_key
        self._scout.use_key(api_key)

    async def close(self) -> None:
        """Give up the connection by which it was asked."""
        await self._scout.close()

    def _engine(self, model: str) -> HttpEngine:
        return HttpEngine(
            self.url,
            model=model,
            api_key=self._api_key,
            timeouts=self._connection.timeouts,
            metadata=self._connection.metadata,
        )


def new_candidates(
    settings: Settings,
    connection: Connection,
    environment: Mapping[str, str],
) -> list[Candidate]:
    """One for each worker URL; call it inside the event loop.

    Raises:
        ConfigError: there is none, or one is wrong.
    """
    if not settings.worker_urls:
        raise ConfigError("--worker-urls: name at least one worker, as grpc://host:port")
    keys = worker_keys(settings, environment)
    try:
        return [new_candidate(settings, connection, url, keys) for url in settings.worker_urls]
    except ConfigError as error:
        raise ConfigError(f"--worker-urls: {error}") from error


def new_candidate(
    settings: Settings, connection: Connection, url: str, keys: Mapping[str, str] | None = None
) -> Candidate:
    """The one of this URL; `keys` are those of workers that have one of their own.

    Raises:
        ConfigError: the URL is wrong.
    """
    if is_http(url):
        key = (keys or {}).get(url, settings.worker_api_key)
        return HttpCandidate(url, key, connection)
    return GrpcCandidate(url, connect(url, settings.backend, connection))


def admitted(settings: Settings, connection: Connection, worker: Named) -> Candidate:
    """The one of a worker that is named while the gateway runs.

    Raises:
        ConfigError: the URL is wrong.
    """
    keys = {} if worker.api_key is None else {worker.url: worker.api_key}
    candidate = new_candidate(settings, connection, worker.url, keys)
    candidate.description = worker.description
    return candidate


def is_http(url: str) -> bool:
    """Whether a worker URL is of an OpenAI-compatible server.

    Raises:
        ConfigError: it is, but is not complete.
    """
    parts = urlsplit(url)
    if parts.scheme not in HTTP:
        return False
    if not parts.hostname or parts.query or parts.fragment or parts.username:
        # A key in a URL would be in every log.
        raise ConfigError(f"Worker URL {url!r} is not of the form http://host:port[/v1]")
    return True


def worker_keys(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The keys of workers that have one of their own, by URL.

    Raises:
        ConfigError: an entry names no worker, or a variable that is not set.
    """
    keys: dict[str, str] = {}
    for entry in settings.worker_api_key_env:
        url, _, variable = entry.rpartition("=")
        if url not in settings.worker_urls or not is_http(url):
            raise ConfigError(f"--worker-api-key-env: {entry!r} names no http:// worker")
        if not environment.get(variable):
            raise ConfigError(f"--worker-api-key-env: the variable {variable!r} is not set")
        keys[url] = environment[variable]
    return keys
