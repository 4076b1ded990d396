"""`smg approvals`: the calls that wait for a person's word, from the command line.

Speaks to a running gateway over its API. Standard library only.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from smg.errors import ConfigError
from smg.settings import new_parser

TIMEOUT_SECONDS = 30.0


def run_approvals(words: Sequence[str]) -> int:
    """Run `smg approvals list|approve|deny`; the exit status."""
    parser = new_parser("Calls that wait for a person's word.")
    parser.add_argument("action", choices=("list", "approve", "deny"))
    parser.add_argument("id", nargs="?", help="the approval request, for approve and deny")
    parser.add_argument("--reason", help="told to the model")
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="the gateway")
    parser.add_argument("--api-key", default=os.environ.get("SMG_API_KEY", "").split(" ")[0])
    arguments = parser.parse_args(words)
    if arguments.action == "list":
        return _list(arguments)
    if arguments.id is None:
        raise ConfigError(f"smg approvals {arguments.action}: name the approval request")
    answer = {"approve": arguments.action == "approve", "reason": arguments.reason}
    response = _ask(arguments, f"/v1/approvals/{arguments.id}", answer)
    sys.stdout.write(f"{arguments.action}d; goes on as {response['id']}\n")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    for call in _ask(arguments, "/v1/approvals")["data"]:
        told = f"{call['server_label']}.{call['name']}({call['arguments']})"
        sys.stdout.write(f"{call['id']}\n  {told}\n  asked by {call['response_id']}\n")
    return 0


def _ask(arguments: argparse.Namespace, path: str, body: Any = None) -> Any:
    """One request to the gateway.

    Raises:
        ConfigError: the gateway cannot be reached, or refuses.
    """
    if not arguments.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url: expected http://... or https://..., got {arguments.url!r}")
    request = urllib.request.Request(
        arguments.url.rstrip("/") + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    if arguments.api_key:
        request.add_header("authorization", f"Bearer {arguments.api_key}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ConfigError(_message(error.read())) from error
    except OSError as error:
        raise ConfigError(f"--url: {arguments.url} cannot be reached: {error}") from error


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode(errors="replace")
