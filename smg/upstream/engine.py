"""One OpenAI-compatible server as an engine: HTTP requests, deadlines, cancellation.

Conversations come in, chunks of parsed deltas go out, and it tells of itself what such servers
tell. The only place that holds an HTTP client for workers; it must not know what is in a body.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx2

from smg.engines.base import EngineInfo, EngineLoad, PromptTokens
from smg.engines.deadline import Deadline
from smg.engines.remote import Timeouts
from smg.engines.transport import NewMetadata, no_metadata
from smg.errors import EngineError, GatewayError, WorkerTimeout, WorkerUnavailable
from smg.upstream.failures import status_error
from smg.upstream.lines import DataLines
from smg.upstream.stream import ChatReader
from smg.upstream.words import ChatChunk, ChatPrompt

LARGEST_ANSWER: Final = 64 * 1024 * 1024
CONNECT_S: Final = 10.0
Result = TypeVar("Result")

OWNERS: Final[Mapping[str, str]] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "library": "ollama",
    "organization_owner": "lmstudio",
    "llamacpp": "llamacpp",
    "smg": "smg",
    "openai": "openai",
    "openai-internal": "openai",
    "system": "openai",
}
"""Whom a server's models belong to by its own word, and what kind of server that is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server's API is."""

    api: str
    """With the version: http://host:port/v1."""

    @classmethod
    def of(cls, url: str) -> "Place":
        """The place a worker URL names; without a path it is /v1."""
        trimmed = url.rstrip("/")
        has_path = "/" in trimmed.partition("://")[2]
        return cls(trimmed if has_path else f"{trimmed}/v1")

    @property
    def root(self) -> str:
        """Where the paths are that have no version."""
        return self.api.removesuffix("/v1")


class HttpEngine:
    """One model on one server. The server need not run yet."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeouts: Timeouts | None = None,
        metadata: NewMetadata = no_metadata,
    ) -> None:
        """`model` is one of several that the server has; `None`: its only one, or its first.

        `metadata` is asked for what each generation is to carry as headers.
        """
        self._place = Place.of(url)
        self.address = self._place.api
        self._model = model
        self._timeouts = timeouts or Timeouts()
        self._metadata = metadata
        self._client = new_client(api_key)

    def use_key(self, api_key: str) -> None:
        """Send another key from now on."""
        self._client.headers["authorization"] = f"Bearer {api_key}"

    async def generate(
        self, request_id: str, prompt: PromptTokens
    ) -> AsyncGenerator[ChatChunk, None]:
        """Stream one generation; closing it early closes the connection, which frees the worker."""
        assert isinstance(prompt, ChatPrompt)  # The model above makes no others.
        model = self._model or (await self.info()).model
        body = {**prompt.body, "model": model}
        reader = ChatReader(self.address, separate_reasoning=prompt.separate_reasoning)
        objects = self._stream(prompt.path, body, request_id)
        async with aclosing(objects):
            async for told in objects:
                chunk = reader.read(told)
                if chunk is not None:
                    yield chunk
        yield reader.finish()

    async def models(self) -> list[EngineInfo]:
        """Every model the server lists.

        Raises:
            EngineError: it cannot be reached, or lists nothing that can be read.
        """
        listed = await self._get(f"{self._place.api}/models")
        version = await self._version()
        try:
            return [_info(entry, version) for entry in listed["data"] or ()]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(f"Worker {self.address} lists no models: {error!r}") from error

    async def info(self) -> EngineInfo:
        """What it says of the model."""
        found = await self.models()
        for info in found:
            if self._model in (None, info.model):
                self._model = info.model
                return info
        raise WorkerUnavailable(f"Worker {self.address} has no model {self._model or 'at all'}")

    async def check(self) -> None:
        """Return if the server is healthy: by /health, where it has one, else by its models."""
        status = (await self._ask(f"{self._place.root}/health", self._timeouts.health_s))[0]
        if status in (404, 405):
            await self._get(f"{self._place.api}/models")
        elif status >= 400:
            raise WorkerUnavailable(f"Worker {self.address} is not healthy ({status})")

    async def load(self) -> EngineLoad:
        """Refuse: OpenAI's API has no word for it."""
        raise EngineError(f"Worker {self.address}: HTTP workers do not report their load")

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call the API and wait for the whole answer; the worker's name for the model is put in."""
        model = self._model or (await self.info()).model
        seconds = self._timeouts.first_token_s
        status, content = await self._ask(
            f"{self._place.api}{path}", seconds, {**body, "model": model}
        )
        return self._object(status, content)

    async def close(self) -> None:
        """Give up all connections."""
        await self._client.aclose()

    async def _stream(
        self, path: str, body: Mapping[str, Any], request_id: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        headers = {"x-request-id": request_id, **dict(self._metadata())}
        url = f"{self._place.api}{path}"
        request = self._client.build_request("POST", url, json=body, headers=headers)
        answer = _Answer(self.address, self._timeouts)
        try:
            await answer.open(self._client, request)
            while (objects := await answer.next_objects()) is not None:
                for told in objects:
                    yield told
        finally:
            await answer.close()

    async def _version(self) -> str:
        """The version that vLLM and some others tell; empty with all that have no such path."""
        try:
            told = await self._get(f"{self._place.root}/version")
        except GatewayError:
            return ""
        return str(told.get("version") or "")

    async def _get(self, url: str) -> dict[str, Any]:
        return self._object(*await self._ask(url, self._timeouts.call_s))

    def _object(self, status: int, content: bytes) -> dict[str, Any]:
        if status != 200:
            raise status_error(self.address, status, content)
        try:
            told = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"Worker {self.address} did not answer with JSON") from error
        if not isinstance(told, dict):
            raise EngineError(f"Worker {self.address} did not answer with a JSON object")
        return told

    async def _ask(
        self, url: str, seconds: float, body: Mapping[str, Any] | None = None
    ) -> tuple[int, bytes]:
        """A whole answer: its status and its body."""
        request = self._client.build_request("GET" if body is None else "POST", url, json=body)
        answer = _Answer(self.address, self._timeouts)
        try:
            async with asyncio.timeout(seconds):
                status = await answer.begin(self._client, request)
                return status, await answer.rest()
        except TimeoutError as error:
            message = f"Worker {self.address} did not answer within {seconds:g} s"
            raise WorkerTimeout(message) from error
        finally:
            await answer.close()


class _Answer:
    """One request's answer, as far as it has come."""

    def __init__(self, address: str, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self._wait_s = timeouts.first_token_s
        self._deadline = Deadline()
        self._lines = DataLines()
        self._response: httpx2.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._broken: EngineError | None = None

    async def begin(self, client: httpx2.AsyncClient, request: httpx2.Request) -> int:
        """Send the request; the status of its answer."""
        with _translated(self._address):
            self._response = await client.send(request, stream=True)
            self._pieces = self._response.aiter_bytes()
        return self._response.status_code

    async def open(self, client: httpx2.AsyncClient, request: httpx2.Request) -> None:
        """Send the request, and wait until its answer begins.

        Raises:
            GatewayError: the server refused it, or cannot be reached.
        """
        status = await self._in_time(self.begin(client, request))
        if status != 200:
            raise status_error(self._address, status, await self._in_time(self.rest()))

    async def next_objects(self) -> list[dict[str, Any]] | None:
        """The objects of the next piece of the stream, maybe none; `None` at its end."""
        if self._broken is not None:
            raise self._broken
        if self._lines.done or self._pieces is None:
            return None
        piece = await self._in_time(self._next())
        if piece is None:
            self._pieces = None
        objects: list[dict[str, Any]] = []
        try:
            objects += self._lines.feed(b"\n" if piece is None else piece)
        except (ValueError, RecursionError) as error:
            # What was said before it in the same piece is told first.
            self._broken = EngineError(
                f"Worker {self._address} sent a stream that makes no sense: {error}"
            )
        if objects:
            self._wait_s = self._timeouts.next_token_s
        return objects

    async def rest(self) -> bytes:
        """All that is left of the body."""
        content = bytearray()
        while (piece := await self._next()) is not None:
            content += piece
            if len(content) > LARGEST_ANSWER:
                raise EngineError(f"Worker {self._address} answers with too much")
        return bytes(content)

    async def close(self) -> None:
        """Close the connection if the answer is not whole: the server stops working on it."""
        self._deadline.close()
        if self._response is not None:
            await self._response.aclose()

    async def _next(self) -> bytes | None:
        assert self._pieces is not None  # The answer has begun.
        with _translated(self._address):
            return await anext(self._pieces, None)

    async def _in_time(self, awaited: Awaitable[Result]) -> Result:
        try:
            return await self._deadline.wait(awaited, self._wait_s)
        except TimeoutError as error:
            message = f"Worker {self._address} sent no token for {self._wait_s:g} s"
            raise WorkerTimeout(message) from error


def new_client(api_key: str | None) -> httpx2.AsyncClient:
    """A client for one server: as many connections as it needs, no proxy, no redirects."""
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(None, connect=CONNECT_S),  # We bound each wait ourselves.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        headers={} if api_key is None else {"authorization": f"Bearer {api_key}"},
        trust_env=False,
        follow_redirects=False,
    )


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Turn the HTTP client's failures into ours."""
    try:
        yield
    except httpx2.DecodingError as error:
        raise EngineError(f"Worker {address}: {error}") from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise WorkerUnavailable(f"Worker {address}: {reason}") from error


def _info(entry: Mapping[str, Any], version: str) -> EngineInfo:
    owner = str(entry.get("owned_by") or "")
    length = entry.get("max_model_len") or entry.get("context_length") or _meta_length(entry)
    return EngineInfo(
        engine=OWNERS.get(owner, owner or "http"),
        model=str(entry["id"]),
        version=version,
        context_length=int(length),
    )


def _meta_length(entry: Mapping[str, Any]) -> int:
    """What llama.cpp's server says."""
    meta = entry.get("meta")
    return int(meta.get("n_ctx_train") or 0) if isinstance(meta, Mapping) else 0
