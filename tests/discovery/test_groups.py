"""Which workers serve one model, and whose the flags are. Pure decisions, so by themselves."""

from typing import Any

import pytest

from smg.discovery.candidates import Known, worker_keys
from smg.discovery.groups import (
    check_told,
    grouped,
    main_group,
    read_aliases,
    settings_of,
)
from smg.engines.base import EngineInfo
from smg.errors import ConfigError
from smg.settings import Settings
from tests.workers.scripted_engine import ScriptedEngine


def known(model: str, *, http: bool = False, path: str = "") -> Known:
    info = EngineInfo(engine="vllm", model=model, model_path=path)
    return Known(engine=ScriptedEngine(model), info=info, speaks_http=http)


LLAMA, QWEN = known("llama", path="/models/llama"), known("qwen", path="/models/qwen")
HTTP = known("gpt", http=True)


def test_workers_of_one_model_are_a_group() -> None:
    first, second = grouped([LLAMA, QWEN, LLAMA])
    assert (first.model, len(first.members), first.speaks_http) == ("llama", 2, False)
    assert (second.model, len(second.members)) == ("qwen", 1)


def test_one_model_over_both_protocols_is_refused() -> None:
    with pytest.raises(ConfigError, match="gpt is served both"):
        grouped([HTTP, known("gpt")])


@pytest.mark.parametrize(
    ("found", "model_path", "main"),
    [
        ([LLAMA], None, "llama"),
        ([LLAMA], "/elsewhere", "llama"),
        ([LLAMA, QWEN], "/models/qwen", "qwen"),
        ([LLAMA, QWEN], "qwen", "qwen"),
        ([LLAMA, QWEN], "/copies/llama", "llama"),
        ([LLAMA, HTTP], None, "llama"),
        ([LLAMA, HTTP], "/elsewhere", "llama"),
        ([HTTP], None, "gpt"),
        ([LLAMA, QWEN], None, None),
        ([LLAMA, QWEN], "/elsewhere", None),
    ],
)
def test_the_flags_about_one_model_are_about(
    found: list[Known], model_path: str | None, main: str | None
) -> None:
    told = main_group(Settings(model_path=model_path), grouped(found))
    assert (told.model if told else None) == main


@pytest.mark.parametrize(
    "flag", ["model_path", "served_model_name", "chat_template", "tool_call_parser"]
)
def test_a_flag_about_any_of_several_models_is_refused(flag: str) -> None:
    given: dict[str, Any] = {flag: "x"}
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')}.*llama, qwen"):
        check_told(Settings(**given), grouped([LLAMA, QWEN]))
    check_told(Settings(**given), grouped([LLAMA]))
    check_told(Settings(), grouped([LLAMA, QWEN]))


def test_other_models_do_not_get_the_flags_of_one() -> None:
    settings = Settings(model_path="qwen", reasoning_parser="qwen3", policy="random")
    llama, qwen = grouped([LLAMA, QWEN])
    assert settings_of(settings, qwen, qwen) is settings
    assert settings_of(settings, llama, qwen) == Settings(policy="random")


def test_aliases() -> None:
    assert read_aliases(["a=x", "b=x=y"]) == {"a": "x", "b": "x=y"}


@pytest.mark.parametrize("given", [["a"], ["=x"], ["a="], ["a=x", "a=y"]])
def test_aliases_that_say_nothing_are_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="--model-alias"):
        read_aliases(given)


URL = "http://h:1"


@pytest.mark.parametrize("entry", ["KEY", "http://other:1=KEY", "grpc://h:2=KEY", f"{URL}=UNSET"])
def test_a_key_of_no_worker_is_refused(entry: str) -> None:
    settings = Settings(worker_urls=(URL, "grpc://h:2"), worker_api_key_env=(entry,))
    with pytest.raises(ConfigError, match="--worker-api-key-env"):
        worker_keys(settings, {"KEY": "secret"})


def test_keys_are_read_from_variables() -> None:
    settings = Settings(worker_urls=(URL,), worker_api_key_env=(f"{URL}=KEY",))
    assert worker_keys(settings, {"KEY": "secret"}) == {URL: "secret"}
