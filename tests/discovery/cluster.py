"""A small Kubernetes API server: pods can be listed and watched, over HTTP, as the real one does.

Which pods match a selector it does not decide; what it was asked is noted.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]
Watch: TypeAlias = "asyncio.Queue[str | ConnectionResetError | None]"
"""What is said on it; nothing ends it."""


def refusal(code: int, message: str = "not now") -> Response:
    """How the cluster says no."""
    return JSONResponse({"kind": "Status", "code": code, "message": message}, code)


def pod(name: str, *ports: int, **status: Any) -> Json:
    """A pod on this machine that is ready, with its workers' ports."""
    return {
        "metadata": {
            "name": name,
            "namespace": "llm",
            "uid": f"uid-{name}",
            "annotations": {"smg.ai/worker-ports": ", ".join(map(str, ports))} if ports else {},
        },
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            **status,
        },
    }


class Cluster:
    """Pods, and those who watch them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        """Path and parameters of every list and watch."""
        self.refusal: Response | None = None
        """What lists are answered with instead."""
        self.watch_refusal: Response | None = None
        """What the next watch is answered with instead."""
        self.tokens: list[str] = []
        """What was sent as authorization, each time."""
        self.url = ""
        self._pods: dict[str, Json] = {}
        self._version = 1
        self._watches: list[Watch] = []
        self._changed = asyncio.Condition()

    async def put(self, pod: Json) -> None:
        """Create a pod, or change it."""
        name = pod["metadata"]["name"]
        kind = "MODIFIED" if name in self._pods else "ADDED"
        self._pods[name] = pod
        await self._tell(kind, pod)

    async def delete(self, name: str) -> None:
        """Delete a pod."""
        await self._tell("DELETED", self._pods.pop(name))

    def put_unseen(self, pod: Json) -> None:
        """Create a pod, and tell no watch."""
        self._pods[pod["metadata"]["name"]] = pod

    def miss(self, name: str) -> None:
        """Delete a pod, and tell no watch."""
        del self._pods[name]

    async def tell_error(self, code: int) -> None:
        """End every watch with an error."""
        status = {"kind": "Status", "code": code, "reason": "Expired", "message": "too old"}
        await self._send(json.dumps({"type": "ERROR", "object": status}) + "\n", None)

    async def hang_up(self) -> None:
        """End every watch."""
        await self._send(None)

    async def break_off(self) -> None:
        """Reset every watch's connection in the middle of an event."""
        await self._send('{"type": "MODIFIED", "obj', ConnectionResetError())

    async def bookmark(self) -> None:
        """Tell every watch how far it has come."""
        told = {"kind": "Pod", "metadata": {"resourceVersion": str(self._version)}}
        await self._send(json.dumps({"type": "BOOKMARK", "object": told}) + "\n")

    async def _send(self, *said: str | ConnectionResetError | None) -> None:
        for watch in self._watches:
            for one in said:
                watch.put_nowait(one)

    def count(self, *, watches: bool) -> int:
        """How many watches, or lists, there have been."""
        return sum(("watch" in parameters) is watches for _, parameters in self.asked)

    async def asks(self, *, watches: bool, times: int) -> None:
        """Wait until there have been so many."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.count(watches=watches) >= times)

    async def _tell(self, kind: str, pod: Json) -> None:
        self._version += 1
        changed = {**pod, "metadata": {**pod["metadata"], "resourceVersion": str(self._version)}}
        await self._send(json.dumps({"type": kind, "object": changed}) + "\n")

    async def answer(self, request: Request) -> Response:
        parameters = dict(request.query_params)
        watch: Watch = asyncio.Queue()
        refusal = self.refusal
        if "watch" in parameters:
            refusal, self.watch_refusal = self.watch_refusal, None
        if "watch" in parameters and refusal is None:
            # Nothing is missed between the list and the watch: nobody else runs in between.
            self._watches.append(watch)
        async with self._changed:
            self.asked.append((request.url.path, parameters))
            self.tokens.append(request.headers.get("authorization", ""))
            self._changed.notify_all()
        if refusal is not None:
            return refusal
        if "watch" in parameters:
            return StreamingResponse(self._lines(watch), media_type="application/json")
        metadata = {"resourceVersion": str(self._version)}
        return JSONResponse({"metadata": metadata, "items": list(self._pods.values())})

    async def _lines(self, watch: Watch) -> AsyncGenerator[str, None]:
        try:
            while (said := await watch.get()) is not None:
                if isinstance(said, ConnectionResetError):
                    raise said
                yield said
        finally:
            self._watches.remove(watch)


@asynccontextmanager
async def cluster(folder: Path, certificates: Path | None = None) -> AsyncIterator[Cluster]:
    """A cluster for as long as the block lasts; `folder`/kubeconfig says where it is."""
    tls: Json = {}
    if certificates is not None:
        tls = {
            "ssl_certfile": certificates / "server.crt",
            "ssl_keyfile": certificates / "server.key",
        }
    fake = Cluster()
    routes = [
        Route("/api/v1/pods", fake.answer),
        Route("/api/v1/namespaces/{namespace}/pods", fake.answer),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), log_config=None, lifespan="off", ws="none", **tls
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{sock.getsockname()[1]}"
        (folder / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig(fake.url)))
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield fake
        finally:
            await fake.hang_up()
            server.should_exit = True
            await serving


def _kubeconfig(url: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": "none"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
