"""Golden sessions: what a client sends, kept in cassettes, so that a change of it is seen.

A session runs twice: against the gateway, then against its cassette, which answers only a request
that is in every kept part the recorded one. `--update-cassettes` records the first run. Ids, times
and the machine's particulars are written as placeholders: recording anew changes what has changed.
"""

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


def run_session(
    name: str, session: Callable[[str], Any], base_url: str, *, update: bool
) -> None:
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
    return request


def _plain_response(response: Any) -> Any:
    headers = response["headers"]
    kept = {key: value for key, value in headers.items() if key.lower() in RESPONSE_HEADERS}
    return {**response, "headers": kept}


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

        return _TIME.sub(r"\g<1>1767225600", _ID.sub(number, text))

    @staticmethod
    def deserialize(text: str) -> Any:
        return yaml.safe_load(text)
