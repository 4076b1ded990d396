"""Workers of all kinds from the command line's settings to an answer."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from smg.app import Gateway, gateway
from smg.errors import ConfigError
from smg.settings import Settings
from smg.testing.engine import EngineOptions, ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer
from tests.contracts.speech import SGLANG, VLLM, Speech
from tests.durability.world import until
from tests.e2e.gateway import PATIENCE_SECONDS, listening
from tests.engines.certificates import new_certificates
from tests.engines.stand_in import Process, directing

Processes = Callable[[str], Process]


Json = dict[str, Any]


@asynccontextmanager
async def client_of(folder: Path, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    usual: dict[str, Any] = {
        "database_url": f"sqlite:///{folder / 'smg.db'}",
        "worker_startup_timeout_secs": PATIENCE_SECONDS,
        "shutdown_grace_seconds": 1.0,
    }
    async with AsyncExitStack() as stack:
        running: Gateway = await stack.enter_async_context(
            gateway(Settings(**{**usual, **settings}))
        )
        url = await stack.enter_async_context(listening(running))
        client = httpx2.AsyncClient(base_url=f"{url}/v1", timeout=PATIENCE_SECONDS)
        yield await stack.enter_async_context(client)


async def answer(client: httpx2.AsyncClient, model: str, text: str) -> str:
    asked = {"model": model, "messages": [{"role": "user", "content": text}]}
    response = await client.post("/chat/completions", json=asked)
    assert response.status_code == 200, response.text
    said: str = response.json()["choices"][0]["message"]["content"]
    return said


def speaking(speech: Speech, text: str) -> tuple[list[Any], dict[str, Any]]:
    """A stand-in's stream that says a text, and what it says of itself."""
    ids = Tokenizer.load(locate(str(MODEL_PATH))).encode_text(text)
    model = {**speech.model, "max_context_length": 4000, "served_model_name": "tiny"}
    server = {"server_args": {"context_length": 4000}} if speech is SGLANG else {}
    return speech.stream(ids), {**speech.answers(), "GetModelInfo": model, "GetServerInfo": server}


@pytest.mark.parametrize(
    ("scheme", "backend"), [("grpc+sglang", None), ("grpc", "sglang"), ("grpc", None)]
)
async def test_the_engine_is_said_or_found_out(
    scheme: str, backend: str | None, stand_in_process: Processes, tmp_path: Path
) -> None:
    stream, answers = speaking(SGLANG, "Hi there")
    async with directing(stand_in_process(SGLANG.module)) as stand_in:
        await stand_in.play(*stream, answers=answers)
        urls = (f"{scheme}://{stand_in.address}",)
        flags = {"worker_urls": urls, "backend": backend, "model_path": str(MODEL_PATH)}
        async with client_of(tmp_path, **flags) as client:
            assert await answer(client, "tiny", "Hello") == "Hi there"
            assert (await stand_in.heard("Generate"))["sampling_params"]["no_stop_trim"] is True


async def test_an_encrypted_worker_is_reached_by_the_tls_flags(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = new_certificates(tmp_path_factory.mktemp("certificates"))
    flags = {
        "tls_ca": str(folder / "ca.crt"),
        "tls_cert": str(folder / "client.crt"),
        "tls_key": str(folder / "client.key"),
        "model_path": str(MODEL_PATH),
    }
    process = Process(VLLM.module, folder)
    try:
        stream, answers = speaking(VLLM, "Hi there")
        async with directing(process) as stand_in:
            await stand_in.play(*stream, answers=answers)
            urls = (f"grpcs://{stand_in.address}",)
            async with client_of(tmp_path, worker_urls=urls, **flags) as client:
                assert await answer(client, "tiny", "Hello") == "Hi there"
    finally:
        process.end()


async def test_the_tokenizer_comes_from_a_folder_the_worker_names(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, client_of(tmp_path, worker_urls=(engine.url,)) as client:
        assert await answer(client, "scripted", "[[say:Yes.]]") == "Yes."


async def test_the_tokenizer_comes_from_the_worker_itself(tmp_path: Path) -> None:
    elsewhere = EngineOptions(told_path="/not/here")
    async with (
        ScriptedEngine(options=elsewhere) as engine,
        client_of(tmp_path, worker_urls=(engine.url,)) as client,
    ):
        assert await answer(client, "scripted", "[[say:Yes.]]") == "Yes."


async def test_a_template_of_ones_own_is_used_with_the_workers_tokenizer(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\nmine:{{ m.content }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    elsewhere = EngineOptions(told_path="/not/here")
    async with (
        ScriptedEngine(options=elsewhere) as engine,
        client_of(tmp_path, worker_urls=(engine.url,), chat_template=str(template)) as client,
    ):
        await answer(client, "scripted", "x")
        assert "mine:x" in engine.requests[-1].prompt


async def test_without_any_tokenizer_the_gateway_says_which_flag_is_missing(
    stand_in_process: Processes, tmp_path: Path
) -> None:
    _, answers = speaking(VLLM, "Hi")
    answers["GetModelInfo"] |= {"tokenizer_path": "/not/here", "model_path": "/not/here"}
    async with directing(stand_in_process(VLLM.module)) as stand_in:
        await stand_in.play(answers=answers)
        with pytest.raises(ConfigError, match="nor sent its tokenizer"):
            async with client_of(tmp_path, worker_urls=(f"grpc://{stand_in.address}",)):
                raise NotImplementedError


async def test_each_model_has_its_own_tokenizer_and_context(tmp_path: Path) -> None:
    small = EngineOptions(model_name="small", max_context=512)
    large = EngineOptions(model_name="large", told_path="/not/here")
    async with (
        ScriptedEngine(options=small) as first,
        ScriptedEngine(options=large) as second,
        ScriptedEngine(options=small) as third,
        client_of(
            tmp_path,
            worker_urls=(first.url, second.url, third.url),
            model_alias=("tiny=small",),
            policy="round_robin",
        ) as client,
    ):
        listed = (await client.get("/models")).json()["data"]
        assert [(m["id"], m["max_model_len"]) for m in listed] == [("small", 512), ("large", 32768)]
        for model in ("small", "tiny", "large"):
            assert await answer(client, model, f"[[say:I am {model}.]]") == f"I am {model}."
        assert [len(e.requests) for e in (first, second, third)] == [1, 1, 1]
        unknown = await client.post(
            "/chat/completions",
            json={"model": "gpt", "messages": [{"role": "user", "content": ""}]},
        )
        assert unknown.status_code == 404
        assert "small, large, tiny" in unknown.json()["error"]["message"]


async def test_an_alias_of_nothing_is_told_at_start(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine:
        with pytest.raises(ConfigError, match="--model-alias: a=b: there are only scripted"):
            async with client_of(tmp_path, worker_urls=(engine.url,), model_alias=("a=b",)):
                raise NotImplementedError


async def test_a_worker_that_comes_late_joins_its_model(tmp_path: Path) -> None:
    async with ScriptedEngine() as first, ScriptedEngine() as placeholder:
        port = int(placeholder.address.rpartition(":")[2])
        await placeholder.__aexit__(None, None, None)
        urls = (first.url, f"grpc://127.0.0.1:{port}")
        async with client_of(tmp_path, worker_urls=urls, policy="round_robin") as client:
            assert await answer(client, "scripted", "[[say:One.]]") == "One."
            async with ScriptedEngine(options=EngineOptions(port=port)) as late:

                async def serves() -> bool:
                    await answer(client, "scripted", "[[say:More.]]")
                    return bool(late.requests)

                await until(serves)


async def test_no_worker_at_all_is_told_when_time_is_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no worker answers"):
        async with client_of(
            tmp_path, worker_urls=("http://127.0.0.1:9",), worker_startup_timeout_secs=0.0
        ):
            raise NotImplementedError


@pytest.mark.parametrize("url", ["http://", "http://u:p@h:1", "http://h:1/v1?x=1", "ftp://h:1"])
async def test_urls_that_are_wrong_are_told(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--worker-urls: Worker URL"):
        async with client_of(tmp_path, worker_urls=(url,)):
            raise NotImplementedError


async def test_a_model_in_two_halves_answers(stand_in_process: Processes, tmp_path: Path) -> None:
    stream, answers = speaking(SGLANG, "Hi there")
    other = Process(SGLANG.module)
    try:
        async with (
            directing(stand_in_process(SGLANG.module)) as prefill,
            directing(other) as decode,
        ):
            await prefill.play(*SGLANG.stream([5]), answers=answers)
            await decode.play(*stream, answers=answers)
            flags = {
                "prefill": (f"grpc://{prefill.address}", "7000"),
                "decode": (f"grpc://{decode.address}",),
                "model_path": str(MODEL_PATH),
                "prefill_policy": "random",
            }
            async with client_of(tmp_path, **flags) as client:
                assert await answer(client, "tiny", "Hello") == "Hi there"
                listed = (await client.get("/models")).json()["data"]
            assert [model["id"] for model in listed] == ["tiny"]
            sent = await prefill.heard("Generate")
            assert sent["disaggregated_params"]["bootstrap_port"] == 7000
    finally:
        other.end()


async def test_a_half_alone_is_told_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each needs the other"):
        async with client_of(tmp_path, prefill=("grpc://127.0.0.1:9",)):
            raise NotImplementedError
