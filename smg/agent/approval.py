"""The id of a question, which says when it was asked and about which definition of the tool.

So an approval is bound to what was asked, also where the client keeps the state: a tool that has
changed since, or a question that is too old, is not approved by it.
"""

import hashlib
import json
import re
from dataclasses import dataclass

from smg.turn import ServerTool

_ID = re.compile(r"mcpr_[0-9a-f]{32,}\.([0-9a-f]{1,16})\.([0-9a-f]{32})\Z")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the id of an approval request says."""

    at: int
    """Unix seconds."""
    digest: str
    """Of the tool's definition."""


def definition_digest(tool: ServerTool) -> str:
    """A digest of what a person is asked about: server, name, description, parameters."""
    told = [tool.server, tool.name, tool.description, tool.parameters]
    text = json.dumps(told, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]


def approval_id(random_id: str, tool: ServerTool, asked_at: int) -> str:
    """The id of a new request; `random_id` makes it one of its own."""
    return f"{random_id}.{asked_at:x}.{definition_digest(tool)}"


def read_approval_id(request_id: str) -> Asked | None:
    """What an id says; `None` if it is not one of ours."""
    found = _ID.match(request_id)
    return Asked(int(found[1], 16), found[2]) if found else None
