"""Compressed request bodies: bytes in as they arrive, bytes out, and never more than agreed.

A few bytes can stand for gigabytes, so input goes in small slices and the output is measured
after each; nothing is given to the JSON reader before that.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard

from smg.errors import InvalidRequest, PayloadTooLarge, UnsupportedMedia

MAX_RATIO = 100
"""Bytes that one byte may stand for (security.md 2.8)."""
RATIO_FREE = 1 << 20
"""Bytes out from which the ratio counts: below, it says nothing."""
SLICE = 256
"""Bytes in at a time. Zstandard's densest blocks make 8 MiB of it, gzip's a quarter."""
ZSTD_WINDOW = 8 << 20
"""Most memory a zstd body may ask for: what RFC 9659 lets senders count on."""


class Decompressor(Protocol):
    """One compressed stream, as zlib and zstandard have it."""

    @property
    def eof(self) -> bool:
        """Whether its end has been reached."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""
        ...

    def decompress(self, data: bytes, /) -> bytes:
        """Take more of it."""
        ...


def _zstd() -> Decompressor:
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()


def _gzip() -> Decompressor:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


DECOMPRESSORS: dict[str, Callable[[], Decompressor]] = {
    "zstd": _zstd,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": zlib.decompressobj,
}


class Expansion:
    """One body on its way from its encoded to its plain form."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        """`encoding` is the Content-Encoding header.

        Raises:
            UnsupportedMedia: it names what is not in the table, or several at once.
        """
        name = encoding.strip().lower()
        if name not in DECOMPRESSORS:
            raise UnsupportedMedia(
                f"Unsupported Content-Encoding {encoding!r}; known are "
                f"{', '.join(DECOMPRESSORS)}, one at a time.",
                code="unsupported_content_encoding",
            )
        self._name = name
        self._max = max_bytes
        self._stream: Decompressor = DECOMPRESSORS[name]()
        self._given = self._made = 0

    def feed(self, piece: bytes) -> bytes:
        """Take more of the body; give what it stands for.

        Raises:
            InvalidRequest: it is not encoded as its header says.
            PayloadTooLarge: it stands for more than is taken.
        """
        return b"".join(self._expand(piece))

    def finish(self) -> None:
        """Check that nothing is missing.

        Raises:
            InvalidRequest: the body ends in the middle.
        """
        if not self._stream.eof:
            raise self._invalid("it ends too early")

    def _expand(self, piece: bytes) -> Iterator[bytes]:
        for start in range(0, len(piece), SLICE):
            part = piece[start : start + SLICE]
            self._given += len(part)
            made = self._step(part)
            self._made += len(made)
            self._check()
            yield made

    def _step(self, part: bytes) -> bytes:
        if self._stream.eof:
            raise self._invalid("more follows its end")
        try:
            made = self._stream.decompress(part)
        except (zlib.error, zstandard.ZstdError) as error:
            raise self._invalid(str(error)) from error
        if self._stream.unused_data:
            # No client sends several streams, and thousands of empty ones would be costly.
            raise self._invalid("more follows its end")
        return made

    def _check(self) -> None:
        if self._made > self._max:
            raise PayloadTooLarge(
                f"The body is larger than {self._max} bytes (--max-body-mib) when decompressed.",
                code="body_too_large",
            )
        if self._made > RATIO_FREE and self._made > self._given * MAX_RATIO:
            raise PayloadTooLarge(
                f"The body grows more than {MAX_RATIO} times when decompressed.",
                code="body_too_large",
            )

    def _invalid(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"The body is not valid {self._name}: {why}.", code="invalid_body")
