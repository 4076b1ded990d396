"""A small Kubernetes API server: pods can be listed and watched, over HTTP, as the real one does.

Which pods match a selector it does not decide; what it was asked is noted.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]


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
        self.refusal: int | None = None
        """The status with which lists are answered instead."""
        self.url = ""
        self._pods: dict[str, Json] = {}
        self._version = 1
        self._watches: list[asyncio.Queue[Json | None]] = []
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

    def miss(self, name: str) -> None:
        """Delete a pod, and tell no watch."""
        del self._pods[name]

    async def tell_error(self, code: int) -> None:
        """End every watch with an error."""
        status = {"kind": "Status", "code": code, "reason": "Expired", "message": "too old"}
        for watch in self._watches:
            watch.put_nowait({"type": "ERROR", "object": status})
        await self.hang_up()

    async def hang_up(self) -> None:
        """End every watch."""
        for watch in self._watches:
            watch.put_nowait(None)

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
        for watch in self._watches:
            watch.put_nowait({"type": kind, "object": changed})

    async def answer(self, request: Request) -> Response:
        parameters = dict(request.query_params)
        watch: asyncio.Queue[Json | None] = asyncio.Queue()
        if "watch" in parameters:
            # Nothing is missed between the list and the watch: nobody else runs in between.
            self._watches.append(watch)
        async with self._changed:
            self.asked.append((request.url.path, parameters))
            self._changed.notify_all()
        if "watch" in parameters:
            return StreamingResponse(self._lines(watch), media_type="application/json")
        if self.refusal is not None:
            return JSONResponse({"kind": "Status", "code": self.refusal}, self.refusal)
        metadata = {"resourceVersion": str(self._version)}
        return JSONResponse({"metadata": metadata, "items": list(self._pods.values())})

    async def _lines(self, watch: "asyncio.Queue[Json | None]") -> AsyncGenerator[str, None]:
        try:
            while (event := await watch.get()) is not None:
                yield json.dumps(event) + "\n"
        finally:
            self._watches.remove(watch)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A cluster for as long as the block lasts; `folder`/kubeconfig says where it is."""
    fake = Cluster()
    routes = [
        Route("/api/v1/pods", fake.answer),
        Route("/api/v1/namespaces/{namespace}/pods", fake.answer),
    ]
    config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fake.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
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
