"""Worker URLs, encrypted connections, and what a worker's failures mean."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from smg.engines.base import PromptTokens
from smg.engines.registry import Connection, connect
from smg.engines.remote import Timeouts
from smg.engines.status import WrongEngine
from smg.engines.transport import Tls
from smg.errors import (
    ConfigError,
    EngineError,
    PromptRejected,
    WorkerOverloaded,
    WorkerTimeout,
    WorkerUnavailable,
)
from tests.contracts.engine import FOREVER, engine_at, everything
from tests.contracts.speech import PROMPT, VLLM
from tests.engines.certificates import new_certificates
from tests.engines.stand_in import PATIENCE_S, Process, directing

Processes = Callable[[str], Process]
STATUSES = {
    grpc.StatusCode.CANCELLED: WorkerUnavailable,
    grpc.StatusCode.UNKNOWN: EngineError,
    grpc.StatusCode.INVALID_ARGUMENT: PromptRejected,
    grpc.StatusCode.DEADLINE_EXCEEDED: WorkerTimeout,
    grpc.StatusCode.NOT_FOUND: EngineError,
    grpc.StatusCode.ALREADY_EXISTS: EngineError,
    grpc.StatusCode.PERMISSION_DENIED: EngineError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: WorkerOverloaded,
    grpc.StatusCode.FAILED_PRECONDITION: PromptRejected,
    grpc.StatusCode.ABORTED: EngineError,
    grpc.StatusCode.OUT_OF_RANGE: PromptRejected,
    grpc.StatusCode.UNIMPLEMENTED: WrongEngine,
    grpc.StatusCode.INTERNAL: EngineError,
    grpc.StatusCode.UNAVAILABLE: WorkerUnavailable,
    grpc.StatusCode.DATA_LOSS: EngineError,
    grpc.StatusCode.UNAUTHENTICATED: EngineError,
}


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
async def test_each_status_has_its_meaning(
    status: grpc.StatusCode, stand_in_process: Processes
) -> None:
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM) as engine,
    ):
        await stand_in.play(
            {"status": status.name}, answers=VLLM.answers(), statuses={"HealthCheck": status.name}
        )
        for call in (
            everything(engine.generate("r1", PromptTokens(ids=PROMPT))),
            engine.check(),
        ):
            with pytest.raises(EngineError) as failed:
                await call
            assert type(failed.value) is STATUSES[status]
            refused = STATUSES[status] is PromptRejected
            where = "" if refused else f"Worker {stand_in.address}: "
            assert failed.value.message == f"{where}as scripted"


def test_no_status_is_forgotten() -> None:
    assert {*STATUSES, grpc.StatusCode.OK} == set(grpc.StatusCode)


async def test_a_worker_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as bound:  # Nobody listens on a port that is only bound.
        bound.bind(("127.0.0.1", 0))
        engine = connect(f"grpc://127.0.0.1:{bound.getsockname()[1]}", None, Connection())
        try:
            with pytest.raises(WorkerUnavailable):
                await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
        finally:
            await engine.close()


async def test_a_worker_that_dies_in_the_middle_is_unavailable() -> None:
    process = Process(VLLM.module)
    try:
        async with directing(process) as stand_in, engine_at(stand_in, VLLM) as engine:
            first, *_ = VLLM.stream([1])
            await stand_in.play(first, FOREVER, answers=VLLM.answers())
            async with aclosing(engine.generate("r1", PromptTokens(ids=PROMPT))) as chunks:
                assert (await anext(chunks)).ids == [1]
                process.end()
                with pytest.raises(WorkerUnavailable):
                    await anext(chunks)
    finally:
        process.end()


async def test_a_worker_that_speaks_no_known_language_is_an_error(
    stand_in_process: Processes,
) -> None:
    async with directing(stand_in_process(VLLM.module)) as stand_in:
        engine = connect(f"grpc+mlx://{stand_in.address}")
        try:
            with pytest.raises(EngineError, match="speaks none of: mlx"):
                await engine.info()
        finally:
            await engine.close()


async def test_a_worker_that_is_not_ready_says_so_itself(stand_in_process: Processes) -> None:
    async with directing(stand_in_process(VLLM.module)) as stand_in:
        await stand_in.play(statuses={"GetModelInfo": "UNAVAILABLE"})
        engine = connect(f"grpc://{stand_in.address}")
        try:
            with pytest.raises(WorkerUnavailable):
                await engine.info()
        finally:
            await engine.close()


async def test_calls_have_a_deadline(stand_in_process: Processes) -> None:
    hasty = Timeouts(health_s=0.05)
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM, hasty) as engine,
    ):
        await stand_in.play(answers=VLLM.answers(), statuses={"HealthCheck": "WAIT"})
        await engine.info()
        with pytest.raises(WorkerTimeout):
            await engine.check()


async def test_a_worker_that_does_not_say_what_it_is_is_unavailable(
    stand_in_process: Processes,
) -> None:
    hasty = Timeouts(call_s=0.05)
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM, hasty) as engine,
    ):
        await stand_in.play(answers=VLLM.answers(), statuses={"GetServerInfo": "WAIT"})
        with pytest.raises(WorkerUnavailable):
            await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
        assert await stand_in.cancelled() == "GetServerInfo"
        assert await stand_in.calls() == ["GetModelInfo", "GetServerInfo"]


async def test_a_worker_that_does_not_end_a_finished_stream_is_not_waited_for(
    stand_in_process: Processes,
) -> None:
    hasty = Timeouts(status_s=0.05)
    async with (
        directing(stand_in_process(VLLM.module)) as stand_in,
        engine_at(stand_in, VLLM, hasty) as engine,
    ):
        await stand_in.play(*VLLM.stream([1]), FOREVER, answers=VLLM.answers())
        chunks = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
        assert [chunk.ids for chunk in chunks] == [[1], ()]
        assert await stand_in.cancelled() == "r1"
        assert "Abort" not in await stand_in.calls()


async def test_an_abort_that_fails_is_logged(
    stand_in_process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    first, *_ = VLLM.stream([1])
    async with directing(stand_in_process(VLLM.module)) as stand_in:
        await stand_in.play(first, FOREVER, answers=VLLM.answers(), statuses={"Abort": "INTERNAL"})
        async with (
            engine_at(stand_in, VLLM) as engine,
            aclosing(engine.generate("r1", PromptTokens(ids=PROMPT))) as chunks,
        ):
            await anext(chunks)
    assert [record.getMessage() for record in caplog.records] == [
        f"Abort of r1 failed: Worker {stand_in.address}: as scripted"
    ]


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        ("http://127.0.0.1:1", None),
        ("127.0.0.1:1", None),
        ("grpc://127.0.0.1", None),
        ("grpc://:1", None),
        ("grpc://127.0.0.1:port", None),
        ("grpc://127.0.0.1:70000", None),
        ("grpc://127.0.0.1:1/path", None),
        ("grpc://user@127.0.0.1:1", None),
        ("grpc+llamacpp://127.0.0.1:1", None),
        ("grpc://127.0.0.1:1", "llamacpp"),
    ],
)
async def test_a_wrong_url_is_refused(url: str, backend: str | None) -> None:
    with pytest.raises(ConfigError):
        connect(url, backend)


async def test_the_scheme_or_the_backend_names_the_engine(stand_in_process: Processes) -> None:
    async with directing(stand_in_process(VLLM.module)) as stand_in:
        await stand_in.play(answers=VLLM.answers())
        for url, backend in (
            (f"grpc+vllm://{stand_in.address}", None),
            (f"grpc://{stand_in.address}/", "vllm"),
        ):
            engine = connect(url, backend)
            assert (await engine.info()).engine == "vllm"
            await engine.close()
            assert await stand_in.calls() == ["GetModelInfo", "GetServerInfo"]
            await stand_in.play(answers=VLLM.answers())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def guarded(certificates: Path) -> Iterator[Process]:
    """A stand-in that asks for a client certificate."""
    process = Process(VLLM.module, certificates)
    yield process
    process.end()


async def test_an_encrypted_worker_takes_a_known_client(
    guarded: Process, certificates: Path
) -> None:
    tls = Tls(
        ca_file=certificates / "ca.crt",
        cert_file=certificates / "client.crt",
        key_file=certificates / "client.key",
    )
    async with directing(guarded) as stand_in:
        await stand_in.play(*VLLM.stream([1]), answers=VLLM.answers())
        engine = connect(f"grpcs://{stand_in.address}", None, Connection(tls=tls))
        try:
            chunks = await everything(engine.generate("r1", PromptTokens(ids=PROMPT)))
        finally:
            await engine.close()
    assert [chunk.ids for chunk in chunks] == [[1], ()]


@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
async def test_an_encrypted_worker_takes_nobody_else(
    scheme: str, guarded: Process, certificates: Path
) -> None:
    tls = Tls(ca_file=certificates / "ca.crt")
    engine = connect(f"{scheme}://{guarded.address}", None, Connection(tls=tls))
    try:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(WorkerUnavailable):
                await engine.info()
    finally:
        await engine.close()


async def test_wrong_certificate_files_are_told(certificates: Path) -> None:
    with pytest.raises(ConfigError, match="needs both"):
        connect("grpcs://h:1", None, Connection(tls=Tls(cert_file=certificates / "client.crt")))
    with pytest.raises(ConfigError, match="Cannot read"):
        connect("grpcs://h:1", None, Connection(tls=Tls(ca_file=certificates / "none.crt")))
