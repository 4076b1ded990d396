"""The file that names the tool servers, to `ServerSpec`s: one message per mistake, all at once.

JSON or YAML; the servers as desktop clients write them (`mcpServers`, a mapping) or as a list
(`servers`). `${NAME}` and `${NAME:-default}` come from the environment. Connects to nothing.
The only part of this package that knows pydantic.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from smg.errors import ConfigError
from smg.mcp.config.checks import contradictions, kind_of
from smg.mcp.config.entry import ApprovalLists, ServerEntry
from smg.mcp.document import Expansion, read_document
from smg.mcp.spec import (
    BUILTIN_ITEMS,
    Approval,
    Command,
    Endpoint,
    OAuth,
    SamplingLimits,
    Secret,
    ServerSpec,
)

# What OpenAI takes as server_label, with digits first allowed: labels become parts of tool names.
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Keys of the reference product's file that would change what a server does. Dropping them in
# silence would do something else than the file says.
_UNSUPPORTED = {
    "response_format": "only 'passthrough' is supported",
    "arg_mapping": "arguments are not rewritten",
    "pool": "each server has one connection, with max_concurrency calls at once",
    "warmup": "all servers are connected at start",
    "inventory": "tools are listed at start and whenever the server says that they changed",
    "policy": "use allowed_tools and require_approval of each server",
    "proxy": "write `proxy` as one URL, at the server that needs it",
}
_HARMLESS = {"response_format": "passthrough"}


@dataclass(frozen=True, slots=True)
class McpConfig:
    """What the file says."""

    servers: tuple[ServerSpec, ...] = ()


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
        self._standing_in: dict[str, str] = {}
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
            for key, message in contradictions(entry):
                self._wrong(f"{where}.{key}" if key else where, message)
            if entry.name not in {"", label}:
                self._wrong(f"{where}.name", f"this server is already named {label!r}")
            self._check_builtin(where, label, entry)
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

    def _check_builtin(self, where: str, label: str, entry: ServerEntry) -> None:
        """One server for each kind of hosted tool: there would be no telling which is meant."""
        if entry.builtin_type is None or entry.disabled:
            return
        item = BUILTIN_ITEMS[entry.builtin_type]
        if (other := self._standing_in.setdefault(item, label)) != label:
            self._wrong(f"{where}.builtin_type", f"the server {other!r} stands in for this already")

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

    def _entry(self, where: str, raw: object) -> ServerEntry | None:
        try:
            return ServerEntry.model_validate(raw)
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


def _new_spec(label: str, entry: ServerEntry, folder: Path, found: frozenset[str]) -> ServerSpec:
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
        on_change=entry.on_change,
        internal=entry.internal,
        builtin_type=entry.builtin_type,
        builtin_tool=_builtin_tool(entry),
        sampling=None if entry.sampling is None else SamplingLimits(**entry.sampling.model_dump()),
        secrets=found,
    )


def _builtin_tool(entry: ServerEntry) -> str | None:
    """The tool that stands in for a hosted one, by the name under which it is offered."""
    renamed = entry.tools.get(entry.builtin_tool_name or "")
    return entry.builtin_tool_name if renamed is None or not renamed.alias else renamed.alias


def _new_transport(entry: ServerEntry, folder: Path) -> Command | Endpoint:
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
        protocol="sse" if kind_of(entry) == "sse" else "streamable",
        headers={name: Secret(value) for name, value in headers.items()},
        proxy=None if entry.proxy is None else Secret(entry.proxy),
        oauth=_new_oauth(entry),
    )


def _new_oauth(entry: ServerEntry) -> OAuth | None:
    if entry.oauth is None:
        return None
    return OAuth(
        client_id=entry.oauth.client_id,
        client_secret=Secret(entry.oauth.client_secret),
        scope=entry.oauth.scope,
        issuer=entry.oauth.issuer,
        token_url=entry.oauth.token_url,
    )


def _new_approval(said: Literal["always", "never"] | ApprovalLists) -> Approval:
    """With `always` alone, the other tools go free; wherever `never` is named, they wait."""
    if isinstance(said, str):
        return Approval(default=said == "always")
    always, never = frozenset(said.always), frozenset(said.never)
    return Approval(default=bool(never) or not always, always=always, never=never)
