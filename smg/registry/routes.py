"""/workers over HTTP, for those who have the admin key: a worker reads everybody's prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from smg.errors import Forbidden
from smg.registry.schema import WorkerChange, WorkerSpec
from smg.registry.workers import Job, Registry, WorkerState
from smg.web.auth import owner_check
from smg.web.body import body_of, read_body

Json = dict[str, Any]

ACCEPTED = 202
DRAINING = {
    None: "The worker is changed.",
    True: "The worker gets nothing new.",
    False: "The worker is used again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The endpoints, and what they work with."""

    registry: Registry
    admin_key: str | None
    """`None`: everybody is refused."""
    max_body_bytes: int

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(tags=["Workers"])
        spec, change = body_of(WorkerSpec), body_of(WorkerChange)
        router.get("/workers")(self.listing)
        router.post("/workers", status_code=ACCEPTED, openapi_extra=spec)(self.add)
        router.get("/workers/{worker_id}")(self.one)
        router.put("/workers/{worker_id}", status_code=ACCEPTED, openapi_extra=spec)(self.replace)
        router.patch("/workers/{worker_id}", status_code=ACCEPTED, openapi_extra=change)(
            self.change
        )
        router.delete("/workers/{worker_id}", status_code=ACCEPTED)(self.remove)
        return router

    async def listing(self, request: Request, model: str | None = None) -> Json:
        """List the workers, or those of one model."""
        self._check(request)
        states = [s for s in self.registry.all() if model is None or model in s.models]
        stats = {"prefill_count": 0, "decode_count": 0, "regular_count": len(states)}
        return {"workers": [_shown(s) for s in states], "total": len(states), "stats": stats}

    async def add(self, request: Request) -> JSONResponse:
        """Add a worker; it is asked in the background what it serves."""
        self._check(request)
        spec = await read_body(request, WorkerSpec, self.max_body_bytes)
        state = await self.registry.add(spec.named())
        return _accepted(state, "The worker joins when it answers.", spec.ignored)

    async def one(self, request: Request, worker_id: str) -> Json:
        """Describe one worker."""
        self._check(request)
        return _shown(self.registry.one(worker_id))

    async def replace(self, request: Request, worker_id: str) -> JSONResponse:
        """Replace what is said of a worker; its URL has to be the same."""
        self._check(request)
        spec = await read_body(request, WorkerSpec, self.max_body_bytes)
        state = await self.registry.replace(worker_id, spec.named())
        return _accepted(state, "The worker is described anew.", spec.ignored)

    async def change(self, request: Request, worker_id: str) -> JSONResponse:
        """Change what is said of a worker, its key, or whether it gets anything new."""
        self._check(request)
        body = await read_body(request, WorkerChange, self.max_body_bytes)
        change = body.change()
        state = await self.registry.change(worker_id, change)
        return _accepted(state, DRAINING[change.draining])

    async def remove(self, request: Request, worker_id: str) -> JSONResponse:
        """Remove a worker, once it has ended what it runs."""
        self._check(request)
        state = await self.registry.remove(worker_id)
        return _accepted(state, "The worker gets nothing new, and goes when it is idle.")

    def _check(self, request: Request) -> None:
        if not self.admin_key:
            raise Forbidden("Workers are for those who have the admin key; set --admin-key.")
        owner_check((self.admin_key,))(request)


def _accepted(state: WorkerState, message: str, ignored: Sequence[str] = ()) -> JSONResponse:
    location = f"/workers/{state.id}"
    body = {
        "status": "accepted",
        "worker_id": state.id,
        "url": state.url,
        "location": location,
        "message": message,
        "worker": _shown(state),
        "ignored": list(ignored),
    }
    return JSONResponse(body, status_code=ACCEPTED, headers={"location": location})


def _shown(state: WorkerState) -> Json:
    return {
        "id": state.id,
        "url": state.url,
        "model_id": state.models[0] if state.models else None,
        "models": [{"id": name} for name in state.models],
        "worker_type": "regular",
        "connection_mode": "http" if state.speaks_http else "grpc",
        "runtime_type": state.engine,
        "is_healthy": state.status == "ready",
        "status": state.status,
        "load": state.load,
        "error": state.error,
        "labels": state.description.labels,
        "priority": state.description.priority,
        "cost": state.description.cost,
        "job_status": None if state.job is None else _job(state.url, state.job),
        "dp_size": len(state.ranks) or None,
        "ranks": [
            {"rank": number, "id": rank.id, "url": rank.url, "load": rank.load}
            for number, rank in enumerate(state.ranks)
        ],
    }


def _job(url: str, job: Job) -> Json:
    return {
        "job_type": job.kind,
        "worker_url": url,
        "status": job.status,
        "message": job.message,
        "timestamp": job.since,
    }
