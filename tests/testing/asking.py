"""A client for the scripted engine's tests: prompts rendered, requests sent over a socket."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smg.engines._generated import vllm_engine_pb2 as pb
from smg.testing.engine import ScriptedEngine
from smg.testing.servicer import SERVICE
from smg.testing.vocabulary import MODEL_PATH, Vocabulary

VOCABULARY = Vocabulary()
DEADLINE = 5.0


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def render(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), **kwargs: Any
) -> str:
    """The prompt as the shipped template writes it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((MODEL_PATH / "chat_template.jinja").read_text("utf-8"))
    return template.render(
        messages=messages, tools=list(tools), add_generation_prompt=True, **kwargs
    )


def request(
    prompt: str | Sequence[int], request_id: str = "r1", stream: bool = True, **sampling: Any
) -> pb.GenerateRequest:
    ids = VOCABULARY.encode_prompt(prompt) if isinstance(prompt, str) else prompt
    return pb.GenerateRequest(
        request_id=request_id,
        tokenized=pb.TokenizedInput(input_ids=ids),
        sampling_params=pb.SamplingParams(**sampling),
        stream=stream,
    )


class Client:
    """The engine's RPCs by name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def generate(self, message: pb.GenerateRequest) -> Any:
        method = self._channel.unary_stream(
            f"/{SERVICE}/Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateResponse.FromString,
        )
        return method(message, timeout=DEADLINE)

    async def call(self, name: str, message: Any, response: Any) -> Any:
        method = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(message).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await method(message, timeout=DEADLINE)

    async def abort(self, *request_ids: str) -> None:
        await self.call("Abort", pb.AbortRequest(request_ids=request_ids), pb.AbortResponse)


@asynccontextmanager
async def connected(engine: ScriptedEngine) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(engine.address) as channel:
        yield Client(channel)


@dataclass(frozen=True, slots=True)
class Said:
    """What a stream held."""

    chunks: list[pb.GenerateStreamChunk]
    completes: list[pb.GenerateComplete]

    @property
    def ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def text(self) -> str:
        """The answer without its end token."""
        return VOCABULARY.decode(self.ids, skip_special=True)

    @property
    def finish(self) -> str:
        return self.completes[0].finish_reason


async def ask(engine: ScriptedEngine, message: pb.GenerateRequest) -> Said:
    """Send one request and take everything that comes."""
    said = Said([], [])
    async with connected(engine) as client:
        async for response in client.generate(message):
            if response.HasField("chunk"):
                said.chunks.append(response.chunk)
            else:
                said.completes.append(response.complete)
    return said


async def answer(engine: ScriptedEngine, *messages: dict[str, Any], **kwargs: Any) -> str:
    """The text that a conversation is answered with; `tools` and sampling as keywords."""
    template = {key: kwargs.pop(key) for key in ("tools", "enable_thinking") if key in kwargs}
    return (await ask(engine, request(render(messages, **template), **kwargs))).text


def calls_in(text: str) -> list[dict[str, Any]]:
    """The calls of an answer in the family's form."""
    parts = text.split("<tool_call>\n")[1:]
    return [json.loads(part.split("\n</tool_call>")[0]) for part in parts]
