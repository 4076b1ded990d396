"""A policy for each model: read from the flag, kept to, and told at start."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from smg.discovery.policies import read_policies
from smg.errors import ConfigError
from smg.settings import Settings
from smg.testing.engine import EngineOptions, ScriptedEngine
from tests.e2e.gateway import PATIENCE_SECONDS, served

BIG, SMALL = (EngineOptions(model_name=name) for name in ("big", "small"))


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (("random",), "expected MODEL=POLICY"),
        (("=random",), "expected MODEL=POLICY"),
        (("a=random", "a=manual"), "each model once"),
        (("a=",), "unknown policy '' in 'a='"),
        (("a=fastest",), "unknown policy 'fastest' in 'a=fastest'; known are random, "),
    ],
)
def test_what_is_no_policy_of_a_model_is_refused(given: tuple[str, ...], wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"--model-policy: .*{wrong}"):
        read_policies(Settings(model_policy=given))


def test_a_name_with_the_sign_in_it_is_a_name() -> None:
    assert read_policies(Settings(model_policy=("a=b=manual",))) == {"a=b": "manual"}


def test_a_model_in_two_halves_has_flags_of_its_own() -> None:
    url = ("grpc://a:1",)
    with pytest.raises(ConfigError, match="--prefill-policy"):
        read_policies(Settings(model_policy=("a=random",), prefill=url, decode=url))


async def test_each_model_has_its_policy_and_the_log_says_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "smg.discovery")
    async with ScriptedEngine(options=BIG) as big, ScriptedEngine(options=SMALL) as small:
        settings: dict[str, Any] = {
            "worker_urls": (big.url, small.url),
            "model_path": None,
            "policy": "least_load",
            "model_policy": ("small=round_robin", "other=random"),
        }
        async with served(tmp_path, tools=False, **settings) as gateway:
            reasons = []
            for model in ("big", "small"):
                body = {"model": model, "input": "[[say:Yes.]]"}
                answer = await gateway.http.post("/responses", json=body)
                reasons.append(answer.headers["x-smg-worker-reason"])
    assert reasons == ["least_load, 0.00 s of work", "round_robin"]
    told = [record.getMessage() for record in caplog.records]
    assert "Model big. Policy: least_load (--policy)." in told
    assert "Model small. Policy: round_robin (--model-policy)." in told
    assert "--model-policy: no worker serves 'other' now (served: big, small)" in told


async def test_the_name_that_clients_use_counts_too(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"served_model_name": "ours", "model_policy": ("ours=manual",)}
    async with served(tmp_path, tools=False, **settings) as gateway:
        body = {"model": "ours", "input": "[[say:Yes.]]"}
        answer = await gateway.http.post("/responses", json=body)
        assert answer.headers["x-smg-worker-reason"] == "manual: new routing key, least load"


async def test_a_model_that_comes_later_has_its_policy(tmp_path: Path) -> None:
    async with ScriptedEngine(options=SMALL) as late:
        settings: dict[str, Any] = {"model_policy": ("small=random",), "admin_key": "k"}
        async with served(tmp_path, tools=False, **settings) as gateway:
            added = await gateway.http.post(
                f"{gateway.url}/workers",
                json={"url": late.url},
                headers={"authorization": "Bearer k"},
            )
            assert added.status_code == 202
            body = {"model": "small", "input": "[[say:Yes.]]"}
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (answer := await gateway.http.post("/responses", json=body)).is_error:
                    assert answer.status_code in (404, 503)
            assert answer.headers["x-smg-worker-reason"] == "random"
