"""Log lines, for people or as JSON. Standard library only."""

import json
import logging
import sys
from typing import Any

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def set_up(level: str, *, as_json: bool) -> None:
    """Send log lines of this level and above to standard error."""
    out = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    out.setFormatter(JsonLines() if as_json else plain)
    logging.basicConfig(level=logging.WARNING, handlers=[out], force=True)
    logging.getLogger("smg").setLevel(LEVELS[level])
    # The MCP SDK logs what servers send, with tracebacks, and its HTTP client whole URLs: both may
    # hold credentials. What matters of it is logged by smg.mcp.
    for library in ("mcp", "httpx2", "httpcore2"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
