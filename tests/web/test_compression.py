"""Compressed bodies: read like plain ones, and bombs refused before they go off."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from smg.errors import InvalidRequest, PayloadTooLarge, UnsupportedMedia
from smg.web.compression import MAX_RATIO, RATIO_FREE, Expansion
from tests.e2e.gateway import Served
from tests.e2e.gateway import served as serve

MIB = 1 << 20
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.compress,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}
BODY = json.dumps({"input": [f"Line {n}: größer" for n in range(200)]}).encode()


def expand(encoding: str, sent: bytes, *, most: int = 16 * MIB, piece: int = 64 * 1024) -> bytes:
    expansion = Expansion(encoding, most)
    made = [expansion.feed(sent[n : n + piece]) for n in range(0, len(sent), piece)]
    expansion.finish()
    return b"".join(made)


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("piece", [1, 7, 255, 256, 257, 10**6])
def test_a_body_is_the_same_however_it_arrives(encoding: str, piece: int) -> None:
    assert expand(encoding, ENCODERS[encoding](BODY), piece=piece) == BODY


def test_the_name_of_an_encoding_may_be_written_in_capitals() -> None:
    assert expand(" GZIP ", gzip.compress(BODY)) == BODY


@pytest.mark.parametrize(
    "encoding", ["br", "gzip, gzip", "gzip, zstd", "compress", "gzip;q=1", ","]
)
def test_unknown_and_several_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia) as refusal:
        Expansion(encoding, MIB)
    assert refusal.value.status == 415
    assert refusal.value.code == "unsupported_content_encoding"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_body_that_ends_in_the_middle_is_refused(encoding: str) -> None:
    whole = ENCODERS[encoding](BODY)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        with pytest.raises(InvalidRequest) as refusal:
            expand(encoding, whole[:length])
        assert refusal.value.code == "invalid_body"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_body_that_is_not_encoded_as_it_says_is_refused(encoding: str) -> None:
    with pytest.raises(InvalidRequest):
        expand(encoding, BODY)


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("piece", [1, 10**6])
def test_bytes_after_the_end_are_refused(encoding: str, piece: int) -> None:
    whole = ENCODERS[encoding](BODY)
    for more in (b"x", whole):
        with pytest.raises(InvalidRequest, match="more follows its end"):
            expand(encoding, whole + more, piece=piece)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_damaged_body_is_refused_or_read_as_something_else(encoding: str) -> None:
    whole = bytearray(ENCODERS[encoding](BODY))
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        try:
            made = expand(encoding, bytes(damaged))
        except (InvalidRequest, PayloadTooLarge):
            continue
        assert isinstance(made, bytes)


def test_a_body_may_be_as_large_as_is_taken_and_not_a_byte_larger() -> None:
    sent = gzip.compress(BODY)
    assert expand("gzip", sent, most=len(BODY)) == BODY
    with pytest.raises(PayloadTooLarge) as refusal:
        expand("gzip", sent, most=len(BODY) - 1)
    assert refusal.value.code == "body_too_large"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_much_repetition_is_fine_while_it_is_small(encoding: str) -> None:
    body = b" " * (RATIO_FREE // 2)
    sent = ENCODERS[encoding](body)
    assert len(body) > MAX_RATIO * len(sent)
    assert expand(encoding, sent) == body


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_body_that_grows_beyond_the_ratio_is_refused(encoding: str) -> None:
    with pytest.raises(PayloadTooLarge, match="100 times"):
        expand(encoding, ENCODERS[encoding](bytes(8 * MIB)), most=1024 * MIB)


def bomb(megabytes: int) -> bytes:
    """Zeros as the densest zstd there is: blocks that repeat one byte."""
    return b"".join(dense_blocks(megabytes * 8))


def dense_blocks(blocks: int) -> Iterator[bytes]:
    yield zstandard.MAGIC_NUMBER.to_bytes(4, "little") + bytes([0x00, 0x38])  # Window 128 KiB.
    for n in range(blocks):
        last = n == blocks - 1
        yield ((128 * 1024 << 3) | (1 << 1) | last).to_bytes(3, "little") + b"\0"


def test_a_bomb_costs_little_memory() -> None:
    assert expand_all(bomb(2)) == bytes(2 * MIB)  # It is what it seems.
    sent = bomb(10_000)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            expand("zstd", sent, most=16 * MIB, piece=len(sent))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * MIB


def expand_all(sent: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(sent)


def test_a_zstd_body_cannot_ask_for_a_huge_window() -> None:
    stream = zstandard.ZstdCompressor(compression_params=window(27)).compressobj()
    with pytest.raises(InvalidRequest):
        expand("zstd", stream.compress(BODY) + stream.flush())
    stream = zstandard.ZstdCompressor(compression_params=window(23)).compressobj()
    assert expand("zstd", stream.compress(BODY) + stream.flush()) == BODY


def window(bits: int) -> zstandard.ZstdCompressionParameters:
    return zstandard.ZstdCompressionParameters.from_level(3, window_log=bits)


@pytest.fixture(scope="module")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("compression")
    async with serve(folder, tools=False, max_body_mib=1) as running:
        yield running


@pytest.mark.parametrize("encoding", [*ENCODERS, "identity", ""])
@pytest.mark.parametrize("path", ["/responses", "/chat/completions"])
async def test_every_endpoint_takes_compressed_bodies(
    served: Served, encoding: str, path: str
) -> None:
    said = {"input": "[[say:Yes.]]"}
    if path == "/chat/completions":
        said = {"messages": [{"role": "user", "content": "[[say:Yes.]]"}]}  # type: ignore[dict-item]
    plain = json.dumps({"model": "scripted", **said}).encode()
    sent = ENCODERS[encoding](plain) if encoding in ENCODERS else plain
    answer = await served.http.post(path, content=sent, headers={"content-encoding": encoding})
    assert answer.status_code == 200
    assert "Yes." in answer.text


@pytest.mark.parametrize(
    ("encoding", "sent", "status"),
    [
        ("br", b"x", 415),
        ("gzip", b"{}", 400),
        ("zstd", zstandard.compress(bytes(64 * MIB)), 413),
        ("gzip", gzip.compress(bytes(MIB + 1)), 413),
    ],
)
async def test_refusals_are_told_as_any_other(
    served: Served, encoding: str, sent: bytes, status: int
) -> None:
    answer = await served.http.post(
        "/responses", content=sent, headers={"content-encoding": encoding}
    )
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
