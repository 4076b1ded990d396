"""A worker's tokenizer as files: what may be in its archive, and what may not."""

import hashlib
import io
import stat
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from smg.engines._generated import common_pb2 as pb
from smg.engines.bundle import Bounds, unpack
from smg.errors import EngineError

SMALL = Bounds(archive_bytes=1000, files=3, file_bytes=500)


def archive(*entries: tuple[str, bytes], mode: int = 0) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            opened.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return held.getvalue()


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


async def pieces(
    content: bytes, digest: str | None = None, size: int = 50
) -> AsyncGenerator[bytes, None]:
    told = hashlib.sha256(content).hexdigest() if digest is None else digest
    for start in range(0, len(content), size):
        last = start + size >= len(content)
        chunk = pb.GetTokenizerChunk(data=content[start : start + size])
        chunk.sha256 = told if last else ""
        yield chunk.SerializeToString()


async def test_the_files_are_put_into_the_folder(tmp_path: Path) -> None:
    content = archive(("tokenizer.json", b"{}"), ("more/chat_template.jinja", b"x"))
    await unpack(pieces(content), tmp_path, SMALL)
    assert names(tmp_path) == {"tokenizer.json", "more/chat_template.jinja"}
    assert (tmp_path / "tokenizer.json").read_bytes() == b"{}"


BAD_NAMES = ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "C:x"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_names_that_lead_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not allowed"):
        await unpack(pieces(archive(("good.json", b"{}"), (name, b"x"))), tmp_path, SMALL)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
async def test_links_and_devices_are_refused(kind: int, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not allowed"):
        await unpack(pieces(archive(("a", b"/etc/passwd"), mode=kind | 0o777)), tmp_path, SMALL)


async def test_an_archive_of_one_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = archive(("a", b"1"), ("a", b"2"))
    with pytest.raises(EngineError, match="cannot be unpacked"):
        await unpack(pieces(content), tmp_path, SMALL)


async def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    content = archive(("a", bytes(300)), ("b", bytes(300)))
    assert len(content) < SMALL.archive_bytes
    with pytest.raises(EngineError, match="too much"):
        await unpack(pieces(content), tmp_path, SMALL)


async def test_an_archive_of_too_many_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="over 3 entries"):
        await unpack(pieces(archive(*((c, b"") for c in "abcd"))), tmp_path, SMALL)


async def test_an_archive_that_is_too_large_is_refused_before_it_is_whole(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            sent += 1
            yield pb.GetTokenizerChunk(data=bytes(400)).SerializeToString()

    with pytest.raises(EngineError, match="over 1000 bytes"):
        await unpack(endless(), tmp_path, SMALL)
    assert sent == 3


@pytest.mark.parametrize("digest", ["", "0" * 64])
async def test_an_archive_without_its_checksum_is_not_whole(digest: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not whole"):
        await unpack(pieces(archive(("a", b"1")), digest), tmp_path, SMALL)


@pytest.mark.parametrize("content", [b"no archive at all", archive(("a", b"1"))[:-8]])
async def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be unpacked"):
        await unpack(pieces(content), tmp_path, SMALL)


async def test_a_message_that_is_none_is_refused(tmp_path: Path) -> None:
    async def nonsense() -> AsyncGenerator[bytes, None]:
        yield b"\xff\xff\xff"

    with pytest.raises(EngineError, match="no sense"):
        await unpack(nonsense(), tmp_path, SMALL)
