"""What is well-formed in the configuration file, and still cannot be meant."""

import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from smg.mcp.config.entry import ServerEntry

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")

_TRANSPORTS: dict[str, Literal["stdio", "streamable", "sse"]] = {
    "stdio": "stdio",
    "sse": "sse",
    "http": "streamable",
    "streamable": "streamable",
    "streamable-http": "streamable",
    "streamable_http": "streamable",
    "streamablehttp": "streamable",
}
_STDIO_KEYS = ("args", "env", "cwd", "limits")
_HTTP_KEYS = ("headers", "token", "proxy", "oauth")


def contradictions(entry: ServerEntry) -> Iterator[tuple[str, str]]:
    """What is well-formed and still cannot be meant: (key, message)."""
    kind = kind_of(entry)
    if kind is None:
        known = ", ".join(sorted(_TRANSPORTS))
        yield "type", f"is not a known transport; known: {known}"
        return
    if (entry.command is None) == (entry.url is None):
        yield "", "needs either `command` or `url`, and not both"
        return
    if (kind == "stdio") != (entry.command is not None):
        yield "type", "stdio goes with `command`, all other transports with `url`"
        return
    for key in _HTTP_KEYS if kind == "stdio" else _STDIO_KEYS:
        if getattr(entry, key) is not None:
            yield key, f"does not go with {'`command`' if kind == 'stdio' else '`url`'}"
    yield from _bad_command(entry) if kind == "stdio" else _bad_endpoint(entry)
    yield from _bad_aliases(entry)
    yield from _bad_builtin(entry)


def kind_of(entry: ServerEntry) -> Literal["stdio", "streamable", "sse"] | None:
    """The transport an entry means."""
    if entry.type is None:
        return "stdio" if entry.command is not None else "streamable"
    return _TRANSPORTS.get(entry.type.lower())


def _bad_command(entry: ServerEntry) -> Iterator[tuple[str, str]]:
    texts = {"command": entry.command, "cwd": entry.cwd}
    texts |= {f"args[{index}]": arg for index, arg in enumerate(entry.args or ())}
    texts |= {f"env.{name}": value for name, value in (entry.env or {}).items()}
    for key, text in texts.items():
        if "\0" in key or "\0" in (text or ""):
            yield key.replace("\0", "?"), "holds a NUL character"
    for name in entry.env or ():
        if not name or "=" in name:
            yield "env", f"{name!r} cannot be the name of a variable"


def _bad_endpoint(entry: ServerEntry) -> Iterator[tuple[str, str]]:
    for key, url in (("url", entry.url), ("proxy", entry.proxy)):
        if url is not None and not _is_http_url(url):
            yield key, "must be an http:// or https:// URL with a host"
    for name, value in (entry.headers or {}).items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            yield f"headers.{name!r}", "is no header: names and values are plain ASCII, in one line"
    if entry.token is not None:
        if not _HEADER_VALUE.fullmatch(entry.token):
            yield "token", "must be plain ASCII, in one line"
        if any(name.lower() == "authorization" for name in entry.headers or ()):
            yield "token", "is the Authorization header, which `headers` sets too"

    yield from _bad_oauth(entry)


def _bad_oauth(entry: ServerEntry) -> Iterator[tuple[str, str]]:
    oauth = entry.oauth
    if oauth is None:
        return
    if (oauth.issuer is None) == (oauth.token_url is None):
        yield "oauth", "needs either `issuer` or `token_url`, and not both"
    for key, url in (("issuer", oauth.issuer), ("token_url", oauth.token_url)):
        if url is not None and not _is_http_url(url):
            yield f"oauth.{key}", "must be an http:// or https:// URL with a host"
    names = {name.lower() for name in entry.headers or ()}
    if entry.token is not None or "authorization" in names:
        yield "oauth", "sets the Authorization header, which `token` or `headers` sets too"


def _bad_builtin(entry: ServerEntry) -> Iterator[tuple[str, str]]:
    name, allowed = entry.builtin_tool_name, entry.allowed_tools
    if entry.builtin_type is None and name is not None:
        yield "builtin_tool_name", "goes with `builtin_type`"
    if name is not None and allowed is not None and name not in allowed:
        yield "builtin_tool_name", "is not one of `allowed_tools`"
    if entry.internal and entry.builtin_type is None:
        yield "internal", "goes with `builtin_type`: nobody could call its tools otherwise"
    if entry.internal and entry.default:
        yield "internal", "does not go with `default`"


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # The port is no number, or the host an ill-formed IPv6 address.
        return False


def _bad_aliases(entry: ServerEntry) -> Iterator[tuple[str, str]]:
    taken: set[str] = set()
    for name, tool in entry.tools.items():
        if tool.alias in taken:
            yield f"tools.{name}.alias", f"{tool.alias!r} is given to two tools"
        if tool.alias is not None:
            taken.add(tool.alias)
