"""What a request stands on: the input it brings, and everything said before it.

References are resolved here and answers matched with what they answer, so that whatever does not
fit together is refused before anything runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smg.agent.approval import definition_digest, read_approval_id
from smg.errors import InvalidRequest, NotFound
from smg.item_json import from_wire
from smg.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    Item,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    Message,
    Status,
    TextPart,
)
from smg.storage.base import Store
from smg.turn import NewId, Now, Offer, ServerTool

MAX_ITEMS = 2000
"""Input items in one request (security.md 2.8)."""


@dataclass(slots=True)
class Input:
    """The `input` field, read."""

    items: list[Item] = field(default_factory=list)
    tools: list[Mapping[str, Any]] = field(default_factory=list)
    """Definitions that came inside the input (`additional_tools`)."""
    wants_compaction: bool = False
    """Whether the last item is a `compaction_trigger`."""


async def read_input(
    given: str | Sequence[Any] | None, store: Store, owner: str, new_id: NewId
) -> Input:
    """Read the `input` field.

    Raises:
        InvalidRequest: an item is ill-formed.
        NotFound: an item_reference names nothing this client has stored.
    """
    if given is None:
        return Input()
    if isinstance(given, str):
        text = (TextPart(given),)
        return Input([Message(id=new_id("msg"), role="user", parts=text)])
    if len(given) > MAX_ITEMS:
        raise InvalidRequest(
            f"Invalid 'input': at most {MAX_ITEMS} items, got {len(given)}.",
            param="input",
            code="array_above_max_length",
        )
    fields = [_fields(value, n) for n, value in enumerate(given)]
    references = {f["id"]: n for n, f in enumerate(fields) if _is_reference(f)}
    stored = await store.responses.find_items(references, owner) if references else {}
    for item_id, n in references.items():
        if item_id not in stored:
            raise NotFound(f"Item with id '{item_id}' not found.", param=f"input[{n}].id")
    read = Input()
    for n, item in enumerate(fields):
        _read_entry(item, n, read, stored, new_id)
    return read


def _fields(value: Any, n: int) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(
            f"Invalid 'input[{n}]': expected an object.", param=f"input[{n}]", code="invalid_type"
        )
    return value


def _is_reference(fields: Mapping[str, Any]) -> bool:
    kind = fields.get("type")
    bare = kind is None and "role" not in fields
    return isinstance(fields.get("id"), str) and (kind == "item_reference" or bare)


def _read_entry(
    fields: Mapping[str, Any], n: int, read: Input, stored: Mapping[str, Item], new_id: NewId
) -> None:
    if _is_reference(fields):
        read.items.append(stored[fields["id"]])
        return
    match fields.get("type"):
        case "additional_tools":
            read.tools += [_fields(tool, n) for tool in fields.get("tools") or ()]
        case "compaction_trigger":
            read.wants_compaction = True
        case _:
            read.items.append(from_wire(fields, path=f"input[{n}]", new_id=new_id))


def check_outputs(history: Sequence[Item], given: Sequence[Item], *, strict: bool = True) -> None:
    """Refuse an output whose call nobody made; `strict`: also a call that has no output.

    Raises:
        InvalidRequest: as OpenAI says it, param `input`.
    """
    context = (*history, *given)
    calls = {c.call_id: c for c in context if isinstance(c, FunctionCall | CustomToolCall)}
    outputs = {
        item.call_id
        for item in context
        if isinstance(item, FunctionCallOutput | CustomToolCallOutput)
    }
    for call_id in outputs:
        if call_id not in calls:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {call_id}.",
                param="input",
            )
    for call_id in calls:
        if strict and call_id not in outputs:
            raise InvalidRequest(
                f"No tool output found for function call {call_id}.", param="input"
            )


@dataclass(slots=True)
class Answers:
    """What this request's approval responses come to."""

    calls: list[McpCall] = field(default_factory=list)
    """Calls that are allowed and have not been run."""
    given: list[Item] = field(default_factory=list)
    """The input, with approvals that came too late turned into denials that say so."""
    denied: list[str] = field(default_factory=list)
    """The ids of the requests that are answered with no."""


def read_answers(
    history: Sequence[Item],
    given: Sequence[Item],
    offers: Iterable[Offer],
    approvals: "ApprovalRules",
) -> Answers:
    """Match approval responses with their requests.

    Raises:
        InvalidRequest: an answer to no question, or a tool that is not offered any more.
    """
    context = (*history, *given)
    asked = {item.id: item for item in context if isinstance(item, McpApprovalRequest)}
    run = {item.approval_request_id for item in context if isinstance(item, McpCall)}
    before = {r.approval_request_id for r in history if isinstance(r, McpApprovalResponse)}
    tools = {(o.tool.server, o.tool.name): o.tool for o in offers if isinstance(o.tool, ServerTool)}
    answers = Answers()
    for n, item in enumerate(given):
        answers.given.append(item)
        if not isinstance(item, McpApprovalResponse):
            continue
        request = asked.get(item.approval_request_id)
        if request is None or request.id in before:
            raise InvalidRequest(
                f"No open approval request with id '{item.approval_request_id}'.",
                param=f"input[{n}].approval_request_id",
            )
        if request.id in run:
            continue  # A client that keeps the history sends old answers along.
        if item.approve:
            _approve(request, item, tools, approvals, answers)
        else:
            answers.denied.append(request.id)
    return answers


def _approve(
    request: McpApprovalRequest,
    answer: McpApprovalResponse,
    tools: Mapping[tuple[str, str], ServerTool],
    approvals: "ApprovalRules",
    answers: Answers,
) -> None:
    tool = tools.get((request.server_label, request.name))
    if tool is None:
        raise InvalidRequest(
            f"The approved tool '{request.name}' of '{request.server_label}' is not among "
            "this request's tools; send the MCP tool definition again.",
            param="tools",
        )
    objection = approvals.objection(request, tool)
    if objection is None:
        answers.calls.append(_approved(request, approvals.new_id))
    else:
        answers.given[-1] = replace(answer, approve=False, reason=objection)
        answers.denied.append(request.id)


@dataclass(frozen=True, slots=True)
class ApprovalRules:
    """When an approval does not count."""

    new_id: NewId
    now: Now
    expiry_seconds: float = 0.0
    """After this time a question cannot be answered with yes any more; 0: never."""

    def objection(self, request: McpApprovalRequest, tool: ServerTool) -> str | None:
        """Why this tool may not be run on this approval."""
        told = read_approval_id(request.id)
        if told is None:
            return None  # Another gateway's question.
        if told.digest != definition_digest(tool):
            return "The tool's definition has changed since it was approved; ask again."
        if self.expiry_seconds and self.now() - told.at > self.expiry_seconds:
            return "The approval came too late; ask again."
        return None


def _approved(request: McpApprovalRequest, new_id: NewId) -> McpCall:
    return McpCall(
        id=new_id("mcp"),
        server_label=request.server_label,
        name=request.name,
        arguments=request.arguments,
        status=Status.IN_PROGRESS,
        approval_request_id=request.id,
    )
