"""A worker's tokenizer as files: the pieces of its archive to a folder, trusting nothing in it.

Pieces of a ZIP archive come in, files lie in a folder afterwards. A worker may be wrong or not
what it seems: sizes, names and the checksum are all looked at before anything is used.
"""

import asyncio
import hashlib
import stat
import tempfile
import zipfile
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from google.protobuf.message import DecodeError

from smg.engines._generated import common_pb2 as pb
from smg.errors import EngineError

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that a real tokenizer needs, and more."""

    archive_bytes: int = 200 * MIB
    files: int = 50
    file_bytes: int = 500 * MIB
    """All files together, unpacked."""


async def unpack(
    messages: AsyncGenerator[bytes, None], folder: Path, bounds: Bounds | None = None
) -> None:
    """Read a stream of GetTokenizer's messages and put the files into the folder.

    Raises:
        EngineError: the stream failed, or its archive is not one that may be unpacked.
    """
    bounds = bounds or Bounds()
    with tempfile.TemporaryFile() as archive:
        await _receive(messages, archive, bounds)
        await asyncio.to_thread(_extract, archive, folder, bounds)


async def _receive(
    messages: AsyncGenerator[bytes, None], archive: IO[bytes], bounds: Bounds
) -> None:
    digest, size, told = hashlib.sha256(), 0, ""
    async with aclosing(messages):
        async for message in messages:
            try:
                chunk = pb.GetTokenizerChunk.FromString(message)
            except DecodeError as error:
                raise EngineError("The worker sent a tokenizer that makes no sense") from error
            size += len(chunk.data)
            if size > bounds.archive_bytes:
                raise EngineError(f"The tokenizer's archive is over {bounds.archive_bytes} bytes")
            digest.update(chunk.data)
            archive.write(chunk.data)
            told = chunk.sha256
    if told.lower() != digest.hexdigest():  # On the last piece only; without it, it was cut off.
        raise EngineError("The tokenizer's archive is not whole: its checksum does not match")


def _extract(file: IO[bytes], folder: Path, bounds: Bounds) -> None:
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            _unpack_all(archive, folder, bounds)
    # Zip has many ways to be broken, encrypted or in a form that Python does not know.
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
        raise EngineError(f"The tokenizer's archive cannot be unpacked: {error}") from error


def _unpack_all(archive: zipfile.ZipFile, folder: Path, bounds: Bounds) -> None:
    entries = archive.infolist()
    if len(entries) > bounds.files:
        raise EngineError(f"The tokenizer's archive holds over {bounds.files} entries")
    for entry in entries:
        _check_name(entry)
    left = bounds.file_bytes
    for entry in entries:
        if not entry.is_dir():
            left -= _copy(archive, entry, folder / entry.filename, left)


def _check_name(entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in entry.filename
    if leaves or ":" in entry.filename or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise EngineError(f"The tokenizer's archive holds {entry.filename!r}, which is not allowed")


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Unpack one file; its size. What an entry says of its size is not believed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as source, path.open("xb") as target:
        while piece := source.read(MIB):
            written += len(piece)
            if written > left:
                raise EngineError("The tokenizer's archive unpacks to too much")
            target.write(piece)
    return written
