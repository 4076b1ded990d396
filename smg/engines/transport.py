"""Bytes to and from one worker over gRPC: the only place that holds a channel.

In go a method's path and an encoded message, out come encoded messages or an `EngineError`.
It must not know what the bytes mean, so that a leaner reader can take its place.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from smg.engines.status import engine_error
from smg.errors import ConfigError

# Log-probabilities of a long prompt pass gRPC's 4 MiB by far; servers send up to this much.
LARGEST_MESSAGE: Final = 256 * 1024 * 1024

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    # A dead peer is noticed within 40 s. Servers end connections that ping more often.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Each worker has a connection of its own, also if two have one address.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC would wait up to two minutes before it looks again for a worker that was down.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # The gateway retries by its own rules, and never what has been said.
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files for `grpcs://`. Without a CA the usual roots count."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    """The gateway's own certificate, for workers that ask for one."""
    key_file: Path | None = None


NewMetadata = Callable[[], Sequence[tuple[str, str]]]


def no_metadata() -> Sequence[tuple[str, str]]:
    """Calls carry nothing but their message."""
    return ()


class GrpcTransport:
    """A connection to one worker. Make it inside the event loop that uses it."""

    def __init__(
        self, address: str, tls: Tls | None = None, metadata: NewMetadata = no_metadata
    ) -> None:
        """`metadata` is asked for what each call is to carry."""
        self.address = address
        self._metadata = metadata
        self._channel = (
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            if tls is None
            else grpc.aio.secure_channel(address, _credentials(tls), options=CHANNEL_OPTIONS)
        )

    async def stream(self, method: str, request: bytes) -> AsyncGenerator[bytes, None]:
        """Call a server-streaming method; closing the generator cancels the call."""
        method_call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(
            method, request_serializer=None, response_deserializer=None
        )
        call = method_call(request, metadata=tuple(self._metadata()))
        try:
            while (message := await self._read(call)) is not None:
                yield message
        finally:
            await _end(call)

    async def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """Call a unary method, with a deadline in seconds."""
        method_call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            method, request_serializer=None, response_deserializer=None
        )
        call = method_call(request, timeout=timeout, metadata=tuple(self._metadata()))
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise engine_error(self.address, error) from error
        finally:
            await _end(call)

    async def close(self) -> None:
        """Give up the connection; calls still running are cancelled."""
        await self._channel.close()

    async def _read(self, call: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> bytes | None:
        try:
            message = await call.read()
        except grpc.aio.AioRpcError as error:
            raise engine_error(self.address, error) from error
        return message if isinstance(message, bytes) else None  # Else it is gRPC's EOF.


async def _end(call: grpc.aio.Call) -> None:
    """Cancel a call that still runs, and see it end: it must not outlive the event loop."""
    if not call.done():
        call.cancel()
        await call.code()


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    if (tls.cert_file is None) != (tls.key_file is None):
        raise ConfigError("A client certificate for workers needs both its file and its key")
    return grpc.ssl_channel_credentials(
        root_certificates=_content(tls.ca_file),
        private_key=_content(tls.key_file),
        certificate_chain=_content(tls.cert_file),
    )


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}") from error
