"""The keys of one server in the configuration file, and the kind of each value."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from smg.mcp.spec import BuiltinType, OnChange


class _Strict(BaseModel):
    # Numbers are text where text is asked for: YAML reads `PORT: 8080` as a number.
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class ApprovalLists(_Strict):
    """Tools that wait for a person, and tools that do not."""

    always: list[str] = []
    never: list[str] = []


class ToolEntry(_Strict):
    """What is said of one tool."""

    alias: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")


class OAuthEntry(_Strict):
    """Who the gateway is to a server's authorization server."""

    client_id: str = Field(min_length=1)
    client_secret: str = Field(min_length=1)
    scope: str | None = None
    issuer: str | None = None
    token_url: str | None = None


class SamplingEntry(_Strict):
    """How much a server may ask of the gateway's model."""

    model: str | None = Field(None, min_length=1)
    max_tokens: int = Field(1024, ge=1, le=1_000_000)
    max_requests: int = Field(4, ge=1, le=1000)
    timeout_s: float = Field(30.0, gt=0, le=86400)


def _as_limits(value: Any) -> Any:
    """`true` is the usual limits, `false` is nothing at all; so is their text, from a variable."""
    said = value.lower() if isinstance(value, str) else value
    if said is True or said == "true":
        return {}
    return None if said is False or said == "false" else value


class ServerEntry(_Strict):
    """One server of the file, well-formed; whether it makes sense is found out in `checks`."""

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
    require_approval: Literal["always", "never"] | ApprovalLists = "never"
    idempotent_tools: list[str] = []
    max_concurrency: int = Field(16, ge=1, le=1024)
    max_output_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    tools: dict[str, ToolEntry] = {}
    on_change: OnChange = "warn"
    internal: bool = False
    builtin_type: BuiltinType | None = None
    builtin_tool_name: str | None = Field(None, min_length=1)
    oauth: OAuthEntry | None = None
    sampling: Annotated[SamplingEntry | None, BeforeValidator(_as_limits)] = None
