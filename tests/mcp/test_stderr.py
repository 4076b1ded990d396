"""Standard error of a server process, in the log."""

import logging

import pytest

from smg.mcp.spec import Command, Secret, ServerSpec
from smg.mcp.stderr import StderrLog

SPEC = ServerSpec(
    label="files", transport=Command(program="x", env={"KEY": Secret("sk-very-secret")})
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_logged_whole_wherever_the_bytes_are_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    log = StderrLog(SPEC)
    for byte in "grün\nkey sk-very-secret\n\nlast".encode():
        log.feed(bytes([byte]))
    log.finish()
    assert caplog.messages == [
        "MCP server files: grün",
        "MCP server files: key ***",
        "MCP server files: last",
    ]
    assert log.last_line == "last"


def test_a_line_without_end_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = StderrLog(SPEC)
    for _ in range(100):
        log.feed(b"x" * 1000)
    log.finish()
    assert caplog.messages == ["MCP server files: " + "x" * 2048 + " ... [cut]"]


def test_a_flood_is_counted_until_the_minute_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    log = StderrLog(SPEC, clock)
    for _ in range(100):
        log.feed(b"x" * 1023 + b"\n")
    assert len(caplog.messages) == 64
    clock.now = 61.0
    log.feed(b"calm\n")
    assert caplog.messages[64:] == [
        "MCP server files: 36 lines not shown",
        "MCP server files: calm",
    ]


def test_control_characters_do_not_reach_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = StderrLog(SPEC)
    log.feed(b"\x1b[31mred\x1b[0m \xff\r\n")
    assert caplog.messages == ["MCP server files: [31mred[0m \ufffd"]
