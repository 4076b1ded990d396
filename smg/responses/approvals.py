"""/v1/approvals: calls that wait for a person's word, and the word.

Beside the Responses API, which answers with an `mcp_approval_response` item: here a person or a
script answers, and the agent goes on in the background.
"""

from dataclasses import dataclass

from fastapi import APIRouter, Request

from smg.responses.body import Json
from smg.responses.intake import accept
from smg.responses.kitchen import Kitchen
from smg.responses.runs import Runs
from smg.responses.schema import ApprovalAnswer, ResponsesRequest
from smg.storage.records import PendingApproval, ResponseRecord
from smg.web.admission import entrance_of
from smg.web.auth import OwnerOf
from smg.web.body import body_of, read_body

_REPEATED = (
    "model",
    "tools",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "metadata",
    "reasoning",
    "text",
)
"""What the response that goes on takes over from the one that asked."""


@dataclass(frozen=True, slots=True)
class ApprovalRoutes:
    """The endpoints, and what they work with."""

    kitchen: Kitchen
    runs: Runs
    owner_of: OwnerOf
    max_body_bytes: int

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(prefix="/v1/approvals", tags=["Approvals"])
        router.get("")(self.pending)
        router.post("/{request_id}", openapi_extra=body_of(ApprovalAnswer))(self.answer)
        return router

    async def pending(self, request: Request) -> Json:
        """List the calls that wait."""
        found = await self.kitchen.store.approvals.pending(self.owner_of(request))
        return {"object": "list", "data": [_shown(pending) for pending in found]}

    async def answer(self, request: Request, request_id: str) -> Json:
        """Allow or deny a call; answers with the background response that goes on."""
        owner, store = self.owner_of(request), self.kitchen.store
        body = await read_body(request, ApprovalAnswer, self.max_body_bytes)
        pending = await store.approvals.one(owner, request_id)
        record = await store.responses.get(pending.response_id, owner)
        model = self.kitchen.models.find(record.model)
        entrance_of(request).doors.promise(owner, model.name)
        order = await accept(_continuation(record, request_id, body), self.kitchen, owner)
        await self.runs.start(order)
        return order.head.body("queued")


def _continuation(
    record: ResponseRecord, request_id: str, answer: ApprovalAnswer
) -> ResponsesRequest:
    """The request that a client would have sent to answer."""
    said = {
        "type": "mcp_approval_response",
        "approval_request_id": request_id,
        "approve": answer.approve,
        "reason": answer.reason,
    }
    place = (
        {"conversation": record.conversation_id}
        if record.conversation_id is not None
        else {"previous_response_id": record.id}
    )
    repeated = {name: record.body[name] for name in _REPEATED if name in record.body}
    return ResponsesRequest.model_validate(
        {**repeated, **place, "input": [said], "background": True}
    )


def _shown(pending: PendingApproval) -> Json:
    return {
        "id": pending.request.id,
        "object": "approval",
        "response_id": pending.response_id,
        "asked_at": pending.asked_at,
        "server_label": pending.request.server_label,
        "name": pending.request.name,
        "arguments": pending.request.arguments,
    }
