"""Streams as they are kept in files: ids counted, clocks stopped, everything else as sent."""

import json
import re
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent

# Ids of approval requests also say when, and about which definition, somebody was asked.
_ID = re.compile(r"\b([a-z]+)([_-])[0-9a-f]{48}(?:\.[0-9a-f]{1,16}\.[0-9a-f]{32})?\b")
_CHANGING = re.compile(
    r'("(?:created_at|completed_at|created|cached_tokens)":|127\.0\.0\.1:)[1-9]\d*'
)


def normalised(text: str) -> str:
    """The text with what differs between two runs made equal."""
    numbers: dict[str, int] = {}
    counts: dict[str, int] = {}

    def counted(found: re.Match[str]) -> str:
        if found[0] not in numbers:
            counts[found[1]] = counts.get(found[1], 0) + 1
            numbers[found[0]] = counts[found[1]]
        return f"{found[1]}{found[2]}{numbers[found[0]]}"

    return _CHANGING.sub(r"\g<1>0", _ID.sub(counted, text))


def normalised_json(value: Any) -> Any:
    return json.loads(normalised(json.dumps(value, separators=(",", ":"), ensure_ascii=False)))


def check(name: str, sent: str, *, update: bool) -> None:
    """Compare a stream with its file, byte for byte; `update` writes the file first."""
    path = GOLDEN / name
    if update:
        path.write_bytes(normalised(sent).encode())
    assert normalised(sent).encode() == path.read_bytes()


def frames(sent: str) -> list[str]:
    """The frames of a stream; nothing may stand between or after them but the last blank line."""
    assert sent.endswith("\n\n")
    return sent.removesuffix("\n\n").split("\n\n")
