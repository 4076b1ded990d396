"""The engine behind the gateways: the C++ load engine if it is there, else the scripted one.

Both speak the vLLM protocol and give the same answer. The scripted one is Python and costs more
than the gateways; it is for those who have no other, and for finding breakage.
"""

import shutil
import sys
import time
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path

import smg.testing
from benchmarks.processes import Running, free_port, running
from smg.engines.base import EngineInfo, PromptTokens
from smg.engines.transport import GrpcTransport
from smg.engines.vllm import VllmDialect
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer

MODEL = Path(smg.testing.__file__).parent / "model"
END_TOKEN = "<|im_end|>"
TEXT = (
    "A gateway stands between a client and an engine: it turns a conversation into tokens, sends "
    "them on, and turns what comes back into events that the client can read. "
)


@dataclass(frozen=True, slots=True)
class Engines:
    """How engines are started here."""

    program: Path | None
    """The load engine; `None`: the scripted one."""
    folder: Path
    answer: str
    ids: tuple[int, ...]

    @property
    def name(self) -> str:
        """Which one it is, in words."""
        return "scripted engine (Python)" if self.program is None else "load engine (C++)"

    def start(self, itl_ms: int) -> AbstractAsyncContextManager[Running]:
        """An engine that pauses this long between two tokens."""
        port = free_port()
        if self.program is None:
            flags = ["-m", "smg.testing.engine", "--port", str(port), "--itl-ms", str(itl_ms)]
            command = [sys.executable, *flags]
        else:
            lines = self.folder / "ids.txt"
            lines.write_text(" ".join(map(str, self.ids)) + "\n")
            end = str(Tokenizer.load(locate(str(MODEL))).token_id(END_TOKEN))
            command = [str(self.program), "--port", str(port), "--ids", str(lines), "--eos", end]
            command += ["--tokenizer", str(MODEL), "--itl-us", str(itl_ms * 1000)]
        return running("engine", port, command, self.folder / "engine.log")


def engines(program: Path | None, folder: Path, tokens: int) -> Engines:
    """The engines for answers of this many tokens."""
    tokenizer = Tokenizer.load(locate(str(MODEL)))
    ids = tokenizer.encode(TEXT * (tokens // 16 + 1))[:tokens]
    return Engines(program, folder, tokenizer.decode(ids), tuple(ids))


async def first_token_seconds(engine: Running, prompt_ids: tuple[int, ...]) -> list[float]:
    """How soon the engine itself says its first token, asked one at a time over gRPC."""
    dialect, transport = VllmDialect(), GrpcTransport(f"127.0.0.1:{engine.port}")
    took: list[float] = []
    try:
        for number in range(110):
            prompt = PromptTokens(ids=prompt_ids)
            request = dialect.generate_request(f"r{number}", prompt, EngineInfo(engine="vllm"), 1)
            start = time.perf_counter()
            async with aclosing(
                transport.stream(f"/{dialect.service}/Generate", request)
            ) as messages:
                await anext(messages)
                took.append(time.perf_counter() - start)
                async for _ in messages:
                    pass
    finally:
        await transport.close()
    return took[10:]


def built_engine(folder: Path) -> Path | None:
    """The load engine, if the run script has built it."""
    program = folder / "load_engine"
    return program if program.is_file() and shutil.which(str(program)) else None
