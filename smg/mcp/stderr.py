"""What a server process writes to standard error, to log lines: whole lines, in bounded amounts.

Bytes come in as the pipe gives them. Reads no pipe and starts nothing.
"""

import logging
import time
from collections.abc import Callable

from smg.mcp.definitions import clean_text
from smg.mcp.spec import ServerSpec

_MAX_LINE = 2048
_MAX_PER_MINUTE = 65536

_log = logging.getLogger(__name__)


class StderrLog:
    """One process's standard error. Past the limit, lines are counted and not logged."""

    def __init__(self, spec: ServerSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._clock = clock
        self._begun = b""
        self._minute = clock()
        self._logged = 0
        self._dropped = 0
        self.last_line = ""

    def feed(self, piece: bytes) -> None:
        """Take more bytes and log the lines that are complete."""
        *lines, rest = (self._begun + piece).split(b"\n")
        for line in lines:
            self._line(line)
        # What is longer than a line may be is cut here, so that no stream without line ends grows.
        self._begun = rest[: _MAX_LINE + 1]

    def finish(self) -> None:
        """Log what is left: no more is coming."""
        self._line(self._begun)
        self._begun = b""
        self._count_dropped()

    def _line(self, line: bytes) -> None:
        cut = line[:_MAX_LINE].decode("utf-8", "replace")
        text = self._spec.redact(clean_text(cut).strip())
        if not text:
            return
        if len(line) > _MAX_LINE:
            text += " ... [cut]"
        self.last_line = text
        if self._clock() - self._minute >= 60:
            self._count_dropped()
            self._minute, self._logged = self._clock(), 0
        self._logged += len(text)
        if self._logged > _MAX_PER_MINUTE:
            self._dropped += 1
        else:
            _log.info("MCP server %s: %s", self._spec.label, text)

    def _count_dropped(self) -> None:
        if self._dropped:
            _log.warning("MCP server %s: %d lines not shown", self._spec.label, self._dropped)
            self._dropped = 0
