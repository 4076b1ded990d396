"""An HTTP worker's refusals and failures as the gateway's errors: the one table for all servers.

A status with its body comes in, or an error inside a stream; an error goes out.
"""

import json
import re
from typing import Any, Final

from smg.errors import (
    ContextLengthExceeded,
    EngineError,
    GatewayError,
    PromptRejected,
    WorkerOverloaded,
    WorkerTimeout,
    WorkerUnavailable,
)

ERRORS: Final[dict[int, type[EngineError]]] = {  # No row: 4xx PromptRejected, else unavailable.
    401: EngineError,  # It is the gateway's key that was refused, not the client's.
    402: EngineError,
    403: EngineError,
    404: WorkerUnavailable,  # It has lost the model it listed.
    408: WorkerTimeout,
    429: WorkerOverloaded,
    501: EngineError,
    504: WorkerTimeout,
}
TOO_LONG: Final = re.compile(
    r"context_length_exceeded|maximum context length|context (?:length|size|window)"
    r"|longer than the model"
)
LONGEST_MESSAGE: Final = 2000


def status_error(address: str, status: int, body: bytes) -> GatewayError:
    """What a refused request means for whoever sent it."""
    return _error(address, status, *_told(body))


def stream_error(address: str, told: Any) -> GatewayError:
    """What an error inside a stream means; its code is a status with some servers."""
    message, code = _message(told, str(told))
    status = int(code) if code.isdecimal() else 0
    if 400 <= status < 600:
        return _error(address, status, message, code)
    if TOO_LONG.search(code):
        return ContextLengthExceeded(message, param="input")
    return EngineError(f"Worker {address}: {message}")


def _error(address: str, status: int, message: str, code: str) -> GatewayError:
    shown = message or f"status {status}"
    if status in (400, 413, 422) and TOO_LONG.search(f"{code} {message}"):
        return ContextLengthExceeded(shown, param="input")
    default = PromptRejected if 400 <= status < 500 else WorkerUnavailable
    kind = ERRORS.get(status, default)
    # A client whose prompt is refused need not know where.
    return kind(shown if kind is PromptRejected else f"Worker {address}: {shown} ({status})")


def _told(body: bytes) -> tuple[str, str]:
    text = body.decode(errors="replace").strip()
    try:
        told = json.loads(text)
    except ValueError:
        return text[:LONGEST_MESSAGE], ""
    return _message(told.get("error", told) if isinstance(told, dict) else told, text)


def _message(told: Any, text: str) -> tuple[str, str]:
    """The message and the code, wherever this kind of server keeps them."""
    if not isinstance(told, dict):
        return str(told)[:LONGEST_MESSAGE], ""
    message = told.get("message") or told.get("detail") or text
    return str(message)[:LONGEST_MESSAGE], str(told.get("code") or "")
