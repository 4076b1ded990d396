"""gRPC statuses as the gateway's errors: the one table for every engine.

In comes what gRPC raised, out goes an `EngineError`. It must not know which engine answered.
"""

import grpc

from smg.errors import (
    EngineError,
    PromptRejected,
    WorkerOverloaded,
    WorkerTimeout,
    WorkerUnavailable,
)


class WrongEngine(EngineError):
    """Raised when a worker does not know the method: another kind of engine answers there."""


ERRORS: dict[grpc.StatusCode, type[EngineError]] = {  # No row: EngineError.
    grpc.StatusCode.INVALID_ARGUMENT: PromptRejected,
    grpc.StatusCode.OUT_OF_RANGE: PromptRejected,
    # SGLang, when a constraint cannot be followed.
    grpc.StatusCode.FAILED_PRECONDITION: PromptRejected,
    grpc.StatusCode.RESOURCE_EXHAUSTED: WorkerOverloaded,
    grpc.StatusCode.UNAVAILABLE: WorkerUnavailable,
    # We never see our own cancellation here: this is a worker that is shutting down.
    grpc.StatusCode.CANCELLED: WorkerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: WorkerTimeout,
    grpc.StatusCode.UNIMPLEMENTED: WrongEngine,
}


def engine_error(address: str, error: grpc.aio.AioRpcError) -> EngineError:
    """What a failed call means for the request that made it."""
    kind = ERRORS.get(error.code(), EngineError)
    reason = error.details() or error.code().name.lower()
    # A client whose prompt is refused need not know where.
    return kind(reason if kind is PromptRejected else f"Worker {address}: {reason}")
