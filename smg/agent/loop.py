"""The decisions of one turn: parsed deltas and tool results in, events and the next action out.

Knows nothing of waiting, engines, endpoints or storage: `run.py` does what `action` says and
reports back. Between two actions the whole state is `progress`, a frozen value from which an
equal loop can be built later, in another process too.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from smg.agent.approval import approval_id
from smg.agent.draft import Draft, emptied, new_answer, new_call, new_reasoning
from smg.engines.base import Finish
from smg.errors import GatewayError
from smg.events import (
    CallReady,
    Event,
    ItemDelta,
    ItemFinished,
    ItemStarted,
    Outcome,
    TurnFinished,
    Usage,
)
from smg.items import (
    Compaction,
    CustomToolCall,
    GatewayCall,
    HostedCall,
    Item,
    Logprob,
    McpApprovalRequest,
    McpCall,
    Message,
    Reasoning,
    Status,
    ToolError,
)
from smg.parsers.base import (
    ParsedDelta,
    ReasoningText,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from smg.turn import NewId, ServerTool, ToolResult, Turn


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask the model."""

    number: int
    """Counts the turn's generations from 0."""
    max_tokens: int | None = None
    """What the turn's limit leaves."""
    starts: frozenset[str] = frozenset()
    """The ids of the output items with which a generation began."""


@dataclass(frozen=True, slots=True)
class CallTools:
    """Run these calls, all at once."""

    calls: tuple[GatewayCall, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing is left to do."""


Action = Generate | CallTools | Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a turn has come at the edge of a step."""

    items: tuple[Item, ...] = ()
    """The output so far; calls that still run are in progress."""
    usage: Usage = Usage()
    generations: int = 0
    calls: int = 0
    """Calls run here so far, the pending ones included."""
    answered: bool = False
    """Whether the turn ends once the pending calls are done."""
    starts: frozenset[str] = frozenset()
    """The ids of the items with which a generation began."""


class AgentLoop:
    """One turn's state. Do what `action` says, tell the loop what came of it, until Stop."""

    def __init__(self, turn: Turn, new_id: NewId, progress: Progress | None = None) -> None:
        progress = progress or Progress()
        self._turn = turn
        self._new_id = new_id
        self._items: list[Item] = list(progress.items)
        self._usage = progress.usage
        self._generations = progress.generations
        self._calls = progress.calls
        self._answered = progress.answered
        self._starts = set(progress.starts)
        self._fresh = True
        self._pending: dict[str, tuple[int, GatewayCall]] = {
            item.id: (index, item)
            for index, item in enumerate(self._items)
            if isinstance(item, McpCall | HostedCall) and item.status is Status.IN_PROGRESS
        }
        self._draft: Draft | None = None
        self._called_client = False
        self._called_server = False
        self._forbidden_call = False
        self._deaf = False
        self._allowed = frozenset(offer.name for offer in turn.tools.callable_offers())
        self.action: Action = self._next_action()

    @property
    def output(self) -> tuple[Item, ...]:
        """The items written so far, in order."""
        return tuple(self._items)

    @property
    def progress(self) -> Progress:
        """The state to go on from; whole only at the edge of a step."""
        return Progress(
            items=tuple(self._items),
            usage=self._usage,
            generations=self._generations,
            calls=self._calls,
            answered=self._answered,
            starts=frozenset(self._starts),
        )

    def begin(self) -> list[Event]:
        """Open the turn: show the tool lists, start the calls a person has allowed."""
        events: list[Event] = []
        for item in self._turn.opening[len(self._items) :]:
            index = self._append(item)
            events.append(ItemStarted(index, emptied(item)))
            events.append(ItemFinished(index, item))
        for call in self._turn.approved:
            index = self._append(call)
            self._pending[call.id] = (index, call)
            self._calls += 1
            events.append(ItemStarted(index, replace(call, arguments="")))
            events.append(ItemDelta(index, call.arguments))
            events.append(CallReady(index, call))
        self.action = self._next_action()
        return events

    # ---- the model speaks

    def receive(self, deltas: Iterable[ParsedDelta]) -> list[Event]:
        """Take what the model said next."""
        events: list[Event] = []
        for delta in deltas:
            if self._deaf:
                break  # One call was all this turn allows; the rest of the generation is not ours.
            match delta:
                case Text(text, logprobs):
                    self._say(events, text, logprobs)
                case ReasoningText(text):
                    self._think(events, text)
                case ToolCallStart(name):
                    self._start_call(events, name)
                case ToolCallArguments(text):
                    self._extend(events, text)
                case ToolCallEnd():
                    self._end_call(events)
        return events

    def generation_finished(self, finish: Finish, usage: Usage) -> list[Event]:
        """The engine stopped: close what is open and decide what comes next."""
        events: list[Event] = []
        cut = finish is not Finish.STOP
        half_a_call = self._draft is not None and self._draft.is_call
        self._close(events, Status.INCOMPLETE if cut or half_a_call else Status.COMPLETED)
        self._usage += usage
        self._generations += 1
        self._fresh = True
        self._answered = self._called_client or not self._called_server
        self._deaf = self._called_client = self._called_server = self._forbidden_call = False
        if cut:
            self._abandon_pending(events)
            filtered = finish is Finish.CONTENT_FILTER
            reason = "content_filter" if filtered else "max_output_tokens"
            events.append(self._finish(Outcome.INCOMPLETE, reason=reason))
            return events
        self._refuse_excess(events)
        self._advance(events)
        return events

    # ---- a tool answers

    def tool_finished(self, item_id: str, result: ToolResult) -> list[Event]:
        """Take one call's result; after the last one the model has the word again."""
        events: list[Event] = [self._settle(item_id, result)]
        if not self._pending:
            self._advance(events)
        return events

    def ask_again(self, item_id: str, result: ToolResult) -> list[Event]:
        """Settle a call with this result, and end the turn with the question whether to run it.

        For calls of which nobody knows whether they ran.
        """
        _, call = self._pending[item_id]
        events: list[Event] = [self._settle(item_id, result)]
        request = McpApprovalRequest(
            id=self._question_id(call),
            server_label=call.server_label,
            name=call.name,
            arguments=call.arguments,
        )
        index = self._append(request)
        self._answered = True
        events += (ItemStarted(index, request), ItemFinished(index, request))
        if not self._pending:
            self._advance(events)
        return events

    def _question_id(self, call: GatewayCall) -> str:
        """An id for the question whether to run this call, bound to its tool's definition."""
        fresh = self._new_id("mcpr")
        for offer in self._turn.tools.offers:
            match offer.tool:
                case ServerTool(server=call.server_label, name=call.name) as tool:
                    return approval_id(fresh, tool, self._turn.created_at)
        return fresh

    # ---- the turn ends early

    def fail(self, error: GatewayError) -> list[Event]:
        """End the turn with an error. What was half said stays in the items, as incomplete."""
        self._keep_partial()
        return [self._finish(Outcome.FAILED, error=error)]

    def cancel(self) -> list[Event]:
        """End the turn because somebody asked for it."""
        self._keep_partial()
        return [self._finish(Outcome.CANCELLED)]

    # ---- items

    def _append(self, item: Item) -> int:
        self._items.append(item)
        return len(self._items) - 1

    def _begin(self, events: list[Event], item: Item, *, silent: bool = False) -> Draft:
        self._close(events, Status.COMPLETED)
        if self._fresh:
            self._starts.add(item.id)
            self._fresh = False
        self._draft = Draft(self._append(item), item, silent)
        if not silent:
            events.append(ItemStarted(self._draft.index, item))
        return self._draft

    def _say(self, events: list[Event], text: str, logprobs: tuple[Logprob, ...] = ()) -> None:
        draft = self._draft
        if draft is None or not isinstance(draft.item, Message | Compaction):
            item = new_answer(self._turn, self._new_id)
            draft = self._begin(events, item, silent=isinstance(item, Compaction))
        draft.pieces.append(text)
        draft.logprobs += logprobs
        if not draft.silent:
            events.append(ItemDelta(draft.index, text, logprobs))

    def _think(self, events: list[Event], text: str) -> None:
        if self._turn.compacts:
            return  # The summary is all there is to such a turn.
        if self._draft is None or not isinstance(self._draft.item, Reasoning):
            self._begin(events, new_reasoning(self._new_id))
        self._extend(events, text)

    def _extend(self, events: list[Event], text: str) -> None:
        draft = self._draft
        if draft is None:
            raise AssertionError("A parser gave arguments outside a call")
        draft.pieces.append(text)
        if not draft.silent:
            events.append(ItemDelta(draft.index, text))

    def _start_call(self, events: list[Event], name: str) -> None:
        tool = self._turn.tools.find(name)
        if tool is not None and name not in self._allowed:
            # A hard limit of the request: what the model wrote is shown, but it is no call.
            self._say(events, f'{{"name": {json.dumps(name)}, "arguments": ')
            self._forbidden_call = True
            return
        item = new_call(name, tool, self._new_id, self._turn.created_at)
        self._begin(events, item, silent=isinstance(item, CustomToolCall | McpApprovalRequest))

    def _end_call(self, events: list[Event]) -> None:
        if self._forbidden_call:
            self._say(events, "}")
            self._forbidden_call = False
            return
        draft = self._draft
        if draft is not None and isinstance(draft.item, McpCall | HostedCall):
            call = replace(draft.item, arguments="".join(draft.pieces))
            self._items[draft.index] = call
            self._pending[call.id] = (draft.index, call)
            self._draft = None
            self._called_server = True
            events.append(CallReady(draft.index, call))
        else:
            self._called_client = True
            self._close(events, Status.COMPLETED)
        self._deaf = not self._turn.tools.parallel

    def _close(self, events: list[Event], status: Status) -> None:
        """Finish the open item, if there is one."""
        if self._draft is None:
            return
        draft, self._draft = self._draft, None
        item = draft.finished(status)
        if isinstance(item, McpApprovalRequest) and status is Status.INCOMPLETE:
            self._items.pop()  # Nobody may be asked about half a call; nobody has seen it.
            return
        self._items[draft.index] = item
        if draft.silent:
            events.append(ItemStarted(draft.index, emptied(item)))
            if isinstance(item, CustomToolCall) and item.input:
                events.append(ItemDelta(draft.index, item.input))
        events.append(ItemFinished(draft.index, item))

    def _keep_partial(self) -> None:
        self._close([], Status.INCOMPLETE)
        self._abandon_pending([])

    # ---- calls

    def _settle(self, item_id: str, result: ToolResult) -> ItemFinished:
        index, call = self._pending.pop(item_id)
        status = Status.COMPLETED if result.error is None else Status.FAILED
        done = replace(
            call,
            output=result.output,
            error=result.error,
            status=status,
            content=result.content,
        )
        self._items[index] = done
        return ItemFinished(index, done)

    def _refuse_excess(self, events: list[Event]) -> None:
        """Give the calls beyond max_tool_calls an error as their result."""
        limit = self._turn.limits.max_tool_calls
        for item_id in list(self._pending):
            if limit is None or self._calls < limit:
                self._calls += 1
            else:
                events.append(self._settle(item_id, _beyond_limit(limit)))

    def _abandon_pending(self, events: list[Event]) -> None:
        """Close calls that nobody will hear the results of."""
        for index, call in self._pending.values():
            item = replace(call, status=Status.INCOMPLETE)
            self._items[index] = item
            events.append(ItemFinished(index, item))
        self._pending.clear()

    # ---- what next

    def _advance(self, events: list[Event]) -> None:
        self.action = self._next_action()
        if not isinstance(self.action, Stop):
            return
        if self._answered:
            events.append(self._finish(Outcome.COMPLETED))
        elif self._tokens_left() == 0:
            events.append(self._finish(Outcome.INCOMPLETE, reason="max_output_tokens"))
        else:
            events.append(self._finish(Outcome.INCOMPLETE, reason="max_messages"))

    def _next_action(self) -> Action:
        if self._pending:
            return CallTools(tuple(call for _, call in self._pending.values()))
        exhausted = self._generations >= self._turn.limits.max_generations
        if self._answered or exhausted or self._tokens_left() == 0:
            return Stop()
        return Generate(self._generations, self._tokens_left(), frozenset(self._starts))

    def _tokens_left(self) -> int | None:
        limit = self._turn.limits.max_output_tokens
        return None if limit is None else max(0, limit - self._usage.output_tokens)

    def _finish(
        self, outcome: Outcome, reason: str | None = None, error: GatewayError | None = None
    ) -> TurnFinished:
        self.action = Stop()
        return TurnFinished(outcome, tuple(self._items), self._usage, reason, error)


def _beyond_limit(limit: int) -> ToolResult:
    message = f"Not run: this response allows {limit} tool calls (max_tool_calls)."
    return ToolResult(error=ToolError(kind="mcp_protocol_error", message=message))
