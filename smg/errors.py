"""Everything that can go wrong, as one tree.

    GatewayError                      a bug of ours, or anything not named below
    |-- RequestError                  the client's fault: refused before the first byte
    |   |-- InvalidRequest            400  a field is missing, ill-formed or unsupported
    |   |-- ContextLengthExceeded     400  the prompt does not fit the model's context
    |   |-- PreviousResponseNotFound  400  the named parent is not there
    |   |-- Unauthorized              401
    |   |-- Forbidden                 403
    |   |-- NotFound                  404  no such response, conversation, item or path
    |   |-- ModelNotFound             404
    |   |-- Conflict                  409  somebody else is writing the same thing
    |   |   `-- LeaseLost                  another gateway has taken the run over
    |   |-- PayloadTooLarge           413
    |   |-- UnsupportedMedia          415  a body in a form this gateway does not read
    |   `-- RateLimited               429
    |-- EngineError                   502  a worker's fault
    |   |-- PromptRejected            400  the engine refused this prompt; no other would take it
    |   |-- WorkerUnavailable         503
    |   |-- WorkerOverloaded          503
    |   `-- WorkerTimeout             504
    |-- TurnTimeout                   504  the whole turn took too long
    |-- ToolServerError               424  an MCP server could not be reached or listed
    |-- Overloaded                    503  there is no room for it now
    |-- StorageError                  503  the database did not take it
    |   `-- StorageDamaged            503  its file is damaged, gone, or another one
    `-- ConfigError                   a flag or a file is wrong: the gateway does not start

Status, type and code are the ones a client sees (OpenAI's error envelope).
Standard library only.
"""

from typing import ClassVar


class GatewayError(Exception):
    """Raised when a request cannot be served; the base of all errors a client is told about."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The JSON body of an OpenAI error: all four keys, always."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def our_mistake() -> GatewayError:
    """What a client is told of an exception nobody foresaw; the log has the exception itself."""
    return GatewayError("The gateway made a mistake; it has been logged.")


class RequestError(GatewayError):
    """Raised when the client asked for something that cannot be done."""

    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    """Raised when a field is missing, ill-formed, out of range or not supported."""


class ContextLengthExceeded(RequestError):
    """Raised when the prompt leaves no room in the model's context."""

    default_code = "context_length_exceeded"


class PreviousResponseNotFound(RequestError):
    """Raised when `previous_response_id` names nothing this client may continue."""

    default_code = "previous_response_not_found"


class Unauthorized(RequestError):
    """Raised when the request carries no valid API key."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(RequestError):
    """Raised when the request comes from where none may come."""

    status = 403
    type = "permission_error"


class NotFound(RequestError):
    """Raised when an id or a path names nothing this client may see."""

    status = 404


class ModelNotFound(NotFound):
    """Raised when the model named is not served here."""

    default_code = "model_not_found"


class Conflict(RequestError):
    """Raised when another request is changing the same thing."""

    status = 409
    type = "conflict_error"


class LeaseLost(Conflict):
    """Raised when a run writes that is no longer ours: another gateway has claimed it."""

    default_code = "lease_lost"


class PayloadTooLarge(RequestError):
    """Raised when a body is larger than this gateway takes."""

    status = 413


class UnsupportedMedia(RequestError):
    """Raised when a body is encoded in a way this gateway does not read."""

    status = 415


class RateLimited(RequestError):
    """Raised when the client must wait before it asks again."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class EngineError(GatewayError):
    """Raised when a worker failed."""

    status = 502
    default_code = "server_error"


class PromptRejected(EngineError):
    """Raised when an engine refused the request itself; another worker would too."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_prompt"


class WorkerUnavailable(EngineError):
    """Raised when a worker cannot be reached, or went away."""

    status = 503


class WorkerOverloaded(EngineError):
    """Raised when a worker has no room; it is healthy all the same."""

    status = 503
    default_code = "rate_limit_exceeded"


class WorkerTimeout(EngineError):
    """Raised when a worker sent no token within its deadline."""

    status = 504


class TurnTimeout(GatewayError):
    """Raised when a turn took longer than its limit."""

    status = 504
    default_code = "server_error"


class ToolServerError(GatewayError):
    """Raised when an MCP server cannot be reached, or does not list its tools."""

    status = 424
    type = "external_connector_error"


class Overloaded(GatewayError):
    """Raised when the gateway holds as much as it may; what it has taken in it works on."""

    status = 503
    default_code = "overloaded"


class StorageError(GatewayError):
    """Raised when the database did not take a change."""

    status = 503


class StorageDamaged(StorageError):
    """Raised when the database's file is damaged, gone, or not the one that was opened."""

    default_code = "storage_damaged"

    def __init__(self, damage: str) -> None:
        super().__init__(f"The database is damaged: {damage}")
        self.damage = damage


class ConfigError(Exception):
    """Raised when a flag, an environment variable or a configuration file is wrong."""
