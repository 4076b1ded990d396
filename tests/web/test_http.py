"""What every endpoint has in common: paths, ids, keys, bodies, and OpenAI's envelope for errors."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from smg.errors import InvalidRequest
from smg.web.body import parse_object
from smg.web.edge import Edge
from tests.e2e.gateway import Served
from tests.web.conftest import KEYS

ENDPOINTS = ["/responses", "/chat/completions"]


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """The envelope's content; all four keys are always there."""
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    return error


# ---- paths


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/responses/resp_1/nowhere", 404),
        ("PUT", "/responses", 405),
        ("GET", "/chat/completions", 405),
        ("PATCH", "/models", 405),
    ],
)
async def test_an_unknown_path_or_method_is_told_in_the_envelope(
    method: str, path: str, status: int, served: Served
) -> None:
    answer = await served.http.request(method, path)
    assert answer.status_code == status
    assert error_of(answer)["type"] == "invalid_request_error"
    assert ("allow" in answer.headers) == (status == 405)


async def test_the_openapi_document_names_the_endpoints_and_their_fields(served: Served) -> None:
    document = (await served.http.get(f"{served.url}/openapi.json")).json()
    create = document["paths"]["/v1/responses"]["post"]
    schema = create["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "input", "previous_response_id", "tools"} <= set(schema["properties"])
    assert "post" in document["paths"]["/v1/chat/completions"]
    page = await served.http.get(f"{served.url}/docs")
    assert page.status_code == 200


# ---- request ids


async def test_every_answer_has_a_request_id_of_its_own(served: Served) -> None:
    ids = [
        (await served.http.get("/models")).headers["x-request-id"],
        (await served.http.get("/nowhere")).headers["x-request-id"],
        (await served.post("/responses", input="x", stream=True)).headers["x-request-id"],
    ]
    assert len(set(ids)) == 3
    assert all(request_id.startswith("req_") for request_id in ids)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3", True), ("a" * 128, True), ("a" * 129, False), ("two words", False), ("", False)],
)
async def test_a_clients_request_id_is_kept_if_it_is_plain(
    given: str, kept: bool, served: Served
) -> None:
    answer = await served.http.get("/models", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) == kept


# ---- keys


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {KEYS[0]}", KEYS[0], f"Bearer {KEYS[0]}x"],
)
@pytest.mark.parametrize("path", [*ENDPOINTS, "/models"])
async def test_without_a_key_nothing_is_answered(
    authorization: str | None, path: str, served: Served
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    async with httpx2.AsyncClient(base_url=f"{served.url}/v1", headers=headers) as client:
        get = path == "/models"
        answer = await (client.get(path) if get else client.post(path, content=b"not even JSON"))
    assert answer.status_code == 401
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


async def test_the_official_client_raises_the_right_error_without_a_key(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError):
        await served.openai.models.list()


async def test_one_keys_responses_are_unknown_to_another(served: Served) -> None:
    created = (await served.post("/responses", input="Hello")).json()
    path = f"/responses/{created['id']}"
    bob = {"authorization": f"Bearer {KEYS[1]}"}
    assert (await served.http.get(path, headers=bob)).status_code == 404
    assert (await served.http.delete(path, headers=bob)).status_code == 404
    assert (await served.http.get(f"{path}/input_items", headers=bob)).status_code == 404
    chained = await served.http.post(
        "/responses",
        json={"model": "scripted", "input": "x", "previous_response_id": created["id"]},
        headers=bob,
    )
    assert error_of(chained)["code"] == "previous_response_not_found"
    reference = {"type": "item_reference", "id": created["output"][0]["id"]}
    referred = await served.http.post(
        "/responses", json={"model": "scripted", "input": [reference]}, headers=bob
    )
    assert referred.status_code == 404
    assert (await served.http.get(path)).status_code == 200


# ---- bodies


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"text"',
        b"null",
        b'{"model": NaN}',
        b'{"model": Infinity}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
        b"[" * 200_000,
        b'{"a": [' + b"{}," * 100_000 + b"{}]}",
    ],
    ids=lambda body: repr(body[:16]),
)
async def test_a_body_that_is_no_json_object_is_refused(
    body: bytes, path: str, served: Served
) -> None:
    answer = await served.http.post(path, content=body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_json")


def test_a_body_of_too_many_values_is_refused_before_they_are_made() -> None:
    with pytest.raises(InvalidRequest, match="more than 1000000 values"):
        parse_object(b'{"a": [' + b"1," * 1_000_001 + b"1]}")


def test_brackets_and_commas_within_strings_are_text() -> None:
    text = 'f(x[1], {"a": "b\\"})\n' * 200_000
    assert parse_object(json.dumps({"a": text}).encode()) == {"a": text}


async def test_a_pair_of_surrogates_is_a_character(served: Served) -> None:
    body = b'{"model": "scripted", "input": "[[say:\\ud83d\\ude00]]"}'
    answer = await served.http.post("/responses", content=body)
    assert answer.json()["output"][0]["content"][0]["text"] == "😀"


async def test_a_body_as_deep_as_allowed_is_read(served: Served) -> None:
    deep: Any = []
    for _ in range(61):
        deep = [deep]
    answer = await served.post("/responses", input="Hello", client_metadata={"deep": deep})
    assert answer.status_code == 200


MIB = 1024 * 1024


async def test_a_body_is_refused_as_soon_as_it_is_known_to_be_too_large(served: Served) -> None:
    answer = await served.http.post("/responses", content=b" " * (MIB + 1))
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "body_too_large"


async def test_a_body_of_unknown_length_is_refused_where_it_becomes_too_large(
    served: Served,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * (MIB // 16)

    answer = await served.http.post("/responses", content=pieces())
    assert answer.status_code == 413


async def test_a_body_of_the_largest_size_is_read(served: Served) -> None:
    body = json.dumps({"model": "nowhere", "input": "x"}).encode()
    answer = await served.http.post("/responses", content=body.ljust(MIB))
    assert error_of(answer)["code"] == "model_not_found"


# ---- models and health


async def test_the_models_are_listed_and_described(served: Served) -> None:
    listed = (await served.http.get("/models")).json()
    [model] = listed["data"]
    assert listed["object"] == "list"
    assert {key: model[key] for key in ("id", "object", "owned_by", "max_model_len")} == {
        "id": "scripted",
        "object": "model",
        "owned_by": "smg",
        "max_model_len": 32768,
    }
    assert (await served.http.get("/models/scripted")).json() == model
    unknown = await served.http.get("/models/org/name")
    assert unknown.status_code == 404
    assert error_of(unknown)["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/health", "/liveness", "/readiness"])
async def test_health_needs_no_key(path: str, served: Served) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{served.url}{path}")
    assert answer.status_code == 200


# ---- mistakes of ours


async def test_a_mistake_of_the_gateway_is_told_without_its_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()
    app.add_middleware(Edge)

    @app.get("/broken")
    async def broken() -> None:
        raise LookupError("a secret")

    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/broken")
    assert answer.status_code == 500
    error = error_of(answer)
    assert error["type"] == "server_error"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "secret" not in answer.text
    assert "a secret" in caplog.text
