"""The scripted engine: a gRPC server that speaks vLLM's engine protocol and has no model.

    python -m smg.testing.engine --port 50051 --rules my.yaml

It answers from rules (`script.py`) and from directives in the user's message (`directives.py`),
with real token ids of a small tokenizer. It is for testing agents and gateways offline and never
pretends to be a model. In a test:

    async with ScriptedEngine() as engine:
        ...  # point a client at engine.address, then look at engine.requests
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc.aio

from smg.errors import ConfigError
from smg.testing.generation import Servicer
from smg.testing.kv import KvCaches
from smg.testing.options import EngineOptions
from smg.testing.script import Script
from smg.testing.servicer import EngineServicer, Received
from smg.testing.vocabulary import Vocabulary

__all__ = ["EngineOptions", "Received", "ScriptedEngine", "Servicer"]

log = logging.getLogger(__name__)

PARENT_CHECK_SECONDS = 0.5
SERVER_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # As vLLM: clients may ping as often as they like, also without calls.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),  # A port that is taken is an error, not a second engine.
]


class ScriptedEngine:
    """A running engine, for as long as its block lasts."""

    def __init__(self, rules: Script | Path | None = None, options: EngineOptions | None = None):
        self.options = options or EngineOptions()
        script = Script.load(rules) if isinstance(rules, Path) else rules or Script.default()
        self.vocabulary = Vocabulary()
        self._servicer = EngineServicer(script, self.options, self.vocabulary)
        self._server: grpc.aio.Server | None = None
        self.address = ""
        """host:port, once it runs."""

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((self._servicer.handler(),))
        wanted = f"{self.options.host}:{self.options.port}"
        try:
            port = self._server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise ConfigError(f"The scripted engine cannot listen on {wanted}: {error}") from error
        await self._server.start()
        self.address = f"{self.options.host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)

    @property
    def url(self) -> str:
        """The address as a worker URL."""
        return f"grpc://{self.address}"

    @property
    def requests(self) -> Sequence[Received]:
        """The generations asked for, oldest first; the last thousand."""
        return self._servicer.requests

    async def arrived(self, count: int = 1, timeout: float = 5.0) -> Received:
        """Wait until so many generations were accepted; the last of them.

        Raises:
            TimeoutError: they did not come.
        """
        async with asyncio.timeout(timeout):
            return await self._servicer.arrived(count)

    @property
    def aborts(self) -> Sequence[str]:
        """The request ids that Abort was called with."""
        return self._servicer.aborts

    @property
    def caches(self) -> KvCaches:
        """Its prefix caches, and what is told of them."""
        return self._servicer.caches

    def become_healthy(self, healthy: bool = True) -> None:
        """Change what HealthCheck says."""
        self._servicer.healthy = healthy


def main(argv: Sequence[str] | None = None) -> int:
    """Run an engine until it is told to stop; the exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        asyncio.run(_serve(arguments))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m smg.testing.engine",
        description="A gRPC engine that answers from rules, for tests. It is no model.",
    )
    defaults = EngineOptions()
    parser.add_argument("--rules", type=Path, help="YAML file of rules; else the built-in ones")
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=50051, help="0: any free port")
    parser.add_argument("--model-name", default=defaults.model_name)
    parser.add_argument("--itl-ms", type=_pause, default=0.0, help="milliseconds before each chunk")
    parser.add_argument("--per-chunk", type=_count, default=1, help="tokens in a chunk")
    parser.add_argument("--max-context", type=_count, default=defaults.max_context)
    parser.add_argument("--servicer", type=Servicer, choices=list(Servicer), default="python")
    parser.add_argument("--ranks", type=_count, default=defaults.ranks, help="data-parallel ranks")
    parser.add_argument("--block-size", type=_count, default=defaults.block_size)
    parser.add_argument("--cache-blocks", type=_count, default=defaults.cache_blocks)
    parser.add_argument(
        "--kv-events", action=argparse.BooleanOptionalAction, default=defaults.kv_events
    )
    parser.add_argument(
        "--announce", action="store_true", help="print `listening on HOST:PORT` on stdout"
    )
    parser.add_argument("--parent-pid", type=int, help="exit when this process is gone")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def _pause(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must not be negative, not {text}")
    return number


async def _serve(arguments: argparse.Namespace) -> None:
    options = EngineOptions(
        host=arguments.host,
        port=arguments.port,
        model_name=arguments.model_name,
        itl_ms=arguments.itl_ms,
        per_chunk=arguments.per_chunk,
        max_context=arguments.max_context,
        servicer=arguments.servicer,
        ranks=arguments.ranks,
        block_size=arguments.block_size,
        cache_blocks=arguments.cache_blocks,
        kv_events=arguments.kv_events,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with ScriptedEngine(arguments.rules, options) as engine:
        log.info("Scripted engine (rules, no model) on grpc://%s", engine.address)
        if arguments.announce:
            sys.stdout.write(f"listening on {engine.address}\n")
            sys.stdout.flush()
        if arguments.parent_pid is None:
            await stop.wait()
        else:
            await _wait_for_end(stop, arguments.parent_pid)


async def _wait_for_end(stop: asyncio.Event, parent: int) -> None:
    """Wait until told to stop, or until the parent is gone."""
    is_ours = os.getppid() == parent
    while _is_alive(parent) and (os.getppid() == parent or not is_ours):
        try:
            async with asyncio.timeout(PARENT_CHECK_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue
        return


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    raise SystemExit(main())
