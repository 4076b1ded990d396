"""The kinds of turns that gateways are killed in, and what their clients see of them."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2

from smg.testing.chaos.world import Victim

SPOKEN = "All of it is settled now, and here is a long and happy ending."
THOUGHT = "What could be said of it?"
DESK = {"type": "mcp", "server_label": "desk", "require_approval": "never"}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a turn is like."""

    name: str
    streamed: bool = False
    background: bool = False
    calls: int = 0
    in_conversation: bool = False
    has_key: bool = False
    thinks: bool = False


KINDS = (
    Kind(name="stream", streamed=True),
    Kind(name="stream with a call", streamed=True, calls=1),
    Kind(name="background with a call", background=True, calls=1),
    Kind(name="background with two calls", background=True, calls=2),
    Kind(name="background stream, with thoughts", background=True, streamed=True, thinks=True),
    Kind(name="conversation, streamed", streamed=True, in_conversation=True),
    Kind(name="conversation, background", background=True, calls=1, in_conversation=True),
    Kind(name="conversation, whole", in_conversation=True),
    Kind(name="whole with a key", has_key=True),
    Kind(name="background with a key", background=True, calls=1, has_key=True),
)


@dataclass
class Trial:
    """One turn, asked for once, and what came of it at the client."""

    id: str
    kind: Kind
    conversation: str | None = None
    saw: bytes = b""
    """What had come of the stream when its gateway died."""
    told: dict[str, Any] | None = None
    """The body of the answer, if it came."""
    refusals: list[str] = field(default_factory=list)
    """Answers that were errors."""

    @property
    def things(self) -> list[str]:
        """What the turn books."""
        return [f"{self.id}-{n}" for n in range(self.kind.calls)]

    def request(self) -> dict[str, Any]:
        """The body to send."""
        calls = "".join(f"[[call:book {json.dumps({'what': it})}]]" for it in self.things)
        thought = f"[[think:{THOUGHT}]]" if self.kind.thinks else ""
        body: dict[str, Any] = {
            "model": "scripted",
            "input": f"{thought}{calls}[[say:{SPOKEN}]]",
            "metadata": {"trial": self.id},
            "stream": self.kind.streamed,
            "background": self.kind.background,
            "tools": [DESK] if self.kind.calls else [],
        }
        if self.conversation is not None:
            body["conversation"] = self.conversation
        return body

    def headers(self) -> dict[str, str]:
        """The headers to send."""
        return {"Idempotency-Key": self.id} if self.kind.has_key else {}


async def take(trial: Trial, gateway: Victim) -> None:
    """Ask for the turn, and note what can be seen of it until the gateway dies."""
    try:
        if trial.kind.in_conversation:
            made = await gateway.http.post("/conversations", json={})
            trial.conversation = made.json()["id"]
        await _ask(trial, gateway)
    except (httpx2.TransportError, httpx2.InvalidURL):
        return  # That is what it is for.


async def _ask(trial: Trial, gateway: Victim) -> None:
    asked = gateway.http.stream("POST", "/responses", json=trial.request(), headers=trial.headers())
    async with asked as answer:
        body = b""
        async for piece in answer.aiter_raw():
            body += piece
            if trial.kind.streamed and answer.status_code == 200:
                trial.saw = body
    if answer.status_code != 200:
        trial.refusals.append(f"{answer.status_code} {body.decode()}")
    elif not trial.kind.streamed:
        trial.told = json.loads(body)


async def ask_again(trial: Trial, gateway: Victim) -> dict[str, Any]:
    """What a client with an idempotency key does that heard nothing: the same again."""
    answer = await gateway.http.post("/responses", json=trial.request(), headers=trial.headers())
    return dict(answer.json())
