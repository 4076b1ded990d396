"""Real engines as processes: each in its own Python, with a tiny model made on the spot.

Their Pythons are named by SMG_VLLM_PYTHON and SMG_MLX_PYTHON; `make test-engines` sets them up.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from smg.engines.registry import connect
from smg.errors import EngineError
from smg.upstream.engine import HttpEngine

START_S = 240.0
STOP_S = 30.0
TINY = Path(__file__).with_name("tiny_model.py")
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to run an engine, and what it can do."""

    name: str
    python: str
    """The variable that names its Python."""
    scheme: str
    command: Callable[[str, int], list[str]]
    """The arguments after `python -m`, for a model's folder and a port."""
    constrains: bool = True
    tells_load: bool = True
    tells_cache: bool = False


def _vllm(module: str, *flags: str) -> Callable[[str, int], list[str]]:
    return lambda folder, port: [
        *(module, "--model", folder, "--served-model-name", "tiny", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "16"),
        *("--enforce-eager", *flags),
    ]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="vllm",
            python="SMG_VLLM_PYTHON",
            scheme="grpc",
            command=_vllm("vllm.entrypoints.launchers.grpc_server"),
            tells_cache=True,
        ),
        Kind(
            name="vllm-http",
            python="SMG_VLLM_PYTHON",
            scheme="http",
            command=_vllm(
                "vllm.entrypoints.openai.api_server",
                *("--host", "127.0.0.1", "--enable-auto-tool-choice"),
                *("--tool-call-parser", "hermes"),
            ),
            tells_load=False,
        ),
        Kind(
            name="mlx",
            python="SMG_MLX_PYTHON",
            scheme="grpc",
            command=lambda folder, port: [
                *("smg_grpc_servicer.mlx.server", "--model", folder, "--port", str(port)),
            ],
            constrains=False,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that answers."""

    kind: Kind
    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running(kind: Kind, folder: Path) -> Iterator[Running]:
    """The engine, once it answers; it ends with the block."""
    python = os.environ.get(kind.python)
    if not python:
        pytest.skip(f"{kind.python} names no Python: make test-engines")
    model, log = folder / "tiny", folder / "engine.log"
    subprocess.run([python, str(TINY), str(model)], check=True, timeout=START_S)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("wb") as written:
        process = subprocess.Popen(
            [python, "-m", *kind.command(str(model), port)],
            env={**os.environ, **QUIET},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"{kind.scheme}://127.0.0.1:{port}"
        _wait(url, process, log)
        yield Running(kind, url, process)
    finally:
        _stop(process)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not asyncio.run(_answers(url)):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail("The engine did not start:\n" + log.read_text(errors="replace")[-4000:])
        time.sleep(0.5)


async def _answers(url: str) -> bool:
    engine = HttpEngine(url) if url.startswith("http") else connect(url)
    try:
        await engine.info()
        await engine.check()
    except EngineError:
        return False
    else:
        return True
    finally:
        await engine.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End it and what it has started: all are one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_S)
