"""What a disk holds after the power failed, by the log of what a process did to its files.

`recorder.c` writes the log. A file's bytes are safe once the file was synced, its name once its
folder was. Of everything else any part may be there: writes are cut in sectors of 512 bytes, of
which each may have come to the disk or not, in any order.
"""

import os
import random
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from tests.durability.preload import built

SECTOR = 512
HEAD = struct.Struct("<cHqI")
Loss = Literal["nothing", "everything", "the end", "any sectors"]
"""What of the unsynced writes to one file is not there."""


class Entry(NamedTuple):
    """One thing that was done to a file."""

    kind: str
    path: str
    offset: int
    content: bytes
    end: int
    """Where the log goes on behind it."""


def recording(folder: Path, root: Path, log: Path) -> dict[str, str]:
    """The environment of a process whose writes below the root are to be recorded."""
    library = built("recorder", folder)
    return {"LD_PRELOAD": str(library), "SMG_DISK_ROOT": str(root), "SMG_DISK_LOG": str(log)}


def entries(log: bytes) -> Iterator[Entry]:
    """The log's entries; the last one may have been cut."""
    at = 0
    while at + HEAD.size <= len(log):
        kind, path_length, offset, length = HEAD.unpack_from(log, at)
        start = at + HEAD.size + path_length
        at = start + length
        if at > len(log):
            return
        path = log[start - path_length : start].decode()
        yield Entry(kind.decode(), path, offset, log[start:at], at)


@dataclass
class File:
    """One file: what is safe of it, and what was done to it since."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[Entry] = field(default_factory=list)

    def sync(self) -> None:
        for entry in self.pending:
            _apply(self.safe, entry)
        self.pending = []

    def left(self, loss: Loss, rng: random.Random) -> bytes:
        """What is found of it after the power failed."""
        found = bytearray(self.safe)
        for entry in _survivors(self.pending, loss, rng):
            _apply(found, entry)
        return bytes(found)


FOLDER = File()
"""What a folder's name stands for: that it is there."""


class Disk:
    """The files below a root, as far as a log tells."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._names: dict[str, File] = {}
        self._safe_names: dict[str, File] = {}

    def add(self, entry: Entry) -> None:
        """Do what a process did."""
        match entry.kind:
            case "c":
                self._names[entry.path] = File()
            case "m":
                self._names[entry.path] = FOLDER
            case "u":
                del self._names[entry.path]
            case "l":
                self._names[entry.content.decode()] = self._names[entry.path]
            case "s" if self._is_folder(entry.path):
                self._sync_names(entry.path)
            case "s":
                self._names[entry.path].sync()
            case _:
                self._names[entry.path].pending.append(entry)

    def after_power_loss(self, loss: Loss, rng: random.Random) -> dict[str, bytes]:
        """Paths below the root, and what is found there."""
        names = self._found_names(loss, rng)
        files = {path: file for path, file in names.items() if file is not FOLDER}
        return {
            os.path.relpath(path, self._root): file.left(loss, rng)
            for path, file in files.items()
            if all(folder in names for folder in self._folders_above(path))
        }

    def _is_folder(self, path: str) -> bool:
        return path == self._root or self._names.get(path) is FOLDER

    def _sync_names(self, folder: str) -> None:
        for path in {*self._names, *self._safe_names}:
            if os.path.dirname(path) == folder:
                _copy_name(path, self._names, self._safe_names)

    def _found_names(self, loss: Loss, rng: random.Random) -> dict[str, File]:
        found = dict(self._safe_names)
        for path in sorted({*self._names, *self._safe_names}):
            has_come = {"nothing": True, "everything": False}.get(loss, rng.random() < 0.5)
            if has_come:
                _copy_name(path, self._names, found)
        return found

    def _folders_above(self, path: str) -> Iterator[str]:
        while (path := os.path.dirname(path)) != self._root:
            yield path


def put_down(files: Mapping[str, bytes], root: Path) -> None:
    """Write files into an empty folder."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def _copy_name(path: str, source: Mapping[str, File], target: dict[str, File]) -> None:
    if path in source:
        target[path] = source[path]
    else:
        target.pop(path, None)


def _survivors(pending: list[Entry], loss: Loss, rng: random.Random) -> Iterator[Entry]:
    match loss:
        case "nothing":
            yield from pending
        case "everything":
            return
        case "the end":
            yield from pending[: rng.randrange(len(pending) + 1)]
        case "any sectors":
            for entry in pending:
                yield from (piece for piece in _sectors(entry) if rng.random() < 0.5)


def _sectors(entry: Entry) -> Iterator[Entry]:
    if entry.kind != "w":
        yield entry
        return
    at, end = entry.offset, entry.offset + len(entry.content)
    while at < end:
        until = min(end, (at // SECTOR + 1) * SECTOR)
        piece = entry.content[at - entry.offset : until - entry.offset]
        yield entry._replace(offset=at, content=piece)
        at = until


def _apply(content: bytearray, entry: Entry) -> None:
    """A write or a truncation; what lies between the old end and a write is zeros."""
    end = entry.offset + len(entry.content)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if entry.kind == "w":
        content[entry.offset : end] = entry.content
    else:
        del content[entry.offset :]
