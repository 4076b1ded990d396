"""The file that names the tool servers, to `ServerSpec`s: one message per mistake, all at once.

JSON or YAML; the servers as desktop clients write them (`mcpServers`, a mapping) or as a list
(`servers`). `${NAME}` and `${NAME:-default}` come from the environment. Connects to nothing.
The only module of this package that knows pydantic.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from smg.errors import ConfigError
from smg.mcp.document import Expansion, read_document
from smg.mcp.spec import Approval, Command, Endpoint, Secret, ServerSpec

# What OpenAI takes as server_label, with digits first allowed: labels become parts of tool names.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
# Keys of the reference product's file that would change what a server does. Dropping them in
# silence would do something else than the file says.
_UNSUPPORTED = {
    "internal": "servers cannot be hidden from clients yet",
    "builtin_type": "hosted tools are not routed to MCP servers yet",
    "builtin_tool_name": "hosted tools are not routed to MCP servers yet",
    "response_format": "only 'passthrough' is supported",
    "arg_mapping": "arguments are not rewritten",
    "pool": "each server has one connection, with max_concurrency calls at once",
    "warmup": "all servers are connected at start",
    "inventory": "tools are listed at start and whenever the server says that they changed",
    "policy": "use allowed_tools and require_approval of each server",
    "proxy": "write `proxy` as one URL, at the server that needs it",
}
_HARMLESS = {"internal": False, "response_format": "passthrough"}

_TRANSPORTS: dict[str, Literal["stdio", "streamable", "sse"]] = {
    "stdio": "stdio",
    "sse": "sse",
    "http": "streamable",
    "streamable": "streamable",
    "streamable-http": "streamable",
    "streamable_http": "streamable",
    "streamablehttp": "streamable",
}
_STDIO_KEYS = ("args", "env", "cwd")
_HTTP_KEYS = ("headers", "token", "proxy")


@dataclass(frozen=True, slots=True)
class McpConfig:
    """What the file says."""

    servers: tuple[ServerSpec, ...] = ()


class _Model(BaseModel):
    # Numbers are text where text is asked for: YAML reads `PORT: 8080` as a number.
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class _ApprovalLists(_Model):
    always: list[str] = []
    never: list[str] = []


class _ToolEntry(_Model):
    alias: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")


class _ServerEntry(_Model):
    name: str = ""
    type: str | None = Field(None, validation_alias=AliasChoices("type", "protocol", "transport"))
    disabled: bool = False
    command: str | None = Field(None, min_length=1)
    args: list[str] | None = None
    env: dict[str, str] | None = Field(None, validation_alias=AliasChoices("env", "envs"))
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] | None = None
    token: str | None = Field(None, min_length=1)
    proxy: str | None = None
    description: str | None = None
    timeout_s: float = Field(30.0, gt=0, le=86400)
    connect_timeout_s: float = Field(10.0, gt=0, le=600)
    required: bool = False
    default: bool = False
    allowed_tools: list[str] | None = None
    require_approval: Literal["always", "never"] | _ApprovalLists = "never"
    idempotent_tools: list[str] = []
    max_concurrency: int = Field(16, ge=1, le=1024)
    max_output_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    tools: dict[str, _ToolEntry] = {}


def load(path: Path, environ: Mapping[str, str]) -> McpConfig:
    """Read the file.

    Raises:
        ConfigError: with a line for every mistake: file, place, and what would be right.
    """
    reading = _Reading(path, environ)
    specs = tuple(reading.specs(read_document(path)))
    if reading.mistakes:
        raise ConfigError("\n".join(reading.mistakes))
    return McpConfig(specs)


class _Reading:
    """One pass over one file, which collects mistakes instead of stopping at the first."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._expansion = Expansion(environ, self._wrong)
        self._labels: set[str] = set()
        self._mistakes: dict[str, str] = {}

    @property
    def mistakes(self) -> list[str]:
        return list(self._mistakes.values())

    def specs(self, document: object) -> Iterator[ServerSpec]:
        if not isinstance(document, dict):
            self._wrong("", "must be a mapping with the key `mcpServers` or `servers`")
            return
        for key in document.keys() - {"mcpServers", "servers", "$schema"}:
            self._wrong(str(key), _UNSUPPORTED.get(str(key), "is not a known key"))
        if not document.keys() & {"mcpServers", "servers"}:
            self._wrong("", "names no servers: it needs the key `mcpServers` or `servers`")
        for where, label, entry in self._entries(document):
            if (spec := self._spec(where, label, entry)) is not None:
                yield spec

    def _entries(self, document: dict[Any, Any]) -> Iterator[tuple[str, str, object]]:
        mapping, listed = document.get("mcpServers", {}), document.get("servers", [])
        if not isinstance(mapping, dict):
            self._wrong("mcpServers", "must be a mapping from label to server")
            mapping = {}
        if not isinstance(listed, list):
            self._wrong("servers", "must be a list; a mapping belongs under `mcpServers`")
            listed = []
        for label, entry in mapping.items():
            yield f"mcpServers.{label}", str(label), entry
        for index, entry in enumerate(listed):
            name = entry.get("name", "") if isinstance(entry, dict) else ""
            yield f"servers[{index}]", str(name), entry

    def _spec(self, where: str, label: str, raw: object) -> ServerSpec | None:
        before = len(self._mistakes)
        self._check_label(where, label)
        if isinstance(raw, dict) and raw.get("disabled") is True:
            return None  # Also with half of it missing: people switch off what they cannot use.
        self._check_unsupported(where, raw)
        found: set[str] = set()
        entry = self._entry(where, self._expansion.expand(where, raw, found))
        if entry is not None:
            for key, message in _contradictions(entry):
                self._wrong(f"{where}.{key}" if key else where, message)
            if entry.name not in {"", label}:
                self._wrong(f"{where}.name", f"this server is already named {label!r}")
        if entry is None or len(self._mistakes) > before or entry.disabled:
            return None
        return _new_spec(label, entry, self._path.parent, frozenset(found))

    def _check_label(self, where: str, label: str) -> None:
        if not _LABEL.fullmatch(label):
            self._wrong(
                where,
                f"the name {label!r} must be 1 to 64 letters, digits, - and _,"
                " and begin with a letter or digit",
            )
        elif label in self._labels:
            self._wrong(where, f"there are two servers named {label!r}")
        self._labels.add(label)

    def _check_unsupported(self, where: str, raw: object) -> None:
        """Take out the reference product's keys we do not follow, and say so."""
        if not isinstance(raw, dict):
            return
        for key in [key for key in raw if key in _UNSUPPORTED]:
            if key == "proxy" and not isinstance(raw[key], dict):
                continue
            if (value := raw.pop(key)) != _HARMLESS.get(key) and value is not None:
                self._wrong(f"{where}.{key}", _UNSUPPORTED[key])
        if isinstance(tools := raw.get("tools"), dict):
            for name, tool in tools.items():
                self._check_unsupported(f"{where}.tools.{name}", tool)

    def _entry(self, where: str, raw: object) -> _ServerEntry | None:
        try:
            return _ServerEntry.model_validate(raw)
        except ValidationError as error:
            for mistake in error.errors(include_url=False, include_input=False):
                self._wrong(
                    where + _place(mistake["loc"]), _MESSAGES.get(mistake["type"], mistake["msg"])
                )
        return None

    def _wrong(self, where: str, message: str) -> None:
        """Note a mistake; what else is wrong in the same place comes of the first one."""
        line = ": ".join(part for part in (str(self._path), where, message) if part)
        self._mistakes.setdefault(where, line)


_MESSAGES = {"missing": "is missing", "extra_forbidden": "is not a known key"}


def _place(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _contradictions(entry: _ServerEntry) -> Iterator[tuple[str, str]]:
    """What is well-formed and still cannot be meant: (key, message)."""
    kind = _kind(entry)
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


def _kind(entry: _ServerEntry) -> Literal["stdio", "streamable", "sse"] | None:
    if entry.type is None:
        return "stdio" if entry.command is not None else "streamable"
    return _TRANSPORTS.get(entry.type.lower())


def _bad_command(entry: _ServerEntry) -> Iterator[tuple[str, str]]:
    texts = {"command": entry.command, "cwd": entry.cwd}
    texts |= {f"args[{index}]": arg for index, arg in enumerate(entry.args or ())}
    texts |= {f"env.{name}": value for name, value in (entry.env or {}).items()}
    for key, text in texts.items():
        if "\0" in key or "\0" in (text or ""):
            yield key.replace("\0", "?"), "holds a NUL character"
    for name in entry.env or ():
        if not name or "=" in name:
            yield "env", f"{name!r} cannot be the name of a variable"


def _bad_endpoint(entry: _ServerEntry) -> Iterator[tuple[str, str]]:
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


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # The port is no number, or the host an ill-formed IPv6 address.
        return False


def _bad_aliases(entry: _ServerEntry) -> Iterator[tuple[str, str]]:
    taken: set[str] = set()
    for name, tool in entry.tools.items():
        if tool.alias in taken:
            yield f"tools.{name}.alias", f"{tool.alias!r} is given to two tools"
        if tool.alias is not None:
            taken.add(tool.alias)


def _new_spec(label: str, entry: _ServerEntry, folder: Path, found: frozenset[str]) -> ServerSpec:
    return ServerSpec(
        label=label,
        transport=_new_transport(entry, folder),
        description=entry.description,
        timeout_s=entry.timeout_s,
        connect_timeout_s=entry.connect_timeout_s,
        required=entry.required,
        default=entry.default,
        allowed_tools=None if entry.allowed_tools is None else frozenset(entry.allowed_tools),
        approval=_new_approval(entry.require_approval),
        idempotent_tools=frozenset(entry.idempotent_tools),
        aliases={name: tool.alias for name, tool in entry.tools.items() if tool.alias},
        max_concurrency=entry.max_concurrency,
        max_output_bytes=entry.max_output_bytes,
        secrets=found,
    )


def _new_transport(entry: _ServerEntry, folder: Path) -> Command | Endpoint:
    if entry.command is not None:
        return Command(
            program=entry.command,
            args=tuple(entry.args or ()),
            env={name: Secret(value) for name, value in (entry.env or {}).items()},
            cwd=None if entry.cwd is None else str(folder / entry.cwd),
        )
    headers = dict(entry.headers or {})
    if entry.token is not None:
        headers["Authorization"] = f"Bearer {entry.token}"
    return Endpoint(
        url=Secret(entry.url or ""),
        protocol="sse" if _kind(entry) == "sse" else "streamable",
        headers={name: Secret(value) for name, value in headers.items()},
        proxy=None if entry.proxy is None else Secret(entry.proxy),
    )


def _new_approval(said: Literal["always", "never"] | _ApprovalLists) -> Approval:
    """With `always` alone, the other tools go free; wherever `never` is named, they wait."""
    if isinstance(said, str):
        return Approval(default=said == "always")
    always, never = frozenset(said.always), frozenset(said.never)
    return Approval(default=bool(never) or not always, always=always, never=never)
