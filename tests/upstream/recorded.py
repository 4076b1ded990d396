"""What a real server answered: recorded once, replayed in every run of the tests.

`SMG_VLLM_PYTHON=... python -m tests.upstream.recorded` records anew: it starts vLLM's own OpenAI
server with a tiny random model, and asks it through the gateway and a proxy that writes down all.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from openai import AsyncOpenAI

from tests.upstream.raw_server import Answer, RawServer, raw_server

FILE = Path(__file__).with_name("recorded") / "vllm-0.32.json"

Json = dict[str, Any]

HELLO: Any = [{"role": "user", "content": "Hello, who are you?"}]
ANSWER: Json = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
DECIDE: Json = {"name": "decide", "parameters": ANSWER, "strict": True}
FORM: Json = {"type": "json_schema", "json_schema": {"name": "a", "schema": ANSWER}}
GREEDY: Json = {"model": "tiny", "temperature": 0}
SHORT: Json = {**GREEDY, "messages": HELLO, "max_completion_tokens": 8}
TERSE: Json = {**SHORT, "max_completion_tokens": 200, "extra_body": {"frequency_penalty": 2}}

FLOWS: dict[str, tuple[str, Json]] = {
    # what it shows, the endpoint, and the fields
    "chat": ("chat", {**SHORT, "seed": 1, "stop": ["zzz"]}),
    "logprobs": ("chat", {**SHORT, "logprobs": True, "top_logprobs": 2}),
    "schema": ("chat", {**TERSE, "response_format": FORM}),
    "call": (
        "chat",
        {**TERSE, "tools": [{"type": "function", "function": DECIDE}], "tool_choice": "required"},
    ),
    "text": ("text", {**GREEDY, "prompt": "Once upon a time", "max_tokens": 8, "logprobs": 1}),
    "response": ("response", {**GREEDY, "input": "Hello", "max_output_tokens": 16}),
    "too long": ("chat", {**SHORT, "messages": [{"role": "user", "content": "word " * 3000}]}),
}


async def ask(client: AsyncOpenAI, name: str) -> Any:
    """Go through one flow."""
    endpoint, fields = FLOWS[name]
    ways: dict[str, Callable[..., Any]] = {
        "chat": client.chat.completions.create,
        "text": client.completions.create,
        "response": client.responses.create,
    }
    return await ways[endpoint](**fields)


@asynccontextmanager
async def replayed() -> AsyncIterator[RawServer]:
    """A server that answers what the real one did, to the same questions only."""
    told = json.loads(FILE.read_text())
    async with raw_server() as server:
        server.answers = {path: Answer(text.encode()) for path, text in told["questions"].items()}
        for path in {entry["path"] for entry in told["answers"]}:
            server.answers[path] = _chooser(path, told["answers"])
        yield server


def _chooser(path: str, entries: list[Json]) -> Callable[[Any], Answer]:
    def choose(body: Any) -> Answer:
        for entry in entries:
            if (entry["path"], entry["request"]) == (path, body):
                return Answer(entry["text"].encode(), entry["status"], entry["kind"])
        raise AssertionError(f"The real server was never asked this: {body}")

    return choose


async def record(url: str) -> Json:
    """Ask a real server everything, and keep what it says."""
    from tests.upstream.test_workers import in_front_of  # noqa: PLC0415 - it imports this module.

    told: Json = {"questions": {}, "answers": []}
    async with httpx2.AsyncClient(base_url=url, timeout=60) as real, raw_server() as proxy:
        for path in ("/v1/models", "/version", "/health"):
            told["questions"][path] = (await real.get(path)).text
        proxy.answers = {path: Answer(text.encode()) for path, text in told["questions"].items()}

        async def forward(path: str, body: Any) -> Answer:
            answer = await real.post(path, json=body)
            kind = answer.headers["content-type"]
            told["answers"].append(
                {
                    "path": path,
                    "request": body,
                    "status": answer.status_code,
                    "kind": kind,
                    "text": answer.text,
                }
            )
            return Answer(answer.content, answer.status_code, kind)

        proxy.forward = forward
        with tempfile.TemporaryDirectory() as folder:
            async with in_front_of(Path(folder), proxy.url) as client:
                for name in FLOWS:
                    await asyncio.gather(ask(client, name), return_exceptions=True)
    return told


def main() -> None:
    """Record anew."""
    from tests.engines_real.servers import KINDS, running  # noqa: PLC0415 - recording only.

    with tempfile.TemporaryDirectory() as folder, running(KINDS["vllm-http"], Path(folder)) as real:
        told = asyncio.run(record(real.url))
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
