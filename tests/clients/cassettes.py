"""Golden sessions: what a client sends, kept in cassettes, so that a change of it is seen.

A session runs twice: against the gateway, then against its cassette, which answers only a request
that is in every kept part the recorded one. `--update-cassettes` records the first run. Ids, times,
long texts and the machine's particulars are written as placeholders: recording anew changes what
has changed.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vcr
import yaml

FOLDER = Path(__file__).parent / "cassettes"
NOWHERE = "http://gateway.invalid/v1"  # Replayed sessions must reach no server.

REQUEST_HEADERS = {"accept", "authorization", "content-type", "openai-beta", "x-stainless-async"}
REQUEST_HEADERS |= {"x-stainless-helper-method", "x-stainless-retry-count", "idempotency-key"}
RESPONSE_HEADERS = {"content-type"}
MATCH_ON = ("method", "path", "query", "headers", "body")

_ID = re.compile(r"\b(resp|conv|msg|rs|fc|call|mcp|mcpl|mcpr|req|chatcmpl|cmpl)_?-?[0-9a-f]{24,}\b")
_TIME = re.compile(r'("(?:created|created_at|completed_at)":)\d+')
_UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])")
NO_UUID = "00000000-0000-0000-0000-000000000000"
LONG = 200  # Instructions and descriptions: theirs to write, and not what the gateway goes by.
_WORN = (  # What Codex tells of its machine and of a command's run.
    (re.compile(r"<environment_context>.*", re.DOTALL), "<environment_context>"),
    (re.compile(r"^Chunk ID: .*(?=\nOutput:)", re.DOTALL), "Chunk ID: ..."),
)


def run_session(name: str, session: Callable[[str], Any], base_url: str, *, update: bool) -> None:
    """Run a session against the gateway and against its cassette.

    Raises:
        AssertionError: it did not send all that is recorded. What it sends and is not recorded
            fails inside the client, as a request that cannot be sent.
    """
    path = FOLDER / f"{name}.yaml"
    if update:
        path.unlink(missing_ok=True)
        with _recorder("all").use_cassette(str(path)):
            session(base_url)
    else:
        session(base_url)
    with _recorder("none").use_cassette(str(path)) as cassette:
        session(NOWHERE)
    assert cassette.all_played, f"{name}: {cassette.play_count} of {len(cassette)} were sent"


def _recorder(mode: str) -> Any:
    recorder = vcr.VCR(
        record_mode=mode,
        match_on=MATCH_ON,
        before_record_request=_plain_request,
        before_record_response=_plain_response,
        serializer="placeholders",
    )
    recorder.register_serializer("placeholders", _Placeholders)
    return recorder


def _plain_request(request: Any) -> Any:
    """The request without what differs between two runs or machines."""
    request.uri = re.sub(r"^http://[^/]+/v1", NOWHERE, request.uri)
    kept = {key: value for key, value in request.headers.items() if key.lower() in REQUEST_HEADERS}
    request.headers.clear()
    request.headers.update(kept)
    if request.body:
        request.body = _dumped(_plain(json.loads(request.body))).encode()
    return request


def _plain_response(response: Any) -> Any:
    """The response without the tools it repeats, which are in the request."""
    headers = response["headers"]
    kept = {key: value for key, value in headers.items() if key.lower() in RESPONSE_HEADERS}
    lines = response["body"]["string"].decode().split("\n")
    body = "\n".join(_without_tools(line) for line in lines)
    return {**response, "headers": kept, "body": {"string": body.encode()}}


def _without_tools(line: str) -> str:
    prefix = "data: " if line.startswith("data: ") else ""
    text = line.removeprefix(prefix)
    if not text.startswith("{"):
        return line
    document = json.loads(text)
    for part in (document, document.get("response")):
        if isinstance(part, dict) and part.get("object") == "response":
            part["tools"] = []
    return prefix + _dumped(document)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {_plain(key): _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case str():
            for worn, plain in _WORN:
                value = worn.sub(plain, value)
            return _UUID.sub(NO_UUID, value) if len(value) <= LONG else "(long text)"
    return value


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Placeholders:
    """vcrpy's serializer: YAML, with ids numbered in the order they come."""

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        text: str = yaml.safe_dump(cassette, width=1_000_000, allow_unicode=True)
        numbers: dict[str, str] = {}

        def number(found: re.Match[str]) -> str:
            prefix = found[1]
            count = sum(known.startswith(f"{prefix}_") for known in numbers.values())
            return numbers.setdefault(found[0], f"{prefix}_{count:024d}")

        return _UUID.sub(NO_UUID, _TIME.sub(r"\g<1>1767225600", _ID.sub(number, text)))

    @staticmethod
    def deserialize(text: str) -> Any:
        return yaml.safe_load(text)
