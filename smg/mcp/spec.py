"""What the gateway knows of one tool server before it has met it, as frozen values.

Made from the configuration file (smg.mcp.config) or by whoever else describes a server; read by
connections and the toolbox. Secrets are wrapped, so that no log line or traceback shows them.
Standard library only.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

BuiltinType = Literal["web_search", "web_search_preview", "code_interpreter", "file_search"]
OnChange = Literal["warn", "hold", "block"]

BUILTIN_ITEMS: Mapping[BuiltinType, str] = {
    "web_search": "web_search_call",
    "web_search_preview": "web_search_call",
    "code_interpreter": "code_interpreter_call",
    "file_search": "file_search_call",
}
"""Hosted tools that a server may stand in for, and the items its calls are shown as."""

# Shorter values ("1", "true", "prod") are no secrets, and hiding them would garble every message.
_SHORTEST_SECRET = 6


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """Text that must be asked for by name: `repr` and `str` hide it."""

    _text: str

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A server this gateway starts, and speaks to over its standard input and output."""

    program: str
    args: tuple[str, ...] = field(default=(), repr=False)
    """Not shown: command lines hold keys."""
    env: Mapping[str, Secret] = field(default_factory=dict)
    """Added to the few variables every server gets."""
    cwd: str | None = None

    @property
    def address(self) -> str:
        """The server's place, fit to be shown."""
        return self.program


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """The gateway's own account at a server's authorization server (client credentials)."""

    client_id: str
    client_secret: Secret
    scope: str | None = None
    issuer: str | None = None
    """Found through the server's metadata, and the only one to be shown the secret."""
    token_url: str | None = None
    """Where to ask for tokens, for servers without metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server reached over HTTP."""

    url: Secret
    """May hold a key in its query or user part."""
    protocol: Literal["streamable", "sse"] = "streamable"
    headers: Mapping[str, Secret] = field(default_factory=dict)
    """Sent with every request to this server, and to no other: redirects are not followed."""
    proxy: Secret | None = None
    oauth: OAuth | None = None

    @property
    def address(self) -> str:
        """The URL without user part and query, fit to be shown."""
        parts = urlsplit(self.url.reveal())
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Which tools wait for a person's word: those in `always`, then the default."""

    default: bool = False
    always: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()

    def needed(self, tool: str) -> bool:
        """Whether a call of this tool waits; a tool in both lists does."""
        return tool in self.always or (self.default and tool not in self.never)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """When a server that only fails is left alone, and for how long."""

    failures: int = 5
    """So many calls in a row without any answer."""
    pause_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingLimits:
    """How much a server may ask of the gateway's own model (smg.mcp.sampling)."""

    model: str | None = None
    """Who answers where the server's hints name no model served here; `None`: the first."""
    max_tokens: int = 1024
    """For one answer, whatever the server asks for."""
    max_requests: int = 4
    """For one call of a tool."""
    timeout_s: float = 30.0
    """For one answer; the call's own deadline goes on meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One tool server: where it is, what of it is offered, and how long anybody waits for it."""

    label: str
    transport: Command | Endpoint
    description: str | None = None
    timeout_s: float = 30.0
    """For one call, from its start to its result."""
    connect_timeout_s: float = 10.0
    """For connecting and listing together, and for listing again."""
    required: bool = False
    """Whether the gateway refuses to start without it."""
    default: bool = False
    """Whether its tools are offered to requests that do not name it."""
    allowed_tools: frozenset[str] | None = None
    """By the names the server gives them; `None`: all."""
    approval: Approval = Approval()
    idempotent_tools: frozenset[str] = frozenset()
    """Tools that may be called again when the connection broke and nobody knows if they ran."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Tool name to the name under which it is offered."""
    max_concurrency: int = 16
    max_output_bytes: int = 1024 * 1024
    on_change: OnChange = "warn"
    """What becomes of tools that are not as they were when first seen (smg.mcp.pins)."""
    internal: bool = False
    """Whether requests cannot name it: its tools stand in for hosted ones only."""
    builtin_type: BuiltinType | None = None
    """The hosted tool that its tools stand in for."""
    builtin_tool: str | None = None
    """The one of them that does, by the name under which it is offered; `None`: all."""
    breaker: BreakerLimits = BreakerLimits()
    sampling: SamplingLimits | None = None
    """What it may ask of the gateway's model; `None`: nothing."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """Further texts that messages about this server must not show."""

    @property
    def address(self) -> str:
        """Where the server is, fit to be shown."""
        return self.redact(self.transport.address)

    @property
    def identity(self) -> str:
        """What tells this server from another one under the same label; nothing can be read of it.

        The command, its arguments and folder, or the URL without user part and query. Secrets are
        left out: a key that is renewed makes no other server.
        """
        match self.transport:
            case Command(program=program, args=args, cwd=cwd):
                parts = [program, *args, cwd or ""]
            case Endpoint(protocol=protocol):
                parts = [protocol, self.transport.address]
        known = json.dumps([self.redact(part) for part in parts])
        return hashlib.sha256(known.encode()).hexdigest()

    def redact(self, text: str) -> str:
        """The text with every secret of this server replaced by `***`."""
        known = {*self.secrets, *(secret.reveal() for secret in self._wrapped())}
        # Longest first: a secret that is part of another must not leave the rest of it behind.
        for secret in sorted(known, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text

    def _wrapped(self) -> tuple[Secret, ...]:
        match self.transport:
            case Command(env=env):
                return tuple(env.values())
            case Endpoint(url=url, headers=headers, proxy=proxy, oauth=oauth):
                hidden = [*headers.values(), *_hidden_in(url)]
                hidden += [oauth.client_secret] if oauth else []
                # "Bearer key": a server may repeat the key alone.
                hidden += [Secret(value.reveal().rpartition(" ")[2]) for value in headers.values()]
                return (*hidden, *_hidden_in(proxy)) if proxy else tuple(hidden)


def _hidden_in(url: Secret) -> list[Secret]:
    """The parts of a URL that are not shown."""
    parts = urlsplit(url.reveal())
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    texts = [parts.query, parts.username or "", parts.password or "", *values]
    return [Secret(form) for text in texts for form in (text, unquote(text))]
