"""Items of a conversation to messages of the chat format.

Items and instructions in, messages out in one neutral form: content and arguments are strings,
reasoning stands under `reasoning_content`. smg.tokens.fit bends them to one template. Knows no
template and no token.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smg.errors import InvalidRequest
from smg.items import (
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FilePart,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    ImagePart,
    Item,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    Message,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
    ToolError,
)
from smg.tokens.arguments import custom_arguments
from smg.tokens.template import ChatMessage

CallId = Callable[[str, int, str], str]
"""The id a model family gives a call: its name, its number in the conversation, our call id."""
OpenSealed = Callable[[str], str]
"""An opaque summary to its text."""
OfferedNames = Mapping[tuple[str | None, str], str]
"""(server or namespace, tool) to the name under which the model knows it."""
Content = Callable[[Iterable[Part]], Any]
"""A message's parts to its content."""

NO_OUTPUT = "The call has no output."
DENIED = "The user denied this call."
SUMMARY = "Summary of the conversation so far:\n\n"

Call = FunctionCall | CustomToolCall | McpCall | HostedCall | McpApprovalRequest


def public_call_id(name: str, number: int, call_id: str) -> str:  # noqa: ARG001 - a CallId
    """A call is named to the model as it is named to the client."""
    return call_id


def stays_sealed(sealed: str) -> str:  # noqa: ARG001 - an OpenSealed
    """Refuse an opaque summary where nobody can open it."""
    raise InvalidRequest("This gateway cannot read the compaction item", param="input")


def new_messages(  # noqa: PLR0913 - all but two are what one kind of model needs
    instructions: str | None,
    items: Sequence[Item],
    call_id: CallId = public_call_id,
    *,
    open_sealed: OpenSealed = stays_sealed,
    names: OfferedNames | None = None,
    starts: Container[str] = (),
    content_of: Content | None = None,
) -> list[ChatMessage]:
    """The messages of a conversation, oldest first.

    `starts` are ids of items with which a generation began: calls before and after such an item
    were made one after the other, not side by side. `content_of` is for models that read more
    than text.

    Raises:
        InvalidRequest: an output without its call, or a part that is no text.
    """
    summaries = [n for n, item in enumerate(items) if isinstance(item, Compaction)]
    said = _uncompacted(items, summaries[-1]) if summaries else items
    writer = _Writer(call_id, names or {}, _Answers.of(said))
    if instructions:
        writer.messages.append({"role": "system", "content": instructions})
    if summaries and isinstance(summary := items[summaries[-1]], Compaction):
        text = SUMMARY + open_sealed(summary.encrypted)
        writer.messages.append({"role": "system", "content": text})
    for item in said:
        if item.id in starts:
            writer.close()
        _write(writer, item, content_of or text_of)
    writer.close()
    return writer.messages


def _uncompacted(items: Sequence[Item], last: int) -> Sequence[Item]:
    """What the summary at this place does not stand for: the users' own words, and all after it."""
    words = [item for item in items[:last] if isinstance(item, Message) and item.role == "user"]
    return [*words, *items[last + 1 :]]


def _write(writer: "_Writer", item: Item, content_of: Content) -> None:
    match item:
        case Message(role="assistant"):
            writer.speak(text_of(item.parts))
        case Message():
            writer.close()
            writer.messages.append({"role": item.role, "content": content_of(item.parts)})
        case Reasoning():
            writer.think(item.text)
        case FunctionCall() | CustomToolCall() | McpCall() | HostedCall():
            writer.call(item)
        case McpApprovalRequest() if item.id in writer.answers.denials:
            writer.call(item)
        case FunctionCallOutput() | CustomToolCallOutput():
            # Its text is already beside its call.
            writer.close()
        case _:
            # Lists of tools and words about approval are for the client; of foreign items the
            # model knows nothing.
            pass


def text_of(parts: str | Iterable[Part]) -> str:
    """The text of an item's content.

    Raises:
        InvalidRequest: there is a part that a model of text cannot read.
    """
    return parts if isinstance(parts, str) else "".join(map(_part_text, parts))


def _part_text(part: Part) -> str:
    match part:
        case TextPart(text=text) | RefusalPart(refusal=text):
            return text
        case ImagePart():
            kind = "input_image"
        case FilePart():
            kind = "input_file"
    raise InvalidRequest(f"This model reads text only: {kind} is not supported", param="input")


@dataclass(frozen=True, slots=True)
class _Answers:
    """What came of calls, found before the calls are written."""

    outputs: Mapping[str, str]
    """Text by call id."""
    denials: Mapping[str, str]
    """What the model is told, by the id of the request for approval."""

    @staticmethod
    def of(items: Sequence[Item]) -> "_Answers":
        outputs: dict[str, str] = {}
        denials: dict[str, str] = {}
        called: set[str] = set()
        for item in items:
            match item:
                case FunctionCall() | CustomToolCall():
                    called.add(item.call_id)
                case FunctionCallOutput() | CustomToolCallOutput():
                    _check_called(item.call_id, called)
                    outputs[item.call_id] = text_of(item.output)
                case McpApprovalResponse(approve=False):
                    reason = f" Reason: {item.reason}" if item.reason else ""
                    denials[item.approval_request_id] = DENIED + reason
        return _Answers(outputs, denials)


def _check_called(call_id: str, called: set[str]) -> None:
    if call_id not in called:
        raise InvalidRequest(
            f"No tool call found for function call output with call_id {call_id}.", param="input"
        )


@dataclass(slots=True)
class _Writer:
    """Gathers what belongs to one assistant message, and the results that follow it."""

    call_id: CallId
    names: OfferedNames
    answers: _Answers
    messages: list[ChatMessage] = field(default_factory=list)
    _thought: str = ""
    _text: str | None = None
    _calls: list[tuple[Call, str]] = field(default_factory=list)
    """Each call with its id in the prompt."""
    _number: int = 0

    def think(self, text: str) -> None:
        # Thinking again after speaking or calling is a new step.
        if self._text is not None or self._calls:
            self.close()
        self._thought += text

    def speak(self, text: str) -> None:
        if self._text is not None or self._calls:
            self.close()
        self._text = text

    def call(self, call: Call) -> None:
        name = self._name(call)
        public = call.call_id if isinstance(call, FunctionCall | CustomToolCall) else call.id
        self._calls.append((call, self.call_id(name, self._number, public)))
        self._number += 1

    def close(self) -> None:
        """Write the assistant message and its results; thoughts that stand alone are dropped."""
        if self._text is not None or self._calls:
            message: ChatMessage = {"role": "assistant", "content": self._text or ""}
            if self._thought:
                message["reasoning_content"] = self._thought
            if self._calls:
                message["tool_calls"] = [self._chat_call(*entry) for entry in self._calls]
            self.messages.append(message)
            self.messages += self._results()
        self._thought, self._text, self._calls = "", None, []

    def _chat_call(self, call: Call, prompt_id: str) -> dict[str, object]:
        arguments = (
            custom_arguments(call.input) if isinstance(call, CustomToolCall) else call.arguments
        )
        function = {"name": self._name(call), "arguments": arguments or "{}"}
        return {"id": prompt_id, "type": "function", "function": function}

    def _results(self) -> Iterator[ChatMessage]:
        for call, prompt_id in self._calls:
            yield {
                "role": "tool",
                "tool_call_id": prompt_id,
                "name": self._name(call),
                "content": self._result(call),
            }

    def _result(self, call: Call) -> str:
        match call:
            case FunctionCall() | CustomToolCall():
                return self.answers.outputs.get(call.call_id, NO_OUTPUT)
            case McpApprovalRequest():
                return self.answers.denials[call.id]
            case _ if call.error is not None:
                return _error_text(call.error)
        return NO_OUTPUT if call.output is None else call.output

    def _name(self, call: Call) -> str:
        if isinstance(call, FunctionCall | CustomToolCall):
            return self.names.get((call.namespace, call.name), call.name)
        return self.names.get((call.server_label, call.name), call.name)


def _error_text(error: ToolError) -> str:
    return f"Error: {error.message}"
