"""What the scripted engine wants to say, and how the Qwen family writes it.

`Reply` is made by rules and directives; `write` turns it into the text that is encoded.
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from smg.testing.chatml import Thinking


class Failure(Enum):
    """When a generation breaks."""

    BEFORE = "before"
    """The first token: INTERNAL."""
    DURING = "during"
    """After the first tokens: UNAVAILABLE."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool; the arguments are JSON text, or meant to be wrong."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer."""

    say: str | None = None
    think: str | None = None
    calls: tuple[Call, ...] = ()
    slow: float = 0.0
    """Seconds over which the tokens are spread."""
    failure: Failure | None = None


def write_thoughts(think: str | None, thinking: Thinking) -> str:
    """The thoughts in their block, as far as the prompt leaves room for one."""
    if thinking is Thinking.CLOSED or (think is None and thinking is Thinking.FREE):
        return ""
    opener = "<think>\n" if thinking is Thinking.FREE else ""
    return f"{opener}{think or ''}\n</think>\n\n"


def write_answer(reply: Reply) -> str:
    """The answer and its calls in the family's own form."""
    bodies = [
        f'{{"name": {compact(call.name)}, "arguments": {call.arguments}}}' for call in reply.calls
    ]
    calls = [f"<tool_call>\n{body}\n</tool_call>" for body in bodies]
    return "\n".join([reply.say, *calls] if reply.say else calls)


def compact(value: Any) -> str:
    """JSON as a model writes it."""
    return json.dumps(value, ensure_ascii=False)


def shown_result(text: str) -> str:
    """A tool's result as a person would say it: `{"result": 42}` is 42."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) and len(value) == 1 and "result" in value:
        result = value["result"]
        return result if isinstance(result, str) else compact(result)
    return text
