"""Prompt ids back into messages and tools: what a model would have understood.

Works on ids, not on the decoded text: a user who writes `<|im_start|>` in a message has written
text, and a gateway that lets it become a control token is found out by what is echoed. Knows
nothing of rules or answers.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from smg.testing.vocabulary import Vocabulary


class Thinking(Enum):
    """What the end of the prompt says about thinking."""

    FREE = "free"
    """The answer may open a block."""
    OPEN = "open"
    """The prompt has opened the block: the answer begins inside."""
    CLOSED = "closed"
    """The prompt has closed it: no thinking."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the model sees it: role system, user, assistant or tool."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool the prompt offers."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A whole prompt."""

    messages: tuple[Message, ...] = ()
    tools: tuple[OfferedTool, ...] = ()
    thinking: Thinking = Thinking.FREE

    @property
    def question(self) -> str:
        """The last message of the user."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def results(self) -> tuple[str, ...]:
        """The tool results at the very end, in order; empty unless the prompt ends with them."""
        results = []
        for message in reversed(self.messages):
            if message.role != "tool":
                break
            results.append(message.text)
        return tuple(reversed(results))

    @property
    def rounds(self) -> int:
        """How often tools have answered since the user spoke last."""
        rounds = 0
        last = ""
        for message in self.messages:
            if message.role == "user":
                rounds = 0
            elif message.role == "tool" and last != "tool":
                rounds += 1
            last = message.role
        return rounds

    def find_tool(self, name: str) -> OfferedTool | None:
        """The tool of this name, else the first whose name ends with it; `*` is the first."""
        if name == "*":
            return next(iter(self.tools), None)
        exact = next((tool for tool in self.tools if tool.name == name), None)
        return exact or next((tool for tool in self.tools if tool.name.endswith(name)), None)


class PromptUnreadable(ValueError):
    """Raised when a prompt has the markers of a chat, but not its form."""


def read_prompt(ids: Sequence[int], vocabulary: Vocabulary) -> Conversation:
    """Take a prompt apart; one without chat markers is a single message of the user.

    Raises:
        PromptUnreadable: the tools are not one JSON object a line.
    """
    start, end = vocabulary.id("<|im_start|>"), vocabulary.id("<|im_end|>")
    if start not in ids:
        return Conversation(messages=(Message("user", vocabulary.decode(ids)),))
    messages: list[Message] = []
    tools: tuple[OfferedTool, ...] = ()
    thinking = Thinking.FREE
    for turn in list(_split(ids, start))[1:]:
        if end not in turn:  # The generation part: what the answer goes on from.
            thinking = _read_thinking(vocabulary.decode(turn))
            continue
        body = turn[: turn.index(end)]
        role, _, text = vocabulary.decode(body).partition("\n")
        if role == "system":
            text, more = _read_tools(text)
            tools += more
        if role == "user" and text.startswith("<tool_response>"):
            messages += _read_results(body, vocabulary)
        elif role == "assistant":
            messages.append(Message(role, _read_answer(text)))
        elif text or role != "system":
            messages.append(Message(role, text))
    return Conversation(messages=tuple(messages), tools=tools, thinking=thinking)


def _split(ids: Sequence[int], at: int) -> Iterator[list[int]]:
    part: list[int] = []
    for token in ids:
        if token == at:
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _read_thinking(prefill: str) -> Thinking:
    opened, closed = prefill.rfind("<think>"), prefill.rfind("</think>")
    if opened < 0:
        return Thinking.FREE
    return Thinking.CLOSED if closed > opened else Thinking.OPEN


# The last heading before the list: instructions may have one of their own.
TOOLS = re.compile(
    r"(?:\A|\n\n)# Tools\n(?:(?!# Tools\n).)*?<tools>\n(.*?)\n</tools>.*\Z", re.DOTALL
)


def _read_tools(system: str) -> tuple[str, tuple[OfferedTool, ...]]:
    """The system message without its list of tools, and the tools."""
    found = TOOLS.search(system)
    if found is None:
        return system, ()
    tools = tuple(_read_tool(line) for line in found[1].split("\n"))
    return system[: found.start()], tools


def _read_tool(line: str) -> OfferedTool:
    try:
        tool = json.loads(line)
        function = tool.get("function", tool)
        return OfferedTool(function["name"], function.get("parameters") or {})
    except (ValueError, KeyError, AttributeError) as error:
        raise PromptUnreadable(f"A line of <tools> is no tool: {line[:200]}") from error


def _read_results(body: Sequence[int], vocabulary: Vocabulary) -> list[Message]:
    opener, closer = vocabulary.id("<tool_response>"), vocabulary.id("</tool_response>")
    results = []
    for part in list(_split(body, opener))[1:]:
        inner = part[: part.index(closer)] if closer in part else part
        text = vocabulary.decode(inner)
        results.append(Message("tool", text.removeprefix("\n").removesuffix("\n")))
    # The marker was only written, not a token: a user said so.
    return results or [Message("user", vocabulary.decode(body).partition("\n")[2])]


def _read_answer(text: str) -> str:
    """What an earlier answer said, without its thoughts and calls."""
    said = re.sub(r"\A<think>.*?</think>\n*", "", text, flags=re.DOTALL)
    return re.sub(r"\n?<tool_call>.*?</tool_call>", "", said, flags=re.DOTALL)
