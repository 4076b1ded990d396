"""What a token costs from the engine's message to the bytes for the client, without any waiting.

    python -m benchmarks.hot_path [--profile]

No network, no event loop, no other process: the numbers move when the code does. They leave out
gRPC, HTTP and asyncio, which `benchmarks.end_to_end` sees. `--profile` shows what takes the time.
"""

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import smg.testing
from smg.agent.loop import AgentLoop
from smg.chat.intake import ChatOrder
from smg.chat.render import ChunkRenderer
from smg.decode import Decoder
from smg.engines._generated import vllm_engine_pb2 as pb
from smg.engines.base import EngineChunk, PromptTokens
from smg.engines.vllm import VllmDialect
from smg.events import Event
from smg.parsers.base import ParsedDelta
from smg.parsers.registry import ToolSchema, markers, new_parser
from smg.responses.body import Head
from smg.responses.render import Renderer
from smg.tokens.detokenizer import new_detokenizer
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer
from smg.turn import FunctionTool, Offer, Sampling, ToolSet, Turn

MODEL = Path(smg.testing.__file__).parent / "model"
SENTENCE = "The tool said that it rains in Oslo, so take a coat, and 你好 to all. "
REPEATS = 60
ROUNDS = 15

Stage = Callable[[], Iterator[Sequence[object]]]
"""Yields what it makes of one engine message after another."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A kind of text and the families that read it."""

    name: str
    text: str
    tools: str = "passthrough"
    reasoning: str = "passthrough"
    starts_open: bool | None = None


ANSWERS = (
    Answer("plain text", SENTENCE * REPEATS),
    Answer("text, tools offered", SENTENCE * REPEATS, "qwen", "qwen3", False),
    Answer("reasoning", SENTENCE * REPEATS, "qwen", "qwen3", True),
    Answer(
        "inside a tool call",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "%s"}}\n</tool_call>'
        % (SENTENCE * REPEATS),
        "qwen",
        "qwen3",
        False,
    ),
)
WEATHER = FunctionTool(name="weather", parameters={"type": "object", "properties": {}})
TURN = Turn(
    id="resp_1",
    model="load",
    created_at=1,
    tools=ToolSet(offers=(Offer("weather", WEATHER),)),
)
HEAD = Head({"id": TURN.id, "object": "response", "model": TURN.model})
# Nobody asks an order's model for anything once its prompt is made.
ORDER = ChatOrder(
    turn=TURN,
    model=cast("Any", None),
    first=None,
    choices=1,
    streamed=True,
    include_usage=False,
    logprobs=False,
)


class Stages:
    """One answer on its way; each stage starts from what the one before it made."""

    def __init__(self, tokenizer: Tokenizer, answer: Answer) -> None:
        self._tokenizer = tokenizer
        self._answer = answer
        ids = tokenizer.encode(answer.text)
        self.messages = [
            pb.GenerateResponse(
                chunk=pb.GenerateStreamChunk(token_ids=[token], prompt_tokens=9)
            ).SerializeToString()
            for token in ids
        ]
        self.chunks = [chunk for made in self.read() for chunk in made]
        self.deltas = [list(made) for made in self.decode()]
        self.events = [list(made) for made in self.loop()]

    def read(self) -> Iterator[Sequence[EngineChunk]]:
        reader = VllmDialect().new_reader(PromptTokens(ids=()))
        for message in self.messages:
            chunk = reader.read(message)
            yield () if chunk is None else (chunk,)

    def decode(self) -> Iterator[Sequence[ParsedDelta]]:
        decoder = _decoder(self._tokenizer, self._answer)
        for chunk in self.chunks:
            yield decoder.feed(chunk)

    def loop(self) -> Iterator[Sequence[Event]]:
        loop = AgentLoop(TURN, new_id)
        for deltas in self.deltas:
            yield loop.receive(deltas) if deltas else ()

    def responses(self) -> Iterator[Sequence[bytes]]:
        renderer = Renderer(HEAD, lambda: 1)
        renderer.opening()
        for events in self.events:
            yield [frame for event in events for frame in renderer.render(event)]

    def chat(self) -> Iterator[Sequence[bytes]]:
        renderer = ChunkRenderer(ORDER, 0)
        for events in self.events:
            yield [renderer.render(event) for event in events]


def main() -> None:
    """Print a table, or a profile of each kind of answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--profile", action="store_true", help="show what takes the time")
    profiled = parser.parse_args().profile
    tokenizer = Tokenizer.load(locate(str(MODEL)))
    names = ("read", "decode", "loop", "responses", "chat")
    if not profiled:
        print("µs a token, one token a message")
        print(f"{'':20}" + "".join(f"{name:>11}" for name in names) + f"{'sum resp.':>11}")
    for answer in ANSWERS:
        stages = Stages(tokenizer, answer)
        runs: list[Stage] = [getattr(stages, name) for name in names]
        if profiled:
            _profile(answer.name, runs)
            continue
        costs = [_best(run) / len(stages.messages) * 1e6 for run in runs]
        print(f"{answer.name:20}" + "".join(f"{cost:11.2f}" for cost in [*costs, sum(costs[:4])]))


def new_id(prefix: str) -> str:
    return f"{prefix}_1"


def _decoder(tokenizer: Tokenizer, answer: Answer) -> Decoder:
    offered = [] if answer.tools == "passthrough" else [ToolSchema("weather", None, None)]
    parser = new_parser(
        reasoning=answer.reasoning,
        tools=answer.tools,
        offered=offered,
        starts_open=answer.starts_open,
    )
    keep = markers(answer.reasoning, answer.tools)
    return Decoder(new_detokenizer(tokenizer, Sampling(), keep), parser, tokenizer)


def _best(stage: Stage) -> float:
    """The seconds of the fastest round: whatever else runs on the machine only adds."""
    return min(_timed(stage) for _ in range(ROUNDS))


def _timed(stage: Stage) -> float:
    start = time.perf_counter()
    for _ in stage():
        pass
    return time.perf_counter() - start


def _profile(name: str, runs: Sequence[Stage]) -> None:
    print(f"\n==== {name}")
    profiler = cProfile.Profile()
    profiler.enable()
    for run in runs:
        for _ in range(ROUNDS):
            _timed(run)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
